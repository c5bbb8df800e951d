"""Everything a person sees of a run in the Prefect UI besides its log.

Artifacts are best effort: where the Prefect server does not take one, the run logs that and goes on.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.errors.secrets import without_secrets
from tasks.errors.text import cut, visible
from tasks.reporting.pages import remember_report
from tasks.reporting.prefect_api import limited, prefect_client
from tasks.reporting.text import count, escape_markdown, short_node
from tasks.run.outcomes import TaskOutcome

if TYPE_CHECKING:
    import pandas as pd

    from tasks.run.uploads import UploadedFile, Uploads

_WIDEST_CELL = 200  # columns of a word or a file's name; the files have it whole
_LONGEST_CELL = 300  # characters of a reason or of stderr in the table; the log and the files have more
_REQUEST = 30.0  # seconds for a response of the Prefect server: a busy one may need many
MOST_TABLE_ROWS = 500  # of a table; the UI pages them, and Prefect stores them whole
_MOST_TABLE_COLUMNS, _MOST_TABLE_CELLS = 50, 10_000
_MOST_CHARACTERS = 800_000  # of an artifact: the page of a larger one opens slowly
_MOST_FILES_NAMED, _WIDEST_NAME = 20, 80  # in the description of a table; columns of the terminal
_EXACT_IN_BROWSERS = 2**53  # larger integers would be rounded

P = ParamSpec("P")
T = TypeVar("T")


class Key(str, Enum):
    """The keys of our artifacts; stable, so that the UI shows their history over the runs."""

    PLAN = "run-plan"
    SAS_LINKS = "sas-links"
    TASK_STATES = "batch-task-states"
    TASK_PROGRESS = "batch-task-progress"
    REPORT = "run-report"
    LEFTOVERS = "leftovers"  # of a sweep


def attempt_suffix() -> str:
    """ " (attempt 2)" in a run that was retried; empty in its first attempt."""
    attempt = flow_run.run_count or 1
    return f" (attempt {attempt})" if attempt > 1 else ""


def best_effort(publish: Callable[P, None]) -> Callable[P, None]:
    """Make a function that only informs people unable to fail the Batch work, or to delay it for long."""
    return _best_effort(publish, retries=0)


def _best_effort(publish: Callable[P, None], *, retries: int) -> Callable[P, None]:
    @functools.wraps(publish)
    def publish_or_warn(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with limited(seconds=_REQUEST, retries=retries):
                publish(*args, **kwargs)
        except Exception as error:
            reason = without_secrets(str(error)) or type(error).__name__
            get_run_logger().warning("Artifact not written: %s", reason)

    return publish_or_warn


@best_effort
def publish_plan(page: str) -> None:
    """What the run is going to do."""
    create_markdown_artifact(page, key=Key.PLAN.value, description=f"What the run is going to do{attempt_suffix()}")


@best_effort
def publish_sas_links(uploads: Uploads, expires: datetime | None) -> None:
    """The uploaded files as links; in markdown, because the UI shows the links in a table artifact as raw text."""
    description = f"{'SAS ' if expires else ''}URLs of the uploaded files{attempt_suffix()}"
    create_markdown_artifact(sas_links(uploads, expires), key=Key.SAS_LINKS.value, description=description)


def sas_links(uploads: Uploads, expires: datetime | None) -> str:
    """A row for each file, or for each bundle of files that are processed together.

    expires: when their SAS end; None where the URLs have none, because nodes read with an identity.
    """
    bundles = uploads.bundles
    inputs = [bundles[group.id].blob if group.id in bundles else group.files[0] for group in uploads.groups]
    rows = _fitting(map(_link_row, inputs[:MOST_TABLE_ROWS]), len)
    lines = [
        "Each link reads one file and nothing else. They work while the run's containers exist, "
        f"at the longest until {expires:%Y-%m-%d %H:%M %Z}. Whoever can see this page can open them."
        if expires
        else "The links have no SAS: nodes read with the pool's managed identity, and people as they sign in to Azure.",
        "",
        "| file | bytes | container |",
        "|:--|--:|:--|",
        *map(_link_row, uploads.application),
        *rows,
    ]
    if (more := len(inputs) - len(rows)) > 0:
        lines += ["", f"and {more:,} more {'files and bundles of files' if bundles else 'input files'}"]
    return "\n".join(lines)


@best_effort
def publish_table(frame: pd.DataFrame, key: str, description: str, missing: Sequence[str] = ()) -> None:
    """The first rows of a table as an artifact, with the numbers of its rows and columns.

    description: markdown; missing: the files without output, which the table lacks.
    """
    records = table_records(frame)
    without = f", without {_named(missing, _MOST_FILES_NAMED)}" if missing else ""
    shown = f"{visible(without_secrets(description))}{without}{attempt_suffix()} ({_extent(frame, len(records))})"
    create_table_artifact(records, key=key, description=shown)


def publish_report(write: Callable[[], str]) -> None:
    """The page about the whole run, where it can be written.

    Retried where the server is busy: no later page replaces it, and nothing bills any more.
    """

    def publish() -> None:
        description = f"What ran, what failed, how long, what it cost{attempt_suffix()}"
        id = create_markdown_artifact(write(), key=Key.REPORT.value, description=description)
        get_run_logger().info("Report: %s", remember_report(id))

    _best_effort(publish, retries=2)()


class TaskBoard:
    """The states of the Batch tasks as a table and a progress artifact, both updated in place where they changed."""

    def __init__(self) -> None:
        self._table: UUID | None = None
        self._progress: UUID | None = None
        self._table_shown: tuple[str, str] | None = None
        self._progress_shown: tuple[float, str] | None = None
        self.show = best_effort(self._show)

    @property
    def is_shown(self) -> bool:
        return self._progress is not None

    def _show(
        self,
        outcomes: Sequence[TaskOutcome] | None,
        completed: int,
        total: int,
        status: str,
        outlook: str = "",
        rows_of: int = 0,
    ) -> None:
        """Show progress, and unless `outcomes` is None, the table.

        completed, total: of files. outlook: when it will be done. rows_of: how many tasks there are, if not all are in
        `outcomes`.
        """
        percent = 100.0 * completed / total if total else 100.0
        status = status or f"{completed:,} of {total:,} Batch tasks completed"
        suffix = attempt_suffix()
        self._show_progress(percent, without_secrets(status + outlook) + suffix)
        if outcomes is not None:
            rows = task_table(outcomes)
            all_rows = max(rows_of, len(outcomes))
            shown = f"; {len(rows):,} of {all_rows:,} shown, the failed first" if len(rows) < all_rows else ""
            self._show_table(rows, without_secrets(status) + shown + suffix)

    def _show_progress(self, percent: float, description: str) -> None:
        if self._progress_shown == (percent, description):
            return
        if self._progress is None:
            key = Key.TASK_PROGRESS.value
            self._progress = create_progress_artifact(percent, key=key, description=description)  # type: ignore[assignment]
        else:
            update_progress_artifact(self._progress, percent, description=description)
        self._progress_shown = (percent, description)

    def _show_table(self, rows: list[dict[str, object]], description: str) -> None:
        data = json.dumps(rows)
        if self._table_shown == (data, description):
            return
        if self._table is None:
            key = Key.TASK_STATES.value
            self._table = create_table_artifact(rows, key=key, description=description)  # type: ignore[assignment]
        else:
            with prefect_client(seconds=_REQUEST) as client:
                client.update_artifact(self._table, ArtifactUpdate(data=data, description=description))
        self._table_shown = (data, description)


def task_table(outcomes: Sequence[TaskOutcome]) -> list[dict[str, object]]:
    """One row per Batch task, at most 500: the failed, then the running, then the others in their order.

    The columns that explain a failure come first: the page shows about six, and the others when it is scrolled.
    """
    return _fitting(map(_row, sorted(outcomes, key=_interest)[:MOST_TABLE_ROWS]), _json_size)


def _row(outcome: TaskOutcome) -> dict[str, object]:
    failure = visible(without_secrets(str(outcome.failure))) if outcome.failure else None
    return {
        "task": outcome.id,
        "file": cut(outcome.file, _WIDEST_CELL),
        "state": cut(_state(outcome), _LONGEST_CELL),
        "exit code": outcome.exit_code,
        "stderr": visible(outcome.stderr[-_LONGEST_CELL:]) or None,
        "failure": failure and cut(failure, _LONGEST_CELL),
        "seconds": None if outcome.seconds is None else round(outcome.seconds, 1),
        "node": short_node(outcome.node),
        "retries": outcome.retries,
        "requeues": outcome.requeues,
    }


def _fitting(rows: Iterable[T], size: Callable[[T], int]) -> list[T]:
    """The first rows, as many as an artifact has room for."""
    fitting, room = [], _MOST_CHARACTERS
    for row in rows:
        if (room := room - size(row)) < 0:
            break
        fitting.append(row)
    return fitting


def _json_size(row: dict[str, object]) -> int:
    return len(json.dumps(row))


def _state(outcome: TaskOutcome) -> str:
    if outcome.succeeded:
        return "completed earlier" if outcome.earlier else "completed"
    if outcome.cause:
        return f"{'failed' if outcome.completed else outcome.state}: {outcome.reason}"
    return outcome.state


def _interest(outcome: TaskOutcome) -> int:
    if outcome.completed:
        return 3 if outcome.succeeded else 0
    return 1 if outcome.state != "active" else 2


def _link_row(file: UploadedFile) -> str:
    shown = escape_markdown(file.name)
    # Without a link to a blob that is read where it is: the blob, and so the link, outlives the run's containers.
    return f"| {f'[{shown}]({file.sas_url})' if file.uploaded else shown} | {file.size:,} | {file.container} |"


def table_records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The first rows and columns of a table as values that JSON holds exactly, long ones cut."""
    columns = min(frame.shape[1], _MOST_TABLE_COLUMNS)
    first = frame.iloc[: min(MOST_TABLE_ROWS, _MOST_TABLE_CELLS // max(columns, 1)), :columns]
    names = [_shown(name) for name in first.columns]
    cells = [_cells(first.iloc[:, column]) for column in range(columns)]
    return _fitting((dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)), _json_size)


def _cells(column: pd.Series) -> list[object]:
    values = zip(column.tolist(), column.isna(), strict=True)
    return [None if missing else _cell(value) for value, missing in values]


def _cell(value: object) -> object:
    """The value itself where it is a number or boolean that JSON holds exactly, else as text."""
    number = isinstance(value, int) and abs(value) <= _EXACT_IN_BROWSERS
    finite = isinstance(value, float) and math.isfinite(value)
    return value if number or finite else _shown(value)


def _shown(value: object) -> str:
    return cut(without_secrets(str(value)), _WIDEST_CELL)


def _extent(frame: pd.DataFrame, shown: int) -> str:
    """The numbers of rows and columns, as markdown."""
    rows, columns = frame.shape
    first = f", the first {shown} shown" if shown < rows else ""
    names = f": {_named([str(name) for name in frame.columns], _MOST_TABLE_COLUMNS)}" if columns else ""
    return f"{count(rows, 'row')}{first}; {count(columns, 'column')}{names}"


def _named(names: Sequence[str], most: int) -> str:
    """The first of the names, as markdown."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(escape_markdown(cut(without_secrets(name), _WIDEST_NAME)) for name in names[:most]) + more
