"""Lists the blobs that are inputs where they are; what cannot be read is refused before anything is created."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import takewhile
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError, ServiceRequestError
from azure.storage.blob import BlobProperties, ContainerClient

from tasks.accounts.access import no_token
from tasks.accounts.clients import Access, Azure
from tasks.accounts.parallel import in_parallel
from tasks.accounts.sources import SourceContainer, refuse_bad_sas, sas_permissions
from tasks.errors import InputError
from tasks.errors.advice import help_against
from tasks.errors.code_table import INPUT
from tasks.errors.codes import NOT_PUBLIC, Code, Service, Where
from tasks.errors.secrets import without_secrets
from tasks.errors.service import error_code, is_no_token
from tasks.inputs.addresses import BlobAddress, SourceBlob
from tasks.inputs.files import Found, InputFile, refuse_too_many, task_id

_PAGE = 5_000  # blobs, the most that the service lists at once
_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_FOLDER = "hdi_isfolder"  # the metadata of a folder, in accounts that have folders
_ARCHIVE = "Archive"
_SAS = "put a SAS that permits to read and list (sp=rl) at the end of the address"
_ADVICE = {
    Access.SAS: "make a new SAS with sp=rl for this container, with a key of this account",
    Access.KEY: "check the account's key and its firewall",
    Access.ENTRA_ID: "give the signed-in identity the role Storage Blob Data Reader on the container, check the "
    f"account's firewall, or {_SAS}",
}


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """The blobs of one address, and the folder below which their names begin, with a slash at its end."""

    folder: str
    blobs: list[SourceBlob]


def all_inputs(azure: Azure, found: Found, until: datetime) -> list[InputFile]:
    """The files and, after them, the blobs that the inputs name, each once; `until` is the end of the run.

    Blobs have the path below their common folder as their name, or, where a file has that name, the path with account
    and container. Raises InputError, naming the address and the fix, for one without blobs, one that cannot be listed
    or read, and a SAS that ends before the run.
    """
    if not found.addresses:
        return list(found.files)
    listed = _list_all(azure, found.addresses, until)
    _refuse_archived(listed)
    blobs = {(blob.container.endpoint, blob.container.name, blob.name): blob for each in listed for blob in each.blobs}
    names = _names(listed, list(blobs.values()), {file.name for file in found.files})
    first = len(found.files)
    files = [
        InputFile(name=name, size=blob.size, source=blob, task_id=task_id(index))
        for index, (name, blob) in enumerate(zip(names, blobs.values(), strict=True), start=first)
    ]
    refuse_too_many(first + len(files))
    return [*found.files, *files]


def _list_all(azure: Azure, addresses: Sequence[BlobAddress], until: datetime) -> list[_Listed]:
    with ExitStack() as stack:
        clients: dict[SourceContainer, ContainerClient] = {}

        def client_of(address: BlobAddress) -> tuple[SourceContainer, ContainerClient]:
            endpoint = address.endpoint or azure.blob_endpoint_of(address.account)
            source = SourceContainer(endpoint=endpoint, name=address.container, sas=address.sas)
            if source not in clients:
                clients[source] = stack.enter_context(azure.source(source))
            return source, clients[source]

        def list_one(work: tuple[BlobAddress, SourceContainer, ContainerClient]) -> _Listed:
            address, source, client = work
            if source.sas:
                refuse_bad_sas(str(address), source.sas, until)
            with _explained(address, source, azure.access_to(source)):
                return _list(client, address, source)

        return in_parallel(list_one, [(address, *client_of(address)) for address in addresses])


def _list(client: ContainerClient, address: BlobAddress, source: SourceContainer) -> _Listed:
    pattern = address.glob
    prefix = pattern.prefix
    if pattern.is_plain and prefix and not prefix.endswith("/"):
        for name in dict.fromkeys((pattern.text, prefix)):  # a[1] may be the name of a blob, or a glob for a1
            if blob := _blob(client, source, name):
                return _Listed(folder=_folder_of(name), blobs=[blob])
        prefix += "/"
    if source.sas and "l" not in sas_permissions(source.sas):
        no_blob = "there is no blob of that name, and " if pattern.is_plain else ""
        raise InputError(
            f"input {address}: {no_blob}its SAS does not permit to list; make one that permits to read and list (sp=rl)"
        )
    blobs: list[SourceBlob] = []
    for blob in _blobs_below(client, source, prefix):
        if blob.name == pattern.text and not pattern.is_plain:  # what looks like a glob is a name if there is one
            return _Listed(folder=_folder_of(blob.name), blobs=[blob])
        if pattern.is_plain or pattern.matches(blob.name):
            blobs.append(blob)
            refuse_too_many(len(blobs))
    if not blobs:
        raise InputError(_without_blobs(address))
    return _Listed(folder=prefix if pattern.is_plain else pattern.folder, blobs=blobs)


def _folder_of(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _without_blobs(address: BlobAddress) -> str:
    if not address.glob.is_plain:
        return f"input {address}: no blob matches; check the spelling, write ** for folders in folders and [[] for a ["
    if address.glob.text.endswith("/") or not address.glob.text:
        return f"input {address}: there are no blobs in it; check the spelling"
    return (
        f"input {address}: there is no such blob, and no folder of that name with blobs in it; check the spelling, and "
        "write a * at the end for all blobs whose names begin so"
    )


def _blob(client: ContainerClient, source: SourceContainer, name: str) -> SourceBlob | None:
    """The blob of exactly that name, if there is one."""
    try:
        found: BlobProperties = client.get_blob_client(name).get_blob_properties()
    except ResourceNotFoundError as error:
        if error_code(error) == Code.BLOB_NOT_FOUND:
            return None
        raise
    if (found.metadata or {}).get(_FOLDER) == "true":
        return None
    return SourceBlob(
        container=source,
        name=name,
        size=found.size,
        md5=bytes(found.content_settings.content_md5 or b"").hex(),
        etag=found.etag.strip('"'),
        modified=found.last_modified,
        archived=found.blob_tier == _ARCHIVE,
    )


def _blobs_below(client: ContainerClient, source: SourceContainer, prefix: str) -> Iterator[SourceBlob]:
    """The blobs whose names begin so, without what stands for a folder.

    The SDK would make an object with dozens of attributes of each blob, which takes most of the time.
    """
    page: list[SourceBlob] = []

    def read(response: Any) -> None:
        page.clear()
        if response.http_response.status_code == HTTPStatus.OK:
            root = ElementTree.fromstring(response.http_response.body())
            page.extend(_parsed(item, source) for item in root.iterfind("Blobs/Blob") if not _is_folder(item))

    names = client.list_blob_names(
        name_starts_with=prefix, include=["metadata"], results_per_page=_PAGE, raw_response_hook=read
    )
    for _ in names.by_page():
        yield from page


def _is_folder(item: ElementTree.Element) -> bool:
    """A blob that only makes a folder visible: marked in its metadata, or empty with a slash at its end."""
    if item.findtext(f"Metadata/{_FOLDER}") == "true":
        return True
    return (item.findtext("Name") or "").endswith("/") and item.findtext("Properties/Content-Length") == "0"


def _parsed(item: ElementTree.Element, source: SourceContainer) -> SourceBlob:
    name = item.findtext("Name") or ""
    if (node := item.find("Name")) is not None and node.get("Encoded") == "true":  # it has what XML cannot have
        name = unquote(name)
    properties = {each.tag: each.text or "" for each in item.iterfind("Properties/*")}
    return SourceBlob(
        container=source,
        name=name,
        size=int(properties["Content-Length"]),
        md5=base64.b64decode(properties.get("Content-MD5", "")).hex(),
        etag=properties["Etag"].strip('"'),
        modified=parsedate_to_datetime(properties["Last-Modified"]),
        archived=properties.get("AccessTier") == _ARCHIVE,
    )


def _refuse_archived(listed: Sequence[_Listed]) -> None:
    for blob in (blob for each in listed for blob in each.blobs if blob.archived):
        raise InputError(
            f"input {blob.container.endpoint}/{blob.container.name}/{blob.name}: the blob is in the archive tier and "
            "cannot be read; set its tier to Hot, Cool or Cold and wait until it is there"
        )


def _names(listed: Sequence[_Listed], blobs: Sequence[SourceBlob], taken: Set[str]) -> list[str]:
    """The names of the blobs as inputs, in their order."""
    folders = [_path(blob, each.folder).split("/")[:-1] for each in listed for blob in each.blobs[:1]]
    columns = takewhile(lambda segments: len(set(segments)) == 1, zip(*folders, strict=False))
    common = [segments[0] for segments in columns]
    paths = [_path(blob, blob.name) for blob in blobs]
    names = [_below(common, path) for path in paths]
    if "" in names:  # a blob that is named like its folder, with the slash
        names = [_below(common[:-1], path) for path in paths]
    if not taken.isdisjoint(names):
        names = paths
    if len({*taken, *names}) < len(taken) + len(names):
        both = next(name for name in names if name in taken or names.count(name) > 1)
        raise InputError(f"two inputs would both have the name {both!r}; run them separately")
    return names


def _below(folder: Sequence[str], path: str) -> str:
    return path[sum(len(segment) + 1 for segment in folder) :]


def _path(blob: SourceBlob, path: str) -> str:
    return f"{blob.container.account}/{blob.container.name}/{path}"


@contextmanager
def _explained(address: BlobAddress, source: SourceContainer, access: Access) -> Iterator[None]:
    """Name the address and the fix where the service does not let the blobs be listed."""
    try:
        yield
    except ServiceRequestError as error:
        raise InputError(
            f"input {address}: {source.endpoint} does not answer; check the name of the account and the network "
            f"({without_secrets(str(error.message))})"
        ) from None
    except HttpResponseError as error:
        if is_no_token(error) and (reason := no_token(f"input {address}", error)):
            raise InputError(reason) from None
        code = error_code(error)
        if code == Code.CONTAINER_NOT_FOUND:
            raise InputError(
                f"input {address}: there is no container {source.name!r} in the account {source.account}; "
                f"{_help(code, source)}"
            ) from None
        if error.status_code in _REFUSED or (access is Access.PUBLIC and code in NOT_PUBLIC):
            helps = _ADVICE.get(access) or _of_others(code, source)
            raise InputError(f"input {address}: listing or reading is refused ({code}); {helps}") from None
        raise


def _of_others(code: str, source: SourceContainer) -> str:
    helps = _help(code if code == Code.RESOURCE_NOT_FOUND else Code.PUBLIC_ACCESS_NOT_PERMITTED, source)
    return (
        "it is not in the run's own account, and its container is not public: where the account is one of Azure's, run "
        f"with Entra ID instead of an account key, or {helps}"
    )


def _help(code: str, source: SourceContainer) -> str:
    names = {"account": source.account, "container": source.name}
    return help_against(Service.STORAGE, Where.REQUEST, code, names, INPUT)
