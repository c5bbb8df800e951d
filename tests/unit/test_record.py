"""What the report is made of a run, from what was remembered of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal

import tasks.record
from tasks.accounts.clients import Azure
from tasks.errors import TasksFailed
from tasks.inputs.files import InputFile
from tasks.record import RunRecord
from tasks.reporting.node_time import NodeTime
from tasks.reporting.report import RunFacts
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import Cause, Monitored, TaskOutcome
from tasks.run.results import Results
from tasks.run.settings import CleanUp, Disposal

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LOGGER = logging.getLogger("tests.record")
POOL = UsedPool(id="top-words-1", slots_per_node=1, own=True, vm_size="Standard_D2s_v3", spot_nodes=4)
HELPED = replace(POOL, added_nodes=4, added_at=NOON + timedelta(minutes=20))
FILES = [InputFile(source=name, name=name, size=1, task_id=f"topNtask{at}") for at, name in enumerate("abc")]


def record(pool: UsedPool | None = POOL, counted: tuple[str, ...] = ()) -> RunRecord[Any]:
    """Of a run whose pool lived for an hour, and of which an earlier try has counted these files."""
    azure = Azure.from_environment(
        {
            "AZURE_BATCH_ACCOUNT": "mybatch",
            "AZURE_BATCH_ENDPOINT": "https://mybatch.westeurope.batch.azure.com",
            "AZURE_STORAGE_ACCOUNT": "mystorage",
        }
    )
    assert azure
    made: RunRecord[Any] = RunRecord(
        azure=azure,
        run=Run(
            workload="top-words",
            flow_run_id="0190f3e2-7c5b-7a30-9d1c-2b8f0e6a4d11",
            started=NOON,
            lifetime=timedelta(hours=2),
        ),
        results=Results(folder=Path("results")),
        files=FILES,
        done=[TaskOutcome.done_before(file.task_id, file.name) for file in FILES if file.name in counted],
        allowed=0,
        steps=[],
        report_joined=lambda joined: "",
    )
    made.pool = pool and replace(pool, asked_at=NOON)
    made.pool_gone = NOON + timedelta(hours=1)
    return made


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[RunFacts]:
    facts: list[RunFacts] = []
    monkeypatch.setattr(tasks.record, "publish_report", lambda write: write())
    monkeypatch.setattr(tasks.record, "report", facts.append)
    monkeypatch.setattr(tasks.record, "get_run_logger", lambda: LOGGER)
    return facts


ALL = ("containers", "job", "pool")


def test_nodes_that_nobody_saw_count_from_their_request(published: list[RunFacts]) -> None:
    record(HELPED).close(CleanUp(), ALL, None)
    (facts,) = published
    assert facts.pool_seconds == 3600
    assert facts.node_time == NodeTime.at_most(4 * 2400, 4 * 3600)
    assert (facts.dedicated_nodes, facts.added_nodes, facts.spot_nodes) == (0, 4, 4)


@pytest.mark.parametrize("region", ["mybatch.westeurope.batch.azure.com", "127.0.0.1:10100"])
def test_the_cost_in_a_line_is_that_of_azure(
    region: str, published: list[RunFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(tasks.record, "remember_cost", told.append)
    made = record()
    made.azure = replace(made.azure, batch_account=replace(made.azure.batch_account, endpoint=f"https://{region}"))
    made.close(CleanUp(), ALL, None)
    assert published[0].estimate is not None
    assert [line.split(" for ")[0] for line in told] == ([] if "127" in region else ["Estimated cost: at most $0.0887"])


def test_a_run_that_is_stopped_tells_the_pool_as_it_is(published: list[RunFacts]) -> None:
    made = record(replace(POOL, own=False))
    made.seen.pool = replace(HELPED, own=False, vm_size="Standard_D2as_v5", nodes_until=NOON)
    made.note_deletes()
    made.close(CleanUp(), ALL, KeyboardInterrupt())
    (facts,) = published
    assert (facts.vm_size, facts.added_nodes, facts.nodes_until) == ("Standard_D2as_v5", 4, "2026-11-22 12:00 UTC")


def test_the_cost_of_waiting_counts_the_nodes_that_were_added() -> None:
    source = "(Azure's list price for Linux, pay-as-you-go, in westeurope, of 2026-08-20)"
    assert record().cost_while_waiting() == (
        f"The pool's 4 nodes of Standard_D2s_v3 cost about $0.09 an hour while you decide {source}."
    )
    assert record(HELPED).cost_while_waiting() == (
        f"The pool's 8 nodes of Standard_D2s_v3 cost about $0.57 an hour while you decide {source}."
    )
    assert record(replace(POOL, own=False)).cost_while_waiting() is None


def test_of_a_run_that_ends_early_each_file_is_made_and_the_reason(published: list[RunFacts]) -> None:
    made = record(None, counted=("b",))
    made.close(CleanUp(), ALL, TasksFailed("pool x got no nodes"))
    (facts,) = published
    assert [(outcome.file, outcome.succeeded, outcome.cause) for outcome in facts.outcomes] == [
        ("a", False, Cause.NOT_STARTED),
        ("b", True, None),
        ("c", False, Cause.NOT_STARTED),
    ]
    assert facts.problem == "pool x got no nodes"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TerminationSignal(signal=15), "The run was cancelled, or its process was terminated"),
        (KeyboardInterrupt(), "The run was interrupted from the keyboard"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug"),
    ],
)
def test_the_reason_is_said_in_words(error: BaseException, reason: str, published: list[RunFacts]) -> None:
    record().close(CleanUp(), ALL, error)
    assert published[0].problem == reason


def test_of_a_run_that_was_given_up_the_reason_is_why(published: list[RunFacts]) -> None:
    made = record()
    outcomes = [TaskOutcome.not_begun(file) for file in FILES]
    made.note_end(Monitored(outcomes=outcomes, pool=HELPED, problem=TasksFailed("job x is gone")))
    made.close(CleanUp(), ALL, None)
    assert (published[0].problem, published[0].added_nodes) == ("job x is gone", 4)


def test_what_could_not_be_deleted_is_made_apart_from_what_was_kept(
    published: list[RunFacts], caplog: pytest.LogCaptureFixture
) -> None:
    record().close(CleanUp(containers=Disposal.KEEP), ("containers", "job"), None)
    (facts,) = published
    assert (facts.deleted, facts.kept, facts.not_deleted) == (("job",), ("containers",), ("pool",))
    assert facts.pool_stays
    assert caplog.messages == ["NOT deleted: pool; the sweep deletes it once it has expired (2026-11-22 14:00 UTC)"]


def test_an_existing_pool_stays_whatever_is_to_be_deleted(published: list[RunFacts]) -> None:
    record(replace(POOL, own=False)).close(CleanUp(), ALL, None)
    (facts,) = published
    assert (facts.deleted, facts.kept, facts.pool_stays) == (("containers", "job"), ("pool",), False)
