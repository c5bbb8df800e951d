"""Tables as CSV: no cell that a spreadsheet would run, and what is written is read back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pandas as pd
from pandas.api.types import is_numeric_dtype

from tasks.errors import ResultsError
from tasks.run.local_files import at

# Cells that begin so are formulas to a spreadsheet; the apostrophe itself is there so that each guard can be undone.
_GUARDED = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV, with an apostrophe before text that a spreadsheet would run, or that begins with one.

    Raises ResultsError.
    """
    texts = [str(name) for name in table.columns if not is_numeric_dtype(table[name])]
    guarded = _changed(table, texts, lambda text: f"'{text}" if text.startswith(_GUARDED) else text)
    returns = any(
        "\r" in text for name in texts for text in table[name]
    )  # which the csv module does not quote by itself
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    partial = path.with_name(f".{path.name}.part")
    try:
        with at(path):
            with partial.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
                guarded.to_csv(file, index=False, quoting=quoting, lineterminator="\n")
            partial.replace(path)
    except ResultsError as error:
        advice = "free some space there or make it writable, then retry the flow run"
        raise error.with_message(f"{error}; {advice}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def read_table(path: Path, texts: Iterable[str]) -> pd.DataFrame:
    """Read a table that write_table wrote; `texts` are the columns of text, in which NA is a word as any other."""
    table = pd.read_csv(path, dtype=dict.fromkeys(texts, str), na_filter=False, encoding_errors="surrogatepass")
    return _changed(table, [name for name in texts if name in table.columns], lambda text: text.removeprefix("'"))


def _changed(table: pd.DataFrame, texts: Iterable[str], change: Callable[[str], str]) -> pd.DataFrame:
    return table.assign(**{name: table[name].map(change) for name in texts})
