"""All operations of the API are known to the service, and the documentation says which are served."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path

from azure.batch._operations import _operations as sdk

from local_azure.batch.http.routes import OPERATIONS, Router

ROOT = Path(__file__).parents[2]


def sdk_operations() -> set[tuple[str, str]]:
    """Method and path of every operation, read from the functions with which the SDK builds its requests."""
    found = set()
    for name, function in inspect.getmembers(sdk, inspect.isfunction):
        if name.startswith("build_") and name.endswith("_request"):
            source = inspect.getsource(function)
            path = re.search(r'_url = "([^"]+)"', source)
            method = re.search(r'method="(\w+)"', source)
            assert path, name
            assert method, name
            found.add((method[1], path[1]))
    return found


def test_every_operation_of_the_sdk_has_a_route():
    assert {(item.method, "/" + "/".join(item.path)) for item in OPERATIONS} == sdk_operations()
    assert len(OPERATIONS) == 72


def test_every_route_is_found_by_its_path():
    for operation in OPERATIONS:
        path = "/" + "/".join(re.sub(r"\{.*\}", "some%2Fid", segment) for segment in operation.path)
        found, ids = Router().find(operation.method, path)
        assert found is operation
        assert set(ids.values()) <= {"some%2Fid"}


def test_query_parameters_are_those_of_the_sdk():
    for name, function in inspect.getmembers(sdk, inspect.isfunction):
        if name.startswith("build_") and name.endswith("_request"):
            source = inspect.getsource(function)
            path, method = re.search(r'_url = "([^"]+)"', source), re.search(r'method="(\w+)"', source)
            assert path
            assert method
            operation, _ = Router().find(method[1], re.sub(r"\{.*?\}", "x", path[1]))
            wanted = {query.lower() for query in re.findall(r'_params\["([^"]+)"\]', source)}
            assert wanted - {"api-version", "timeout"} <= operation.query, operation.name


def test_table_of_operations_is_up_to_date():
    generator = runpy.run_path(str(ROOT / "docs" / "coverage.py"))
    assert generator["PAGE"].read_text(encoding="utf-8") == generator["page"]()


def test_tests_named_in_the_documentation_exist():
    page = (ROOT / "docs" / "local-batch-service.md").read_text(encoding="utf-8")
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("*/test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
