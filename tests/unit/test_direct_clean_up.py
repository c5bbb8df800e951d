"""DirectCleanUp deletes where the steps that delete do not get to run, and only there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

import tasks.direct_clean_up
from tasks.accounts.clients import Azure
from tasks.accounts.environment import BatchAccount, StorageAccount
from tasks.direct_clean_up import DirectCleanUp
from tasks.run.identity import Run
from tasks.run.settings import CleanUp, Disposal

AZURE = Azure(
    batch_account=BatchAccount(name="batch", endpoint="https://batch"),
    storage_account=StorageAccount(name="storage", endpoint="https://storage"),
)
RUN = Run(workload="top-words", flow_run_id="run", started=datetime.now(timezone.utc), lifetime=timedelta(hours=1))
KEEP = CleanUp(job=Disposal.KEEP)


@pytest.fixture(params=["1", "2"], ids=["first try", "retry"])
def run_count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", request.param)
    return int(request.param)


@pytest.fixture
def cleaned_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, CleanUp, bool]]:
    done: list[tuple[str, CleanUp, bool]] = []
    monkeypatch.setattr(
        tasks.direct_clean_up,
        "clean_up_after",
        lambda azure, run, clean_up, logger, held: done.append((run.flow_run_id, clean_up, held)),
    )
    monkeypatch.setattr(tasks.direct_clean_up, "get_run_logger", lambda: logging.getLogger("tests.clean_up"))
    return done


class Ended(BaseException):
    """What a run ends with."""


def end(*steps: Callable[[DirectCleanUp], object]) -> None:
    """A run that takes these steps and then ends with an error."""
    with DirectCleanUp(AZURE, RUN, CleanUp()) as net:
        for step in steps:
            step(net)
        raise Ended


def decide(net: DirectCleanUp) -> None:
    net.clean_up = KEEP


def test_before_there_is_anything_to_delete_only_a_retry_deletes(
    run_count: int, cleaned_up: list[tuple[str, CleanUp, bool]]
) -> None:
    with pytest.raises(Ended):
        end()
    assert cleaned_up == ([("run", CleanUp(), False)] if run_count > 1 else [])


def test_without_steps_it_deletes_what_was_decided_last(
    run_count: int, cleaned_up: list[tuple[str, CleanUp, bool]]
) -> None:
    with pytest.raises(Ended):
        end(DirectCleanUp.arm, decide)
    assert cleaned_up == [("run", KEEP, False)]


@pytest.mark.parametrize("left", [False, True])
def test_containers_with_records_that_are_nowhere_else_are_held(
    left: bool, cleaned_up: list[tuple[str, CleanUp, bool]]
) -> None:
    with pytest.raises(Ended):
        end(lambda net: net.arm(lambda: left))
    assert cleaned_up == [("run", CleanUp(), left)]


def test_what_the_steps_have_deleted_is_left_to_them(
    run_count: int, cleaned_up: list[tuple[str, CleanUp, bool]]
) -> None:
    with pytest.raises(Ended):
        end(DirectCleanUp.arm, DirectCleanUp.disarm)
    assert cleaned_up == []


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_run_that_ends_well_leaves_to_it_what_was_not_deleted(
    run_count: int, cleaned_up: list[tuple[str, CleanUp, bool]], confirmed: bool
) -> None:
    with DirectCleanUp(AZURE, RUN, CleanUp()) as net:
        net.arm()
        if confirmed:
            net.disarm()
    assert cleaned_up == ([] if confirmed else [("run", CleanUp(), False)])
