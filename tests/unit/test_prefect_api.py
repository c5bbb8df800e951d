"""What Prefect exports but does not document is still there, and our calls to its server are limited."""

from __future__ import annotations

import importlib
from datetime import timedelta

import pytest
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES
from prefect.states import Paused

from tasks.reporting.prefect_api import limited, pause_keys

UNDOCUMENTED = {
    "prefect.input": ["keyset_from_paused_state"],
    "prefect.input.run_input": ["Keyset"],
    "prefect.context": ["FlowRunContext", "TaskRunContext"],
    "prefect.utilities.annotations": ["quote"],
    "prefect.server.api.server": ["SubprocessASGIServer"],
}


@pytest.mark.parametrize("module", sorted(UNDOCUMENTED))
def test_prefect_has_the_names_that_it_does_not_document(module: str) -> None:
    found = importlib.import_module(module)
    gone = [name for name in UNDOCUMENTED[module] if not hasattr(found, name)]
    assert not gone, (
        f"{module} no longer has {', '.join(gone)}: change tasks/ and flows/ before raising Prefect's upper bound"
    )


def test_a_paused_run_has_keys_for_its_form_and_its_answers() -> None:
    state: State[None] = Paused(timeout_seconds=int(timedelta(minutes=1).total_seconds()), pause_key="abc")
    keys = pause_keys(state)
    expected = {use: f"paused-abc-{use}" for use in ("description", "response", "schema")}
    assert {str(use): key for use, key in keys.items()} == expected, "the server would not find the form of a pause"


def test_calls_of_the_prefect_server_are_limited() -> None:
    with limited(seconds=5, retries=2):
        assert (PREFECT_API_REQUEST_TIMEOUT.value(), PREFECT_CLIENT_MAX_RETRIES.value()) == (5, 2)
    with limited(seconds=5):
        assert PREFECT_CLIENT_MAX_RETRIES.value() == 0
