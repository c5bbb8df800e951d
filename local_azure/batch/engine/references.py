"""References to certificates (in API versions before 2025-06-01) and to applications: the account has neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.store import Document

CERTIFICATES = "certificateReferences"
PACKAGES = "applicationPackageReferences"


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """References of one kind: the name of each, and how Azure refuses those to what does not exist."""

    name: Callable[[Document], str]
    code: Code
    missing: str
    in_auto_pool: str  # a code of schedulingError
    of_auto_pool: str  # its message


# Recorded of Azure are the answers for certificates of auto pools and for applications of pools.
_KINDS = {
    CERTIFICATES: _Kind(
        name=lambda reference: f"{reference['thumbprintAlgorithm']}-{reference['thumbprint']}",
        code=Code.InvalidCertificateReferences,
        missing="The specified certificate does not exist.",
        in_auto_pool="InvalidCertificatesInAutoPool",
        of_auto_pool="One or more certificates specified for the pool are invalid",
    ),
    PACKAGES: _Kind(
        name=lambda reference: str(reference["applicationId"]),
        code=Code.InvalidApplicationPackageReferences,
        missing="The specified application package does not exist.",
        in_auto_pool="InvalidApplicationPackageReferencesInAutoPool",
        of_auto_pool="One or more application packages specified for the pool are invalid",
    ),
}


def complete(spec: Document) -> None:
    """Write references as Azure does; an empty list is as none."""
    for reference in spec.get(CERTIFICATES, ()):
        reference["thumbprint"] = reference["thumbprint"].lower()
    for name in _KINDS:
        if spec.get(name) == []:
            del spec[name]


def refuse(spec: Document) -> None:
    """Raises BatchError for a pool or a task that refers to what does not exist."""
    for kind, missing in _missing(spec).items():
        raise BatchError(kind.code, **missing)


def all_exist(pool: Document) -> bool:
    return not _missing(pool)


def scheduling_error(pool: Document) -> Document | None:
    """Why a job with this auto pool cannot be scheduled."""
    for kind, missing in _missing(pool).items():
        details = [{"name": name, "value": reason} for name, reason in missing.items()]
        message = kind.of_auto_pool
        return {"category": "UserError", "code": kind.in_auto_pool, "message": message, "details": details}
    return None


def _missing(spec: Document) -> Mapping[_Kind, Mapping[str, str]]:
    """What does not exist of that to which the pool or task refers, each with that reason."""
    if _KINDS.keys().isdisjoint(spec):
        return {}
    given = {kind: spec[name] for name, kind in _KINDS.items() if spec.get(name)}
    return {kind: {kind.name(each): kind.missing for each in references} for kind, references in given.items()}
