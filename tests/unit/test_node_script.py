"""The node script: its rule for words, its output, and its bounds."""

from __future__ import annotations

import ast
import codecs
import gzip
import os
import shutil
import string
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import top_words as script

SCRIPT = Path(script.__file__).resolve()
FOOTER = "-" * 30 + "\nNode: \nTask: \nJob:  \nPool: \n"


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script as a node runs it, in an environment as bare as can be: no locale, no site-packages."""
    command = [sys.executable, "-I", "-S", str(SCRIPT), *arguments]
    return subprocess.run(
        command, env={"LC_ALL": "C", **environment}, capture_output=True, encoding="utf-8", check=False
    )


def rule(data: bytes, wanted: int) -> list[tuple[str, int]]:
    """The whole file at once, one word after the other: what every way of counting must equal."""
    text = data.decode("utf-8", "replace")
    text = text[1:] if data.startswith(b"\xef\xbb\xbf") else text
    words = (word.strip(string.punctuation) for word in text.split())
    return Counter(word for word in words if word).most_common(wanted)


def replaced_bytes(data: bytes) -> int:
    """How many bytes are no UTF-8, one error after the other."""
    replaced = 0
    while True:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            replaced += error.end - error.start
            data = data[error.end :]
        else:
            return replaced


def count(data: bytes, wanted: int = 10, **parameters: int) -> list[tuple[str, int]]:
    Path("text").write_bytes(data)
    words, replaced = top_words("text", wanted, "utf-8", **parameters)
    assert replaced == replaced_bytes(data)
    assert table("all.gz") == dict(rule(data, len(data)))
    Path("all.gz").unlink()
    return words


def table(path: str) -> dict[str, int]:
    lines = gzip.decompress(Path(path).read_bytes()).decode().split("\n")
    words = [line.split("\t") for line in lines[:-1]]
    assert len({word for word, _ in words}) == len(words)
    return {word: int(number) for word, number in words}


def top_words(
    path: str, wanted: int, encoding: str = "utf-8", block_bytes: int = script.BLOCK_BYTES, **parameters: int
) -> tuple[list[tuple[str, int]], int]:
    """With the words that the script keeps in files because they are long."""
    Path("scratch").mkdir()
    try:
        text = script.Text(path, encoding, "scratch", block_bytes)
        words, replaced = script.top_words(text, wanted, **parameters, all_words="all.gz")
        return [(b"".join(script.letters(word, "scratch")).decode(), number) for word, number in words], replaced
    finally:
        shutil.rmtree("scratch")


# --- the rule for words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"  \r\n\t ", []),
        (b"-- ... !? --", []),
        (b"a b\r\na\r\n", [("a", 2), ("b", 1)]),
        (b'(the) the, "the" The don\'t', [("the", 3), ("The", 1), ("don't", 1)]),
        (b"\xef\xbb\xbfa a", [("a", 2)]),
        (b"\xef\xbb\xbf\xef\xbb\xbfa", [("\ufeffa", 1)]),
        (b"a \xef\xbb\xbfa", [("a", 1), ("\ufeffa", 1)]),
        (b"a\0b \0 a\0b", [("a\0b", 2), ("\0", 1)]),
        ("a\u00a0b\u2003a\u0085b\u2028c\x1ca\x1fa".encode(), [("a", 4), ("b", 2), ("c", 1)]),
        ("naïve 日本\u3000日本".encode(), [("日本", 2), ("naïve", 1)]),
        (b"\xff\xfe caf\xe9 caf\xe9, \xe2\x82", [("caf\ufffd", 2), ("\ufffd\ufffd", 1), ("\ufffd", 1)]),
        (b"b a c a b c d", [("b", 2), ("a", 2), ("c", 2), ("d", 1)]),
    ],
)
def test_awkward_text_is_counted_by_the_rule(data: bytes, expected: list[tuple[str, int]]) -> None:
    assert count(data) == rule(data, 10) == expected
    assert count(data, block_bytes=1) == expected
    assert count(data, block_bytes=3, workers=2) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_a_token_longer_than_a_block_is_one_word(workers: int) -> None:
    token = "é" * 50_000
    text = f"y {token}, y {token} y".encode()
    assert count(text, block_bytes=1001, workers=workers) == [("y", 3), (token, 2)]


def test_a_tie_at_the_last_place_goes_to_the_word_that_appears_first() -> None:
    text = b"late early, early late one two three"
    for block in (1, 4, 9, 1000):
        assert count(text, 1, block_bytes=block) == [("late", 2)]
        assert count(text, 3, block_bytes=block, workers=3) == [("late", 2), ("early", 2), ("one", 1)]


PIECES = [
    *(b" ", b"\n", b"\r\n", b"\t", b"\x1d", b"a", b"b", b"ab", b"(a)", b"b,", b"--", b"don't", b"\0"),
    *(c.encode() for c in "\u00a0\u0085\u1680\u2003\u2028\u202f\u205f\u3000\ufeff\u200bé日\U0001f600"),
    *(b"\xe2", b"\x80", b"\xe2\x80", b"\xc2", b"\xa0", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xff", b"\xe3"),
]
texts = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=60).map(b"".join)
shared_directory = [HealthCheck.function_scoped_fixture]


@given(
    text=texts,
    wanted=st.integers(1, 8),
    block=st.integers(1, 30),
    table=st.sampled_from([600, 3000, 1 << 20]),
    long=st.sampled_from([0, 5, 1 << 20]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=shared_directory)
def test_every_block_and_table_size_gives_the_same_answer(
    text: bytes, wanted: int, block: int, table: int, long: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "LONG", 6 * block + long)
        patch.setattr(script, "BLOCK_BYTES", 7)
        assert count(text, wanted, block_bytes=block, table_bytes=table) == rule(text, wanted)


@given(
    text=texts,
    wanted=st.integers(1, 8),
    block=st.integers(1, 30),
    workers=st.integers(2, 4),
    table=st.sampled_from([600, 1 << 20]),
    look=st.sampled_from([1, 9, 1000]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=shared_directory)
def test_every_number_of_workers_gives_the_same_answer(
    text: bytes, wanted: int, block: int, workers: int, table: int, look: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "LOOK_BYTES", look)
        assert count(text, wanted, block_bytes=block, workers=workers, table_bytes=table) == rule(text, wanted)


def test_every_space_that_a_string_splits_at_is_known() -> None:
    spaces = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
    assert {*script.SPACES} == {space for space in spaces if space.encode().split()}


def test_the_script_strips_what_string_punctuation_names() -> None:
    assert string.punctuation.encode() == script.PUNCTUATION


def test_segments_begin_at_white_space_that_is_near() -> None:
    Path("text").write_bytes(b"\xef\xbb\xbf" + b"aa bb\n" * 50 + b"c" * 2 * script.LOOK_BYTES + b" d")
    text = script.Text("text")
    borders = text.borders(1000)
    assert len(borders) > 5
    assert (borders[0], borders[-1]) == (3, text.size)
    data = Path("text").read_bytes()
    assert all(data[border] in b" \n" for border in borders[1:-1])
    assert script.Text("text", "latin-1").borders(1000) == [0, text.size]


# --- bounds -----------------------------------------------------------------------------------------------


def distinct_words(number: int) -> bytes:
    return b"".join(b"%08x%s" % (n * 2654435761 % 2**32, b",\n" if n % 7 == 0 else b" ") for n in range(number))


@pytest.mark.parametrize("workers", [1, 2])
def test_tables_that_outgrow_their_share_move_to_disk(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Path("saved")  # a file, since forked workers write to it too
    save = script.Tally.save

    def noted(tally: script.Tally) -> None:
        with saved.open("a", encoding="utf-8") as file:
            file.write(f"{len(tally.table)}\n")
        save(tally)

    monkeypatch.setattr(script.Tally, "save", noted)
    text = distinct_words(6000) + b"twice and twice and " + distinct_words(3000)
    assert count(text, 20, workers=workers, table_bytes=6000, block_bytes=5000) == rule(text, 20)
    sizes = [int(line) for line in saved.read_text(encoding="utf-8").split()]
    assert len(sizes) >= 14
    assert max(sizes) < 700
    assert sorted(os.listdir()) == ["saved", "text"]


def test_ties_are_decided_by_the_text_whatever_partition_a_word_is_in() -> None:
    text = b" ".join(b"%d" % n for n in [*range(500), *range(100, 200), *range(150, 160), 499, 3])
    for wanted in (1, 5, 12, 60, 115, 400, 600):
        assert count(text, wanted, block_bytes=300, table_bytes=9000) == rule(text, wanted)


@pytest.mark.parametrize("edge", [b"", b"-" * 50])
def test_a_long_word_is_kept_in_a_file_and_counted_once(edge: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "LONG", 1000)
    monkeypatch.setattr(script, "BLOCK_BYTES", 64)
    long = "é--\ufffd".encode() * 400
    text = b"a " + edge + long + edge + b" a " + long[:-3] + b"\xff" + edge + b" " + edge * 60 + b" " + b"b" * 1200
    for block in (7, 100, 166):
        assert count(text, block_bytes=block) == rule(text, 10)
    script.run(script.parse(["--filepath=text", "--numwords=2"]))
    lines = Path("text_OUTPUT").read_text(encoding="utf-8").split("\n")
    assert lines[2:4] == [f"{word}:\t{number}" for word, number in rule(text, 2)]
    assert sorted(os.listdir()) == ["text", "text_OUTPUT"]


def test_memory_stays_bounded_when_every_word_is_new() -> None:
    Path("text").write_bytes(distinct_words(500_000))
    Path("scratch").mkdir()
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import top_words\n"
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "before = peak(); text = top_words.Text('text', scratch='scratch')\n"
        "print(top_words.top_words(text, 2, table_bytes=4 << 20)[0])\n"
        "print(peak() - before)"
    )
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(SCRIPT.parent)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()
    assert output[0] == "[(b'00000000', 1), (b'9e3779b1', 1)]"
    assert int(output[1]) < 20_000  # kB, where the words alone would take 28,000 and a table of them 60,000


def test_a_worker_that_dies_fails_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        os._exit(7)

    monkeypatch.setattr(script.Tally, "count", dies)
    with pytest.raises(RuntimeError, match=r"2 of 2 counting processes failed \(exit codes \[7, 7\]\)"):
        count(b"a b", workers=2)
    assert os.listdir() == ["text"]


def test_the_cores_of_a_node_are_shared_among_its_task_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    large = script.SMALL_FILE_BYTES
    assert [script.workers_for(size) for size in (large, large - 1)] == [8, 1]
    for tasks, workers in (1, 8), (2, 4), (3, 2), (8, 1), (9, 1):
        monkeypatch.setenv("TASKS_PER_NODE", f"{tasks}")
        assert script.workers_for(large) == workers


def test_a_large_file_is_counted_by_several_processes_from_the_command_line() -> None:
    text = (b"one two, two three three three " * 40_000 + b"\n") * 8
    assert len(text) > script.SMALL_FILE_BYTES
    Path("text").write_bytes(text)
    assert run("--filepath", "text", "--numwords", "3").returncode == 0
    lines = Path("text_OUTPUT").read_text(encoding="utf-8").splitlines()
    assert lines[2:5] == ["three:\t960000", "two:\t640000", "one:\t320000"]


# --- what a file is ---------------------------------------------------------------------------------------

LATIN = "It's naïve: the fox, the dog and the \U0001f600. €5\n" * 3
CYRILLIC = "Съешь же ещё этих мягких булок, да выпей же чаю.\n" * 3
CHINESE = "敏捷的棕色狐狸。 日月盈昃， 日月盈昃\n42 " * 3
WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("text", [LATIN, CYRILLIC, CHINESE, "a", "a b a"])
@pytest.mark.parametrize("encoding", WIDE)
def test_utf_16_and_32_are_counted_by_their_mark_or_their_name(text: str, encoding: str) -> None:
    expected = rule(text.encode(), 10)
    for data, named in (("\ufeff" + text).encode(encoding), ""), (text.encode(encoding), encoding):
        Path("text").write_bytes(data)
        assert script.encoding_of("text", named) == encoding
        assert top_words("text", 10, encoding, block_bytes=7) == (expected, 0)


def test_wide_text_is_decoded_across_every_read() -> None:
    """Characters of two and four bytes around the edges of what is read at once, and one that is cut off at the end."""
    text = "x" * (script.BLOCK_BYTES // 2 - 2) + "\U0001f600 \U0001f600\U0001f600 " * 3
    Path("text").write_bytes(text.encode("utf-16") + b"\x3d\xd8\x00")
    words, replaced = top_words("text", 3, "utf-16-le")
    assert replaced == 3
    assert [(word[-2:], number) for word, number in words] == [
        ("\U0001f600\U0001f600", 3),
        *(("\U0001f600", 2), ("x\U0001f600", 1)),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gzip.compress(b"word " * 100, mtime=0), "it starts as a gzip file does"),
        (b"\x89PNG\r\n\x1a\n" + b"IHDR" * 9, "it starts as a PNG file does"),
        (b"PK\x03\x04 words", "it starts as a zip file does"),
        (b"%PDF-1.7\nwords", "it starts as a PDF file does"),
        (b"hello w\0rld!", "it holds NUL bytes, and no byte-order mark of UTF-16 or UTF-32"),
        (b"a" * 10 + b"\0", "it holds NUL bytes, and no byte-order mark of UTF-16 or UTF-32"),
        (b"\0" * 99, "it holds NUL bytes, and no byte-order mark of UTF-16 or UTF-32"),
        (bytes(range(1, 256)) * 8, "8% of its characters are control characters, 50% of its bytes not utf-8"),
        (b"\x01\x02\x03abcdef", "33% of its characters are control characters, 0% of its bytes not utf-8"),
        (
            "敏捷的棕色狐狸跳过懒狗天地玄黄宇宙洪荒日月盈昃辰宿列张".encode("utf-16-le"),
            "of its characters are control characters",
        ),
    ],
)
def test_a_binary_file_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    Path("x.bin").write_bytes(data)
    with pytest.raises(script.NotText) as refused:
        script.encoding_of("x.bin")
    assert reason in str(refused.value)


def test_a_byte_order_is_asked_for_where_no_mark_shows_it() -> None:
    Path("text").write_bytes("words".encode("utf-16-be"))
    done = run("--filepath=text", "--numwords=1", "--encoding=utf-16")
    assert done.returncode == 65
    assert "it has no byte-order mark; name utf-16-le or utf-16-be with --encoding" in done.stderr


def test_a_refusal_is_one_sentence_that_names_the_file_and_exit_code_65() -> None:
    Path("x.gz").write_bytes(gzip.compress(b"a"))
    done = run("--filepath=x.gz", "--numwords=1")
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr == "x.gz is not text: it starts as a gzip file does\n"
    assert os.listdir() == ["x.gz"]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b" ", b"a", b"\x1b[31mred\x1b[0m \x1b[1mbold\x1b[0m", b"a\x1fb\x1ea\x1fb\x1e" * 9),
        *("naïve".encode("latin-1"), CYRILLIC.encode("cp1251"), CHINESE.encode("gbk"), b"\xff"),
        *(b"x=1\x01y=22\x01z=333\n" * 9, codecs.BOM_UTF8 + b"a"),
    ],
)
def test_awkward_text_is_no_binary_file(data: bytes) -> None:
    Path("text").write_bytes(data)
    assert script.encoding_of("text") == "utf-8"


@pytest.mark.parametrize(
    ("named", "data", "shown"),
    [
        ("windows-1251", CYRILLIC.encode("cp1251"), "cp1251"),
        ("latin-1", "über Öl, über".encode("latin-1"), "iso8859-1"),
        ("gb18030", CHINESE.encode("gb18030"), "gb18030"),
        ("utf-16-be", CHINESE.encode("utf-16-be"), "utf-16-be"),
        ("utf-16", CHINESE.encode("utf-16"), "utf-16-le"),
        ("windows-1251", CYRILLIC.encode("utf-16"), "utf-16-le"),  # a mark is worth more than the name for all files
    ],
)
def test_an_encoding_may_be_named(named: str, data: bytes, shown: str) -> None:
    Path("text").write_bytes(data)
    done = run("--filepath=text", "--numwords=3", f"--encoding={named}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = Path("text_OUTPUT").read_text(encoding="utf-8").split("\n")
    expected = rule(data.decode("utf-16" if data.startswith(codecs.BOM_UTF16_LE) else shown).encode(), 3)
    assert lines[2 : 2 + len(expected)] == [f"{word}:\t{number}" for word, number in expected]
    assert lines[-2:] == [f"Encoding: {shown}", ""]


@pytest.mark.parametrize("workers", [1, 2])
def test_replaced_bytes_are_counted_and_reported(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"caf\xe9 \xef\xbf\xbd \xe2\x82 ok " * 999
    assert count(data, 2, workers=workers, block_bytes=500) == [("caf\ufffd", 999), ("\ufffd", 1998)][::-1]
    done = run("--filepath=text", "--numwords=1")
    assert done.stderr == "text: 2997 bytes are not utf-8 and were replaced; name its encoding with --encoding\n"
    assert Path("text_OUTPUT").read_text(encoding="utf-8").endswith("Pool: \nReplaced bytes: 2997\n")


def test_replaced_bytes_of_another_encoding_are_counted_too() -> None:
    Path("text").write_bytes(b"\xe9\x98 \x98")
    done = run("--filepath=text", "--numwords=2", "--encoding=windows-1251")
    assert "2 bytes are not cp1251" in done.stderr
    assert Path("text_OUTPUT").read_text(encoding="utf-8").endswith("Encoding: cp1251\nReplaced bytes: 2\n")


def test_a_name_that_a_terminal_would_obey_is_escaped() -> None:
    name = "\x1b[31m\u202ered.txt"
    Path(name).write_bytes(b"\0")
    done = run(f"--filepath={name}", "--numwords=1")
    assert done.stderr.startswith("\\x1b[31m\\u202ered.txt is not text")
    Path(name).write_bytes(b"a")
    assert run(f"--filepath={name}", "--numwords=1").stdout == "Wrote \\x1b[31m\\u202ered_OUTPUT.txt\n"


# --- the output -------------------------------------------------------------------------------------------


def test_the_output_is_the_tutorials_to_the_byte() -> None:
    Path("in").mkdir()
    Path("in/text.txt").write_bytes("übel the, übel. the übel a".encode())
    names = {f"AZ_BATCH_{name}_ID": f"{name.lower()} 1" for name in ("NODE", "TASK", "JOB", "POOL")}
    done = run("--filepath", "in/text.txt", "--numwords", "2", **names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Wrote in/text_OUTPUT.txt\n", "")
    assert (
        Path("in/text_OUTPUT.txt").read_bytes()
        == (
            "Word\tCount\n------------------------------\nübel:\t3\nthe:\t2\n------------------------------\n"
            "Node: node 1\nTask: task 1\nJob:  job 1\nPool: pool 1\n"
        ).encode()
    )
    assert sorted(os.listdir()) == ["in"]


@pytest.mark.parametrize("name", ["x" * 251 + ".txt", "é" * 127, "a." + "b" * 253], ids=["stem", "bytes", "extension"])
def test_a_name_as_long_as_can_be_has_an_output(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path(name).write_text("a b a")
    (tmp_path / "out").mkdir()
    done = run("--filepath", name, "--numwords", "1", OUTPUT_DIR=str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    (output,) = os.listdir(os.fsencode(tmp_path / "out"))
    assert len(output) == 255 or output.endswith(b"_OUTPUT")


def test_outside_a_node_the_names_stay_empty() -> None:
    Path("text").touch()
    assert run("--filepath", "text", "--numwords", "1").returncode == 0
    assert Path("text_OUTPUT").read_text(encoding="utf-8") == "Word\tCount\n" + "-" * 30 + "\n" + FOOTER


def test_the_script_is_one_file_that_python_3_8_can_run() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_a_name_beyond_the_locale_does_not_stop_the_script() -> None:
    Path("日本.txt").write_bytes(b"a")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, str(SCRIPT), "--filepath=日本.txt", "--numwords=2"]
    done = subprocess.run(command, env=ascii_only, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir()) == ["日本.txt", "日本_OUTPUT.txt"]


@pytest.mark.parametrize(
    "name",
    [
        *("two words.txt", 'it\'s "quoted".txt', "$(touch owned).txt", "a;b&c.txt", "a#b?c=d%41+e.txt"),
        *("-x.txt", "--numwords", "Übung 日本.txt", "line\nbreak.txt", ".hidden", "back\\slash.txt", "a.b.c"),
    ],
)
def test_an_awkward_name_is_kept_in_the_name_of_the_output(name: str) -> None:
    Path(name).write_bytes(b"a b a")
    done = run(f"--filepath={name}", "--numwords=2")
    assert (done.returncode, done.stderr) == (0, "")
    stem, extension = os.path.splitext(name)
    assert sorted(os.listdir()) == sorted([name, f"{stem}_OUTPUT{extension}"])


# --- many files in one process ----------------------------------------------------------------------------


def test_files_are_processed_one_after_the_other_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in a directory and an environment of its own, and small ones without a process or a directory more."""
    for folder in "0123":
        Path(folder).mkdir()
    monkeypatch.delattr(os, "fork")
    monkeypatch.delattr(os, "mkdir")
    for folder, data, code, error in [
        ("0", b"a b, a", 0, ""),
        ("1", b"\x1f\x8b", 65, "text is not text: it starts as a gzip file does\n"),
        ("2", b"c \xff c", 0, "text: 1 bytes are not utf-8 and were replaced; name its encoding with --encoding\n"),
        ("3", b"b a", 0, ""),
    ]:
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / folder))
        monkeypatch.setenv("AZ_BATCH_TASK_ID", f"task {folder}")
        Path("text").write_bytes(data)
        assert script.process_file(["--filepath=text", "--numwords=1"]) == code
        assert capsys.readouterr() == ("", error)
        assert sorted(os.listdir()) == (["text"] if code else ["text", "text_OUTPUT"])
    lines = Path("text_OUTPUT").read_text(encoding="utf-8").splitlines()
    assert [lines[2], lines[5], len(lines)] == ["b:\t1", "Task: task 3", 8]
    assert script.process_file(["--filepath=nowhere", "--numwords=1"]) == 1
    with pytest.raises(SystemExit, match="2"):
        script.process_file(["--filepath=text"])


