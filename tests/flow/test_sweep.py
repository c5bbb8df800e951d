"""What is left in the accounts by runs that died, and what the sweep flow and the hooks make of it."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch.models import (
    BatchJobCreateOptions,
    BatchJobUpdateOptions,
    BatchMetadataItem,
    BatchPoolInfo,
)
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.core.pipeline.transport import HttpTransport
from azure.storage.blob import BlobLeaseClient, BlobServiceClient
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import get_current_settings
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Crashed, Running
from typer.testing import CliRunner

import flows.hooks
from flows.cli import sweep_app as app
from flows.hooks import clean_up_dead_run, within
from flows.sweep import find_leftovers, sweep
from local_azure import faults
from tasks.accounts.block import AzureBatchAccounts
from tasks.accounts.clients import Azure
from tasks.errors import InputError
from tasks.resources.clean_up import clean_up_after
from tasks.resources.leftovers import delete_each
from tasks.resources.ownership import Ending
from tasks.resources.resource import Found, Kind
from tasks.run.identity import Role, Run
from tasks.run.settings import CleanUp, Disposal, TimeLimits
from tasks.run.tags import PROJECT, Tags
from tests.support.accounts import add_pool, azure_with_faults, list_leftovers
from tests.support.paths import DATA
from tests.support.polling import wait_until

LIMIT = 120.0  # seconds
LOG = logging.getLogger("tests.sweep")


@flow(name="top-words")
def a_flow(inputs: list[str], clean_up: CleanUp = CleanUp(), accounts: str | None = None) -> None:
    """As far as a sweep or a hook looks at the flow that died."""


KEEP_ALL = CleanUp(containers=Disposal.KEEP, job=Disposal.KEEP, pool=Disposal.KEEP)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A local Azure for these tests alone, which look at the accounts as a whole, and which makes faults."""
    with azure_with_faults(tmp_path_factory.mktemp("azure")) as settings:
        yield settings


