"""Local Azures that make faults, with and without keys, and runs whose traces are removed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local_azure import faults
from tasks.accounts import entra_id
from tasks.accounts.clients import Azure
from tasks.run.identity import Run
from tests.support.accounts import accounts_of, azure_with_faults, clear
from tests.support.runs import new_run


@pytest.fixture
def run(azure: Azure) -> Iterator[Run]:
    """A run of the test's own, of which nothing is left after it."""
    run = new_run()
    yield run
    clear(azure, run.name)


@pytest.fixture(scope="session")
def troubled_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with azure_with_faults(tmp_path_factory.mktemp("troubled")) as settings:
        yield settings


@pytest.fixture
def troubled(no_azure: None, troubled_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """An Azure on which a test may ask for faults; afterwards there are none, and all takes its usual time."""
    azure = accounts_of(troubled_settings, monkeypatch)
    yield azure
    faults.ask("reset", {})


@pytest.fixture(scope="session")
def keyless_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with azure_with_faults(tmp_path_factory.mktemp("keyless"), "--tls", "--entra=only") as settings:
        yield settings


@pytest.fixture
def keyless(no_azure: None, keyless_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """Accounts that take no key; the process has no token of them yet. Afterwards there are no faults."""
    entra_id._credential.cache_clear()
    yield accounts_of(keyless_settings, monkeypatch)
    faults.ask("reset", {})
    entra_id._credential.cache_clear()


@pytest.fixture
def troubled_run(troubled: Azure) -> Iterator[Run]:
    """A run of the test's own, of which nothing is left after it."""
    run = new_run()
    yield run
    clear(troubled, run.name)
