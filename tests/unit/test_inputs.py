"""Which files a run works on, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.inputs.files import describe_inputs, find_inputs
from tests.support.awkward_names import AWKWARD_NAMES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.txt", "a.txt", "notes.rst", ".hidden"):
        (tmp_path / name).write_text(name)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.txt").write_text("c")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs: str) -> list[str]:
    return [file.name for file in find_inputs(inputs).files]


def test_a_file_is_taken_as_it_is(folder: Path) -> None:
    (file,) = find_inputs(["b.txt"]).files
    assert (file.name, file.size, file.source, file.task_id) == ("b.txt", 5, "b.txt", "topNtask0")


def test_a_folder_stands_for_the_visible_files_directly_in_it(folder: Path) -> None:
    assert names(str(folder)) == ["a.txt", "b.txt", "notes.rst"]


def test_a_glob_matches_in_alphabetical_order(folder: Path) -> None:
    assert names("*.txt") == ["a.txt", "b.txt"]


def test_a_double_star_reaches_into_folders(folder: Path) -> None:
    assert sorted(names("**/*.txt")) == ["a.txt", "b.txt", "inner/c.txt"]


def test_a_file_named_twice_is_taken_once(folder: Path) -> None:
    assert names("b.txt", "*.txt", "./b.txt") == ["b.txt", "a.txt"]


def test_a_name_with_glob_characters_is_a_file_if_there_is_one(folder: Path) -> None:
    (folder / "[draft] *.txt").write_text("x")
    assert names("[draft] *.txt") == ["[draft] *.txt"]


def test_an_empty_file_is_taken(folder: Path) -> None:
    (folder / "empty.txt").touch()
    assert find_inputs(["empty.txt"]).files[0].size == 0


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


def test_a_name_is_the_path_below_the_folder_that_all_entries_share(folder: Path) -> None:
    (folder / "inner" / "a.txt").write_text("another")
    assert names("inner") == ["a.txt", "c.txt"]
    assert names("a.txt", "inner/a.txt") == ["a.txt", "inner/a.txt"]
    assert names("inner/*.txt") == ["a.txt", "c.txt"]
    assert names("inner/*.txt", "b.txt") == ["inner/a.txt", "inner/c.txt", "b.txt"]
    assert names(f"{folder}/in*/c.txt") == ["inner/c.txt"]
    assert names("inner/../b.txt", str(folder / "inner" / "c.txt")) == ["b.txt", "inner/c.txt"]


def test_a_glob_that_leads_out_of_its_folder_is_named_from_above(folder: Path) -> None:
    (folder / "inner" / "deep").mkdir()
    assert names("inner/*/../../a.txt") == ["a.txt"]


def test_every_name_that_a_file_system_takes_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AWKWARD_NAMES:
        path = tmp_path / "inputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    entries = [f"inputs/{name}" for name in AWKWARD_NAMES if "\n" not in name]
    Path("list.txt").write_bytes(b"\n".join(map(os.fsencode, entries)))
    assert names("@list.txt", "inputs/line*.txt") == sorted(AWKWARD_NAMES, key=lambda name: "\n" in name)


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


def test_a_list_stands_for_its_lines(folder: Path) -> None:
    (folder / "list.txt").write_bytes("\ufeff# comment\r\n\r\nb.txt\r\ninner\n*.rst\n  \n".encode())
    assert names("@list.txt", "a.txt") == ["b.txt", "inner/c.txt", "notes.rst", "a.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.txt\n\nno.txt\n", "@list, line 3: input 'no.txt': no file matches"),
        (b"a.txt\nhttps://x/y\n", "@list, line 2: input https://x/y: 'x' is not a host of Blob Storage"),
        (b"# nothing\n", "list of inputs '@list': it has no entries"),
        ("a.txt".encode("utf-16"), "list of inputs '@list': it is not UTF-8 text"),
        (None, "list of inputs '@list': cannot be read (No such file or directory)"),
    ],
)
def test_a_bad_list_is_refused_naming_the_line(folder: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (folder / "list").write_bytes(content)
    assert refusal("@list").startswith(message)


def test_blob_addresses_are_only_parsed(folder: Path) -> None:
    found = find_inputs(["az://account/container/x/*.txt", "a.txt", "az://account/container/x/*.txt"])
    assert [file.name for file in found.files] == ["a.txt"]
    assert [str(address) for address in found.addresses] == ["az://account/container/x/*.txt"]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (["a.txt"], "1 file"),
        (["*.txt"], "2 files"),
        (["az://account/container"], "blobs of az://account/container"),
        (["a.txt", "az://account/one", "az://account/two"], "1 file and blobs of 2 addresses"),
    ],
)
def test_what_was_found_has_a_short_text(folder: Path, inputs: list[str], text: str) -> None:
    assert str(find_inputs(inputs)) == text
    assert describe_inputs(inputs) == text
