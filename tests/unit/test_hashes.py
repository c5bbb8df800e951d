"""The hashes of a requirements file: every wheel has one of those that are demanded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.packages.hashes import refuse_other_hashes

DATA = b"a wheel"
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA512 = hashlib.sha512(DATA).hexdigest()


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    names = ("Mark_down-1.0-py3-none-any.whl", "mdurl-0.1.2-py3-none-any.whl", "pip-26.0-py3-none-any.whl")
    for name in names:
        (tmp_path / name).write_bytes(DATA)
    return [tmp_path / name for name in names]


def check(tmp_path: Path, wheels: list[Path], text: str) -> None:
    (tmp_path / "requirements.txt").write_text(text)
    refuse_other_hashes([tmp_path / "requirements.txt"], wheels)


def test_without_hashes_every_wheel_is_taken(tmp_path: Path, wheels: list[Path]) -> None:
    check(tmp_path, wheels, "mark-down==1.0\nmdurl\n# --hash=sha256:00\n")


@pytest.mark.parametrize(
    "digest", [f"sha256:{SHA256}", f"sha512:{SHA512.upper()}", f"sha256:00 --hash=sha256:{SHA256}"]
)
def test_a_wheel_with_one_of_its_hashes_is_taken(tmp_path: Path, wheels: list[Path], digest: str) -> None:
    check(tmp_path, wheels, f"mark.Down==1.0 --hash={digest}\nmdurl==0.1.2 \\\n    --hash=sha256:{SHA256}\n")


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, wheels: list[Path]) -> None:
    with pytest.raises(InputError, match=r"^requirement mdurl: the wheel mdurl-0\.1\.2-\S+ has none of the hashes"):
        check(tmp_path, wheels, f"mark-down==1.0 --hash=sha256:{SHA256}\nmdurl==0.1.2 --hash=sha256:{'0' * 64}\n")


def test_where_one_has_a_hash_all_must_have_one(tmp_path: Path, wheels: list[Path]) -> None:
    with pytest.raises(InputError, match=r"^requirement mdurl: has no hash, and others have"):
        check(tmp_path, wheels, f"mark-down==1.0 --hash=sha256:{SHA256}\nmdurl==0.1.2\n")
    with pytest.raises(InputError, match=r"^requirement mark-down: has no hash"):
        check(tmp_path, wheels, "--require-hashes\nmark-down==1.0\n")


def test_hashes_in_a_file_that_is_named_there_count(tmp_path: Path, wheels: list[Path]) -> None:
    (tmp_path / "more.txt").write_text(f"mdurl==0.1.2 --hash=sha256:{'1' * 64}\n-r requirements.txt\n")
    with pytest.raises(InputError, match=r"^requirement mdurl: the wheel"):
        check(tmp_path, wheels, f"-r more.txt\nmark-down==1.0 --hash=sha256:{SHA256}\n")