# --- the command line -------------------------------------------------------------------------------------


def test_the_delay_is_announced_and_waited() -> None:
    Path("t").touch()
    started = time.monotonic()
    done = run("--filepath=t", "--numwords=1", "--delay=0.3")
    assert time.monotonic() - started >= 0.3
    assert done.stdout == "Waiting 0.3 seconds before counting...\nWrote t_OUTPUT\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--numwords=0"], "--numwords must be at least 1"),
        (["--numwords=many"], "argument --numwords: invalid"),
        (["--numwords=1", "--encoding=utf-61"], "--encoding: unknown encoding: utf-61"),
        (["--numwords=1", "--encoding=base64"], "--encoding: 'base64' is not a text encoding"),
        (["--numwords=1", "--delay=-1"], "--delay at least 0 seconds"),
        (["--numwords=1", "--delay=nan"], "--delay at least 0 seconds"),
    ],
)
def test_a_wrong_argument_is_named_with_its_reason(arguments: list[str], message: str) -> None:
    done = run("--filepath=t", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_all_words_are_written_beside_the_output_where_that_is_asked_for(tmp_path: Path) -> None:
    Path("text").write_bytes("b a, a c, caf\xe9".encode("latin-1"))
    options = ("--filepath=text", "--numwords=1", "--encoding=latin-1", "--allwords=out/all.gz")
    (tmp_path / "out").mkdir()
    assert run(*options, OUTPUT_DIR="out").returncode == 0
    assert table("out/all.gz") == {"a": 2, "b": 1, "c": 1, "café": 1}
    assert sorted(os.listdir("out")) == ["all.gz", "text_OUTPUT"]


def test_a_missing_file_is_named() -> None:
    done = run("--filepath=nowhere.txt", "--numwords=1")
    assert (done.returncode, done.stderr) == (1, "top_words: [Errno 2] No such file or directory: 'nowhere.txt'\n")


def test_help_explains_every_argument() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in ("filepath", "numwords", "allwords", "encoding", "delay"):
        assert f"--{name} " in done.stdout
