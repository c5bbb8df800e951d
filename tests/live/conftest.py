"""The account that the live tests use: that of the environment under `make test-live`, else the local Azure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.batch import BatchClient

from tasks.accounts.clients import Azure
from tasks.accounts.environment import settings_in
from tasks.resources.pool import Pool
from tasks.run.identity import Run
from tests.live.session import ONE_NODE, RECORD, Account, Session, scrubber
from tests.support.recording import Recorder


@pytest.fixture(scope="session")
def account(request: pytest.FixtureRequest) -> Account:
    session = Session.current()
    settings = settings_in(os.environ) if session else request.getfixturevalue("azure_settings")
    azure = Azure.from_environment(settings)
    assert azure is not None
    return Account(azure=azure, settings=settings, session=session)


@pytest.fixture(scope="module")
def shared_run(account: Account) -> Run:
    return account.new_run()


@pytest.fixture(scope="module")
def batch(account: Account, shared_run: Run) -> Iterator[BatchClient]:
    """A client whose exchanges are recorded, and written where that was asked for."""
    with Recorder().recording() as recorder, account.azure.batch() as client:
        yield client
    if folder := os.environ.get(RECORD):
        recorder.write(Path(folder) / "service.json", scrubber(account.azure, [shared_run.flow_run_id]))


@pytest.fixture(scope="module")
def pool(batch: BatchClient, shared_run: Run) -> Iterator[Run]:
    """The run's pool with one node, which its autoscale formula removes after LIFETIME."""
    Pool(batch, shared_run, ONE_NODE).create()
    yield shared_run
    batch.begin_delete_pool(shared_run.pool_id)
