"""Zip archives that have the same bytes whenever their files have."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tasks.errors import InputError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive can hold


def write_archive(path: Path, files: Mapping[str, Path | bytes], *, compress: bool = True) -> None:
    """Write the files, by their names in the archive, without their times and owners. Raises InputError."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, source in sorted(files.items()):
            try:
                _add(archive, name, source)
            except UnicodeEncodeError:
                raise InputError(f"file {str(source)!r}: the name is not valid UTF-8; rename the file") from None
            except OSError as error:
                raise InputError(
                    f"file {str(source)!r}: cannot be packed for the nodes ({error.strerror}); "
                    "check its permissions and the free space here"
                ) from None


def _add(archive: zipfile.ZipFile, name: str, source: Path | bytes) -> None:
    executable = isinstance(source, Path) and os.access(source, os.X_OK)
    item = zipfile.ZipInfo(name, _EPOCH)
    item.compress_type = archive.compression
    item.create_system = 3  # Unix, whose modes are in external_attr
    item.external_attr = (0o100755 if executable else 0o100644) << 16
    item.file_size = len(source) if isinstance(source, bytes) else source.stat().st_size
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file, archive.open(item, "w") as to:
        shutil.copyfileobj(file, to, 1 << 20)


def files_of(modules: Sequence[Path]) -> dict[str, Path]:
    """The files of the modules and folders by their names in an archive; hidden ones and bytecode are left out."""
    return {
        str(path.relative_to(module.parent)): path
        for module in modules
        for path in (_files_in(module, ()) if module.is_dir() else [module])
    }


def _files_in(folder: Path, parents: Sequence[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in parents:
        raise InputError(f"module folder {str(folder)!r}: it is a link to a folder that contains it; remove the link")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"module folder {str(folder)!r}: cannot be read ({error.strerror}); grant read access to it"
        ) from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__" or entry.suffix == ".pyc":
            continue
        if entry.is_dir():
            yield from _files_in(entry, (*parents, real))
        elif entry.is_file():
            yield entry
