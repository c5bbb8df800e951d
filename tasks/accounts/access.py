"""Asks both accounts for what a run will need of them, and explains a refusal.

Which account, which identity, what it means, and the command that helps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from azure.batch import BatchClient
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from azure.storage.blob import BlobServiceClient

from tasks.accounts.claims import Identity
from tasks.accounts.clients import Azure
from tasks.accounts.identity import described, signer
from tasks.accounts.sas import CLOCKS_APART, delegation
from tasks.errors import InputError
from tasks.errors.advice import ENTRA_ID_CODE, help_of, known, why_no_token
from tasks.errors.code_table import CLOCK, DELEGATION
from tasks.errors.codes import Code, Known, Reaction, Service, Where
from tasks.errors.service import NO_TOKEN_HELPS, details_of, error_code, is_no_token, text_of

_UNKNOWN_HOST = re.compile("NameResolutionError|Failed to resolve|getaddrinfo|Name or service not known", re.IGNORECASE)
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_KINDS = {Service.BATCH: "the Batch account", Service.STORAGE: "the storage account"}


def ask_batch(batch: BatchClient) -> None:
    """Read pools and jobs, which is all that can be asked of the account without changing it."""
    next(iter(batch.list_pools(select=["id"])), None)
    next(iter(batch.list_jobs(select=["id"])), None)


def ask_storage(azure: Azure, blobs: BlobServiceClient) -> None:
    """List containers and, without a key, get what signs SAS, unless none are made."""
    next(blobs.list_containers(results_per_page=1).by_page(), None)
    if azure.storage_account.key is None and not azure.node_identity:
        with explained(azure, Service.STORAGE, DELEGATION):
            delegation(blobs, datetime.now(timezone.utc) + timedelta(hours=1))


@contextmanager
def explained(
    azure: Azure,
    service: Service,
    asked_for: str = "",
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
) -> Iterator[None]:
    """Raise InputError, with the command that helps, where the service refuses with a code that is known for that.

    Others pass as they are.
    """
    try:
        yield
    except HttpResponseError as error:
        if is_no_token(error):
            reason = no_token(f"{_KINDS[service]} {_account(azure, service)[0]}", error)
        else:
            reason = _refusal(azure, service, error, asked_for, now())
        if not reason:
            raise
        raise InputError(reason) from None
    except ServiceRequestError as error:
        if not _UNKNOWN_HOST.search(str(error)):
            raise
        name, endpoint = _account(azure, service)
        entry = known(service, Where.REQUEST, Code.HOST_NOT_FOUND)
        assert entry
        lines = [f"{_KINDS[service]} {name} at {endpoint}: {entry.meaning}", help_of(entry, {"account": name})]
        raise InputError("\n  ".join([*lines, f"there was no response: {entry.code}"])) from None


def _refusal(azure: Azure, service: Service, error: HttpResponseError, asked_for: str, now: datetime) -> str:
    """The refusal of a service, explained; nothing where its code is not known for one."""
    code = error_code(error)
    response: Any = error.response
    headers = response.headers if response is not None else {}
    apart = _apart(headers.get("Date", ""), now)
    texts = [text_of(error), *(value for _, value in details_of(error)), asked_for, CLOCK if apart else ""]
    entry = known(service, Where.REQUEST, code, " ".join(texts))
    if entry is None or not _is_refusal(entry, error):
        return ""
    name, _ = _account(azure, service)
    who = signer(azure, azure.batch_account if service is Service.BATCH else azure.storage_account)
    tenant = _GUID.search(headers.get("WWW-Authenticate", ""))
    names = _names(azure, service, who or Identity())
    names["tenant"] = tenant[0] if tenant else ""
    request = headers.get(service.request_id, "unknown")
    answered = f"{service.value} answered {error.status_code}, request id {request}: {code}"
    return "\n  ".join(
        [f"{_KINDS[service]} {name} refuses {described(who)}: {entry.meaning}", help_of(entry, names), answered]
    )


def no_token(subject: str, error: HttpResponseError) -> str:
    """Why there is no token for the subject, and what helps; nothing where Entra ID may give one a moment later."""
    message = str(error.message)
    entry = why_no_token(message)
    if entry is None:  # of a code that the table does not have: shown as it is
        reason = next((line.strip() for line in message.splitlines() if ENTRA_ID_CODE.search(line)), message)
        return f"no token for {subject}: {reason}\n  {NO_TOKEN_HELPS}"
    if entry.reaction is Reaction.RETRY:
        return ""
    names = {"tenant": os.environ.get("AZURE_TENANT_ID", ""), "client": os.environ.get("AZURE_CLIENT_ID", "")}
    lines = [f"no token for {subject}: {entry.meaning}", help_of(entry, names)]
    return "\n  ".join([*lines, f"{Service.ENTRA_ID.value} gave no token: {entry.code}"])


def _is_refusal(entry: Known, error: HttpResponseError) -> bool:
    """Whether it is the account that refuses, and not a thing in it that is missing."""
    return bool(entry.command) and (error.status_code in (401, 403) or entry.code == Code.ACCOUNT_NOT_FOUND)


def _apart(date: str, now: datetime) -> bool:
    """Whether the clocks of the service and of this machine differ by more than the service permits."""
    try:
        return abs(parsedate_to_datetime(date) - now) >= CLOCKS_APART
    except (TypeError, ValueError):
        return False


def _account(azure: Azure, service: Service) -> tuple[str, str]:
    account = azure.batch_account if service is Service.BATCH else azure.storage_account
    return account.name, account.endpoint


def _names(azure: Azure, service: Service, who: Identity) -> dict[str, str]:
    """The values of placeholders in commands, as far as they are known."""
    return {
        **azure.names,
        "account": _account(azure, service)[0],
        "principal": who.object_id or who.app_id,
        "client": who.app_id,
    }
