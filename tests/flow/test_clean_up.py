"""Lists and deletes what runs have left in the accounts, and cleans up after one run, as the hooks do."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobLeaseClient, BlobServiceClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Cancelling, Crashed

import flows.hooks
from flows.hooks import clean_up_dead_run
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.accounts.parallel import within
from tasks.resources.clean_up import clean_up_after
from tasks.resources.leftovers import delete_each
from tasks.resources.ownership import Ending
from tasks.resources.resource import Found, Kind
from tasks.run.identity import Role
from tasks.run.settings import CleanUp, Disposal
from tasks.run.tags import PROJECT, Tags
from tests.support.accounts import list_leftovers
from tests.support.leftovers import (
    LIMIT,
    PAST,
    a_flow,
    accounts,
    endings,
    everything,
    kept,
    make_container,
    make_job,
    make_pool,
    make_run,
    make_three,
    run_of,
    settings,
    tags,
    there,
    three,
    wait_until,
)
from tests.support.paths import DATA

__all__ = ["accounts", "settings"]  # fixtures

LOG = logging.getLogger("tests.clean_up")
pytest_server = pytest.mark.usefixtures("prefect_server")


# The accounts.


def test_leftovers_are_known_by_their_tags_and_by_nothing_else(accounts: Azure) -> None:
    ours_tags = tags("a run", PAST)
    ours = make_three(accounts, "no-name-of-ours", ours_tags)
    others: dict[str, dict[str, str] | None] = {
        "top-words-of-others": None,
        "top-words-0123456789ab": {"project": PROJECT},
        "top-words-0123456789ac": {"flow_run": "a run"},
        "top-words-0123456789ad": {**tags("a run", PAST), "project": "bottom-words"},
    }
    for name, metadata in others.items():
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


def test_resources_of_a_dead_run_are_deleted_and_no_others(accounts: Azure, caplog: pytest.LogCaptureFixture) -> None:
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


def test_what_others_created_with_the_run_s_names_stays(accounts: Azure) -> None:
    run, others = run_of(), tags("another run", PAST)
    make_pool(accounts, run.pool_id, others)
    make_job(accounts, run.job_id, others)
    make_container(accounts, run.container(Role.INPUT), others)
    before = there(accounts)
    clean_up_after(accounts, run, CleanUp(), LOG)
    assert there(accounts) == before


def test_an_error_with_one_is_logged_and_the_rest_deleted(accounts: Azure, caplog: pytest.LogCaptureFixture) -> None:
    run = run_of()
    make_run(accounts, run)
    faults.ask("requests", {"operation": "get_pool", "status": 403})
    with caplog.at_level(logging.WARNING, LOG.name):
        clean_up_after(accounts, run, CleanUp(), LOG)
    (message,) = caplog.messages
    prefix = f"Pool {run.pool_id}: not cleaned up, a sweep deletes it once it has expired: "
    assert message.startswith(f"{prefix}Azure Batch answered 403 AuthenticationFailed")
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


def test_without_an_account_the_hook_has_nothing_to_clean_up(no_azure: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "prefect"):
        clean_up_dead_run(a_flow, dead_flow_run(), Cancelled())
    (message,) = caplog.messages
    assert message.startswith("No account configured here; nothing to clean up for a local run.")


def test_the_hook_logs_what_is_wrong_and_raises_nothing(
    no_azure: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AZURE_BATCH_ACCOUNT", "mybatch")
    flow_run = dead_flow_run()
    clean_up_dead_run(a_flow, flow_run, Crashed())
    (message,) = caplog.messages
    assert message.startswith(
        f"Flow run {flow_run.id}: not cleaned up, the sweep flow deletes what is left once it has expired: "
        "InputError: AZURE_BATCH_ENDPOINT and "
        "AZURE_STORAGE_CONNECTION_STRING (or AZURE_STORAGE_ACCOUNT) are not set, but AZURE_BATCH_ACCOUNT is: "
    )


def test_the_hook_does_not_wait_for_long(
    accounts: Azure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(flows.hooks, "clean_up_after", lambda *arguments: answer.wait(LIMIT))
    monkeypatch.setattr(flows.hooks, "PATIENCE", 0.01)
    clean_up_dead_run(a_flow, dead_flow_run(), Crashed())
    answer.set()
    assert "the sweep flow deletes what is left once it has expired" in caplog.text
    assert within(LIMIT, lambda: None)


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
def test_a_flow_that_is_killed_or_cancelled_is_cleaned_up_after(accounts: Azure, tmp_path: Path) -> None:
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
        expected = {f"{name.capitalize()}: deleted" for name in containers_of(killed) | containers_of(cancelled)}
        of_these = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[killed, cancelled]))
        wait_until(lambda: expected <= {each.message for each in client.read_logs(of_these)})
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
