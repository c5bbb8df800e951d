"""Small blobs read without the SDK: which failures are tried again, and what the others say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from azure.storage.blob import ContainerClient

from tasks.accounts.clients import Azure
from tasks.accounts.whole_blobs import WholeBlobs
from tasks.errors.service import ServiceError
from tasks.run.identity import Role, Run
from tests.support.downloads import container, quick, run
from tests.support.fault_proxy import Call, FaultProxies, Mode, Passage

__all__ = ["container", "quick", "run"]  # fixtures

NAME = "records/ä b%2F~.json"


@pytest.fixture(autouse=True)
def blob(quick: None, container: ContainerClient) -> None:
    container.upload_blob(NAME, b"a record")


@contextmanager
def faulted(settings: dict[str, str], mode: Mode, times: int) -> Iterator[tuple[Azure, Passage]]:
    def decide(call: Call) -> Mode | None:
        return mode if call.occurrence <= times else None

    with FaultProxies() as proxies, proxies.passage(settings, decide) as passage:
        azure = Azure.from_environment(passage.settings)
        assert azure
        yield azure, passage


def read(azure: Azure, run: Run, blob: str = NAME) -> bytes:
    return WholeBlobs(azure, run.container(Role.OUTPUT)).read(blob)


@pytest.mark.parametrize("mode", Mode, ids=lambda mode: mode.name)
def test_an_answer_that_is_lost_or_false_is_asked_for_again(
    azure_settings: dict[str, str], run: Run, mode: Mode
) -> None:
    with faulted(azure_settings, mode, times=2) as (azure, passage):
        assert read(azure, run) == b"a record"
        assert len(passage.calls) == 3


@pytest.mark.parametrize(
    ("mode", "code", "text"),
    [
        (Mode.REFUSED, "ServerBusy", "Blob Storage answered 503 ServerBusy: "),
        (Mode.DROPPED, "NoAnswer", "no answer from the service: "),
        (Mode.HTML_200, "NoAnswer", "no answer from Blob Storage: "),
        (Mode.HTML_403, "NoAnswer", "answered GET with 403 text/html"),
    ],
)
def test_what_does_not_pass_is_transient_to_the_step(
    azure_settings: dict[str, str], run: Run, mode: Mode, code: str, text: str
) -> None:
    with faulted(azure_settings, mode, times=99) as (azure, passage):
        with pytest.raises(ServiceError) as error:
            read(azure, run)
        assert len(passage.calls) == 4
    assert (error.value.code, error.value.transient) == (code, True)
    assert text in str(error.value)
    assert "sig=" not in str(error.value)


def test_a_blob_or_container_that_is_not_there_has_its_own_code(
    azure: Azure, run: Run, container: ContainerClient
) -> None:
    with pytest.raises(ServiceError) as error:
        read(azure, run, "nothing")
    assert (error.value.code, error.value.transient) == ("BlobNotFound", False)
    assert str(error.value).startswith("Blob Storage answered 404 BlobNotFound: The specified blob does not exist.\n")
    with pytest.raises(ServiceError) as error:
        WholeBlobs(azure, "no-such-container").read(NAME)
    assert error.value.code == "ContainerNotFound"


def test_proxy_and_certificates_are_those_of_the_sdk(azure: Azure, run: Run) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
        assert read(azure, run) == b"a record"  # which has no TLS
        for name in ("no_proxy", "NO_PROXY"):
            environment.setenv(name, "")
        environment.setenv("http_proxy", "http://127.0.0.1:9")  # where nothing listens
        with pytest.raises(ServiceError, match=r"no answer from the service: .*port=9.*Connection refused"):
            read(azure, run)


def test_what_has_tls_needs_the_certificates_that_are_set(azure: Azure, run: Run) -> None:
    storage = replace(azure.storage_account, endpoint=azure.storage_account.endpoint.replace("http:", "https:"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
        with pytest.raises(OSError, match=r"invalid path: /no/such/file"):
            read(replace(azure, storage_account=storage), run)
