from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.reporting.events import (
    MOST_FAILURE_EVENTS,
    BatchTaskFailed,
    CleanedUp,
    Event,
    JobStalled,
    Payload,
    PoolReady,
    Preempted,
    RunEvents,
)

FLOW_RUN = "01920000-0000-7000-8000-0123456789ab"
NAME = "top-words-0123456789ab"
READY = PoolReady(pool_id=NAME, vm_size="Standard_D2s_v3", dedicated_nodes=2)
SAS = "https://account.blob.core.windows.net/in/a.txt?sv=2026-04-06&sig=c2VjcmV0%3D&se=2026-11-22"


def failed(
    message: str = "The task process exited with an unexpected exit code", file: str = "a.txt"
) -> BatchTaskFailed:
    return BatchTaskFailed(
        job_id=NAME,
        task_id="topNtask1",
        file=file,
        category="UserError",
        code="FailureExitCode",
        message=message,
        exit_code=3,
        node="tvmps_1",
        retries=1,
    )


@pytest.fixture
def run_events() -> RunEvents:
    return RunEvents(account="mybatch", flow_run_id=FLOW_RUN)


@pytest.fixture
def queue() -> Iterator[Any]:
    """Prefect's own client that keeps the events in place of sending them."""
    AssertingEventsClient.reset()
    EventsWorker.set_client_override(AssertingEventsClient)
    try:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            yield AssertingEventsClient
    finally:
        EventsWorker.instance().drain()
        EventsWorker.set_client_override(None)
        AssertingEventsClient.reset()


def kept(queue: Any) -> list[Any]:
    EventsWorker.instance().wait_until_empty()
    return [event for client in queue.all for event in client.events]


@pytest.mark.parametrize(
    ("payload", "event", "resource", "values"),
    [
        (
            READY,
            "azure-batch.pool.ready",
            f"azure-batch.pool.mybatch.{NAME}",
            {"pool_id": NAME, "vm_size": "Standard_D2s_v3", "dedicated_nodes": 2, "spot_nodes": 0},
        ),
        (
            failed(),
            "azure-batch.task.failed",
            f"azure-batch.task.mybatch.{NAME}.topNtask1",
            {
                "job_id": NAME,
                "task_id": "topNtask1",
                "file": "a.txt",
                "category": "UserError",
                "code": "FailureExitCode",
                "message": "The task process exited with an unexpected exit code",
                "exit_code": 3,
                "node": "tvmps_1",
                "retries": 1,
                "requeues": 0,
            },
        ),
        (
            Preempted(pool_id=NAME, nodes=3),
            "azure-batch.pool.preempted",
            f"azure-batch.pool.mybatch.{NAME}",
            {"pool_id": NAME, "nodes": 3},
        ),
        (
            JobStalled(
                job_id=NAME, pool_id=NAME, since=datetime(2026, 11, 22, 9, tzinfo=timezone.utc), reason="no nodes"
            ),
            "azure-batch.job.stalled",
            f"azure-batch.job.mybatch.{NAME}",
            {"job_id": NAME, "pool_id": NAME, "since": "2026-11-22T09:00:00Z", "reason": "no nodes"},
        ),
        (
            CleanedUp(job_id=NAME, deleted=("job",), kept=("containers",), not_deleted=("pool",)),
            "azure-batch.job.cleaned-up",
            f"azure-batch.job.mybatch.{NAME}",
            {"job_id": NAME, "deleted": ["job"], "kept": ["containers"], "not_deleted": ["pool"]},
        ),
    ],
)
def test_an_event_names_its_resource_and_its_flow_run(
    run_events: RunEvents,
    queue: Any,
    payload: Payload,
    event: str,
    resource: str,
    values: dict[str, object],
) -> None:
    assert run_events.emit(payload) is True
    (sent,) = kept(queue)
    assert sent.event == event
    assert sent.resource.id == resource
    assert sent.resource["azure-batch.account"] == "mybatch"
    assert [(related.id, related.role) for related in sent.related] == [(f"prefect.flow-run.{FLOW_RUN}", "flow-run")]
    assert sent.payload == values


def test_every_event_has_a_payload() -> None:
    assert {payload.event for payload in (PoolReady, BatchTaskFailed, Preempted, JobStalled, CleanedUp)} == set(Event)


def test_a_signature_is_blanked_and_a_long_text_cut(run_events: RunEvents, queue: Any) -> None:
    run_events.emit(failed(f"cannot fetch {SAS} " + "x" * 5_000, file="lone \ud800.txt"))
    (sent,) = kept(queue)
    assert "sig=***&se" in sent.payload["message"]
    assert len(sent.payload["message"]) == 2_001
    assert sent.payload["file"] == "lone ?.txt"


def test_a_hundred_failures_are_sent_and_no_more(run_events: RunEvents, queue: Any) -> None:
    sent = [run_events.emit(failed()) for _ in range(MOST_FAILURE_EVENTS + 50)]
    assert sent == [True] * 100 + [False] * 50
    assert run_events.emit(READY) is True
    assert len(kept(queue)) == 101


def test_nothing_is_emitted_without_a_server_and_outside_a_run(
    run_events: RunEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_a_server(*_: object, **__: object) -> None:
        pytest.fail("Prefect would start a server for this event")

    monkeypatch.setattr("tasks.reporting.events.emit_event", start_a_server)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert run_events.emit(READY) is False


def test_an_event_that_prefect_refuses_does_not_raise(
    run_events: RunEvents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(f"too large: {SAS}")

    monkeypatch.setattr("tasks.reporting.events.emit_event", refuse)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert run_events.emit(READY) is False
    assert "Event azure-batch.pool.ready not sent: too large" in caplog.text
    assert "c2VjcmV0" not in caplog.text


@pytest.mark.usefixtures("prefect_server")
def test_an_event_arrives_in_a_real_prefect_server() -> None:
    flow_run = uuid4()
    assert RunEvents(account="mybatch", flow_run_id=str(flow_run)).emit(READY) is True
    arrived = wait_for_event(flow_run)
    assert arrived["event"] == "azure-batch.pool.ready"
    assert arrived["resource"]["prefect.resource.id"] == f"azure-batch.pool.mybatch.{NAME}"
    assert arrived["payload"]["dedicated_nodes"] == 2


def wait_for_event(flow_run: UUID) -> dict[str, Any]:
    """The event related to the flow run; the server stores events a moment after it has taken them."""
    related = {"id": [f"prefect.flow-run.{flow_run}"]}
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            found = client.request("POST", "/events/filter", json={"filter": {"related": related}}).json()["events"]
            if found:
                return found[0]
            assert time.monotonic() < deadline, "the event did not arrive within 30 s"
            time.sleep(0.1)
