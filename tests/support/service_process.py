"""The local Batch service in a process that can be killed, by a test or by itself at a trap."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential

from tests.support.contract import CheckedTransport
from tests.support.paths import ROOT

PROGRAM = """
import asyncio, functools, importlib, inspect, json, os, pathlib, signal, sys
from datetime import timedelta
from local_azure.batch.http.server import Account, Clock, serve

def trapped(function, moment, armed):
    def die_if(here):
        if here:
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    def call(*args, **kwargs):
        caught = armed.exists()
        die_if(caught and moment == "before")
        result = function(*args, **kwargs)
        die_if(caught)
        return result

    @functools.wraps(function)
    async def call_async(*args, **kwargs):
        caught = armed.exists()
        die_if(caught and moment == "before")
        result = await function(*args, **kwargs)
        die_if(caught)
        return result

    return call_async if inspect.iscoroutinefunction(function) else call

def run(data, key, function="", moment="", hours=0):
    if function:
        module, _, names = function.partition(":")
        *classes, name = names.split(".")
        owner = functools.reduce(getattr, classes, importlib.import_module(module))
        setattr(owner, name, trapped(getattr(owner, name), moment, pathlib.Path(data).with_name("armed")))
    clock = Clock()
    clock.advance(timedelta(hours=hours))
    ready = lambda endpoint: print(os.getpid(), endpoint, flush=True)
    account = Account(name="localbatch", key=key)
    asyncio.run(serve(pathlib.Path(data), account, ready=ready, stop=asyncio.Event(), clock=clock))

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            run(**json.loads(line))
        finally:
            os._exit(1)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class ServiceProcess:
    """A service in a process of its own, which can be killed."""

    def __init__(self, data: Path, starter: subprocess.Popen[str]) -> None:
        self.data = data
        self.key = base64.b64encode(os.urandom(32)).decode()
        self._starter = starter
        self._pid = 0
        self._endpoint = ""

    def start(self, **trap: Any) -> BatchClient:
        request = {"data": str(self.data), "key": self.key, **trap}
        assert self._starter.stdin
        self._starter.stdin.write(json.dumps(request) + "\n")
        self._starter.stdin.flush()
        pid, self._endpoint = self._line()
        assert pid != "ended", "the service does not start"
        self._pid = int(pid)
        return self.client()

    def client(self, **options: Any) -> BatchClient:
        credential = AzureNamedKeyCredential("localbatch", self.key)
        return BatchClient(self._endpoint, credential, transport=CheckedTransport(), **options)

    def limit_files(self, size: int) -> None:
        """Let no file of the service grow beyond so many bytes."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._pid, number)

    def fallen(self) -> None:
        """Wait until it has been killed, by itself or by us."""
        assert self._line() == ["ended", str(-signal.SIGKILL)]
        self._pid = 0

    def _line(self) -> list[str]:
        """The words of the next line that the starter prints."""
        assert self._starter.stdout
        return self._starter.stdout.readline().split()

    def kill(self) -> None:
        if self._pid:
            self.signal(signal.SIGKILL)
            self.fallen()


@pytest.fixture(scope="module")
def starter() -> Iterator[subprocess.Popen[str]]:
    """The process that starts services, which is one for all tests of a module."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, text=True, stdin=pipe, stdout=pipe) as process:
        yield process
