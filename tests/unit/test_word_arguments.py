"""The arguments of the top-words node script, and what is refused before anything is created."""

from __future__ import annotations

import math

import pytest

from flows.word_arguments import word_arguments
from tasks.errors import InputError
from tasks.run.settings import TimeLimits

LIMITS = TimeLimits(task_minutes=1)


@pytest.mark.parametrize(
    ("encoding", "arguments"), [(None, []), ("", []), ("windows-1251", ["--encoding=windows-1251"])]
)
def test_an_encoding_becomes_an_argument_of_the_node_script(encoding: str | None, arguments: list[str]) -> None:
    assert word_arguments(3, 0.5, encoding, LIMITS) == [
        *("--filepath={input}", "--numwords", "3", "--delay", "0.5"),
        *arguments,
    ]


def test_exact_totals_are_an_argument_so_that_other_outputs_do_not_count_as_done() -> None:
    arguments = word_arguments(3, 0, "utf-16", LIMITS, exact=True)
    assert arguments == [*word_arguments(3, 0, "utf-16", LIMITS), "--allwords={output_dir}/all_words.tsv.gz"]


@pytest.mark.parametrize("encoding", ["utf-61", "base64", " "])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(InputError, match=f"^encoding '{encoding}' is no text encoding that Python knows"):
        word_arguments(3, 0, encoding, LIMITS)


@pytest.mark.parametrize(
    ("top_n", "delay", "message"),
    [
        (0, 0, r"^top_n is 0; ask for at least 1 word per file$"),
        (1, -1, r"^delay_seconds is -1; a delay is 0 or more seconds"),
        (1, 60, r"^delay_seconds is 60; .* less than the 1 minutes \(task_minutes\)"),
        (1, math.nan, r"^delay_seconds is nan;"),
    ],
)
def test_what_no_batch_task_could_do_is_refused(top_n: int, delay: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        word_arguments(top_n, delay, None, LIMITS)
