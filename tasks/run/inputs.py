"""Which local files a run works on; everything that cannot work is refused here, before anything is created."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import InputError

_LONGEST_NAME = 255  # bytes, of a file name on the nodes' file systems
_MOST_FILES = 100_000
# What may stand in a blob's name by Azure's rules: ASCII but control characters, and what RFC 3987 allows in a path.
# Not so control characters, private use, U+FFFD and what is no character. Azurite takes them all; Azure answers 400.
_ALLOWED = re.compile(
    "[ -~\xa0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef"
    + "".join(f"{chr(plane << 16)}-{chr((plane << 16) + 0xFFFD)}" for plane in range(1, 14))
    + "\U000e1000-\U000efffd]*"
)


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A text file and the name of its blob, which is also its name on the node."""

    name: str
    size: int  # bytes
    source: Path
    task_id: str = ""  # of the Batch task that is to count it


def as_list(inputs: object) -> list[Any]:
    """A single file, folder or glob as the list of one that was meant; paths as text."""
    entries = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    return [os.fspath(entry) if isinstance(entry, os.PathLike) else entry for entry in entries]


def output_name(name: str) -> str:
    """The name of the output of an input file of that name: <stem>_OUTPUT<ext>, as in the tutorial."""
    stem, extension = os.path.splitext(name)
    return f"{stem}_OUTPUT{extension}"


def find_inputs(inputs: Sequence[str]) -> list[InputFile]:
    """The files that the given files, folders and globs name, each once, in the order given.

    A folder stands for the files directly in it, hidden ones apart. Raises InputError, naming the entry and the
    fix, for an entry without files, a file that cannot be read, a name that cannot be a blob's, and two files
    that would be one blob.
    """
    if not inputs:
        raise InputError("no input is given; name at least one file, folder or glob such as 'data/*.txt'")
    paths = {os.path.abspath(path): path for entry in inputs for path in _readable_files_of(entry)}
    files = [_input_file(path, index) for index, path in enumerate(paths.values())]
    _refuse_shared_names(files)
    if len(files) > _MOST_FILES:
        raise InputError(f"{len(files)} files are more than the {_MOST_FILES} of one run; split them over several runs")
    return files


def _readable_files_of(entry: str) -> Iterable[Path]:
    if not entry.strip():  # an unset shell variable, say; as a path it would be the current folder
        raise InputError("an input is empty; name a file, a folder or a glob such as 'data/*.txt'")
    try:
        return [path for path in _files_of(entry) if path.is_file() or _refuse_other(path)]
    except (OSError, RuntimeError) as error:  # no such home directory, a name too long, a folder that nobody may enter
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"input {entry!r}: cannot be looked up ({reason}); check the path and its folders' permissions"
        ) from None


def _refuse_other(path: Path) -> bool:
    raise InputError(f"input {str(path)!r}: not a regular file (or a link to nowhere); name a text file")


def _files_of(entry: str) -> Iterable[Path]:
    path = Path(entry).expanduser()
    if path.is_dir():
        return _files_in(path)
    if os.path.lexists(path):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [match for match in matches if match.is_file()]
    if not files:
        only_folders = f"; it matches only folders, such as {str(matches[0])!r}" if matches else ""
        raise InputError(
            f"input {entry!r}: no file matches, seen from {str(Path.cwd())!r}{only_folders}; "
            "check the spelling, name a file or a folder, and write [[] for a [ that is part of a folder's name"
        )
    return files


def _files_in(folder: Path) -> list[Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"input {str(folder)!r}: the folder cannot be read ({error.strerror}); grant read access to it"
        ) from None
    if not files:
        raise InputError(
            f"input {str(folder)!r}: the folder holds no files; those in folders inside it need "
            f"a glob such as '{folder}/**/*.txt'"
        )
    return files


def _input_file(path: Path, index: int) -> InputFile:
    _refuse_bad_name(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.read(1)
    except OSError as error:
        raise InputError(
            f"input {str(path)!r}: cannot be read ({error.strerror}); grant read access or leave it out"
        ) from None
    return InputFile(source=path, name=path.name, size=size, task_id=f"topNtask{index}")


def _refuse_bad_name(path: Path) -> None:
    """Refuse the names that Blob Storage or a node's file system would refuse, or silently change."""
    name = path.name
    reason = ""
    try:
        name.encode()
    except UnicodeEncodeError:
        reason = "the name is not valid UTF-8"
    if not reason and (allowed := _ALLOWED.match(name)) and allowed.end() < len(name):
        reason = f"Azure refuses the character U+{ord(name[allowed.end()]):04X} in the name of a blob"
    if not reason and "\\" in name:
        reason = "Blob Storage turns the backslash in the name into a folder"
    if not reason and name.endswith("."):
        reason = "Blob Storage drops the dot at the end of the name"
    if not reason and len(output_name(name).encode()) > _LONGEST_NAME:
        reason = f"its output {output_name(name)[:20]!r}... would have a name longer than {_LONGEST_NAME} bytes"
    if reason:
        raise InputError(f"input {str(path)!r}: {reason}; rename the file")


def _refuse_shared_names(files: Iterable[InputFile]) -> None:
    seen: dict[str, InputFile] = {}
    for file in files:
        other = seen.setdefault(file.name, file)
        if other is not file:
            raise InputError(
                f"inputs {str(other.source)!r} and {str(file.source)!r} would both be the blob {file.name!r}; "
                "rename one of them, or count them in two runs"
            )
