"""Blobs that are inputs where they are: listed, refused and read on Azurite."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from azure.storage.blob import (
    ContainerClient,
    ContainerSasPermissions,
    ExponentialRetry,
    PublicAccess,
    StandardBlobTier,
    UserDelegationKey,
    generate_blob_sas,
    generate_container_sas,
)

from tasks.accounts.clients import Azure
from tasks.accounts.parallel import in_parallel
from tasks.accounts.sas import Signer
from tasks.errors import InputError
from tasks.inputs.addresses import SourceBlob
from tasks.inputs.blobs import all_inputs
from tasks.inputs.files import InputFile, find_inputs
from tasks.inputs.names import blob_name, original
from tests.support.awkward_names import AWKWARD_NAMES

IN_AN_HOUR = datetime.now(timezone.utc) + timedelta(hours=1)
NAMES = ["a.txt", "b.log", "x/a.txt", "x/y/a.txt", "x/y/b.log", "x.txt", "x y/ü?#%41.txt", "br[1]", "br1"]


@pytest.fixture
def container(azure: Azure) -> Iterator[ContainerClient]:
    with azure.blobs() as blobs:
        container = blobs.create_container(f"source-{secrets.token_hex(6)}")
        yield container
        container.delete_container()


@pytest.fixture
def filled(container: ContainerClient) -> ContainerClient:
    for name in NAMES:
        container.upload_blob(name, f"the text of {name}")
    return container


def inputs_of(azure: Azure, *inputs: str) -> list[InputFile]:
    return all_inputs(azure, find_inputs(inputs), IN_AN_HOUR)


def az(container: ContainerClient, path: str = "") -> str:
    return f"az://{container.account_name}/{container.container_name}/{path}"


def sas(azure: Azure, container: ContainerClient, *, key: str = "", permissions: str = "rl", hours: float = 2) -> str:
    account = azure.storage_account
    return generate_container_sas(
        account.name,
        container.container_name,
        account_key=key or account.key.get_secret_value(),
        permission=ContainerSasPermissions.from_string(permissions),
        expiry=datetime.now(timezone.utc) + timedelta(hours=hours),
    )


def refusal(azure: Azure, *inputs: str) -> str:
    with pytest.raises(InputError) as error:
        inputs_of(azure, *inputs)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "blobs", "names"),
    [
        ("", NAMES, NAMES),
        ("x/", ["x/a.txt", "x/y/a.txt", "x/y/b.log"], ["a.txt", "y/a.txt", "y/b.log"]),
        ("x", ["x/a.txt", "x/y/a.txt", "x/y/b.log"], ["a.txt", "y/a.txt", "y/b.log"]),
        ("x/y/a.txt", ["x/y/a.txt"], ["a.txt"]),
        ("*.txt", ["a.txt", "x.txt"], ["a.txt", "x.txt"]),
        ("**/*.log", ["b.log", "x/y/b.log"], ["b.log", "x/y/b.log"]),
        ("x/**/a.txt", ["x/a.txt", "x/y/a.txt"], ["a.txt", "y/a.txt"]),
        ("x/y/*", ["x/y/a.txt", "x/y/b.log"], ["a.txt", "b.log"]),
        ("x y/ü?#%41.txt", ["x y/ü?#%41.txt"], ["ü?#%41.txt"]),
        ("br[1]", ["br[1]"], ["br[1]"]),  # the blob of that name rather than what matches
        ("br[12]", ["br1"], ["br1"]),
    ],
)
def test_folders_globs_and_names_stand_for_blobs(
    azure: Azure, filled: ContainerClient, path: str, blobs: list[str], names: list[str]
) -> None:
    found = inputs_of(azure, az(filled, path))
    assert sorted(file.name for file in found) == sorted(names)
    assert sorted(file.source.name for file in found) == sorted(blobs)


def test_a_blob_is_known_with_size_md5_etag_and_time(azure: Azure, filled: ContainerClient) -> None:
    expected = filled.get_blob_client("x/a.txt").get_blob_properties()
    (listed,) = inputs_of(azure, az(filled, "x/*.txt"))
    (named,) = inputs_of(azure, az(filled, "x/a.txt"))
    assert named == listed
    blob = named.source
    assert isinstance(blob, SourceBlob)
    assert (named.size, blob.size, named.task_id) == (19, 19, "topNtask0")
    assert bytes.fromhex(blob.md5) == bytes(expected.content_settings.content_md5 or b"")
    assert (blob.etag, blob.modified) == (expected.etag.strip('"'), expected.last_modified)


def test_a_copied_url_names_its_blob(azure: Azure, filled: ContainerClient) -> None:
    url = filled.get_blob_client("x y/ü?#%41.txt").url
    assert [file.source.name for file in inputs_of(azure, url)] == ["x y/ü?#%41.txt"]
    assert [file.source.name for file in inputs_of(azure, f"{filled.url}/br%5B1%5D")] == ["br[1]"]
    assert len(inputs_of(azure, f"{filled.url}/*.txt")) == 2


def test_a_blob_and_a_folder_of_one_name_are_told_apart(azure: Azure, container: ContainerClient) -> None:
    for name in ("a", "a/b", "a/"):
        container.upload_blob(name, b"x")
    assert [file.source.name for file in inputs_of(azure, az(container, "a"))] == ["a"]
    assert {file.source.name: file.name for file in inputs_of(azure, az(container, "a/"))} == {"a/b": "a/b", "a/": "a/"}


def test_folders_of_an_account_with_folders_are_no_inputs(azure: Azure, container: ContainerClient) -> None:
    for folder in ("logs", "logs/empty"):
        container.upload_blob(folder, b"", metadata={"hdi_isfolder": "true"})
    container.upload_blob("made-by-a-tool/", b"")
    container.upload_blob("logs/a.txt", b"")
    for path in ("logs", "logs/", "", "**", "lo*/**"):
        assert [file.source.name for file in inputs_of(azure, az(container, path))] == ["logs/a.txt"]
    assert "there is no such blob, and no folder" in refusal(azure, az(container, "logs/empty"))


def test_names_are_below_the_folder_that_all_addresses_share(azure: Azure, filled: ContainerClient) -> None:
    found = inputs_of(azure, az(filled, "x/y/*.txt"), az(filled, "x/a.txt"), az(filled, "x/**"))
    assert [file.name for file in found] == ["y/a.txt", "a.txt", "y/b.log"]
    assert [file.task_id for file in found] == ["topNtask0", "topNtask1", "topNtask2"]


def test_names_of_two_containers_begin_with_the_containers(azure: Azure, filled: ContainerClient) -> None:
    with azure.blobs() as blobs:
        other = blobs.create_container(filled.container_name + "-2")
        other.upload_blob("a.txt", b"")
        found = inputs_of(azure, az(filled, "a.txt"), az(other, "a.txt"))
        other.delete_container()
    assert [file.name for file in found] == [f"{filled.container_name}/a.txt", f"{other.container_name}/a.txt"]


def test_a_blob_named_like_a_file_gets_its_whole_path(
    azure: Azure, filled: ContainerClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    (folder / "a.txt").touch()
    found = inputs_of(azure, str(folder), az(filled, "x/y/"))
    begin = f"{filled.account_name}/{filled.container_name}/x/y"
    assert [file.name for file in found] == ["a.txt", f"{begin}/a.txt", f"{begin}/b.log"]
    assert [file.task_id for file in found] == ["topNtask0", "topNtask1", "topNtask2"]


def test_every_awkward_name_comes_back_from_its_blob(azure: Azure, container: ContainerClient) -> None:
    in_parallel(
        lambda name: container.upload_blob(blob_name(name), name.encode(errors="surrogateescape")), AWKWARD_NAMES
    )
    found = inputs_of(azure, az(container))
    assert sorted(original(file.source.name) for file in found) == sorted(AWKWARD_NAMES)
    signer = Signer(azure, IN_AN_HOUR)
    for file in found[::3]:
        with urlopen(signer.source_url(file.source.container, file.source.name)) as response:
            assert response.read().decode(errors="surrogateescape") == original(file.source.name)


def test_blobs_are_listed_page_by_page(
    azure: Azure, container: ContainerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parallel(lambda index: container.upload_blob(f"{index:05}", b""), range(500))
    monkeypatch.setattr("tasks.inputs.blobs._PAGE", 200)
    assert [file.name for file in inputs_of(azure, az(container))] == [f"{index:05}" for index in range(500)]
    monkeypatch.setattr("tasks.inputs.files.MOST_FILES", 300)
    assert refusal(azure, az(container)).startswith("301 inputs are more than the 300 of one run")


def test_a_signed_url_reads_one_blob_with_the_key(azure: Azure, filled: ContainerClient) -> None:
    (file,) = inputs_of(azure, az(filled, "x y/*"))
    url = Signer(azure, IN_AN_HOUR).source_url(file.source.container, file.source.name)
    assert urlopen(url).read().decode() == f"the text of {file.source.name}"
    with pytest.raises(HTTPError) as error:
        urlopen(url.replace("x%20y", "x"))
    assert error.value.code == 403


def test_the_sas_of_an_address_lists_and_reads(azure: Azure, filled: ContainerClient) -> None:
    token = sas(azure, filled)
    found = inputs_of(azure, f"{filled.url}/x/**?{token}")
    assert [file.name for file in found] == ["a.txt", "y/a.txt", "y/b.log"]
    url = Signer(azure, IN_AN_HOUR).source_url(found[0].source.container, found[0].source.name)
    assert url == f"{filled.url}/x/a.txt?{token}"
    assert urlopen(url).read() == b"the text of x/a.txt"
    assert token not in repr(found)


def test_a_sas_to_read_alone_is_enough_for_one_blob(azure: Azure, filled: ContainerClient) -> None:
    token = sas(azure, filled, permissions="r")
    assert [file.name for file in inputs_of(azure, f"{filled.url}/x/a.txt?{token}")] == ["a.txt"]
    assert "its SAS does not permit to list" in refusal(azure, f"{filled.url}/x?{token}")
    assert "its SAS does not permit to list" in refusal(azure, f"{filled.url}/x/*?{token}")


def test_a_public_container_of_another_account_needs_nothing(azure: Azure, container: ContainerClient) -> None:
    container.set_container_access_policy({}, public_access=PublicAccess.CONTAINER)
    container.upload_blob("a.txt", b"public")
    address = f"{container.url}/".replace("127.0.0.1", "localhost")
    (file,) = inputs_of(azure, address)
    url = Signer(azure, IN_AN_HOUR).source_url(file.source.container, file.source.name)
    assert (url, urlopen(url).read()) == (f"{address}a.txt", b"public")


def test_the_signing_key_of_azurite_alone_permits_nothing(azure: Azure, filled: ContainerClient) -> None:
    """Azurite derives user delegation keys from a seed in its source, which any user of this machine can read."""
    key = UserDelegationKey()
    key.signed_oid, key.signed_tid, key.signed_service, key.signed_version = "o", "t", "b", "2020-10-02"
    key.signed_start, key.signed_expiry = "2020-01-01T00:00:00Z", f"{IN_AN_HOUR:%Y-%m-%dT%H:%M:%SZ}"
    parts = (key.signed_oid, key.signed_tid, key.signed_start, key.signed_expiry, "b", key.signed_version)
    seed = b"azurite-user-delegation-signing-seed-v1"
    key.value = base64.b64encode(hmac.digest(seed, "\n".join(parts).encode(), "sha256")).decode()
    name, container = filled.account_name, filled.container_name
    assert name
    forged = generate_blob_sas(name, container, "a.txt", permission="r", expiry=IN_AN_HOUR, user_delegation_key=key)
    with pytest.raises(HTTPError) as error:
        urlopen(f"{filled.url}/a.txt?{forged}")
    assert error.value.code == 403


def test_what_cannot_be_listed_is_refused_with_the_fix(azure: Azure, filled: ContainerClient) -> None:
    other_key = base64.b64encode(b"another key").decode()
    refused = {
        az(filled, "no.txt"): "there is no such blob, and no folder of that name with blobs in it",
        az(filled, "no/"): "there are no blobs in it",
        az(filled, "*.no"): "no blob matches",
        f"az://{filled.account_name}/no-such-container/x": "there is no container 'no-such-container' in the account",
        f"{filled.url}/x/".replace("127.0.0.1", "localhost"): "put a SAS that permits to read and list (sp=rl)",
        f"{filled.url}/x/?{sas(azure, filled, key=other_key)}": "; make a new SAS with sp=rl for this container",
        f"{filled.url}/x?{sas(azure, filled, key=other_key)}": "; make a new SAS with sp=rl for this container",
        f"{filled.url}/x/?{sas(azure, filled, hours=-1)}": "its SAS expired at",
        f"{filled.url}/x/?{sas(azure, filled, hours=0.5)}": "but the run may last until",
        f"{filled.url}/x/?{sas(azure, filled, permissions='rwl')}": "make one that permits to read and list alone",
    }
    for address, reason in refused.items():
        message = refusal(azure, address)
        assert message.startswith(f"input {address.partition('?')[0]}: ")
        assert reason in message
        assert "sig=" not in message


def test_an_account_that_does_not_exist_is_refused(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.accounts.clients.ExponentialRetry", lambda **_: ExponentialRetry(retry_total=0))
    message = refusal(azure, "https://nosuchaccount.blob.invalid/container/x")
    assert message.startswith(
        "input https://nosuchaccount.blob.invalid/container/x: https://nosuchaccount.blob.invalid "
    )
    assert "does not answer; check the name of the account and the network" in message


def test_a_blob_in_the_archive_is_refused(azure: Azure, filled: ContainerClient) -> None:
    filled.get_blob_client("a.txt").set_standard_blob_tier(StandardBlobTier.ARCHIVE)
    for path in ("", "a.txt"):
        assert f"{filled.container_name}/a.txt: the blob is in the archive tier" in refusal(azure, az(filled, path))
    assert len(inputs_of(azure, az(filled, "x/**"))) == 3
