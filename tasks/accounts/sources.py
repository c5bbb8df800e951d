"""Containers with blobs that are read where they are, and the SAS in their addresses; imports no SDK."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from datetime import datetime, timezone
from urllib.parse import parse_qsl, urlsplit

from tasks.errors import InputError

_MAKE_ONE = "make one that permits to read and list alone (sp=rl), such as with `az storage container generate-sas`"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceContainer:
    """A container, and the SAS with which its blobs are read; without one, the run's own credential does."""

    endpoint: str  # of the account's blobs
    name: str
    sas: str = field(default="", repr=False)

    @property
    def account(self) -> str:
        return account_of(self.endpoint)


def account_of(endpoint: str) -> str:
    """The name of the account with that blob endpoint: the host's first label, or the path where accounts share it."""
    url = urlsplit(endpoint)
    return url.path.strip("/") or (url.hostname or "").partition(".")[0].removesuffix("-secondary")


def sas_permissions(token: str) -> Set[str]:
    """The letters of what a SAS permits."""
    return set(dict(parse_qsl(token)).get("sp", ""))


def refuse_bad_sas(address: str, token: str, until: datetime | None = None) -> None:
    """Raises InputError for a SAS that permits more than to read and list, or less than to read, or ends too early.

    `until` is the end of the run, as far as it is known.
    """
    values = dict(parse_qsl(token))
    permitted = sas_permissions(token)
    if "sp" not in values or "se" not in values:
        raise InputError(
            f"input {address}: its SAS does not say what it permits and until when, as one with a stored access policy "
            f"(si=) does not; {_MAKE_ONE}"
        )
    if more := permitted - {"r", "l"}:
        raise InputError(
            f"input {address}: its SAS permits more than to read and list (sp={values['sp']}), and whoever sees the "
            f"parameters of the run could use that ({''.join(sorted(more))}); {_MAKE_ONE}"
        )
    if "r" not in permitted:
        raise InputError(f"input {address}: its SAS does not permit to read (sp={values['sp']}); {_MAKE_ONE}")
    _refuse_other_times(address, values, until)


def _refuse_other_times(address: str, values: dict[str, str], until: datetime | None) -> None:
    now = datetime.now(timezone.utc)
    end, start = _time(address, values["se"]), _time(address, values.get("st", values["se"]))
    if end <= now:
        raise InputError(f"input {address}: its SAS expired at {end:%Y-%m-%d %H:%M:%S} UTC; make a new one")
    if "st" in values and start > now:
        raise InputError(
            f"input {address}: its SAS begins at {start:%Y-%m-%d %H:%M:%S} UTC; make one that is valid now"
        )
    if until and end < until:
        raise InputError(
            f"input {address}: its SAS expires at {end:%Y-%m-%d %H:%M:%S} UTC, but the run may last until "
            f"{until:%Y-%m-%d %H:%M:%S}; make one that lasts longer, or lower run_minutes"
        )


def _time(address: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"input {address}: {text!r} in its SAS is no time; copy the address again") from None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
