"""The table of service codes: the only place where they are written, and the page that is made from it."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys

from tasks.errors.advice import known
from tasks.errors.code_table import DELEGATION, KNOWN
from tasks.errors.codes import Code, Service, Where
from tests.support.paths import ROOT

TABLE = {ROOT / "tasks" / "errors" / name for name in ("codes.py", "code_table.py")}


def test_no_module_writes_a_service_code_itself() -> None:
    codes = {code.value for code in Code}
    modules = [path for room in ("tasks", "flows") for path in (ROOT / room).rglob("*.py") if path not in TABLE]
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in modules
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in codes
    ]
    assert found == []


def test_every_code_is_explained_with_its_source() -> None:
    assert {each.code for each in KNOWN} == set(Code)
    assert [each.code for each in KNOWN if not (each.meaning and each.source)] == []


def test_entries_with_a_detail_come_before_the_general_one() -> None:
    for each in KNOWN:
        assert known(each.service, each.where, each.code, each.detail) is each


def test_a_code_of_another_place_or_none_is_not_known() -> None:
    assert known(Service.BATCH, Where.RESIZE, Code.POOL_EXISTS) is None
    assert known(Service.BATCH, Where.REQUEST, "SomethingNew") is None


def test_a_refused_user_delegation_key_has_an_entry_of_its_own() -> None:
    found = known(Service.STORAGE, Where.REQUEST, Code.AUTHORIZATION_PERMISSION_MISMATCH, DELEGATION)
    assert found
    assert "whole account" in found.advice


def test_the_table_is_light_to_import() -> None:
    script = "import sys, tasks.errors.advice; print([m for m in ('azure', 'prefect', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_of_errors_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "errors.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"]()
