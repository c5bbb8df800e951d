"""The lists of words of many files, held column by column: millions of rows as Python objects would take gigabytes."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.errors.text import as_unicode
from tasks.tables.totals import add_up

REPLACED = "replaced_bytes"


@dataclass(frozen=True, kw_only=True)
class FileOutput:
    """What the node script wrote for one file: its words with their counts, most frequent first."""

    file: str
    words: Sequence[tuple[str, int]]
    task: str
    node: str
    replaced: int = 0  # bytes
    all_words: Path | None = None  # a table with the count of each, where totals are to be exact


class WordLists:
    """The outputs of files in their order; each is taken in and need not be kept."""

    def __init__(self, outputs: Iterable[FileOutput] = ()) -> None:
        self._files: list[str] = []
        self._tasks: list[str] = []
        self._nodes: list[str] = []
        self._replaced = array("q")
        self._lengths = array("q")
        self._places: dict[str, int] = {}  # of words, in order of first appearance
        self._words = array("i")  # places
        self._counts = array("q")
        self._tables: list[str] = []
        for output in outputs:
            self.add(output)

    def __len__(self) -> int:
        return len(self._files)

    def add(self, output: FileOutput) -> None:
        places = self._places
        self._files.append(output.file)
        self._tasks.append(sys.intern(output.task))  # the same of many files
        self._nodes.append(sys.intern(output.node))
        self._replaced.append(output.replaced)
        self._lengths.append(len(output.words))
        for word, count in output.words:
            self._words.append(places.setdefault(word, len(places)))
            self._counts.append(count)
        if output.all_words:
            self._tables.append(str(output.all_words))

    @property
    def replaced(self) -> tuple[tuple[str, int], ...]:
        """The files with bytes that were replaced, and how many these are."""
        return tuple((file, count) for file, count in zip(self._files, self._replaced, strict=True) if count)

    def by_file(self) -> pd.DataFrame:
        """A row per file and rank, see Summary; the texts that fill many rows are categories."""
        lengths = np.asarray(self._lengths)
        starts = (np.cumsum(lengths) - lengths).astype(np.int32)
        ranks = np.arange(1, lengths.sum() + 1, dtype=np.int32)
        ranks -= np.repeat(starts, lengths)
        columns: dict[str, object] = {
            "file": _repeated([as_unicode(file) for file in self._files], lengths),
            "rank": ranks,
            "word": pd.Series(list(self._places)).array.take(np.asarray(self._words)),
            "count": np.asarray(self._counts),
            "task": _repeated(self._tasks, lengths),
            "node": _repeated(self._nodes, lengths),
        }
        if any(self._replaced):
            columns[REPLACED] = np.repeat(np.asarray(self._replaced), lengths)
        return pd.DataFrame(columns, copy=False)

    def overall(self, top_n: int) -> pd.DataFrame:
        """Bounds of each listed word's total; see Summary for what `count` and `at_most` mean."""
        places, counts, lengths = np.asarray(self._words), np.asarray(self._counts), np.asarray(self._lengths)
        # What a file can hold at most of a word that its list lacks.
        ends = np.cumsum(lengths)
        full = lengths >= top_n
        unlisted = np.zeros(len(lengths), np.int64)
        unlisted[full] = counts[ends[full] - 1]
        count, files, listed = (np.zeros(len(self._places), np.int64) for _ in range(3))
        np.add.at(count, places, counts)
        np.add.at(files, places, 1)
        np.add.at(listed, places, np.repeat(unlisted, lengths))  # of the files that do list the word
        ranked = np.argsort(-count, kind="stable")  # ties stay in order of first appearance
        words = list(self._places)
        return pd.DataFrame(
            {
                "rank": np.arange(1, len(words) + 1),
                "word": [words[place] for place in ranked],
                "count": count[ranked],
                "at_most": (count + unlisted.sum() - listed)[ranked],
                "files": files[ranked],
            }
        )

    def exact_overall(self, top_n: int, folder: Path) -> pd.DataFrame:
        """Exact totals of each listed word and of the overall top words; see Summary. Uses disk space in the folder."""
        place = self._places
        totals = add_up(map(Path, self._tables), list(place), top_n, folder).to_pandas()
        # Ties stay in order of first appearance in the lists, before words that are in none.
        totals["place"] = totals["word"].map(lambda word: place.get(word, len(place)))
        totals = totals.sort_values(["count", "place"], ascending=[False, True], kind="stable", ignore_index=True)
        rows = totals[(totals["place"] < len(place)) | (totals.index < top_n)].reset_index(drop=True)
        columns = {"rank": range(1, len(rows) + 1), "word": rows["word"], "count": rows["count"]}
        return pd.DataFrame({**columns, "at_most": rows["count"], "files": rows["files"]})


def _repeated(texts: Sequence[str], times: npt.NDArray[np.int64]) -> pd.Categorical[str]:
    """Each text as many times in a row, as categories, which sort as the texts do."""
    distinct = sorted(set(texts))
    place = {text: at for at, text in enumerate(distinct)}
    codes = np.fromiter((place[text] for text in texts), np.int32, len(texts))
    categories = pd.Index(distinct, dtype=object)  # not as "str", of which pandas keeps a copy to look texts up
    return pd.Categorical.from_codes(np.repeat(codes, times), categories=categories, validate=False)
