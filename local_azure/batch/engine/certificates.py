"""Certificates, which API versions before 2025-06-01 have: a pool may refer to one, but this account has none."""

from __future__ import annotations

from collections.abc import Mapping

from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.store import Document

PROPERTY = "certificateReferences"
# The words of a recorded answer of Azure about a job whose auto pool refers to a certificate that does not exist.
_MISSING = "The specified certificate does not exist."
_IN_AUTO_POOL = "One or more certificates specified for the pool are invalid"


def complete(spec: Document) -> None:
    """Write references as Azure does; an empty list is as none."""
    for reference in spec.get(PROPERTY, ()):
        reference["thumbprint"] = reference["thumbprint"].lower()
    if spec.get(PROPERTY) == []:
        del spec[PROPERTY]


def missing(pool: Document) -> Mapping[str, str]:
    """The certificates to which the pool refers, none of which exists, each with that reason."""
    references = pool.get(PROPERTY, ())
    return {f"{each['thumbprintAlgorithm']}-{each['thumbprint']}": _MISSING for each in references}


def refuse(spec: Document) -> None:
    """Raises InvalidCertificateReferences for a pool that refers to any."""
    if found := missing(spec):
        raise BatchError(Code.InvalidCertificateReferences, **found)


def scheduling_error(pool: Document) -> Document | None:
    """Why a job with this auto pool cannot be scheduled."""
    details = [{"name": name, "value": reason} for name, reason in missing(pool).items()]
    if not details:
        return None
    code = "InvalidCertificatesInAutoPool"
    return {"category": "UserError", "code": code, "message": _IN_AUTO_POOL, "details": details}
