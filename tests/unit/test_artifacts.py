"""What only informs people neither fails the Batch work nor holds it up; tables as artifacts."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal

import pandas as pd
import pytest
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES
from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

import tasks.reporting.artifacts
import tasks.reporting.prefect_api
from tasks.reporting.artifacts import best_effort, publish_report, publish_table, table_records

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


def numbered(rows: int, columns: int) -> pd.DataFrame:
    return pd.DataFrame([[row] * columns for row in range(rows)], columns=[f"c{number}" for number in range(columns)])


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[dict[str, object]], str]]:
    """The rows and the description of each table artifact."""
    found: list[tuple[list[dict[str, object]], str]] = []

    def create(rows: list[dict[str, object]], *, key: str, description: str) -> None:
        found.append((rows, description))

    monkeypatch.setattr(tasks.reporting.artifacts, "create_table_artifact", create)
    return found


@pytest.mark.parametrize(
    ("frame", "shown", "extent"),
    [
        (numbered(1, 1), (1, 1), "1 row; 1 column: c0"),
        (numbered(0, 2), (0, 0), "0 rows; 2 columns: c0, c1"),
        (pd.DataFrame(), (0, 0), "0 rows; 0 columns"),
        (numbered(2_000, 2), (500, 2), "2,000 rows, the first 500 shown; 2 columns: c0, c1"),
        (
            numbered(300, 52),
            (200, 50),
            f"300 rows, the first 200 shown; 52 columns: {', '.join(f'c{number}' for number in range(50))} and 2 more",
        ),
    ],
)
def test_a_table_shows_its_first_rows_and_how_large_it_is(
    published: list[tuple[list[dict[str, object]], str]], frame: pd.DataFrame, shown: tuple[int, int], extent: str
) -> None:
    publish_table(frame, key="t", description="joined")
    ((rows, description),) = published
    assert (len(rows), len(rows[0]) if rows else 0) == shown
    assert description == f"joined ({extent})"


def test_the_description_of_a_table_is_markdown_whatever_names_it_has(
    published: list[tuple[list[dict[str, object]], str]],
) -> None:
    frame = pd.DataFrame({"a|b\n*c*": [1], "https://x?sig=abc": [2]})
    publish_table(frame, key="t", description="by `file`", missing=["<i>.txt", *map(str, range(20))])
    assert published[0][1] == (
        f"by `file`, without &#60;i&#62;.txt, {', '.join(map(str, range(19)))} and 1 more "
        "(1 row; 2 columns: a&#124;b⏎&#42;c&#42;, https://x?sig=&#42;&#42;&#42;)"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a|b\nc\td", "a|b⏎c⇥d"),
        ("x" * 1_000, "x" * 199 + "…"),
        ("https://x/y?sig=abc&se=1", "https://x/y?sig=***&se=1"),
        ("\x1b[2J\udcff", "\ufffd\ufffd"),
        (None, None),
        (float("nan"), None),
        (float("inf"), "inf"),
        (pd.NA, None),
        (pd.NaT, None),
        (True, True),
        (1.5, 1.5),
        (2**53, 2**53),
        (2**53 + 1, "9007199254740993"),
        (Decimal("1.50"), "1.50"),
        (datetime(2026, 11, 28), "2026-11-28 00:00:00"),
        ([1, {"a": None}], "[1, {'a': None}]"),
    ],
)
def test_a_cell_is_what_json_holds_exactly(value: object, shown: object) -> None:
    records = table_records(pd.DataFrame({"cell": pd.Series([value], dtype=object)}))
    assert records == [{"cell": shown}]
    assert json.loads(json.dumps(records, allow_nan=False)) == records


def test_integers_beside_floats_and_missing_values_stay_integers() -> None:
    frame = pd.DataFrame({"i": [1, 2], "f": [0.5, None], "n": pd.array([3, None], dtype="Int64")})
    assert json.dumps(table_records(frame)) == '[{"i": 1, "f": 0.5, "n": 3}, {"i": 2, "f": null, "n": null}]'
