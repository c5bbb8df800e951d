"""Pictures for the report: SVG as data URIs, which both of Prefect's UIs show in markdown, unlike inline SVG.

Every picture paints its own white ground, because the older UI is dark, and has a bounded number of marks.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from xml.sax.saxutils import escape as escape_xml

from tasks.errors.text import columns_of, cut
from tasks.reporting.text import short_node
from tasks.run.outcomes import TaskOutcome

MOST_BARS = 30
MOST_CHART_ROWS = 40
MOST_TASKS = 300

_FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', Arial, sans-serif"
_INK, _QUIET, _GRID, _STRIPE = "#1f2933", "#5f6b7a", "#dfe4ea", "#f5f7fa"
_COLUMN = 7.4  # pixels that one column of 12 px text takes at most in any of these fonts
_MARGIN = 16
_WIDTH = 720  # about what either UI gives to markdown, so that the text keeps its size


class _Look(Enum):
    """How the bar of a Batch task is painted: ground, and the text on it."""

    SUCCEEDED = ("succeeded", "#2f9e6e", "#ffffff")
    FAILED = ("failed", "#d0404a", "#ffffff")
    RUNNING = ("running", "#cfe2f7", _INK)

    def __init__(self, label: str, ground: str, ink: str) -> None:
        self.label = label
        self.ground = ground
        self.ink = ink

    @classmethod
    def of(cls, outcome: TaskOutcome) -> _Look:
        if not outcome.completed:
            return cls.RUNNING
        return cls.SUCCEEDED if outcome.succeeded else cls.FAILED


@dataclass(frozen=True, kw_only=True)
class _Bar:
    """A Batch task on the time axis, in seconds since the first start."""

    outcome: TaskOutcome
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A slot of a node, with the Batch tasks that ran in it one after the other."""

    node: str
    slot: int
    bars: list[_Bar]


