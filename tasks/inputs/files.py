"""Which files and blobs the inputs of a run name; what cannot work is refused here, before anything is created."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import InputError
from tasks.inputs.addresses import BlobAddress, SourceBlob, is_blob_address
from tasks.inputs.globs import Glob

MOST_FILES = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """A file on this machine or a blob, for one Batch task to process; no two of a run have the same name."""

    name: str  # its path below the folder that all have in common, with /
    size: int  # bytes
    source: str | SourceBlob  # a path, as text: there may be very many
    task_id: str = ""  # of the Batch task that is to process it


@dataclass(frozen=True, kw_only=True)
class Found:
    """What inputs name: files on this machine, and addresses of blobs that are yet to be listed."""

    files: Sequence[InputFile]
    addresses: Sequence[BlobAddress] = ()
    searched: Sequence[str] = ()  # folders in which ** has looked for files

    def __str__(self) -> str:
        """Such as "3 files", "blobs of az://account/container/logs" or "3 files and blobs of 2 addresses"."""
        return _as_text(len(self.files), self.addresses)


@dataclass(frozen=True, kw_only=True)
class _Named:
    """The files that inputs name, by absolute path, not yet opened; the folders that they name or search."""

    paths: Mapping[str, str]
    folders: Set[str]
    searched: Set[str]
    addresses: Sequence[BlobAddress]


def as_list(inputs: object) -> list[Any]:
    """A single file, folder or glob as the list of one that was meant; paths as text."""
    entries = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    return [os.fspath(entry) if isinstance(entry, os.PathLike) else entry for entry in entries]


def find_inputs(inputs: Sequence[str]) -> Found:
    """The files that the given files, folders, globs and lists name, each once, in the order given; and blob addresses.

    A folder stands for the files directly in it, hidden ones apart; `@name` for the lines of a list. Raises InputError,
    naming the entry and the fix, for an entry without files, a file that cannot be read, and what is no address.
    """
    named = _named(inputs)
    files = _input_files(named.paths, named.folders)
    return Found(files=files, addresses=named.addresses, searched=sorted(named.searched))


def describe_inputs(inputs: Sequence[str]) -> str:
    """The text of what `find_inputs` finds, without opening any file. Raises InputError."""
    named = _named(inputs)
    return _as_text(len(named.paths), named.addresses)


def _as_text(count: int, addresses: Sequence[BlobAddress]) -> str:
    files = [f"{count:,} {'file' if count == 1 else 'files'}"] if count else []
    many = len(addresses)
    blobs = [f"blobs of {addresses[0] if many == 1 else f'{many:,} addresses'}"] if many else []
    return " and ".join(files + blobs)


def _named(inputs: Sequence[str]) -> _Named:
    if not inputs:
        raise InputError("no input is given; name at least one file, folder or glob such as 'data/*.txt'")
    paths: dict[str, str] = {}  # by absolute path
    folders: set[str] = set()
    searched: set[str] = set()
    addresses: dict[BlobAddress, None] = {}
    for entry, where in (each for given in inputs for each in _entries(given)):
        try:
            if is_blob_address(entry):
                addresses[BlobAddress.parse(entry)] = None
                continue
            folder, files = _regular_files_of(entry)
        except InputError as error:
            raise InputError(f"{where}{error}") from None
        folders.add(os.path.abspath(folder))
        if "**" in entry and not os.path.lexists(Path(entry).expanduser()):
            searched.add(os.path.abspath(folder))
        paths.update(map(_absolute, files))
    refuse_too_many(len(paths))
    return _Named(paths=paths, folders=folders, searched=searched, addresses=list(addresses))


def refuse_too_many(count: int) -> None:
    if count > MOST_FILES:
        raise InputError(f"{count:,} inputs are more than the {MOST_FILES:,} of one run; split them over several runs")


def task_id(index: int) -> str:
    return f"topNtask{index}"


def _entries(given: str) -> Iterable[tuple[str, str]]:
    """The entry, or those of a list, each with where it stands as the beginning of a message."""
    if not given.startswith("@"):
        return [(given, "")]
    lines = _lines_of(given)
    return [(line, f"{given}, line {number}: ") for number, line in lines]


def _absolute(path: str) -> tuple[str, str]:
    """The absolute path and the path, as one text where they are the same."""
    absolute = os.path.abspath(path)
    return absolute, absolute if path == absolute else path


def _lines_of(given: str) -> list[tuple[int, str]]:
    """The lines of a list with their numbers, without blank ones and comments."""
    path = Path(given[1:])
    try:
        # Names of files that are not UTF-8 are found as they are.
        text = path.expanduser().read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"list of inputs {given!r}: cannot be read ({_reason(error)}); check the path, or write "
            f"{'./' + given!r} for a file of that name"
        ) from None
    if "\0" in text:
        raise InputError(f"list of inputs {given!r}: it is not UTF-8 text; save it as UTF-8, with one entry per line")
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), start=1)]
    entries = [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]
    if not entries:
        raise InputError(f"list of inputs {given!r}: it has no entries; write one per line")
    return entries


def _regular_files_of(entry: str) -> tuple[str, Sequence[str]]:
    if not entry.strip():  # an unset shell variable, say; as a path it would be the current folder
        raise InputError("an input is empty; name a file, a folder or a glob such as 'data/*.txt'")
    try:
        return _files_of(entry)
    except (OSError, RuntimeError) as error:  # no such home directory, a name too long, a folder that nobody may enter
        raise InputError(
            f"input {entry!r}: cannot be looked up ({_reason(error)}); check the path and its folders' permissions"
        ) from None


def _reason(error: OSError | RuntimeError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _files_of(entry: str) -> tuple[str, Sequence[str]]:
    """The folder that the entry names or searches, and the files it stands for."""
    path = Path(entry).expanduser()
    if path.is_dir():
        return str(path), _files_in(path)
    if os.path.lexists(path):
        if not path.is_file():
            raise InputError(f"input {str(path)!r}: not a regular file (or a link to nowhere); name a file")
        return str(path.parent), [str(path)]
    matches = [str(Path(match)) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [match for match in matches if Path(match).is_file()]
    if not files:
        only_folders = f"; it matches only folders, such as {matches[0]!r}" if matches else ""
        raise InputError(
            f"input {entry!r}: no file matches, seen from {str(Path.cwd())!r}{only_folders}; "
            "check the spelling, name a file or a folder, and write [[] for a [ that is part of a folder's name"
        )
    return Glob(str(path)).folder, files


def _files_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"input {str(folder)!r}: the folder cannot be read ({error.strerror}); grant read access to it"
        ) from None
    if not names:
        raise InputError(
            f"input {str(folder)!r}: the folder holds no files; those in folders inside it need "
            f"a glob such as '{folder}/**/*.txt'"
        )
    return [os.path.join(folder, name) for name in names]  # not as Path objects, which take several times the memory


def _input_files(paths: Mapping[str, str], folders: Set[str]) -> list[InputFile]:
    """The files by absolute path as inputs, named by what is below the deepest folder that all entries share."""
    # A glob such as */../x leads out of its own folder.
    common = os.path.commonpath([*folders, *map(os.path.dirname, paths)]).rstrip("/") if paths else ""
    return [
        InputFile(name=absolute[len(common) + 1 :], size=_readable_size(path), source=path, task_id=task_id(index))
        for index, (absolute, path) in enumerate(paths.items())
    ]


def _readable_size(path: str) -> int:
    try:
        with open(path, "rb", buffering=0) as file:
            file.read(1)
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(
            f"input {path!r}: cannot be read ({error.strerror}); grant read access or leave it out"
        ) from None
