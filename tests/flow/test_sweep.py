"""The sweep: the flow that finds and deletes what runs have left in the accounts."""

from __future__ import annotations

import logging
import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from azure.core.pipeline.transport import HttpTransport
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Crashed, Failed, Running
from typer.testing import CliRunner

from flows.cli import sweep_app as app
from flows.sweep import find_leftovers, sweep
from local_azure import faults
from tasks.accounts.block import AzureBatchAccounts
from tasks.accounts.clients import Azure
from tasks.errors import InputError
from tasks.resources.sign_of_life import SignOfLife
from tasks.run.identity import Role, Run
from tests.support.leftovers import (
    FUTURE,
    PAST,
    a_flow,
    accounts,
    everything,
    make_container,
    make_pool,
    make_run,
    make_three,
    run_of,
    settings,
    tags,
    there,
    three,
)

__all__ = ["accounts", "settings"]  # fixtures

pytest_server = pytest.mark.usefixtures("prefect_server")


# The flow.


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
    """Expired and current things, kept and broken ones, and others'; the tags of the expired."""
    expired = tags("run 1", PAST)
    make_pool(azure, "nodes", expired, nodes=2)
    make_three(azure, "expired", expired)
    make_three(azure, "current", tags("run 2", FUTURE))
    make_three(azure, "grace", tags("run 2", timedelta(minutes=-2)))
    make_three(azure, "kept", tags("run 3", PAST, kept="yes"))
    make_three(azure, "broken", {**tags("run 4", PAST), "expires": "next week"})
    make_three(azure, "top-words-of-others", None)
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
    assert re.fullmatch(r"expired 2 h( \d min)? ago", table["pool nodes"][-1])
    assert table["job kept"][-1] == "kept on purpose"
    assert table["container broken"][-2:] == ["?", "no readable &#96;expires&#96;"]
    assert table["job grace"][-1] == "just expired: left for a while"
    assert re.fullmatch(r"expires in (1 h 5\d min|2 h)", table["job current"][-1])
    assert re.search(r"Pool nodes of flow run run 1: expired 2 h( \d min)? ago; 2 nodes, which bill\n", caplog.text)
    assert "Job broken of flow run run 4: no readable `expires`" in caplog.messages


