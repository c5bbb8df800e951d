"""The last step: the outputs of all files joined into one summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pandas as pd
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.errors import RunError
from tasks.errors.secrets import without_secrets
from tasks.errors.text import cut, listed, visible
from tasks.reporting.artifacts import publish_table
from tasks.reporting.charts import bar_chart
from tasks.reporting.text import escape_markdown, short_node
from tasks.run.results import Outputs
from tasks.tables.word_lists import FileOutput, WordLists
from tasks.tables.write import write_table

BY_FILE = "summary.csv"
OVERALL = "summary_overall.csv"
TABLES = ("summary", "summary_overall")
TEXTS = ("file", "word", "task", "node")  # the columns of both tables that hold text
_RULE = "-" * 30
_MOST_BARS = 30  # in the chart
_MOST_REPLACED = 200  # files in the report
_EXACT = "Each count is the exact total over all files with output."
_BOUNDS = (
    "Each count adds up the files' lists, and so is a lower bound: a file in which the word is just below its list "
    "adds nothing. The artifact `top-words-overall` has the upper bound beside it, as `at_most`."
)
_MOST_NAMED = 20  # files in a line
_MOST_PRINTED, _WIDEST = 30, 32  # rows and characters of a column, on the terminal
_NAME_IT = "Name the encoding: encoding, or --encoding on the command line"


class Key(str, Enum):
    """The keys of the artifacts of this workload."""

    BY_FILE = "top-words-by-file"
    OVERALL = "top-words-overall"


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """The top words of each file and of all files together.

    by_file: a row per file and rank, with the columns file, rank (from 1), word, count (exact), task, node; and, if any
    file has such, replaced_bytes: how many bytes of the file are not in its encoding, and stand as U+FFFD in its words.
    The columns file, task and node are categories.

    overall: a row per word that is in any file's list, most frequent first, with the columns rank, word, count,
    at_most and files. `count` adds up the lists in which the word is, so it is a LOWER BOUND of its true total: a
    file in which the word is just below the top N adds nothing. `at_most` is an upper bound: for each file whose
    list lacks the word it adds the count of that list's last word (0 if the list is shorter than N, and so has
    every word of the file). The total is exact where the two are equal. `files` is the number of lists with the word.

    exact: whether the totals in `overall` are exact. Then `count` and `at_most` are both the word's total, `files` is
    the number of files with the word, and a word that is in no list has a row too where its total is among the top N.

    replaced: the files with replaced bytes, and how many those are.

    missing: the files without output, because their Batch task failed; all totals are without them.

    folder: where the output files and the two tables are, as CSV and as Parquet.

    flow_run_id: of the flow run that made it.
    """

    by_file: pd.DataFrame
    overall: pd.DataFrame
    folder: Path
    missing: tuple[str, ...] = ()
    replaced: tuple[tuple[str, int], ...] = ()
    flow_run_id: str = ""
    exact: bool = False

    def __str__(self) -> str:
        by_file = self.by_file
        parts = [_head(_short(by_file), BY_FILE), "", _head(self.overall, OVERALL)] if len(by_file) else ["No words."]
        if self.replaced:
            files = [f"{file} ({count:,})" for file, count in self.replaced]
            parts += ["", f"Bytes that are no text and were replaced: {listed(files)}. {_NAME_IT}"]
        if self.missing:
            parts += ["", f"Without output: {listed(self.missing)}"]
        return visible("\n".join(parts))


def summarise(outputs: Outputs[FileOutput], *, top_n: int, exact: bool = False) -> Summary:
    """Join the outputs into the summary, and leave its two tables in their folder."""
    lists = WordLists(outputs.read.values())
    started = time.monotonic()
    overall = lists.exact_overall(top_n, outputs.folder) if exact else lists.overall(top_n)
    if exact:
        get_run_logger().info("All words of %d files: added up in %.1f s", len(lists), time.monotonic() - started)
    summary = Summary(
        by_file=lists.by_file(),
        overall=overall,
        folder=outputs.folder,
        missing=outputs.missing,
        replaced=lists.replaced,
        flow_run_id=str(flow_run.id),
        exact=exact,
    )
    count = len(lists)
    del lists  # the tables have it all
    write_table(summary.by_file, outputs.folder / BY_FILE)
    write_table(summary.overall, outputs.folder / OVERALL)
    publish(summary)
    _warn_of_replaced(summary.replaced)
    get_run_logger().info(
        "%d words of %d files summarised in %s", len(summary.by_file), count, outputs.folder / BY_FILE
    )
    return summary


def publish(summary: Summary) -> None:
    """Both tables as artifacts, whose descriptions name the files that they lack."""
    publish_table(
        _short(summary.by_file), key=Key.BY_FILE.value, description="Top words of each file", missing=summary.missing
    )
    totals = "`count` is exact" if summary.exact else "a word's true total is between `count` and `at_most`"
    overall = f"Top words over all files ({totals})"
    publish_table(summary.overall, key=Key.OVERALL.value, description=overall, missing=summary.missing)


def for_report(summary: Summary) -> str:
    """The part of the run's report that is about words, as markdown."""
    overall = summary.overall.head(_MOST_BARS)
    words = [(str(word), int(count)) for word, count in zip(overall["word"], overall["count"], strict=True)]
    parts = [_replaced_table(summary.replaced)] if summary.replaced else []
    if words:
        chart = bar_chart(words, "Over all files" if summary.exact else "Over all files, at least")
        meaning = _EXACT if summary.exact else _BOUNDS
        parts.append(f"## Top words\n\n![Bar chart of the top words]({chart})\n\n{meaning}")
    return "\n\n".join(parts)


