"""What the service does for one task, or one page of a list, does not depend on the number of tasks in the job."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest
from azure.batch import BatchClient
from azure.batch import models as m

from local_azure.batch.engine import lifecycle
from local_azure.batch.rest import call
from local_azure.batch.state.store import Store
from tests.support.batch_service import RunningService, create_job, create_pool, task, wait_for


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The statements that services execute, with their values, without those of their start."""
    executed: set[str] = set()
    latest = Store.latest

    def then_trace(store: Store) -> str | None:
        found = latest(store)
        store._database.set_trace_callback(executed.add)
        return found

    monkeypatch.setattr(Store, "latest", then_trace)
    return executed


def test_no_statement_reads_or_sorts_all_tasks(
    statements: set[str], start_service: Callable[..., RunningService]
) -> None:
    service = start_service()
    client = service.client()
    create_pool(client, task_slots_per_node=2)
    create_job(client, uses_task_dependencies=True)
    client.create_tasks("job", [task(str(number), "/bin/false" if number == 3 else "/bin/true") for number in range(9)])
    client.create_task("job", task("large", required_slots=9))
    after_all = m.BatchTaskDependencies(task_ids=["1"], task_id_ranges=[m.BatchTaskIdRange(start=1, end=2)])
    client.create_task("job", task("after", depends_on=after_all))
    wait_for(lambda: client.get_job_task_counts("job").task_counts.completed == 10)
    conditions = ("state eq 'active' or state eq 'running'", "executionInfo/result eq 'failure'", "id eq '1'")
    listed = [[item.id for item in client.list_tasks("job", filter=condition)] for condition in conditions]
    assert listed == [["large"], ["3"], ["1"]]
    assert len(list(client.list_tasks("job", max_results=5))) == 11
    client.get_task("job", "1")
    list(client.list_nodes("pool"))
    client.reactivate_task("job", "3")
    client.terminate_task("job", "large")
    client.delete_task("job", "2")
    wait_for(lambda: client.get_job_task_counts("job").task_counts.completed == 10)
    client.begin_delete_job("job").result()
    service.stop()
    plans = _plans(service, statements)
    # Not tasks, dependencies and task_counts. There are as many attempts as slots in use.
    scanned = {detail.split()[1] for detail, _ in plans if detail.startswith("SCAN") and "CONSTANT ROW" not in detail}
    assert scanned == {"attempts", "jobs", "nodes", "pools", "remains", "schedules"}
    sorting = {statement for detail, statement in plans if detail.endswith("FOR ORDER BY")}
    assert [statement for statement in sorting if " FROM nodes " not in statement] == []
    searched = {detail.partition("SEARCH tasks USING ")[2] for detail, _ in plans} - {""}
    assert searched == {
        "INTEGER PRIMARY KEY (rowid=?)",
        "COVERING INDEX sqlite_autoindex_tasks_1 (job=?)",  # to delete those of a job, some at a time
        "INDEX sqlite_autoindex_tasks_1 (job=? AND id=?)",
        "INDEX sqlite_autoindex_tasks_1 (job=? AND id>?)",
        "INDEX tasks_by_result (job=? AND result=? AND id>?)",
        "INDEX tasks_by_state (job=? AND state=?)",  # for dependencies on a range, until one is found
        "INDEX tasks_by_state (job=?)",  # and once none is found
        "INDEX tasks_by_state (job=? AND state=? AND id>?)",
        "INDEX tasks_of_node (<expr>=?)",
        "INDEX tasks_to_clean (expires<?)",
        "COVERING INDEX tasks_to_clean (expires>?)",
        "INDEX tasks_to_run (job=? AND slots=? AND instances=?)",
        "INDEX tasks_to_run (job=? AND slots=? AND instances>?)",
        "INDEX tasks_to_run (job=? AND slots>?)",
    }


def _plans(service: RunningService, statements: set[str]) -> list[tuple[str, str]]:
    """The steps of the query plans, each with its statement."""
    database = sqlite3.connect(service.data / "batch.db")
    plans = [
        (detail, statement)
        for statement in statements
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))
        for *_, detail in database.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    database.close()
    return plans


def test_filter_without_an_index_reads_few_tasks_per_page(client: BatchClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "MOST_READ", 4)
    create_job(client)
    client.create_tasks("job", [task(f"t{number}", f"/bin/echo {number}") for number in range(10)])

    def pages(condition: str) -> list[list[str]]:
        found = client.list_tasks("job", filter=condition, max_results=2).by_page()
        return [[str(item.id) for item in page] for page in found]

    assert pages("startswith(id, 't9')") == [[], [], ["t9"]]
    assert pages("state ne 'active'") == [[], [], []]
    assert pages("state ne 'completed'") == [[f"t{number}", f"t{number + 1}"] for number in range(0, 10, 2)]
    assert pages("state eq 'running'") == [[]]


def test_tasks_of_a_deleted_job_are_removed_in_parts(client: BatchClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "DELETED_AT_ONCE", 3)
    create_job(client)
    client.create_tasks("job", [task(f"t{number}") for number in range(10)])
    client.begin_delete_job("job").result()
    create_job(client)
    assert list(client.list_tasks("job")) == []
    assert client.get_job_task_counts("job").task_counts.active == 0


def test_tasks_that_fit_are_started_in_order_whatever_they_need(client: BatchClient) -> None:
    create_job(client)
    sizes = {"a": 3, "b": 1, "c": 2, "d": 1, "e": 2}
    for name, slots in sizes.items():
        client.create_task("job", task(name, required_slots=slots))
    create_pool(client, task_slots_per_node=2)
    wait_for(lambda: client.get_job_task_counts("job").task_counts.completed == 4)
    done = list(client.list_tasks("job", filter="state eq 'completed'"))
    assert [item.id for item in sorted(done, key=lambda item: str(item.execution_info.start_time))] == [
        "b",
        "d",
        "c",
        "e",
    ]