def bar_chart(words: Sequence[tuple[str, int]], title: str) -> str:
    """Words and their counts as horizontal bars in the order given, at most 30, as a data URI."""
    if not words:
        return _picture(_WIDTH, [_heading(title), _text(_MARGIN, 58, "No words", ink=_QUIET)], 76)
    shown = words[:MOST_BARS]
    labels = [cut(word, 26) for word, _ in shown]
    left = _MARGIN + max(columns_of(label) for label in labels) * _COLUMN + 10
    most = max(1, *(count for _, count in shown))
    scale = (_WIDTH - _MARGIN - left - columns_of(f"{most:,}") * _COLUMN - 8) / most
    marks = [_heading(title)]
    for index, (label, (_, count)) in enumerate(zip(labels, shown, strict=True)):
        top = 46 + index * 24
        width = max(0, count) * scale
        marks.append(_text(left - 8, top + 13, label, anchor="end"))
        marks.append(f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="18" rx="2" fill="#3b7dc4"/>')
        marks.append(_text(left + width + 7, top + 13, f"{count:,}", ink=_QUIET))
    height = 46 + len(shown) * 24 + 10
    if len(words) > len(shown):
        marks.append(_text(_MARGIN, height + 8, f"and {len(words) - len(shown):,} more words", ink=_QUIET))
        height += 24
    return _picture(_WIDTH, marks, height)


def timeline(tasks: Sequence[TaskOutcome], now: datetime | None = None) -> str:
    """When each Batch task ran, a row per node, or per slot where tasks of a node overlap, as a data URI.

    A running task is drawn until `now`, or else until the last time that any task knows of. Shown are the 300 that
    started first, on at most 40 rows.
    """
    ran = sorted((task for task in tasks if task.started), key=lambda task: (task.started, task.id))
    if not ran:
        return _picture(_WIDTH, [_heading("Batch tasks by node"), _text(_MARGIN, 58, "None has run", ink=_QUIET)], 76)
    rows = _rows(_bars(ran[:MOST_TASKS], now))
    shown = rows[:MOST_CHART_ROWS]
    drawn = sum(len(row.bars) for row in shown)
    left = _MARGIN + max(columns_of(_row_label(row)) for row in shown) * _COLUMN + 12
    seconds = max(0.001, *(bar.end for row in shown for bar in row.bars))
    scale = (_WIDTH - _MARGIN - 14 - left) / seconds
    bottom = 70 + len(shown) * 24
    marks = [_heading("Batch tasks by node"), *_legend(ran[:MOST_TASKS]), *_stripes(shown, left)]
    marks += _axis(seconds, left, scale, bottom)
    for index, row in enumerate(shown):
        marks += _row_marks(row, 70 + index * 24, left, scale)
    height = bottom + 44
    for note in _notes(len(tasks), len(ran), drawn, len(rows) - len(shown)):
        marks.append(_text(_MARGIN, height + 10, note, ink=_QUIET))
        height += 22
    return _picture(_WIDTH, marks, height)


def _bars(ran: Sequence[TaskOutcome], now: datetime | None) -> list[_Bar]:
    times = [time for task in ran for time in (task.started, task.ended) if time]
    origin, last = min(times), now or max(times)
    bars = []
    for task in ran:
        start = ((task.started or origin) - origin).total_seconds()
        end = ((task.ended or last) - origin).total_seconds()
        bars.append(_Bar(outcome=task, start=start, end=max(start, end)))
    return bars


def _rows(bars: Iterable[_Bar]) -> list[_Row]:
    """The bars, in the order of their starts, each in the first slot of its node that is free by then."""
    nodes: dict[str, list[_Row]] = {}
    for bar in bars:
        node = bar.outcome.node or "no node"
        slots = nodes.setdefault(node, [])
        row = next((row for row in slots if row.bars[-1].end <= bar.start), None)
        if row is None:
            row = _Row(node=node, slot=len(slots) + 1, bars=[])
            slots.append(row)
        row.bars.append(bar)
    return [row for slots in nodes.values() for row in slots]


def _row_label(row: _Row) -> str:
    return cut(short_node(row.node) or "", 24) if row.slot == 1 else f"slot {row.slot}"


def _row_marks(row: _Row, top: int, left: float, scale: float) -> list[str]:
    marks = [_text(left - 10, top + 16, _row_label(row), anchor="end", ink=_INK if row.slot == 1 else _QUIET)]
    edges = [left + bar.start * scale for bar in row.bars[1:]] + [float(_WIDTH - _MARGIN)]
    for bar, until in zip(row.bars, edges, strict=True):
        look = _Look.of(bar.outcome)
        x = left + bar.start * scale
        width = max(2.0, (bar.end - bar.start) * scale - 1)  # a pixel between two bars that touch
        border = ' stroke="#3b7dc4" stroke-dasharray="4 3"' if look is _Look.RUNNING else ""
        marks.append(
            f'<rect x="{x:.1f}" y="{top + 3}" width="{width:.1f}" height="18" rx="2" fill="{look.ground}"{border}/>'
        )
        marks += _bar_label(bar, look, x, width, until, top + 16)
    return marks


def _bar_label(bar: _Bar, look: _Look, x: float, width: float, until: float, y: int) -> list[str]:
    """The file's name in the bar or, where it does not fit there, beside it; cut, or left out, before it overlaps."""
    mark = "✕ " if look is _Look.FAILED else ""
    inside, beside = int((width - 8) / _COLUMN), int((until - x - width - 8) / _COLUMN)
    name = mark + _isolated(cut(bar.outcome.file, 60))
    if columns_of(name) <= inside:
        return [_text(x + 5, y, name, ink=look.ink)]
    if columns_of(name) <= beside:
        return [_text(x + width + 4, y, name)]
    if inside < 5:
        return []
    return [_text(x + 5, y, mark + _isolated(cut(bar.outcome.file, inside - len(mark))), ink=look.ink)]


def _isolated(text: str) -> str:
    """The text in its own direction, so that a right-to-left name does not turn round what stands beside it."""
    return f"\u2068{text}\u2069"


def _stripes(rows: Sequence[_Row], left: float) -> list[str]:
    """A background under every second node, so that the slots of one node stand out from those of the next."""
    order = {node: index for index, node in enumerate(dict.fromkeys(row.node for row in rows))}
    return [
        f'<rect x="{_MARGIN / 2:.0f}" y="{70 + index * 24}" width="{_WIDTH - _MARGIN}" height="24" fill="{_STRIPE}"/>'
        for index, row in enumerate(rows)
        if order[row.node] % 2 == 0
    ]


def _axis(seconds: float, left: float, scale: float, bottom: int) -> list[str]:
    """Lines at round numbers of seconds, with as many decimals as their distance needs."""
    step = 10 ** math.floor(math.log10(seconds / 5))
    step = next(step * factor for factor in (1, 2, 5, 10) if seconds / (step * factor) <= 6)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = []
    for index in range(int(seconds / step + 1e-9) + 1):
        x = left + index * step * scale
        marks.append(f'<line x1="{x:.1f}" y1="66" x2="{x:.1f}" y2="{bottom}" stroke="{_GRID}"/>')
        marks.append(_text(x, bottom + 16, f"{index * step:,.{decimals}f}", anchor="middle", ink=_QUIET))
    return [*marks, _text(left, bottom + 34, "seconds since the first Batch task started", ink=_QUIET)]


def _legend(ran: Sequence[TaskOutcome]) -> list[str]:
    marks, x = [], float(_MARGIN)
    for look in _Look:
        count = sum(_Look.of(task) is look for task in ran)
        if not count:
            continue
        border = ' stroke="#3b7dc4" stroke-dasharray="4 3"' if look is _Look.RUNNING else ""
        label = f"{count:,} {look.label}"
        marks.append(f'<rect x="{x:.1f}" y="42" width="12" height="12" rx="2" fill="{look.ground}"{border}/>')
        marks.append(_text(x + 18, 52, label, ink=_QUIET))
        x += 18 + len(label) * _COLUMN + 18
    return marks


def _notes(tasks: int, ran: int, drawn: int, rows: int) -> list[str]:
    notes = []
    if drawn < ran:
        where = f", {rows:,} more rows" if rows else ""
        notes.append(f"{drawn:,} of {ran:,} Batch tasks, those that started first; not shown: {ran - drawn:,}{where}")
    if ran < tasks:
        notes.append(f"{tasks - ran:,} more did not run in this attempt: never started, or finished by a previous one")
    return notes


def _heading(title: str) -> str:
    return _text(_MARGIN, 28, cut(title, 74), size=15, weight=600)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", ink: str = _INK, size: int = 12, weight: int = 400
) -> str:
    look = f'font-size="{size}" font-weight="{weight}" fill="{ink}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape_xml(text)}</text>'


def _picture(width: int, marks: Iterable[str], height: float) -> str:
    size = f'width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}"'
    ground = f'<rect width="{width}" height="{height:.0f}" fill="#ffffff"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}">{ground}{"".join(marks)}</svg>'
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
