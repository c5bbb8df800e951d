"""Accepts HTTP connections: the protocol of uvicorn without its server, which polls and handles signals itself.

The only module that uses uvicorn's classes. They are not documented: pyproject.toml has an upper bound, and
tests/unit/test_connections.py fails when they change.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HOST = "127.0.0.1"
# Clients keep their connections for as long as they can, and some do not retry a POST on a closed connection. So
# connections stay open for longer than any client's polling interval.
KEEP_ALIVE = 600  # seconds
DRAIN = 2.0  # seconds that requests get to finish when the service stops


def listen(port: int) -> socket.socket:
    """A socket bound to the port of the loopback interface. Raises OSError if the port is taken."""
    # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it each response, whose head and
    # body are two packets, would wait 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except BaseException:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def accepting(app: Any, listener: socket.socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Serve the ASGI application while the context lasts, then let requests finish for DRAIN seconds."""
    config = _config(app)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: _connection(config, state), sock=listener, backlog=512, ssl=tls
    )
    try:
        yield
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=DRAIN)
        for connection in list(state.connections):
            if connection.transport:
                connection.transport.abort()


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE,
    )


def _connection(config: uvicorn.Config, state: ServerState) -> H11Protocol:
    """A connection whose requests find in their scope how to close it without a response."""
    app_state: dict[str, Any] = {}
    connection = H11Protocol(config=config, server_state=state, app_state=app_state)
    app_state["abort"] = lambda: connection.transport.abort()
    return connection
