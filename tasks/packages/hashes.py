"""The hashes that a requirements file demands, and whether the downloaded wheels have them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from tasks.errors import InputError

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_HASH = re.compile(r"--hash[=\s]+(\w+):([0-9a-fA-F]+)")
_OTHER_FILE = re.compile(r"\s*(?:-r|--requirement)[=\s]*(\S+)")
_STRONG = ("sha256", "sha384", "sha512")


def refuse_other_hashes(sources: Sequence[Path], wheels: Sequence[Path]) -> None:
    """Raises InputError for a wheel that is not one that the requirements demand by hash.

    As for pip: where one requirement has a hash, or with --require-hashes, all of them must have one.
    """
    demanded: dict[str, set[tuple[str, str]]] = {}
    required = [_read(source, demanded, set()) for source in sources if source.suffix != ".py"]
    if not demanded and not any(required):
        return
    for wheel in wheels:
        name = str(parse_wheel_filename(wheel.name)[0])
        known = demanded.get(name)
        if known is None and name != "pip":  # which the nodes install the others with
            raise InputError(
                f"requirement {name}: has no hash, and others have; add --hash=sha256:... for it too, or leave out all"
            )
        if known and not any(_digest(wheel, algorithm) == digest for algorithm, digest in known):
            raise InputError(
                f"requirement {name}: the wheel {wheel.name} has none of the hashes that the requirements demand; "
                "correct the hashes, or name the version that they are of"
            )


def _read(source: Path, demanded: dict[str, set[tuple[str, str]]], seen: set[Path]) -> bool:
    """Add what the file and the files that it names demand; returns whether it requires hashes."""
    if source in seen or not source.is_file():
        return False
    seen.add(source)
    required = False
    for line in re.sub(r"\\\r?\n", " ", source.read_text(encoding="utf-8", errors="replace")).splitlines():
        required |= line.strip() == "--require-hashes"
        if other := _OTHER_FILE.match(line):
            required |= _read(source.parent / other[1], demanded, seen)
        elif (name := _REQUIREMENT.match(line)) and (hashes := _HASH.findall(line)):
            strong = {(algorithm, digest.lower()) for algorithm, digest in hashes if algorithm in _STRONG}
            demanded.setdefault(canonicalize_name(name[1]), set()).update(strong)
    return required


def _digest(wheel: Path, algorithm: str) -> str:
    with wheel.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
