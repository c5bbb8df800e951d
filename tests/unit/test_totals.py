"""Exact totals: tables of many files added up, also where the sums do not fit in memory."""

from __future__ import annotations

import gzip
import string
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import top_words as script
from tasks.errors import ResultsError, RunError
from tasks.summary import Summary, for_report, parse_output
from tasks.tables.totals import add_up
from tasks.tables.word_lists import FileOutput, WordLists

# What a reader of CSV might take for something else, what sorts oddly, and lengths around a small block.
WORDS = st.sampled_from(
    [
        "a",
        "b",
        "A",
        "NA",
        "007",
        "=1",
        '"q',
        '""',
        "\ufeffx",
        "x\0y",
        "\0",
        "é",
        "日本",
        "\U0001f600",
        "\ufffd",
        "z" * 90,
    ]
) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3).filter(lambda t: t.split() == [t])
# No control characters: the node script takes a text of these for a binary file.
TOKENS = WORDS.filter(str.isprintable) | st.sampled_from(["a,", "(b)", "--", "\u2003", "\ufeffx"])
CORPORA = st.lists(st.lists(WORDS, max_size=40), max_size=6)


def rule(text: str) -> Counter[str]:
    """The tutorial's, without the empty word."""
    words = (word.strip(string.punctuation) for word in text.split())
    return Counter(word for word in words if word)


def table(path: Path, counts: Counter[str]) -> Path:
    path.write_bytes(gzip.compress("".join(f"{word}\t{count}\n" for word, count in counts.items()).encode()))
    return path


def rows(paths: Sequence[Path], listed: Sequence[str], most: int, folder: Path, **bounds: int) -> list[list[object]]:
    return [list(row.values()) for row in add_up(paths, listed, most, folder, **bounds).to_pylist()]


@given(corpora=CORPORA, listed=st.lists(WORDS, unique=True), most=st.integers(0, 5), memory=st.sampled_from([1, 400]))
@settings(max_examples=40, deadline=None)
def test_totals_are_those_of_one_count_whatever_fits_in_memory(
    corpora: list[list[str]], listed: list[str], most: int, memory: int
) -> None:
    counts = [Counter(words) for words in corpora]
    total, files = sum(counts, Counter[str]()), Counter(word for each in counts for word in each)
    ranked = sorted(total, key=lambda word: (-total[word], word))
    others = [word for word in ranked if word not in listed][:most]
    expected = [[word, total[word], files[word]] for word in ranked if word in {*listed, *others}]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [table(folder / f"{number}.gz", each) for number, each in enumerate(counts)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tasks.tables.totals._BLOCK_BYTES", 20)
            patch.setattr("tasks.tables.totals._PARTITIONS", 3)
            assert rows(paths, listed, most, folder, memory=memory) == expected
        assert rows(paths, listed, most, folder) == expected
        assert len(list(folder.iterdir())) == len(paths)


def processed(folder: Path, texts: Sequence[str], top_n: int) -> list[FileOutput]:
    """What the node script writes for each text, read back."""
    outputs = []
    for number, text in enumerate(texts):
        place = folder / str(number)
        place.mkdir()
        (place / "text").write_bytes(text.encode())
        source = script.Text(str(place / "text"))
        words, replaced = script.top_words(source, top_n, all_words=str(place / "all"))
        script.write_output(str(place / "text_OUTPUT"), words, source, replaced)
        (place / "text").unlink()
        outputs.append(parse_output(str(number), place, "all"))
    return outputs


@given(
    texts=st.lists(st.lists(TOKENS, max_size=30), max_size=5),
    top_n=st.integers(1, 4),
)
@settings(max_examples=25, deadline=None)
def test_every_corpus_has_the_totals_of_one_count_over_everything(texts: list[list[str]], top_n: int) -> None:
    corpus = [" ".join(words) for words in texts]
    total = sum(map(rule, corpus), Counter[str]())
    with tempfile.TemporaryDirectory() as name:
        outputs = processed(Path(name), [f" {text}" for text in corpus], top_n)
        overall = WordLists(outputs).exact_overall(top_n, Path(name))
    assert overall["count"].tolist() == overall["at_most"].tolist() == [total[word] for word in overall["word"]]
    assert overall["count"].tolist()[:top_n] == [count for _, count in total.most_common(top_n)]
    assert overall["files"].tolist() == [sum(word in rule(text) for text in corpus) for word in overall["word"]]
    assert {word for output in outputs for word, _ in output.words} <= set(overall["word"])
    assert overall["rank"].tolist() == list(range(1, len(overall) + 1))


def test_a_word_just_below_every_list_is_found_and_ties_go_to_listed_words(tmp_path: Path) -> None:
    outputs = processed(tmp_path, ["x x x mid mid rare", "y y y mid mid tie tie", "z z z w w"], 1)
    assert WordLists(outputs).exact_overall(1, tmp_path).values.tolist() == [
        [1, "mid", 4, 4, 2],
        [2, "x", 3, 3, 1],
        [3, "y", 3, 3, 1],
        [4, "z", 3, 3, 1],
    ]
    first = WordLists(outputs[:1]).exact_overall(1, tmp_path)
    assert first.values.tolist() == [[1, "x", 3, 3, 1]]


def test_a_table_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = table(tmp_path / "a.gz", Counter("abc"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"a\.gz cannot be read as a table of words and counts: "):
        add_up([path], ["a"], 1, tmp_path)


def test_a_folder_without_room_is_named(tmp_path: Path) -> None:
    path = table(tmp_path / "a.gz", Counter("abc"))
    with pytest.raises(ResultsError, match="gone: No such file or directory"):
        add_up([path], ["a"], 1, tmp_path / "gone", memory=1)


def test_an_output_without_its_table_is_none(tmp_path: Path) -> None:
    (tmp_path / "x_OUTPUT.txt").write_text("")
    with pytest.raises(RunError, match="all is missing, the table of all words of the file"):
        parse_output("x.txt", tmp_path, "all")


def test_the_report_says_that_totals_are_exact(tmp_path: Path) -> None:
    outputs = processed(tmp_path, ["a a b"], 1)
    overall = WordLists(outputs).exact_overall(1, tmp_path)
    report = for_report(Summary(by_file=overall, overall=overall, folder=tmp_path, exact=True))
    assert "exact total over all files" in report
    assert "lower bound" not in report
