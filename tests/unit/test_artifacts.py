"""What only informs people neither fails the Batch work nor holds it up."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES
from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

import tasks.reporting.artifacts
import tasks.reporting.prefect_api
from tasks.reporting.artifacts import best_effort, publish_report

LOGGER = logging.getLogger("tests.artifacts")


@pytest.fixture(autouse=True)
def outside_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.reporting.artifacts, "get_run_logger", lambda: LOGGER)


def settings() -> tuple[int, float]:
    return PREFECT_CLIENT_MAX_RETRIES.value(), PREFECT_API_REQUEST_TIMEOUT.value()


def test_a_server_that_is_silent_is_waited_for_once_and_not_for_long() -> None:
    seen: list[tuple[int, float]] = []
    before = settings()
    best_effort(lambda: seen.append(settings()))()
    assert seen == [(0, 30.0)]
    assert settings() == before


def test_the_report_of_which_there_is_no_later_one_is_tried_again() -> None:
    seen: list[tuple[int, float]] = []

    def write() -> str:
        seen.append(settings())
        raise RuntimeError("enough is known")

    publish_report(write)
    assert seen == [(2, 30.0)]


def test_what_cannot_be_published_is_said_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    def publish() -> None:
        raise RuntimeError("PUT http://x?sig=abc failed")

    best_effort(publish)()
    assert caplog.messages == ["Artifact not written: PUT http://x?sig=*** failed"]


class Interrupted(BaseModel):
    by: int = signal.SIGINT

    @model_serializer(mode="wrap")
    def interrupted(self, _: SerializerFunctionWrapHandler) -> str:
        raise KeyboardInterrupt if self.by == signal.SIGINT else TerminationSignal(signal=self.by)


class Request(BaseModel):
    part: Interrupted

    @model_serializer(mode="wrap")
    def whole(self, rest: SerializerFunctionWrapHandler) -> dict[str, object]:
        serialized: dict[str, object] = rest(self)
        return serialized


INTERRUPTIONS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminationSignal)]


@pytest.mark.parametrize(("by", "raised"), INTERRUPTIONS)
def test_a_signal_while_an_artifact_is_serialized_stops_the_run(by: int, raised: type[BaseException]) -> None:
    for request in (Interrupted(by=by), Request(part=Interrupted(by=by))):
        for serialize in (request.model_dump, request.model_dump_json):
            with pytest.raises(raised):
                best_effort(lambda serialize=serialize: print(serialize()))()


@pytest.mark.parametrize(("by", "raised"), INTERRUPTIONS)
def test_a_signal_while_settings_are_serialized_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, by: int, raised: type[BaseException]
) -> None:
    @contextmanager
    def interrupted(_: object) -> Iterator[None]:
        Request(part=Interrupted(by=by)).model_dump()
        yield

    monkeypatch.setattr(tasks.reporting.prefect_api, "temporary_settings", interrupted)
    with pytest.raises(raised):
        best_effort(lambda: None)()
