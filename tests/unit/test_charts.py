from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta, timezone
from xml.etree import ElementTree

import pytest

from tasks.errors.text import cut
from tasks.reporting.charts import bar_chart, timeline
from tasks.run.outcomes import TaskOutcome

START = datetime(2026, 11, 22, 9, 30, tzinfo=timezone.utc)
SVG = "{http://www.w3.org/2000/svg}"
GREEN, RED, BLUE = "#2f9e6e", "#d0404a", "#cfe2f7"


def svg_of(uri: str) -> ElementTree.Element:
    assert uri.startswith("data:image/svg+xml;base64,")
    return ElementTree.fromstring(base64.b64decode(uri.partition(",")[2]))


def texts(uri: str) -> list[str]:
    return [re.sub("[\u2068\u2069]", "", text.text or "") for text in svg_of(uri).iter(f"{SVG}text")]


def bars(uri: str, height: str = "18") -> list[tuple[float, float, str]]:
    """Left edge, width and colour of each bar."""
    found = [rect.attrib for rect in svg_of(uri).iter(f"{SVG}rect") if rect.get("height") == height]
    return [(float(rect["x"]), float(rect["width"]), rect["fill"]) for rect in found]


def ran(file: str, node: str, start: float, end: float | None, *, succeeded: bool = True) -> TaskOutcome:
    return TaskOutcome(
        id=f"id-of-{file}",
        file=file,
        state="running" if end is None else "completed",
        node=node,
        started=START + timedelta(seconds=start),
        seconds=None if end is None else end - start,
        succeeded=succeeded and end is not None,
    )


def test_bars_are_as_long_as_their_counts() -> None:
    chart = bar_chart([("the", 64), ("is", 16), ("none", 0)], "Top words")
    assert texts(chart) == ["Top words", "the", "64", "is", "16", "none", "0"]
    widths = [width for _, width, _ in bars(chart)]
    assert widths[0] / 4 == pytest.approx(widths[1], abs=0.1)
    assert widths[2] == 0


def test_a_bar_chart_shows_thirty_words_and_says_how_many_more() -> None:
    chart = bar_chart([(f"word{index}", 2_000_000 - index) for index in range(1_030)], "Top words")
    assert len(bars(chart)) == 30
    assert texts(chart)[-1] == "and 1,000 more words"
    assert texts(chart)[2] == "2,000,000"


def test_a_bar_chart_of_nothing_says_so() -> None:
    assert texts(bar_chart([], "Top words")) == ["Top words", "No words"]


def test_a_picture_paints_its_own_white_ground() -> None:
    for picture in (bar_chart([("a", 1)], ""), timeline([]), timeline([ran("a", "n", 0, 1)])):
        ground = next(svg_of(picture).iter(f"{SVG}rect"))
        assert (ground.get("fill"), ground.get("width")) == ("#ffffff", "720")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<script>alert(1)</script>&amp;", "<script>alert(1)</script>&amp;"),
        ("tab\tline\nreturn\rend", "tab⇥line⏎return⏎end"),
        ("nul\x00 escape\x1b c1\x9b lone\ud800", "nul� escape� c1� lone�"),
        ("\u202etxt.exe", "�txt.exe"),
        ("שלום", "שלום"),
        ("🎉" * 3, "🎉🎉🎉"),
        ("x" * 255, "x" * 39 + "…"),
        ("日" * 100, "日" * 19 + "…"),
        ("e" + "\u0301" * 300, "e\u0301\u0301"),
        ("", ""),
    ],
)
def test_any_text_becomes_one_line_of_bounded_width(name: str, shown: str) -> None:
    assert cut(name, 40) == shown
    assert texts(bar_chart([("x", 1)], name))[0] == cut(name, 74)


def test_any_name_leaves_the_picture_well_formed() -> None:
    everything = "".join(map(chr, range(0x250))) + "\ud800\uffff]]>\u202e"
    svg_of(bar_chart([(everything, 1)], everything))
    svg_of(timeline([ran(everything, everything, 0, 1)]))


def test_the_timeline_has_a_row_per_node_and_a_bar_per_batch_task() -> None:
    chart = timeline(
        [ran("a.txt", "n1", 0, 4), ran("b.txt", "n2", 2, 8, succeeded=False), ran("c.txt", "n1", 4, 10)],
    )
    assert texts(chart) == [
        *("Batch tasks by node", "2 succeeded", "1 failed", "0", "2", "4", "6", "8", "10"),
        *("seconds since the first Batch task started", "n1", "a.txt", "c.txt", "n2", "✕ b.txt"),
    ]
    (first, width, _), (second, _, _), (third, _, _) = bars(chart)
    assert [colour for _, _, colour in bars(chart)] == [GREEN, GREEN, RED]
    assert width == pytest.approx((second - first) - 1, abs=0.1)  # c starts where a ends, a pixel apart
    assert third - first == pytest.approx((second - first) / 2, abs=0.1)


def test_batch_tasks_that_overlap_on_a_node_take_a_row_per_slot() -> None:
    chart = timeline([ran("a", "n1", 0, 4), ran("b", "n1", 1, 3), ran("c", "n1", 3, 6), ran("d", "n1", 5, 6)])
    assert [text for text in texts(chart) if text in ("n1", "slot 2", "a", "b", "c", "d")] == [
        *("n1", "a", "d"),
        *("slot 2", "b", "c"),
    ]


def test_a_running_batch_task_is_drawn_until_now() -> None:
    chart = timeline([ran("a", "n1", 0, 5), ran("b", "n2", 0, None)], now=START + timedelta(seconds=10))
    (_, done, _), (_, running, colour) = bars(chart)
    assert running == pytest.approx(2 * done + 1, abs=0.2)
    assert colour == BLUE
    assert "1 running" in texts(chart)


def test_batch_tasks_without_times_are_counted_not_drawn() -> None:
    earlier = TaskOutcome(id="t", file="a", state="completed", succeeded=True)
    assert texts(timeline([earlier])) == ["Batch tasks by node", "None has run"]
    chart = timeline([earlier, ran("b", "n1", 0, 1)])
    assert texts(chart)[-1] == "1 more did not run in this attempt: never started, or finished by a previous one"
    assert len(bars(chart)) == 1


def test_the_ids_of_azures_nodes_are_shortened() -> None:
    assert "tvmps_0c0c0c…0c0c_d" in texts(timeline([ran("a", "tvmps_" + "0c" * 32 + "_d", 0, 1)]))


def test_a_batch_task_of_no_length_is_still_seen() -> None:
    ((_, width, _),) = bars(timeline([ran("a", "n1", 0, 0)]))
    assert width > 1


@pytest.mark.parametrize("nodes", [4, 1_000])
def test_the_timeline_of_thousands_stays_small(nodes: int) -> None:
    tasks = [ran("x" * 255, f"node-{index % nodes}", index, index + nodes) for index in range(5_000)]
    chart = timeline(tasks)
    assert len(bars(chart)) == (300 if nodes == 4 else 40)
    assert len(chart) < 60_000
    note = {
        4: "300 of 5,000 Batch tasks, those that started first; not shown: 4,700",
        1_000: "40 of 5,000 Batch tasks, those that started first; not shown: 4,960, 260 more rows",
    }
    assert texts(chart)[-1] == note[nodes]