def parse_output(file: str, folder: Path, all_words: str = "") -> FileOutput:
    """Read the output of the node script for that file. Raises RunError where it is not one.

    all_words: the name of the table beside it, which there must be then.
    """
    table = folder / all_words if all_words else None
    if table and not table.is_file():
        raise RunError(f"{table} is missing, the table of all words of the file")
    outputs = sorted(path for path in folder.glob("*") if path != table)
    if len(outputs) != 1:
        raise RunError(f"{folder} has {len(outputs)} files instead of the node script's output")
    path = outputs[0]
    # Not splitlines(): a word may hold characters that it takes for line ends.
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        first = lines.index(_RULE)
        last = lines.index(_RULE, first + 1)
        words = [_word_and_count(line) for line in lines[first + 1 : last]]
        trailer = dict(line.split(":", 1) for line in lines[last + 1 :] if line)
        return FileOutput(
            file=file,
            words=words,
            task=trailer["Task"].strip(),
            node=trailer["Node"].strip(),
            replaced=int(trailer.get("Replaced bytes", 0)),
            all_words=table,
        )
    except (ValueError, KeyError) as error:
        raise RunError(f"{path} is not an output of the node script: {error}") from None


def _short(by_file: pd.DataFrame) -> pd.DataFrame:
    """The table with the nodes' ids cut."""
    return by_file.assign(node=by_file["node"].map(short_node))


def _word_and_count(line: str) -> tuple[str, int]:
    word, _, count = line.rpartition(":\t")
    return word, int(count)


def _warn_of_replaced(replaced: Sequence[tuple[str, int]]) -> None:
    for file, count in replaced[:_MOST_NAMED]:
        get_run_logger().warning(
            "%s: %d bytes are not in its encoding; they stand as U+FFFD in its words. %s", file, count, _NAME_IT
        )
    if len(replaced) > _MOST_NAMED:
        get_run_logger().warning("%d more files have such bytes; see %s", len(replaced) - _MOST_NAMED, BY_FILE)


def _head(frame: pd.DataFrame, file: str) -> str:
    head = frame.head(_MOST_PRINTED)
    texts = {name: [cut(str(text), _WIDEST) for text in head[name]] for name in TEXTS if name in head}
    text = head.assign(**texts).to_string(index=False)
    more = len(frame) - _MOST_PRINTED
    return f"{text}\n... and {more} more rows in {file}" if more > 0 else text


def _replaced_table(replaced: Sequence[tuple[str, int]]) -> str:
    rows = [
        f"| {escape_markdown(cut(without_secrets(file), 80))} | {count:,} |"
        for file, count in replaced[:_MOST_REPLACED]
    ]
    more = [f"| and {len(replaced) - _MOST_REPLACED:,} more files | |"] if len(replaced) > _MOST_REPLACED else []
    why = (
        "These bytes are not in their file's encoding and stand as U+FFFD in its words. Name the encoding (`encoding`)."
    )
    return "\n".join(["## Replaced bytes", "", why, "", "| file | bytes |", "|:--|--:|", *rows, *more])
