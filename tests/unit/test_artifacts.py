"""What only informs people neither fails the Batch work nor holds it up."""

from __future__ import annotations

import logging

import pytest
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES
from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

import tasks.reporting.artifacts
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


def test_ctrl_c_while_an_artifact_is_serialized_stops_the_run() -> None:
    class Slow(BaseModel):
        @model_serializer(mode="wrap")
        def interrupted(self, _: SerializerFunctionWrapHandler) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        best_effort(lambda: print(Slow().model_dump(mode="json")))()
