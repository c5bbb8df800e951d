"""The parameters of top words that its node script is given, checked before anything is imported that takes seconds."""

from __future__ import annotations

import codecs
from contextlib import suppress

from tasks.errors import InputError
from tasks.run.settings import TimeLimits

ALL_WORDS = "all_words.tsv.gz"  # an output of each file: all of its words with their counts


def word_arguments(
    top_n: int, delay_seconds: float, encoding: str | None, limits: TimeLimits, *, exact: bool = False
) -> list[str]:
    """The node script's arguments. Raises InputError, naming the parameter and the fix, for what cannot work."""
    if top_n < 1:
        raise InputError(f"top_n is {top_n}; ask for at least 1 word per file")
    if not 0 <= delay_seconds < limits.task_minutes * 60:  # nan is neither
        raise InputError(
            f"delay_seconds is {delay_seconds:g}; a delay is 0 or more seconds, and less than the "
            f"{limits.task_minutes} minutes (task_minutes) that a Batch task may take"
        )
    if encoding and not _is_text_encoding(encoding):
        raise InputError(f"encoding {encoding!r} is no text encoding that Python knows, such as windows-1251 or utf-16")
    arguments = ["--filepath={input}", "--numwords", f"{top_n}", "--delay", f"{delay_seconds:g}"]
    arguments += [f"--encoding={encoding}"] if encoding else []
    return [*arguments, f"--allwords={{output_dir}}/{ALL_WORDS}"] if exact else arguments


def _is_text_encoding(name: str) -> bool:
    with suppress(LookupError, TypeError, ValueError):  # not known, or one that decodes no bytes
        return isinstance(codecs.getincrementaldecoder(name)().decode(b""), str)  # and not such as base64
    return False
