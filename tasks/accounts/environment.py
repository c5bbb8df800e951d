"""The settings that name the accounts, as values: the same for the environment and for a Prefect block.

Imports neither Prefect nor an SDK, so that a command can refuse wrong settings at once.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic import SecretStr

from tasks.accounts.clouds import Cloud, cloud_of
from tasks.errors import InputError

BATCH_SETTINGS = ("AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ENDPOINT", "AZURE_BATCH_ACCESS_KEY")
STORAGE_SETTINGS = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY")
BLOB_ENDPOINT = "AZURE_STORAGE_SERVICE_ENDPOINT"  # as in `az storage blob --blob-endpoint`
_SAS_TOKEN = "AZURE_STORAGE_SAS_TOKEN"
_READ = (*BATCH_SETTINGS, *STORAGE_SETTINGS, BLOB_ENDPOINT, _SAS_TOKEN)
# Set for `az` or for other programs; they name no account, so a run need not know them.
_OTHERS = {"AZURE_STORAGE_AUTH_MODE", "AZURE_STORAGE_CONTAINER", "AZURE_STORAGE_CONTAINER_NAME"}
_PREFIXES = ("AZURE_BATCH_", "AZURE_STORAGE_")
_SLIP = 0.93  # similarity from which a name outside those prefixes is a misspelled setting, as AZURE_BACTH_ACCOUNT is
_ACCOUNT_NAME = r"[a-z0-9]{3,24}"
_LOCAL = "unset all AZURE_BATCH_* and AZURE_STORAGE_* to run on the embedded local Azure"


@dataclass(frozen=True, kw_only=True)
class StorageAccount:
    """A storage account: its name, its blob endpoint, and its key unless Entra ID signs."""

    name: str
    endpoint: str
    key: SecretStr | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class BatchAccount:
    """A Batch account: its name, its endpoint, and its key unless Entra ID signs."""

    name: str
    endpoint: str
    key: SecretStr | None = field(default=None, repr=False)


def accounts_in(environment: Mapping[str, str]) -> tuple[BatchAccount, StorageAccount] | None:
    """The accounts that `az` and the SDKs would use; None where nothing at all is set.

    Raises InputError for a misspelled setting, a value that cannot be right, and where only part of the settings is
    there: a run never falls back to another place.
    """
    given = settings_in(environment)
    if not given:
        return None
    batch = _batch_account(given)
    return batch, _storage_account(given, cloud_of(batch.endpoint))


def settings_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that are set, without quotes. Raises InputError if they name only a part of the accounts."""
    refuse_unknown_settings(environment)
    given = {name: value for name in _READ if (value := _unquoted(name, environment.get(name, "")))}
    if not given:
        return {}
    if "." in given.get("AZURE_BATCH_ACCOUNT", ""):  # a URL or a host name, and so the endpoint too
        given.setdefault("AZURE_BATCH_ENDPOINT", given["AZURE_BATCH_ACCOUNT"])
    _refuse_a_lone_token(given)
    _refuse_a_part(given)
    return given


def refuse_unknown_settings(names: Iterable[str]) -> None:
    """Raises InputError for a name that looks like one of the settings and is none, with the nearest one."""
    for name in sorted(names):
        spelled = name.upper()
        if name in _READ or spelled in _OTHERS or not spelled.startswith("AZ"):
            continue
        nearest = _nearest(spelled)
        if spelled.startswith(_PREFIXES) or _similarity(spelled, nearest) >= _SLIP:
            raise InputError(f"{name} is not a setting of this program; did you mean {nearest}? Rename or unset it")


def _nearest(name: str) -> str:
    """The setting that was probably meant; a key is never taken for an account, whatever else is alike."""
    name = name.replace("_URL", "_ENDPOINT").replace("_NAME", "")
    last = name.rsplit("_", 1)[-1]
    alike = [known for known in _READ if known.endswith(f"_{last}") and known.startswith(name[:8])]
    return max(alike or _READ, key=lambda known: _similarity(name, known))


def _similarity(name: str, known: str) -> float:
    return difflib.SequenceMatcher(None, name, known).ratio()


