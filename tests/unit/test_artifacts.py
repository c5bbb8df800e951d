"""What only informs people neither fails the Batch work nor holds it up; tables as artifacts."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import pandas as pd
import pytest
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES
from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

import tasks.reporting.artifacts
import tasks.reporting.prefect_api
from tasks.reporting.artifacts import (
    TaskBoard,
    best_effort,
    publish_report,
    publish_sas_links,
    publish_table,
    table_records,
    task_table,
)
from tasks.run.outcomes import Failure, TaskOutcome
from tasks.run.uploads import UploadedFile, Uploads

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


class Board:
    """A task board, and what it has written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[str] = []
        self.rows: list[list[dict[str, object]]] = []
        self.fails = False
        module = tasks.reporting.artifacts
        monkeypatch.setattr(module, "create_progress_artifact", lambda percent, **given: self._write(given))
        monkeypatch.setattr(module, "update_progress_artifact", lambda id, percent, **given: self._write(given))
        monkeypatch.setattr(module, "create_table_artifact", self._create_table)
        monkeypatch.setattr(module, "prefect_client", self._client)
        self.board = TaskBoard()

    def _write(self, given: dict[str, str]) -> UUID:
        if self.fails:
            raise RuntimeError("the server is busy")
        self.written.append(f"progress: {given['description']}")
        return UUID(int=1)

    def _create_table(self, rows: list[dict[str, object]], *, key: str, description: str) -> UUID:
        self.rows.append(rows)
        self.written.append(f"table: {description}")
        return UUID(int=2)

    @contextmanager
    def _client(self, seconds: float) -> Iterator[Board]:
        yield self

    def update_artifact(self, id: UUID, update: ArtifactUpdate) -> None:
        self._create_table(json.loads(str(update.data)), key="", description=str(update.description))


def outcomes(states: str) -> list[TaskOutcome]:
    """Of a letter each: whether it has succeeded, failed, runs or is queued."""
    kinds = {"s": ("completed", True), "f": ("completed", False), "r": ("running", False), "q": ("active", False)}
    return [
        TaskOutcome(id=f"task{number}", file=f"{number}.txt", state=kinds[state][0], succeeded=kinds[state][1])
        for number, state in enumerate(states)
    ]


def test_artifacts_are_written_where_they_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    for show in (("rq", 0, "none"), (None, 0, "none"), ("rq", 0, "none"), (None, 1, "one"), ("sr", 1, "one")):
        board.board.show(outcomes(show[0]) if show[0] else None, show[1], 2, show[2])
    assert board.written == ["progress: none", "table: none", "progress: one", "table: one"]


def test_an_artifact_that_could_not_be_written_is_written_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    for fails in (True, False, False):
        board.fails = fails
        board.board.show(None, 0, 2, "none", "; soon")
    assert board.written == ["progress: none; soon"]


def test_of_very_many_tasks_the_table_shows_the_failed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    board.board.show(outcomes("s" * 600 + "qrf"), 601, 603, "601 completed")
    assert board.written[-1] == "table: 601 completed; 500 of 603 shown, the failed first"
    (rows,) = board.rows
    assert [row["state"] for row in rows[:4]] == ["completed", "running", "active", "completed"]
    assert [row["task"] for row in rows[:4]] == ["task602", "task601", "task600", "task0"]


MEGABYTE = 1_000_000


def test_the_task_table_is_small_whatever_the_tasks_wrote() -> None:
    failure = Failure(category="usererror", code="FailureExitCode", message="\U0001f600" * 5_000)
    failed = replace(
        outcomes("f")[0], file="\u6587" * 400, stderr="\U0001f600" * 5_000, failure=failure, detail="x" * 5_000
    )
    rows = task_table([failed] * 500)
    assert 0.7 * MEGABYTE < len(json.dumps(rows)) < MEGABYTE
    assert len(rows) < 500


def test_a_joined_table_is_small_whatever_its_cells_are() -> None:
    records = table_records(pd.DataFrame([["\U0001f600" * 200] * 20] * 500))
    assert 0.7 * MEGABYTE < len(json.dumps(records)) < MEGABYTE


@pytest.mark.parametrize(("length", "rows"), [(20, 500), (1_000, 197)])
def test_the_links_are_a_small_page_whatever_the_names_are(
    length: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []
    monkeypatch.setattr(tasks.reporting.artifacts, "create_markdown_artifact", lambda page, **_: pages.append(page))
    name, now = "n" * length, datetime(2026, 11, 28)
    url = f"https://account.example/input/{name * 3}?sig=abc"
    file = UploadedFile(name=name, size=1, modified=now, container="input", sas_url=url)
    inputs = [replace(file, task_id=str(index)) for index in range(100_000)]
    publish_sas_links(Uploads(application=[file], inputs=inputs), now)
    (page,) = pages
    assert len(page) < MEGABYTE
    assert page.count("| input |") == 1 + rows
    assert page.endswith(f"and {100_000 - rows:,} more input files")