@pytest.fixture
def accounts(no_azure: None, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """Accounts with nothing in them; of what a test leaves, faults included, nothing is there for the next."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    azure = Azure.from_environment(settings)
    assert azure is not None
    yield azure
    faults.ask("reset", {})
    faults.ask("clock", {"advance": "PT1H"})  # past what a test has slowed down
    with azure.batch() as batch, azure.blobs() as blobs:
        for container in blobs.list_containers():
            blobs.delete_container(container.name)
        wait_until(lambda: not clear(batch))


def clear(batch: BatchClient) -> list[str]:
    """Delete all pools and jobs; what is still there."""
    things: list[tuple[Callable[[str], object], str | None]] = []
    things += [(batch.begin_delete_job, job.id) for job in batch.list_jobs()]
    things += [(batch.begin_delete_pool, pool.id) for pool in batch.list_pools()]
    for delete, name in things:
        try:
            delete(str(name))
        except (ResourceExistsError, ResourceNotFoundError):  # it is being deleted, or gone since it was listed
            continue
    return [str(name) for _, name in things]


def tags(flow_run: str, expires_in: timedelta, **more: str) -> dict[str, str]:
    """The tags of a run, which began an hour before it expires."""
    expires = datetime.now(timezone.utc) + expires_in
    times = {
        "created": (expires - timedelta(hours=1)).isoformat(timespec="seconds"),
        "expires": expires.isoformat(timespec="seconds"),
    }
    return {"project": PROJECT, "flow_run": flow_run, **times, **more}


PAST = timedelta(hours=-2)
FUTURE = timedelta(hours=2)


def items(tags: dict[str, str] | None) -> list[BatchMetadataItem] | None:
    return None if tags is None else [BatchMetadataItem(name=name, value=value) for name, value in tags.items()]


def make_pool(azure: Azure, name: str, tags: dict[str, str] | None, nodes: int = 0) -> None:
    add_pool(azure, name, tags, target_dedicated_nodes=nodes - nodes // 2, target_low_priority_nodes=nodes // 2)
    with azure.batch() as batch:
        wait_until(lambda: nodes_of(batch, name) == nodes)


def nodes_of(batch: BatchClient, pool: str) -> int:
    found = batch.get_pool(pool)
    return (found.current_dedicated_nodes or 0) + (found.current_low_priority_nodes or 0)


def make_job(azure: Azure, name: str, tags: dict[str, str] | None) -> None:
    with azure.batch() as batch:
        batch.create_job(BatchJobCreateOptions(id=name, pool_info=BatchPoolInfo(pool_id="none"), metadata=items(tags)))


def make_container(azure: Azure, name: str, tags: dict[str, str] | None) -> None:
    with azure.blobs() as blobs:
        blobs.create_container(name, metadata=tags)
        blobs.get_blob_client(name, "a.txt").upload_blob(b"a")


MAKE: dict[str, Callable[[Azure, str, dict[str, str] | None], None]] = {
    "pool": make_pool,
    "job": make_job,
    "container": make_container,
}


def make_three(azure: Azure, name: str, tags: dict[str, str] | None) -> set[str]:
    """A pool, a job and a container of that name with these tags; how the tests speak of them."""
    for make in MAKE.values():
        make(azure, name, tags)
    return three(name)


def three(*names: str) -> set[str]:
    return {f"{kind} {name}" for name in names for kind in MAKE}


def make_run(azure: Azure, run: Run, extra: dict[str, str] | None = None) -> set[str]:
    """All that a run creates, under the names that it gives them."""
    metadata = {**run.tags.metadata(), **(extra or {})}
    make_pool(azure, run.pool_id, metadata)
    make_job(azure, run.job_id, metadata)
    for role in Role:
        make_container(azure, run.container(role), metadata)
    return everything(run)


def everything(run: Run) -> set[str]:
    return {f"pool {run.pool_id}", f"job {run.job_id}", *(f"container {run.container(role)}" for role in Role)}


def run_of(flow_run_id: object = None) -> Run:
    return Run.start(str(flow_run_id or uuid.uuid4()), "top-words", TimeLimits())


def there(azure: Azure) -> set[str]:
    """What is in the accounts and not being deleted."""
    with azure.batch() as batch, azure.blobs() as blobs:
        return {
            *(f"pool {pool.id}" for pool in batch.list_pools() if pool.state != "deleting"),
            *(f"job {job.id}" for job in batch.list_jobs() if job.state != "deleting"),
            *(f"container {container.name}" for container in blobs.list_containers()),
        }


def kept(azure: Azure) -> set[str]:
    return {leftover.name for leftover in list_leftovers(azure) if leftover.tags.kept}


def endings(azure: Azure, leftovers: Iterable[Found]) -> dict[str, Ending]:
    return {deletion.leftover.name: deletion.ending for deletion in delete_each(azure, leftovers)}


# The accounts.


def test_what_runs_have_left_is_told_by_its_tags_and_by_nothing_else(accounts: Azure) -> None:
    ours_tags = tags("a run", PAST)
    ours = make_three(accounts, "no-name-of-ours", ours_tags)
    strangers: dict[str, dict[str, str] | None] = {
        "top-words-stranger": None,
        "top-words-0123456789ab": {"project": PROJECT},
        "top-words-0123456789ac": {"flow_run": "a run"},
        "top-words-0123456789ad": {**tags("a run", PAST), "project": "bottom-words"},
    }
    for name, metadata in strangers.items():
        make_three(accounts, name, metadata)
    found = list_leftovers(accounts)
    assert {leftover.name for leftover in found} == ours
    expected: dict[str, Any] = {
        "id": "no-name-of-ours",
        "tags": Tags(
            workload="",
            flow_run="a run",
            created=datetime.fromisoformat(ours_tags["created"]),
            expires=datetime.fromisoformat(ours_tags["expires"]),
        ),
    }
    assert found == [
        Found(kind=Kind.POOL, state="active", **expected),
        Found(kind=Kind.JOB, state="active", **expected),
        Found(kind=Kind.CONTAINER, state="available", **expected),
    ]


def test_a_pool_is_listed_with_the_nodes_that_it_has(accounts: Azure) -> None:
    make_pool(accounts, "pool", tags("a run", PAST), nodes=3)
    (pool,) = list_leftovers(accounts)
    assert (pool.dedicated_nodes, pool.spot_nodes, pool.nodes) == (2, 1, 3)


def test_more_than_one_page_of_containers_is_listed(accounts: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    real = BlobServiceClient.list_containers
    monkeypatch.setattr(
        BlobServiceClient, "list_containers", lambda self, **options: real(self, results_per_page=2, **options)
    )
    names = [f"container{index}" for index in range(5)]
    for name in names:
        make_container(accounts, name, tags("a run", PAST))
    assert [leftover.id for leftover in list_leftovers(accounts)] == names


def test_what_has_gone_since_it_was_listed_is_no_error(accounts: Azure) -> None:
    make_three(accounts, "left", tags("a run", PAST))
    found = list_leftovers(accounts)
    assert endings(accounts, found) == dict.fromkeys(three("left"), Ending.DELETED)
    with accounts.batch() as batch:
        wait_until(lambda: not [*batch.list_pools(), *batch.list_jobs()])
    assert endings(accounts, found) == dict.fromkeys(three("left"), Ending.GONE)


def test_what_is_being_deleted_already_is_no_error(accounts: Azure) -> None:
    faults.ask("timings", {"removal": 600})
    make_pool(accounts, "left", tags("a run", PAST))
    make_job(accounts, "left", tags("a run", PAST))
    before = list_leftovers(accounts)
    with accounts.batch() as batch:
        batch.begin_delete_job("left")
        batch.begin_delete_pool("left")
    assert [leftover.state for leftover in list_leftovers(accounts)] == ["deleting", "deleting"]
    assert endings(accounts, before) == {"pool left": Ending.GONE, "job left": Ending.GONE}


def test_a_delete_whose_answer_is_lost_is_no_error(accounts: Azure) -> None:
    make_job(accounts, "left", tags("a run", PAST))
    faults.ask("timings", {"removal": 600})
    faults.ask("requests", {"operation": "delete_job", "drop": True, "after_commit": True})
    (ending,) = endings(accounts, list_leftovers(accounts)).values()
    assert ending in (Ending.DELETED, Ending.GONE)
    assert there(accounts) == set()


@pytest.mark.parametrize(
    "change",
    [
        {"expires": "2999-01-01T00:00:00+00:00"},  # a retry has adopted it
        {"kept": "yes"},
        {"flow_run": "another run"},
        {"project": "another"},
    ],
)
def test_what_is_tagged_otherwise_since_it_was_listed_is_left(accounts: Azure, change: dict[str, str]) -> None:
    before = tags("a run", PAST)
    now_tagged = {**before, **change}
    make_job(accounts, "left", before)
    make_container(accounts, "left", before)
    found = list_leftovers(accounts)
    with accounts.batch() as batch, accounts.blobs() as blobs:
        batch.update_job("left", BatchJobUpdateOptions(metadata=items(now_tagged)))
        blobs.get_container_client("left").set_container_metadata(now_tagged)
    assert set(endings(accounts, found).values()) == {Ending.CHANGED}
    assert there(accounts) == {"job left", "container left"}


def test_one_that_cannot_be_deleted_does_not_keep_the_others(accounts: Azure) -> None:
    make_three(accounts, "left", tags("a run", PAST))
    with accounts.blobs() as blobs:
        blobs.get_container_client("left").acquire_lease()
    faults.ask("requests", {"operation": "delete_pool", "status": 403})
    pool, job, container = delete_each(accounts, list_leftovers(accounts))
    assert (pool.ending, job.ending, container.ending) == (Ending.FAILED, Ending.DELETED, Ending.FAILED)
    assert pool.reason.startswith("Azure Batch answered 403 AuthenticationFailed: ")
    assert container.reason.startswith("Blob Storage answered 412 LeaseIdMissing: ")
    assert there(accounts) == {"pool left", "container left"}
    with accounts.blobs() as blobs:
        BlobLeaseClient(blobs.get_container_client("left")).break_lease(0)


# Cleaning up after one run, from its id alone.


def test_what_a_dead_run_created_is_deleted_and_nothing_of_another_run(
    accounts: Azure, caplog: pytest.LogCaptureFixture
) -> None:
    dead, other = run_of(), run_of()
    make_run(accounts, dead)
    make_run(accounts, other)
    make_pool(accounts, "existing", None)
    with caplog.at_level(logging.INFO, LOG.name):
        clean_up_after(accounts, dead, CleanUp(pool=Disposal.ASK), LOG)
    assert there(accounts) == {*everything(other), "pool existing"}
    assert set(caplog.messages) == {f"{name.capitalize()}: deleted" for name in everything(dead)}
    caplog.clear()
    with caplog.at_level(logging.INFO, LOG.name):
        clean_up_after(accounts, dead, CleanUp(), LOG)
    assert caplog.messages == []  # the flow's own clean-up usually comes first


def test_what_a_dead_run_was_to_keep_is_kept_also_by_the_sweep(accounts: Azure) -> None:
    run = run_of()
    make_run(accounts, run)
    clean_up_after(accounts, run, CleanUp(pool=Disposal.KEEP, containers=Disposal.KEEP), LOG)
    assert there(accounts) == kept(accounts) == everything(run) - {f"job {run.job_id}"}
    clean_up_after(accounts, run, CleanUp(job=Disposal.KEEP), LOG)  # kept is kept
    assert there(accounts) == everything(run) - {f"job {run.job_id}"}
    with accounts.batch() as batch:
        assert {item.name: item.value for item in batch.get_pool(run.pool_id).metadata or ()} == {
            **run.tags.metadata(),
            "kept": "yes",
        }


def test_a_kept_job_is_marked_as_such(accounts: Azure) -> None:
    run = run_of()
    make_job(accounts, run.job_id, run.tags.metadata())
    clean_up_after(accounts, run, KEEP_ALL, LOG)
    assert kept(accounts) == {f"job {run.job_id}"}


@pytest.mark.parametrize("stranger", [None, {"project": "another"}, tags("another run", PAST)])
def test_a_stranger_s_things_with_the_run_s_names_stay(accounts: Azure, stranger: dict[str, str] | None) -> None:
    run = run_of()
    make_pool(accounts, run.pool_id, stranger)
    make_job(accounts, run.job_id, stranger)
    make_container(accounts, run.container(Role.INPUT), stranger)
    before = there(accounts)
    clean_up_after(accounts, run, CleanUp(), LOG)
    assert there(accounts) == before


def test_an_error_with_one_thing_of_a_dead_run_is_told_and_the_rest_deleted(
    accounts: Azure, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of()
    make_run(accounts, run)
    faults.ask("requests", {"operation": "get_pool", "status": 403})
    with caplog.at_level(logging.WARNING, LOG.name):
        clean_up_after(accounts, run, CleanUp(), LOG)
    (said,) = caplog.messages
    prefix = f"Pool {run.pool_id}: not cleaned up, a sweep deletes it once it has expired: "
    assert said.startswith(f"{prefix}Azure Batch answered 403 AuthenticationFailed")
    assert there(accounts) == {f"pool {run.pool_id}"}


# The hook.


def dead_flow_run(**parameters: object) -> FlowRun:
    return FlowRun(id=uuid.uuid4(), name="dead", flow_id=uuid.uuid4(), parameters=parameters)


def test_the_hook_deletes_as_the_run_s_parameters_say(accounts: Azure, caplog: pytest.LogCaptureFixture) -> None:
    flow_run = dead_flow_run(inputs=["a.txt"], clean_up={"job": "keep"})
    run = run_of(flow_run.id)
    make_run(accounts, run)
    with caplog.at_level(logging.INFO, "prefect.flow_runs"):
        clean_up_dead_run(a_flow, flow_run, Crashed())
    assert there(accounts) == {f"job {run.job_id}"}
    assert f"Pool {run.pool_id}: deleted" in caplog.messages
    assert f"Job {run.job_id}: kept" in caplog.messages


def test_without_an_account_the_hook_says_that_there_is_nothing_that_it_could_do(
    no_azure: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "prefect"):
        clean_up_dead_run(a_flow, dead_flow_run(), Cancelled())
    (said,) = caplog.messages
    assert said.startswith("No account configured here; nothing to clean up for a local run.")


def test_the_hook_tells_what_is_wrong_and_raises_nothing(
    no_azure: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AZURE_BATCH_ACCOUNT", "mybatch")
    flow_run = dead_flow_run()
    clean_up_dead_run(a_flow, flow_run, Crashed())
    (said,) = caplog.messages
    assert said.startswith(
        f"Flow run {flow_run.id}: not cleaned up, the sweep flow deletes what is left once it has expired: "
        "InputError: AZURE_BATCH_ENDPOINT and "
        "AZURE_STORAGE_CONNECTION_STRING (or AZURE_STORAGE_ACCOUNT) are not set, but AZURE_BATCH_ACCOUNT is: "
    )


def test_the_hook_waits_for_no_answer_for_long(
    accounts: Azure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(flows.hooks, "clean_up_after", lambda *arguments: answer.wait(LIMIT))
    monkeypatch.setattr(flows.hooks, "PATIENCE", 0.01)
    clean_up_dead_run(a_flow, dead_flow_run(), Crashed())
    answer.set()
    assert "the sweep flow deletes what is left once it has expired" in caplog.text
    assert within(LIMIT, lambda: None)


# The flow.

pytest_server = pytest.mark.usefixtures("prefect_server")


def swept(**parameters: Any) -> State[Any]:
    return sweep(**parameters, return_state=True)


def error_of(state: State[Any]) -> str:
    return str(state.result(raise_on_failure=False))


def artifact(state: State[Any]) -> str:
    """The text of the sweep's artifact."""
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        (found,) = [each for each in client.read_artifacts(artifact_filter=only) if each.key == "leftovers"]
    assert found.type == "markdown"
    return str(found.data)


def rows(state: State[Any]) -> dict[str, list[str]]:
    """The cells of each row of the artifact's table, by the first."""
    table = [line.strip("| ").split(" | ") for line in artifact(state).splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in table[1:]}


def a_bit_of_everything(azure: Azure) -> dict[str, str]:
    """Expired and current things, kept and broken ones, and strangers'; the tags of the expired."""
    expired = tags("run 1", PAST)
    make_pool(azure, "nodes", expired, nodes=2)
    make_three(azure, "expired", expired)
    make_three(azure, "current", tags("run 2", FUTURE))
    make_three(azure, "grace", tags("run 2", timedelta(minutes=-2)))
    make_three(azure, "kept", tags("run 3", PAST, kept="yes"))
    make_three(azure, "broken", {**tags("run 4", PAST), "expires": "next week"})
    make_three(azure, "top-words-stranger", None)
    make_three(azure, "top-words-0123456789ab", {**tags("run 5", PAST), "project": "another"})
    return expired


@pytest_server
def test_a_dry_run_says_what_there_is_and_deletes_nothing(accounts: Azure, caplog: pytest.LogCaptureFixture) -> None:
    expired = a_bit_of_everything(accounts)
    before = there(accounts)
    with caplog.at_level(logging.INFO, "prefect"):
        state = swept()
    assert there(accounts) == before
    count = "16 pools, jobs and containers of ours, 4 of them to be deleted (with 2 nodes, which bill)"
    assert (state.name, state.message) == ("Completed", f"{count}; a dry run deletes nothing")
    table = rows(state)
    assert set(table) == {"pool nodes", *three("expired", "current", "grace", "kept", "broken")}
    created, expires = (f"{datetime.fromisoformat(expired[tag]):%Y-%m-%d %H:%M UTC}" for tag in ("created", "expires"))
    assert table["pool nodes"][:-1] == ["run 1", "active", "2", created, expires]
    assert re.fullmatch(r"expired 2 h \d min ago", table["pool nodes"][-1])
    assert table["job kept"][-1] == "kept on purpose"
    assert table["container broken"][-2:] == ["?", "no readable &#96;expires&#96;"]
    assert table["job grace"][-1] == "just expired: left for a while"
    assert re.fullmatch(r"expires in 1 h 5\d min", table["job current"][-1])
    assert re.search(r"Pool nodes of flow run run 1: expired 2 h \d min ago; 2 nodes, which bill\n", caplog.text)
    assert "Job broken of flow run run 4: no readable `expires`" in caplog.messages


@pytest_server
def test_a_sweep_deletes_what_is_ours_and_has_expired(accounts: Azure) -> None:
    a_bit_of_everything(accounts)
    before = there(accounts)
    state = swept(delete=True)
    assert before - there(accounts) == {"pool nodes", *three("expired")}
    assert state.message is not None
    assert state.message.endswith("; 4 deleted")
    assert {name for name, cells in rows(state).items() if cells[-1].endswith(" min ago; deleted")} == {
        "pool nodes",
        *three("expired"),
    }


@pytest_server
def test_what_was_kept_is_deleted_when_asked_for(accounts: Azure) -> None:
    make_three(accounts, "kept", tags("run 1", PAST, kept="yes"))
    current = make_three(accounts, "current", tags("run 2", FUTURE, kept="yes"))
    swept(delete=True, include_kept=True)
    assert there(accounts) == current


@pytest_server
def test_a_sweep_that_could_not_delete_something_fails_and_names_it(accounts: Azure) -> None:
    make_three(accounts, "expired", tags("run 1", PAST))
    faults.ask("requests", {"operation": "delete_pool", "status": 403})
    state = swept(delete=True)
    assert there(accounts) == {"pool expired"}
    assert state.name == "Failed"
    assert error_of(state).startswith(
        "1 of 3 were not deleted:\npool expired: Azure Batch answered 403 AuthenticationFailed: "
    )
    assert {name: cells[-1].split("; ")[1] for name, cells in rows(state).items()} == {
        "pool expired": "not deleted",
        "job expired": "deleted",
        "container expired": "deleted",
    }


@pytest_server
def test_a_sweep_of_empty_accounts_completes(accounts: Azure) -> None:
    state = swept(delete=True)
    assert (state.name, state.message) == (
        "Completed",
        "0 pools, jobs and containers of ours, 0 of them to be deleted; 0 deleted",
    )


@pytest_server
def test_without_an_account_there_is_nothing_to_sweep(no_azure: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "prefect"):
        state = swept(delete=True)
    said = "No account is configured, and the embedded local Azure leaves nothing: it ends with its run"
    assert (state.name, state.message) == ("Completed", said)
    assert said in caplog.messages


def flow_run_in(state: State[Any], **parameters: object) -> Run:
    """A flow run of top-words in that state, and the names of what it creates."""
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(a_flow, parameters={"inputs": ["a.txt"], **parameters})
        client.set_flow_run_state(flow_run.id, state, force=True)
    return run_of(flow_run.id)


@pytest_server
@pytest.mark.parametrize("state", [Running(), AwaitingRetry()])
def test_what_a_run_created_that_has_not_ended_is_left(
    accounts: Azure, state: State[Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = flow_run_in(state)
    before = make_run(accounts, run) | make_three(accounts, "expired", tags(run.flow_run_id, PAST))
    with caplog.at_level(logging.INFO, "prefect"):
        end = swept(delete=True, flow_run_id=run.flow_run_id)
    assert there(accounts) == before
    assert end.name == "Completed"
    said = f"Flow run {run.flow_run_id}: has not ended ({state.name}), leaving what it created"
    assert said in caplog.messages
    assert {cells[-1] for cells in rows(end).values()} == {"its flow run has not ended"}


@pytest_server
@pytest.mark.parametrize("state", [Crashed(), Cancelled()])
def test_what_a_run_created_that_has_ended_is_deleted_before_it_expires(accounts: Azure, state: State[Any]) -> None:
    run, other = flow_run_in(state), flow_run_in(Running())
    make_run(accounts, run)
    others = make_run(accounts, other) | make_three(accounts, "expired", tags("yet another", PAST))
    dry = swept(flow_run_id=run.flow_run_id)
    assert there(accounts) == others | everything(run)
    assert dry.message == "13 pools, jobs and containers of ours, 5 of them to be deleted; a dry run deletes nothing"
    end = swept(delete=True, flow_run_id=f"prefect.flow-run.{run.flow_run_id}")
    assert there(accounts) == others
    assert rows(end)[f"pool {run.pool_id}"][-1] == "its flow run has ended; deleted"
    assert rows(end)["pool expired"][-1] == "expired, but not of this flow run"
    assert f"Only what flow run {run.flow_run_id} created is to be deleted." in artifact(end)


@pytest_server
def test_what_an_ended_run_was_to_keep_is_kept_unless_asked_for(accounts: Azure) -> None:
    run = flow_run_in(Crashed(), clean_up={"job": "keep", "containers": "ask"})
    make_run(accounts, run)
    swept(delete=True, flow_run_id=run.flow_run_id)
    assert there(accounts) == {f"job {run.job_id}"}
    swept(delete=True, flow_run_id=run.flow_run_id, include_kept=True)
    assert there(accounts) == set()


@pytest_server
def test_accounts_come_from_the_block_that_the_flow_run_or_the_sweep_names(
    accounts: Azure, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    AzureBatchAccounts.from_environment(settings).save("accounts-of-a-dead-run")
    run = flow_run_in(Crashed(), accounts="accounts-of-a-dead-run")
    make_container(accounts, run.container(Role.INPUT), run.tags.metadata())
    make_three(accounts, "expired", tags("another run", PAST))
    with monkeypatch.context() as elsewhere:
        for name in settings:
            elsewhere.delenv(name)
        swept(delete=True, flow_run_id=run.flow_run_id)
        assert there(accounts) == three("expired")
        swept(delete=True, accounts="accounts-of-a-dead-run")
        assert there(accounts) == set()
        assert error_of(swept(accounts="no-such-block")).startswith("there is no block 'no-such-block'")


@pytest_server
def test_the_block_that_the_flow_run_named_wins_over_that_of_a_triggered_sweep(
    accounts: Azure, settings: dict[str, str]
) -> None:
    AzureBatchAccounts.from_environment(settings).save("of-the-run")
    nowhere = {**settings, "AZURE_BATCH_ENDPOINT": "http://127.0.0.1:9"}
    AzureBatchAccounts.from_environment(nowhere).save("of-the-sweep")
    run = flow_run_in(Crashed(), accounts="of-the-run")
    make_container(accounts, run.container(Role.INPUT), run.tags.metadata())
    swept(delete=True, flow_run_id=run.flow_run_id, accounts="of-the-sweep")
    assert there(accounts) == set()


@pytest_server
def test_where_storage_cannot_be_reached_what_bills_is_deleted_all_the_same(
    accounts: Azure, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_three(accounts, "expired", tags("run 1", PAST))
    storage = settings["AZURE_STORAGE_CONNECTION_STRING"]
    monkeypatch.setattr(HttpTransport, "sleep", lambda self, duration: None)
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", re.sub(r"(BlobEndpoint=http://127.0.0.1):\d+", r"\1:9", storage)
    )
    monkeypatch.setattr(find_leftovers, "retry_delay_seconds", 0)
    monkeypatch.setattr(find_leftovers, "retry_jitter_factor", None)
    state = swept(delete=True)
    assert there(accounts) == {"container expired"}
    assert state.name == "Failed"
    assert error_of(state).startswith("the containers could not be listed: no answer from the service: ")


@pytest_server
@pytest.mark.parametrize(
    ("flow_run_id", "reason"),
    [
        ("yesterday's", 'flow_run_id is "yesterday\'s", which is no id of a flow run; it looks like '),
        ("0190f3e2-7c5b-7a30-9d1c-2b8f0e6a4d11", "this Prefect server knows no flow run 0190f3e2-7c5b-7a30-9d1c-"),
    ],
)
def test_a_wrong_flow_run_id_is_refused_and_nothing_deleted(accounts: Azure, flow_run_id: str, reason: str) -> None:
    before = make_three(accounts, "expired", tags(flow_run_id, PAST))
    state = swept(delete=True, flow_run_id=flow_run_id)
    assert state.name == "Failed"
    assert isinstance(state.result(raise_on_failure=False), InputError)
    assert error_of(state).startswith(reason)
    assert there(accounts) == before


@pytest_server
def test_the_command_sweeps_when_told_to(accounts: Azure) -> None:
    make_three(accounts, "expired", tags("run 1", PAST))
    result = CliRunner().invoke(app, [])
    assert (result.exit_code, there(accounts)) == (0, three("expired"))
    assert result.stdout.endswith("3 of them to be deleted; a dry run deletes nothing\n")
    result = CliRunner().invoke(app, ["--delete"])
    assert (result.exit_code, there(accounts)) == (0, set())
    result = CliRunner().invoke(app, ["--flow-run", "x"])
    assert result.exit_code == 1
    assert "Error: --flow-run is 'x', which is no id of a flow run" in result.output


# A flow whose process really ends: the hook runs in the process that had started it.

ENDLESS = """
import os
import signal
import time

from prefect import flow
from prefect.runtime import flow_run

from flows.hooks import clean_up_dead_run
from tasks.accounts.clients import Azure
from tasks.run.identity import Role, Run
from tasks.run.settings import TimeLimits


@flow(name="top-words", on_crashed=[clean_up_dead_run], on_cancellation=[clean_up_dead_run])
def endless(clean_up: dict[str, str], killed: bool) -> None:
    run = Run.start(flow_run.id, "top-words", TimeLimits())
    azure = Azure.from_environment(os.environ)
    with azure.blobs() as blobs:
        for role in Role:
            blobs.create_container(run.container(role), metadata=run.tags.metadata())
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(0.1)
"""


@pytest_server
def test_the_process_that_started_a_flow_cleans_up_when_it_is_killed_or_cancelled(
    accounts: Azure, tmp_path: Path
) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    other = run_of()
    make_container(accounts, other.container(Role.INPUT), other.tags.metadata())
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("endless")
        here = client.create_deployment(flow_id, "here", path=str(tmp_path), entrypoint="endless.py:endless")
        killed, cancelled = (
            client.create_flow_run_from_deployment(here, parameters={"clean_up": {"job": "keep"}, "killed": kill}).id
            for kill in (True, False)
        )
        with executing(killed), executing(cancelled):
            wait_until(lambda: containers_of(cancelled) <= there(accounts))
            client.set_flow_run_state(cancelled, Cancelling(), force=True)
        assert [client.read_flow_run(each).state_name for each in (killed, cancelled)] == ["Crashed", "Cancelled"]
        told = {f"{name.capitalize()}: deleted" for name in containers_of(killed) | containers_of(cancelled)}
        of_these = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[killed, cancelled]))
        wait_until(lambda: told <= {each.message for each in client.read_logs(of_these)})
    assert there(accounts) == {f"container {other.container(Role.INPUT)}"}


def containers_of(flow_run_id: uuid.UUID) -> set[str]:
    return {f"container {run_of(flow_run_id).container(role)}" for role in Role}


@contextmanager
def executing(flow_run_id: uuid.UUID) -> Iterator[None]:
    """The flow run in a process of its own, started by one that, like a worker, watches over it, until both end."""
    url = get_current_settings().api.url
    environment = {**os.environ, "PREFECT_API_URL": str(url), "PYTHONPATH": str(DATA.parent)}
    command = [sys.executable, "-m", "prefect", "flow-run", "execute", str(flow_run_id)]
    process = subprocess.Popen(command, env=environment)
    try:
        yield
        process.wait(LIMIT)
    finally:
        process.kill()
        process.wait()
