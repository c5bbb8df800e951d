"""pytest fixtures: a local Azure for tests. Its services are started, and imported, when a test asks for them.

Each process of pytest-xdist has its own. The service starts once per session, with `--faults` and the options in the
ini file's `local_azure_options`. A test marked `local_azure_isolated` gets one for itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from local_azure.embedded import LocalAzure

_OPTIONS = "local_azure_options"
_ISOLATED = "local_azure_isolated"
_ACCOUNTS = ("AZURE_BATCH_", "AZURE_STORAGE_")
_IDENTITIES = (  # which DefaultAzureCredential would use before the identity endpoint, or instead of it
    "AZURE_CLIENT_",
    "AZURE_TENANT_ID",
    "AZURE_USERNAME",
    "AZURE_PASSWORD",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_TOKEN_CREDENTIALS",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        _OPTIONS, "options of the command local-azure for the fixture local_azure, such as --tls", type="args"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_ISOLATED}: the fixture local_azure starts an empty one for this test alone")


@pytest.fixture(scope="session")
def local_azure_service(pytestconfig: pytest.Config) -> Iterator[LocalAzure]:
    """The local Azure of the session, for fixtures of wider scope; it is not in the environment."""
    with _started(pytestconfig) as azure:
        yield azure


@pytest.fixture
def local_azure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAzure]:
    """A local Azure whose settings are in the environment during the test."""
    if request.node.get_closest_marker(_ISOLATED):
        with _started(request.config) as azure:
            yield _in_environment(azure, monkeypatch)
    else:
        yield _in_environment(request.getfixturevalue("local_azure_service"), monkeypatch)


@pytest.fixture
def local_azure_faults(local_azure: LocalAzure) -> Iterator[Callable[..., Any]]:
    """Injects faults, as `local_azure_faults("requests", operation="create_job", status=503)`; reset after the test."""
    yield local_azure.faults
    local_azure.faults("reset")


def _started(config: pytest.Config) -> LocalAzure:
    from local_azure.embedded import LocalAzure

    return LocalAzure("--faults", *config.getini(_OPTIONS))


def _in_environment(azure: LocalAzure, monkeypatch: pytest.MonkeyPatch) -> LocalAzure:
    foreign = _ACCOUNTS + (_IDENTITIES if "IDENTITY_ENDPOINT" in azure.settings else ())
    for name in [name for name in os.environ if name.startswith(foreign)]:
        monkeypatch.delenv(name)  # else a client might combine a setting of a real account with ours
    for name, value in azure.settings.items():
        monkeypatch.setenv(name, value)
    return azure
