"""Which files a run works on, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.run.inputs import find_inputs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.txt", "a.txt", "notes.rst", ".hidden"):
        (tmp_path / name).write_text(name)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.txt").write_text("c")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs: str) -> list[str]:
    return [file.name for file in find_inputs(inputs)]


def test_a_file_is_taken_as_it_is(folder: Path) -> None:
    (file,) = find_inputs(["b.txt"])
    assert (file.name, file.size, file.output_name) == ("b.txt", 5, "b_OUTPUT.txt")


def test_a_folder_stands_for_the_visible_files_directly_in_it(folder: Path) -> None:
    assert names(str(folder)) == ["a.txt", "b.txt", "notes.rst"]


def test_a_glob_matches_in_alphabetical_order(folder: Path) -> None:
    assert names("*.txt") == ["a.txt", "b.txt"]


def test_a_double_star_reaches_into_folders(folder: Path) -> None:
    assert sorted(names("**/*.txt")) == ["a.txt", "b.txt", "c.txt"]


def test_a_file_named_twice_is_taken_once(folder: Path) -> None:
    assert names("b.txt", "*.txt", "./b.txt") == ["b.txt", "a.txt"]


def test_a_name_with_glob_characters_is_a_file_if_there_is_one(folder: Path) -> None:
    (folder / "[draft] *.txt").write_text("x")
    assert names("[draft] *.txt") == ["[draft] *.txt"]


def test_an_empty_file_is_taken(folder: Path) -> None:
    (folder / "empty.txt").touch()
    assert find_inputs(["empty.txt"])[0].size == 0


def refusal(*inputs: str) -> str:
    with pytest.raises(InputError) as error:
        find_inputs(inputs)
    return str(error.value)


def test_no_input_at_all_is_refused() -> None:
    assert refusal() == "no input is given; name at least one file, folder or glob such as 'data/*.txt'"


def test_a_glob_without_a_match_is_refused_naming_it_and_where_it_looked(folder: Path) -> None:
    message = refusal("texts/*.txt")
    assert "input 'texts/*.txt': no file matches" in message
    assert str(folder) in message


def test_a_glob_that_matches_only_folders_is_refused(folder: Path) -> None:
    assert "it matches only folders, such as 'inner'" in refusal("inn*")


def test_a_folder_without_files_is_refused_with_the_way_to_reach_inner_ones(folder: Path) -> None:
    (folder / "outer" / "deep").mkdir(parents=True)
    assert "the folder holds no files" in refusal("outer")
    assert "'outer/**/*.txt'" in refusal("outer")


def test_an_unreadable_file_is_refused() -> None:
    # Reading at address 0 fails for everyone, root included.
    assert "input '/proc/self/mem': cannot be read (Input/output error)" in refusal("/proc/self/mem")


def test_a_named_pipe_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    assert "input 'pipe.txt': not a regular file" in refusal("pipe.txt")


def test_a_link_to_nowhere_is_refused(folder: Path) -> None:
    (folder / "link.txt").symlink_to("nowhere.txt")
    assert "input 'link.txt': not a regular file (or a link to nowhere)" in refusal("link.txt")


def test_two_files_with_one_blob_name_are_refused_naming_both(folder: Path) -> None:
    (folder / "inner" / "a.txt").write_text("another")
    assert "inputs 'a.txt' and 'inner/a.txt' would both be the blob 'a.txt'" in refusal("a.txt", "inner/a.txt")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("back\\slash.txt", "Blob Storage turns the backslash in the name into a folder"),
        ("bell\a.txt", "Azure refuses the character U+0007 in the name of a blob"),
        ("tab\t.txt", "Azure refuses the character U+0009 in the name of a blob"),
        ("line\n.txt", "Azure refuses the character U+000A in the name of a blob"),
        ("delete\x7f.txt", "Azure refuses the character U+007F in the name of a blob"),
        ("c1\x81.txt", "Azure refuses the character U+0081 in the name of a blob"),
        ("private\ue000.txt", "Azure refuses the character U+E000 in the name of a blob"),
        ("private\U000f0000.txt", "Azure refuses the character U+F0000 in the name of a blob"),
        ("replacement\ufffd.txt", "Azure refuses the character U+FFFD in the name of a blob"),
        ("none\uffff.txt", "Azure refuses the character U+FFFF in the name of a blob"),
        ("none\ufdd0.txt", "Azure refuses the character U+FDD0 in the name of a blob"),
        ("none\U0001ffff.txt", "Azure refuses the character U+1FFFF in the name of a blob"),
        ("dot.", "Blob Storage drops the dot at the end of the name"),
        ("x" * 249, "would have a name longer than 255 bytes"),
    ],
)
def test_a_name_that_no_blob_or_node_can_have_is_refused(folder: Path, name: str, reason: str) -> None:
    (folder / name).touch()
    assert reason in refusal(str(folder))


def test_names_in_any_script_are_taken(folder: Path) -> None:
    for name in (
        "Übung 日本.txt",
        "שלום.txt",
        "👩‍👩‍👧.txt",
        'it\'s "q" #?%&+=;,@!$()[]{}^`|<>*:~.txt',
        "﷐"[:0] + "ﷲ.txt",
    ):
        (folder / name).touch()
        assert names(str(folder / name).replace("[", "[[]")) == [name]


def test_a_name_that_is_not_utf8_is_refused(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).touch()
    assert "the name is not valid UTF-8" in refusal(str(folder))


def test_an_empty_entry_is_refused_and_is_not_the_current_folder(folder: Path) -> None:
    assert refusal("").startswith("an input is empty")
    assert refusal(" ").startswith("an input is empty")


def test_a_home_directory_that_does_not_exist_is_refused() -> None:
    assert refusal("~nobody-here/x.txt").startswith("input '~nobody-here/x.txt': cannot be looked up (")


def test_a_name_that_is_too_long_is_refused() -> None:
    assert "cannot be looked up (File name too long)" in refusal("x" * 300)


def test_a_glob_in_a_folder_with_brackets_is_refused_with_the_way_to_write_it(folder: Path) -> None:
    (folder / "br[a]c").mkdir()
    (folder / "br[a]c" / "x.txt").touch()
    assert "write [[] for a [" in refusal("br[a]c/*.txt")
    assert names("br[[]a]c/*.txt") == ["x.txt"]
