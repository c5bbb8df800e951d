"""Addresses of blobs that are inputs where they are, and the blobs found there, as values; imports no SDK."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote

from tasks.accounts.sources import SourceContainer, refuse_bad_sas
from tasks.errors import InputError
from tasks.inputs.globs import Glob

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*|\$root|\$web|\$logs|\$blobchangefeed")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_FORMS = "write https://<account>.blob.core.windows.net/<container>/<prefix> or az://<account>/<container>/<prefix>"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceBlob:
    """A blob that is an input where it is."""

    container: SourceContainer
    name: str
    size: int  # bytes
    md5: str  # hexadecimal; empty where the service has none
    etag: str
    modified: datetime
    archived: bool = False  # it cannot be read


@dataclass(frozen=True, kw_only=True)
class BlobAddress:
    """The address of a blob, of a folder of blobs, or a glob over the names of a container's blobs."""

    account: str
    endpoint: str  # of the account's blobs; empty with az://, where the run's accounts decide
    container: str
    glob: Glob
    sas: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Without the SAS."""
        base = self.endpoint or f"az://{self.account}"
        return f"{base}/{self.container}/{self.glob.text}".rstrip("/" if not self.glob.text else "")

    @classmethod
    def parse(cls, text: str, what: str = "input") -> BlobAddress:
        """Raises InputError for what is no address of blobs, and for a SAS that is not for reading alone.

        Messages begin with `what` it is the address of.
        In a URL, percent-encoded characters stand for themselves and are no wildcards; az:// takes names as they are.
        """
        scheme, rest = _scheme(text), text[text.index("://") + 3 :]
        rest, sas = _without_sas(rest)
        shown = f"{what} {scheme}://{rest}"
        if scheme == "az":
            account, _, path = rest.partition("/")
            endpoint = ""
        elif scheme in ("https", "http"):
            account, endpoint, path = _of_url(shown, scheme, rest)
        else:
            raise InputError(f"{shown}: {scheme}:// is no address of Blob Storage; {_FORMS}")
        if not _ACCOUNT.fullmatch(account):
            raise InputError(f"{shown}: {account!r} is not the name of a storage account; {_FORMS}")
        container, _, pattern = path.partition("/")
        if not _CONTAINER.fullmatch(container):
            raise InputError(
                f"{shown}: {container!r} is not the name of a container, which has 3 to 63 lower-case letters, "
                f"digits and single dashes; {_FORMS}"
            )
        address = cls(account=account, endpoint=endpoint, container=container, glob=Glob(pattern), sas=sas)
        if sas:
            refuse_bad_sas(str(address), sas)
        return address


def is_blob_address(entry: str) -> bool:
    return _SCHEME.match(entry) is not None


def _scheme(text: str) -> str:
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def _without_sas(text: str) -> tuple[str, str]:
    """The address and its SAS; any other question mark is a wildcard."""
    before, _, query = text.rpartition("?")
    if before and re.search(r"(?:^|&)sig=", query):
        return before, query
    return text, ""


def _of_url(shown: str, scheme: str, rest: str) -> tuple[str, str, str]:
    """The account, its endpoint and the path below it."""
    host, _, path = rest.partition("/")
    host = host.lower().replace(".dfs.", ".blob.")
    path = re.sub("(?:%[0-9A-Fa-f]{2})+", lambda match: glob.escape(unquote(match[0])), path)
    if not re.fullmatch(r"[a-z0-9.-]+(:\d+)?|\[[0-9a-f:]+\](:\d+)?", host):
        raise InputError(f"{shown}: {host!r} is no host; {_FORMS}")
    if ".blob." in host:
        return host.partition(".")[0].removesuffix("-secondary"), f"{scheme}://{host}", path
    if scheme == "https" and ":" not in host and not re.fullmatch(r"[0-9.]+", host):
        raise InputError(f"{shown}: {host!r} is not a host of Blob Storage; {_FORMS}")
    account, _, path = path.partition("/")  # as Azurite has it, and whatever else has one host for many accounts
    return account, f"{scheme}://{host}/{account}", path
