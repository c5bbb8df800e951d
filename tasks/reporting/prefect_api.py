"""Our own calls to the Prefect server: with a time limit, through names that Prefect exports but does not document.

`tests/unit/test_prefect_api.py` fails where a name of the latter kind is gone; pyproject.toml has the upper bound.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.input import keyset_from_paused_state
from prefect.input.run_input import Keyset
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from pydantic_core import PydanticSerializationError

__all__ = ["Keyset", "limited", "pause_keys", "prefect_client"]


@contextmanager
def limited(*, seconds: float, retries: int = 0) -> Iterator[None]:
    """Limit the calls that Prefect makes meanwhile: each waits that long for its response.

    By default Prefect's client waits a minute for each response, and retries a server that is away for even longer.
    A signal that arrives while settings or a request are serialized is raised as itself.
    """
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries, PREFECT_API_REQUEST_TIMEOUT: seconds}):
            yield
    except PydanticSerializationError as error:
        interruption = _interruption(error)
        if interruption is None:
            raise
        raise interruption from None


def _interruption(error: PydanticSerializationError) -> BaseException | None:
    """The signal that ended a serializer; pydantic wraps it too, and of one in a nested model leaves only the name."""
    if "KeyboardInterrupt" in str(error):
        return KeyboardInterrupt()
    if "TerminationSignal" in str(error):
        return TerminationSignal(signal=signal.SIGTERM)
    return None


@contextmanager
def prefect_client(*, seconds: float, retries: int = 0) -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server with these limits; they also hold for other calls meanwhile."""
    with limited(seconds=seconds, retries=retries), get_client(sync_client=True) as client:
        yield client


def pause_keys(state: State[None]) -> Keyset:
    """The keys under which Prefect stores the form of a paused flow run, and the answers to it.

    Exported by `prefect.input`, but not documented: Prefect's own `pause_flow_run` uses it.
    """
    return keyset_from_paused_state(state)
