"""What helps against a service code, in a sentence and a command, with the names of the accounts filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter

from tasks.errors.code_table import KNOWN
from tasks.errors.codes import Code, Known, Service, Where

ENTRA_ID_CODE = re.compile(r"AADSTS\d+")


def known(service: Service, where: Where, code: str, text: str = "") -> Known | None:
    """The entry of a code seen there; None for one that is not in the table.

    text: the service's message and values, by which entries of one code differ.
    """
    text = text.lower()
    same = (each for each in KNOWN if (each.service, each.where) == (service, where) and each.code == code)
    return next((each for each in same if each.detail in text), None)


def filled(text: str, names: Mapping[str, str]) -> str:
    """The text with the placeholders that are known filled in, and the others as <placeholder>."""
    used = {field for _, field, _, _ in Formatter().parse(text) if field}
    return text.format_map({field: names.get(field) or f"<{field}>" for field in used})


def help_of(entry: Known, names: Mapping[str, str]) -> str:
    """What helps, as "advice: `command`"; either may be all there is, or nothing."""
    command = f"`{filled(entry.command, names)}`" if entry.command else ""
    return ": ".join(part for part in (filled(entry.advice, names), command) if part)


def help_against(service: Service, where: Where, code: str, names: Mapping[str, str], text: str = "") -> str:
    """What helps against a code seen there; nothing where nothing is known to. text: as for `known`."""
    entry = known(service, where, code, text)
    return help_of(entry, names) if entry else ""


def advice(where: Where, *codes: str | None, names: Mapping[str, str] | None = None) -> str:
    """What helps against codes of Azure Batch, as the end of a sentence; nothing where nothing is known to."""
    found = dict.fromkeys(help_against(Service.BATCH, where, code or "", names or {}) for code in codes)
    return "".join(f"; {each}" for each in found if each)


def why_no_token(message: str) -> Known | None:
    """The entry of the reason for which Entra ID gave no token; None for one that is not in the table.

    message: that of azure-identity, with a code of Entra ID where that was asked.
    """
    codes = ENTRA_ID_CODE.findall(message) or [Code.CREDENTIAL_UNAVAILABLE]
    return next((each for code in codes if (each := known(Service.ENTRA_ID, Where.SIGN_IN, code))), None)
