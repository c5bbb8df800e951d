"""A flow that is served goes to its own process as a pickle, the flow's module and all in it by value."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys

import cloudpickle  # type: ignore[import-untyped]

_LOAD = """
import pickle
import sys
import cloudpickle
for pickled, parameters in pickle.load(sys.stdin.buffer):
    flow = cloudpickle.loads(pickled)
    print(flow.name, flow.validate_parameters(parameters))
"""


def pickled(module: str, name: str) -> bytes:
    home = importlib.import_module(module)
    cloudpickle.register_pickle_by_value(home)
    try:
        data: bytes = cloudpickle.dumps(getattr(home, name))
        return data
    finally:
        cloudpickle.unregister_pickle_by_value(home)


def test_a_flow_survives_its_pickle() -> None:
    served = [
        (pickled("flows.top_words", "top_words"), {"inputs": "a.txt", "top_n": "3"}),
        (pickled("flows.sweep", "sweep"), {"delete": "true"}),
    ]
    loaded = subprocess.run([sys.executable, "-c", _LOAD], input=pickle.dumps(served), capture_output=True)
    assert loaded.returncode == 0, loaded.stderr.decode()
    first, second = loaded.stdout.decode().splitlines()
    assert first.startswith("top-words {'inputs': ['a.txt'], 'top_n': 3")
    assert second.startswith("sweep {'delete': True")