@pytest_server
def test_a_sweep_deletes_what_is_ours_and_has_expired(accounts: Azure) -> None:
    a_bit_of_everything(accounts)
    before = there(accounts)
    state = swept(delete=True)
    assert before - there(accounts) == {"pool nodes", *three("expired")}
    assert state.message is not None
    assert state.message.endswith("; 4 deleted")
    assert {name for name, cells in rows(state).items() if cells[-1].endswith(" ago; deleted")} == {
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
def test_without_an_account_there_is_nothing_to_sweep(no_azure: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "prefect"):
        state = swept(delete=True)
    message = "No account is configured, and the embedded local Azure leaves nothing: it ends with its run"
    assert (state.name, state.message) == ("Completed", message)
    assert message in caplog.messages


def flow_run_in(state: State[Any], **parameters: object) -> Run:
    """A flow run of top-words in that state, and the names of what it creates."""
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(a_flow, parameters={"inputs": ["a.txt"], **parameters})
        client.set_flow_run_state(flow_run.id, state, force=True)
    return run_of(flow_run.id)


@pytest_server
def test_what_a_run_created_that_has_not_ended_is_left(accounts: Azure, caplog: pytest.LogCaptureFixture) -> None:
    run = flow_run_in(AwaitingRetry())
    before = make_run(accounts, run) | make_three(accounts, "expired", tags(run.flow_run_id, PAST))
    with caplog.at_level(logging.INFO, "prefect"):
        end = swept(delete=True, flow_run_id=run.flow_run_id)
    assert there(accounts) == before
    assert end.name == "Completed"
    message = f"Flow run {run.flow_run_id}: has not ended (AwaitingRetry), leaving what it created"
    assert message in caplog.messages
    assert {cells[-1] for cells in rows(end).values()} == {"its flow run has not ended"}


@pytest_server
def test_resources_of_an_ended_run_are_deleted_before_they_expire(accounts: Azure) -> None:
    run, other = flow_run_in(Crashed()), flow_run_in(Running())
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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is missing at once, and has two seconds for a sign of life."""
    monkeypatch.setattr("tasks.watching.heartbeats.SILENCE", timedelta())
    monkeypatch.setattr("tasks.watching.ended_runs.GRACE", 2.0)


def state_of(run: Run) -> tuple[str, str]:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(run.flow_run_id)).state
    assert state
    return str(state.name), state.message or ""


@pytest_server
@pytest.mark.usefixtures("impatient")
def test_a_run_that_nobody_noticed_to_be_lost_is_declared_so_and_swept(accounts: Azure) -> None:
    running, cancelling, nothing_left = flow_run_in(Running()), flow_run_in(Cancelling()), flow_run_in(Running())
    later = flow_run_in(AwaitingRetry())
    make_run(accounts, running)
    make_run(accounts, cancelling)
    left = make_run(accounts, later)
    swept()  # a dry run declares nothing
    assert state_of(running)[0] == "Running"
    swept(delete=True)
    assert there(accounts) == left
    lost = "no heartbeat for 0 minutes: the process, the worker or the machine of this run is lost"
    assert state_of(running) == state_of(nothing_left) == ("Crashed", lost)
    assert state_of(cancelling) == ("Cancelled", lost)
    assert state_of(later)[0] == "AwaitingRetry"


@pytest_server
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("state", [Running(), Crashed(message="no heartbeat for 4 minutes")], ids=lambda it: it.name)
def test_a_run_that_gives_its_sign_of_life_in_azure_is_left(accounts: Azure, state: State[Any]) -> None:
    run = flow_run_in(state)
    before = make_run(accounts, run)
    with SignOfLife(accounts, run, interval=0.05):
        swept(delete=True)
        swept(delete=True, flow_run_id=run.flow_run_id)
    assert there(accounts) == before
    assert state_of(run)[0] == state.name
    swept(delete=True)
    assert there(accounts) == set()


@pytest_server
def test_a_sweep_for_all_deletes_what_crashed_runs_left(accounts: Azure) -> None:
    crashed, failed = flow_run_in(Crashed()), flow_run_in(Failed())
    kept = flow_run_in(Cancelled(), clean_up={"job": "keep"})
    make_run(accounts, crashed)
    make_run(accounts, kept)
    left = make_run(accounts, failed)  # it has reported what it could not delete, and a retry may need it
    end = swept(delete=True)
    assert there(accounts) == {*left, f"job {kept.job_id}"}
    assert rows(end)[f"pool {crashed.pool_id}"][-1] == "its flow run has ended; deleted"


@pytest_server
def test_what_an_ended_run_was_to_keep_is_kept_unless_asked_for(accounts: Azure) -> None:
    run = flow_run_in(Crashed(), clean_up={"job": "keep", "containers": "ask"})
    make_run(accounts, run)
    swept(delete=True, flow_run_id=run.flow_run_id)
    assert there(accounts) == {f"job {run.job_id}"}
    swept(delete=True, flow_run_id=run.flow_run_id, include_kept=True)
    assert there(accounts) == set()


@pytest_server
def test_accounts_come_from_the_block_of_the_run_or_the_sweep(
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
def test_the_block_of_the_run_wins_over_that_of_a_triggered_sweep(accounts: Azure, settings: dict[str, str]) -> None:
    AzureBatchAccounts.from_environment(settings).save("of-the-run")
    nowhere = {**settings, "AZURE_BATCH_ENDPOINT": "http://127.0.0.1:9"}
    AzureBatchAccounts.from_environment(nowhere).save("of-the-sweep")
    run = flow_run_in(Crashed(), accounts="of-the-run")
    make_container(accounts, run.container(Role.INPUT), run.tags.metadata())
    swept(delete=True, flow_run_id=run.flow_run_id, accounts="of-the-sweep")
    assert there(accounts) == set()


@pytest_server
def test_what_bills_is_deleted_where_storage_cannot_be_reached(
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
def test_the_command_deletes_only_with_delete(accounts: Azure) -> None:
    make_three(accounts, "expired", tags("run 1", PAST))
    result = CliRunner().invoke(app, [])
    assert (result.exit_code, there(accounts)) == (0, three("expired"))
    assert result.stdout.endswith("3 of them to be deleted; a dry run deletes nothing\n")
    result = CliRunner().invoke(app, ["--delete"])
    assert (result.exit_code, there(accounts)) == (0, set())
    result = CliRunner().invoke(app, ["--flow-run", "x"])
    assert result.exit_code == 1
    assert "Error: --flow-run is 'x', which is no id of a flow run" in result.output
