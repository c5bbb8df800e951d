"""What all tests share: the embedded local Azure and a Prefect server, each started once, when first needed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from local_azure.embedded import embedded_azure
from tasks.accounts.clients import Azure
from tasks.accounts.environment import BATCH_SETTINGS, STORAGE_SETTINGS
from tests.support.scheduling import ByFile, rank

if TYPE_CHECKING:
    from tests.support.deployed import Deployed

# Started in the background, as by `make test &`, a process ignores Ctrl-C, and so would all that the tests start;
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # likewise by nohup

# Set, it has each process that the tests start compile all our modules again, as each worker does all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def azure_settings() -> Iterator[dict[str, str]]:
    """The settings of a local Azure that lives as long as the test session."""
    with embedded_azure() as settings:
        yield settings


@pytest.fixture
def no_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any Azure setting."""
    for name in (*BATCH_SETTINGS, *STORAGE_SETTINGS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def azure(no_azure: None, azure_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Azure:
    """The session's local Azure, also set in the environment as a user would set an account of theirs."""
    for name, value in azure_settings.items():
        monkeypatch.setenv(name, value)
    azure = Azure.from_environment(azure_settings)
    assert azure is not None
    return azure


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness  # slow: it imports the server

    from tests.support.deployed import SERVER, migrated_database

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for name, value in SERVER.items():
            patch.setenv(name, value)
        home = tmp_path_factory.mktemp("prefect")
        shutil.copy(migrated_database(), home / "prefect-test.db")
        patch.setattr("prefect.testing.utilities.mkdtemp", lambda: str(home))  # where the server has its database
        stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        patch.undo()
        # Without heartbeats a flow run does not wait a second for its heartbeat thread.
        stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        yield


@pytest.fixture(scope="session")
def deployed(request: pytest.FixtureRequest) -> Iterator[Deployed]:
    """One server with one worker for the whole test session, on the session's local Azure.

    A test that ends the worker starts it again, and waits for its flow runs to end.
    """
    from tests.support.deployed import Deployed  # slow: it imports Prefect

    started = Deployed.starting()
    try:
        azure_settings = request.getfixturevalue("azure_settings")  # starts beside the server
        started.deploy()
        started.start_worker(azure_settings)
        yield started
    finally:
        started.stop()
