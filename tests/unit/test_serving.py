"""A flow that is served goes to its own process as a pickle, the flow's module and all in it by value."""

from __future__ import annotations

import importlib
import subprocess
import sys

import cloudpickle  # type: ignore[import-untyped]
import pytest

_LOAD = """
import sys
import cloudpickle
flow = cloudpickle.load(sys.stdin.buffer)
print(flow.name, flow.validate_parameters(eval(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("module", "name", "parameters", "expected"),
    [
        (
            "flows.top_words",
            "top_words",
            {"inputs": "a.txt", "top_n": "3"},
            "top-words {'inputs': ['a.txt'], 'top_n': 3",
        ),
        ("flows.sweep", "sweep", {"delete": "true"}, "sweep {'delete': True"),
    ],
)
def test_a_flow_survives_its_pickle(module: str, name: str, parameters: dict[str, str], expected: str) -> None:
    home = importlib.import_module(module)
    cloudpickle.register_pickle_by_value(home)
    try:
        pickled = cloudpickle.dumps(getattr(home, name))
    finally:
        cloudpickle.unregister_pickle_by_value(home)
    loaded = subprocess.run([sys.executable, "-c", _LOAD, repr(parameters)], input=pickled, capture_output=True)
    assert loaded.returncode == 0, loaded.stderr.decode()
    assert loaded.stdout.decode().startswith(expected)
