"""The local Batch service on a socket, and the unmodified SDK as its client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from azure.batch import BatchClient

from local_azure.batch.http.server import Timings
from tests.support.batch_service import QUICK, HttpFiles, RunningService
from tests.support.service_process import starter

__all__ = ["starter"]  # a fixture


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., RunningService]]:
    """Start services, each on a data directory of its own unless told otherwise; they are stopped after the test."""
    with ExitStack() as stack:

        def start(timings: Timings = QUICK, data: Path | None = None) -> RunningService:
            service = RunningService(data or tmp_path / f"batch{len(os.listdir(tmp_path))}", timings)
            service.start()
            stack.callback(service.stop)
            return service

        yield start


@pytest.fixture
def service(start_service: Callable[..., RunningService]) -> RunningService:
    return start_service()


@pytest.fixture
def client(service: RunningService) -> BatchClient:
    return service.client()


@pytest.fixture
def http_files(tmp_path: Path) -> Iterator[HttpFiles]:
    directory = tmp_path / "web"
    directory.mkdir()
    with HttpFiles(directory) as files:
        yield files
