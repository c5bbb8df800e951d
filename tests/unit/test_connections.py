"""uvicorn's protocol classes, which are not documented, are as the service uses them."""

from __future__ import annotations

import inspect

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CHANGED = "uvicorn has changed: adapt local_azure/batch/http/connections.py, then raise its bound in pyproject.toml"


def test_protocol_takes_a_config_and_two_states():
    given = inspect.signature(H11Protocol).parameters
    assert {"config", "server_state", "app_state"} <= given.keys(), CHANGED
    needed = {name for name, parameter in given.items() if parameter.default is parameter.empty}
    assert needed == {"config", "server_state", "app_state"}, CHANGED
    assert list(inspect.signature(H11Protocol.shutdown).parameters) == ["self"], CHANGED


@pytest.mark.asyncio
async def test_protocol_shares_connections_and_tasks_with_the_state():
    state = ServerState()
    protocol = H11Protocol(config=uvicorn.Config("no:app", ws="none"), server_state=state, app_state={})
    assert (state.connections, state.tasks) == (set(), set()), CHANGED
    assert protocol.connections is state.connections, CHANGED
    assert protocol.tasks is state.tasks, CHANGED
    assert protocol.transport is None, CHANGED
