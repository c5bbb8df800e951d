"""The account that the live tests use: that of the environment under `make test-live`, else the local Azure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
from azure.batch import BatchClient
from azure.batch.models import BatchPool
from azure.core.exceptions import HttpResponseError

from tasks.accounts.clients import Azure
from tasks.accounts.environment import settings_in
from tasks.resources.allocation import is_size_refused, remedy_of
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
def pool(batch: BatchClient, account: Account, shared_run: Run) -> Iterator[Run]:
    """The run's pool with one node, of the first of the VM sizes that gives one; its formula removes it at the end."""
    created, before = False, None
    for vm_size in ONE_NODE.vm_size:
        made = Pool(batch, shared_run, ONE_NODE, vm_size=vm_size)
        try:
            made.use_size(vm_size, shared_run.expires) if created else made.create()
        except HttpResponseError as error:
            if not is_size_refused(error):
                raise
            continue
        created = True
        found = account.wait_for(f"node of {vm_size}", partial(_allocated, batch, shared_run, before))
        if all(remedy_of(error.code) is None for error in found.resize_errors or ()):
            break
        before = found.allocation_state_transition_time
    yield shared_run
    batch.begin_delete_pool(shared_run.pool_id)


def _allocated(batch: BatchClient, run: Run, before: datetime | None) -> BatchPool | None:
    """The pool once an allocation has ended that began after that time."""
    found = batch.get_pool(run.pool_id)
    ended = found.allocation_state == "steady" and found.allocation_state_transition_time != before
    return found if ended and (found.current_dedicated_nodes or found.resize_errors) else None