def _unquoted(setting: str, value: str) -> str:
    """The value without the quotes that a shell would take away and an env file of Docker keeps."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1].strip()
    if value[:1] in ("'", '"') or value[-1:] in ("'", '"'):
        raise InputError(f"the value of {setting} begins or ends with a quote; write it without quotes")
    return value


def _refuse_a_lone_token(given: Mapping[str, str]) -> None:
    if _SAS_TOKEN in given and not {"AZURE_STORAGE_KEY", "AZURE_STORAGE_CONNECTION_STRING"} & given.keys():
        raise InputError(
            f"{_SAS_TOKEN} is set without an account key, and a SAS token cannot sign the SAS URLs that the Batch "
            f"tasks need; set AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_KEY, or unset {_SAS_TOKEN} and sign in "
            "with Entra ID"
        )


def _refuse_a_part(given: Mapping[str, str]) -> None:
    missing = [name for name in BATCH_SETTINGS[:2] if name not in given]
    if not {"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT"} & given.keys():
        only_key = "AZURE_STORAGE_KEY" in given
        missing.append("AZURE_STORAGE_ACCOUNT" if only_key else "AZURE_STORAGE_CONNECTION_STRING")
        missing[-1] += "" if only_key else " (or AZURE_STORAGE_ACCOUNT)"
    if missing:
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise InputError(
            f"{_listed(missing)} {verb} not set, but {', '.join(given)} {'is' if len(given) == 1 else 'are'}: "
            f"a run needs a Batch account and a storage account. Set {them} too, or {_LOCAL}"
        )


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _batch_account(given: Mapping[str, str]) -> BatchAccount:
    key = given.get("AZURE_BATCH_ACCESS_KEY", "")
    endpoint = _url("AZURE_BATCH_ENDPOINT", given["AZURE_BATCH_ENDPOINT"], "https://<account>.<region>.batch.azure.com")
    if not key and endpoint.startswith("http:"):
        raise InputError(
            f"AZURE_BATCH_ENDPOINT is {endpoint}, and no Entra ID token is ever sent over plain http; "
            "set AZURE_BATCH_ACCESS_KEY, or use the https endpoint"
        )
    name, _ = _name_and_host("AZURE_BATCH_ACCOUNT", given["AZURE_BATCH_ACCOUNT"], ".batch.")
    return BatchAccount(name=name, endpoint=endpoint, key=_key("AZURE_BATCH_ACCESS_KEY", key))


def _storage_account(given: Mapping[str, str], cloud: Cloud) -> StorageAccount:
    if connection_string := given.get("AZURE_STORAGE_CONNECTION_STRING"):
        return _from_connection_string(connection_string)
    name, host = _name_and_host("AZURE_STORAGE_ACCOUNT", given["AZURE_STORAGE_ACCOUNT"], ".blob.")
    endpoint = given.get(BLOB_ENDPOINT) or (host if "." in host else f"{name}.{cloud.blobs}")
    return StorageAccount(
        name=name,
        endpoint=_url(BLOB_ENDPOINT, endpoint, f"https://<account>.{cloud.blobs}"),
        key=_key("AZURE_STORAGE_KEY", given.get("AZURE_STORAGE_KEY", "")),
    )


def _name_and_host(setting: str, value: str, service: str) -> tuple[str, str]:
    """The account's name, also of its URL or host name, since those of Azure begin with it; and the host."""
    try:
        host = urlsplit(value if "://" in value else f"https://{value}").hostname or ""
    except ValueError:
        host = ""
    name = host.split(".")[0] if service in host else host
    if not re.fullmatch(_ACCOUNT_NAME, name):
        raise InputError(
            f"{setting} is {_shown(value)}, which is not an account name; a name has 3 to 24 lowercase letters and "
            "digits"
        )
    return name, host


def _shown(value: str) -> str:
    """The value for a message, unless it is so long that it may be a key in the wrong place."""
    return repr(value) if len(value) <= 64 or "://" in value else f"a text of {len(value)} characters"


def _from_connection_string(connection_string: str) -> StorageAccount:
    from azure.storage.blob import BlobServiceClient  # slow to import, and needed for nothing else here

    try:
        client = BlobServiceClient.from_connection_string(connection_string)
    except ValueError:  # its message may quote the string, and so the key
        raise InputError(
            "AZURE_STORAGE_CONNECTION_STRING is not a connection string; copy it from "
            "`az storage account show-connection-string --name <account>`"
        ) from None
    key = getattr(client.credential, "account_key", None)
    if not key or not client.account_name:
        raise InputError(
            "AZURE_STORAGE_CONNECTION_STRING has no AccountKey, without which no SAS URL can be signed; use the "
            "connection string with the key, or AZURE_STORAGE_ACCOUNT alone to sign with Entra ID"
        )
    secret = _key("AZURE_STORAGE_CONNECTION_STRING", key)
    return StorageAccount(name=client.account_name, endpoint=client.url.rstrip("/"), key=secret)


def _key(setting: str, value: str) -> SecretStr | None:
    try:
        base64.b64decode(value, validate=True)
    except ValueError:  # the value itself is not shown: it may be a key with a slip of the keyboard
        raise InputError(
            f"{setting} holds no account key: a key is base64; copy it again from the portal or `az`"
        ) from None
    return SecretStr(value) if value else None


def _url(setting: str, value: str, example: str) -> str:
    url = value if "://" in value else f"https://{value}"  # `az batch account show` gives the bare host name
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and re.fullmatch(r"[\w.:-]+", parts.hostname or "") and parts.port != 0
    except ValueError:  # such as a port that is no number
        good = False
    if not good:
        raise InputError(f"{setting} is {_shown(value)}, which is no URL; it looks like {example}")
    return url.rstrip("/")
