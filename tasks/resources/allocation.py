"""Why Azure Batch gives a pool no nodes of a VM size, by its codes, and what helps against each."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from azure.batch.models import ResizeError
from azure.core.exceptions import HttpResponseError

from tasks.errors.service import error_code
from tasks.errors.text import cut


class Remedy(Enum):
    """What can give a pool nodes that got none."""

    OTHER_FAMILY = "a size of another family, or with fewer cores"
    FEWER_CORES = "a size with fewer cores, since the quota is that of all families"
    OTHER_SIZE = "another size"
    PATIENCE = "a later try with the same size, or another size"
    TIME = "a later try with the same size"


# The codes of a pool's resizeErrors: Microsoft.Azure.Batch.Common.PoolResizeErrorCodes of the .NET SDK; for
# AccountVMSeriesCoreQuotaReached Azure's page on pool resizing failures, which says that both quotas of dedicated cores
# apply, and of spot cores only that of the account; AllocationTimedout and AllocationTimedOut are one code in two
# versions of the SDK. Others, such as an image that is gone, no size helps against.
_REMEDIES = {
    "AccountVMSeriesCoreQuotaReached": Remedy.OTHER_FAMILY,
    "AccountCoreQuotaReached": Remedy.FEWER_CORES,
    "AccountLowPriorityCoreQuotaReached": Remedy.FEWER_CORES,
    "AccountSpotCoreQuotaReached": Remedy.FEWER_CORES,
    "UnsupportedVMSize": Remedy.OTHER_SIZE,
    "AllocationTimedOut": Remedy.OTHER_SIZE,  # after the whole resize timeout
    "AllocationFailed": Remedy.PATIENCE,
    "ReservedCapacityFailed": Remedy.TIME,
    "ResizeStopped": Remedy.TIME,
}
_BY_CODE = {code.lower(): remedy for code, remedy in _REMEDIES.items()}
# Allocations that Azure may still grant, at one of the formula's next evaluations, without any change.
_TEMPORARY = {"allocationfailed", "allocationtimedout", "resizestopped", "reservedcapacityfailed"}
_SPOT_QUOTAS = {"accountlowprioritycorequotareached", "accountspotcorequotareached"}

QUOTA_COMMAND = (
    'az batch account list --query "[].{account:name, dedicated:dedicatedCoreQuota, spot:lowPriorityCoreQuota, '
    'families:dedicatedCoreQuotaPerVmFamily || dedicatedCoreQuotaPerVMFamily}"'
)
SIZES_COMMAND = "az batch location list-skus --location REGION"

_LONGEST = 300  # characters of the details of an error

_BAD_PROPERTY, _VM_SIZE = "InvalidPropertyValue", "vmSize"


def remedy_of(code: str | None) -> Remedy | None:
    """What helps against that error of an allocation; None where neither time nor another size does."""
    return _BY_CODE.get((code or "").lower())


def is_temporary(code: str | None) -> bool:
    """Whether Azure may grant later what it refuses now, without any change."""
    return (code or "").lower() in _TEMPORARY


def is_spot_quota(code: str | None) -> bool:
    return (code or "").lower() in _SPOT_QUOTAS


def described(error: ResizeError) -> str:
    """Code and message, with the details: of AllocationFailed only these have the reason."""
    details = "; ".join(f"{detail.name}: {detail.value}" for detail in error.error_values or ())
    return f"{error.code}: {error.message}" + (f" ({cut(details, _LONGEST)})" if details else "")


def advice(codes: Collection[str | None]) -> str:
    """What to do about these codes, as the end of a sentence; empty where nothing is known to help."""
    if any("quotareached" in (code or "").lower() for code in codes):
        return f"; `{QUOTA_COMMAND}` shows the quotas: ask for more in the Azure portal, or use other sizes (vm_size)"
    return ""


def is_size_refused(error: HttpResponseError) -> bool:
    """Whether a pool was not created or changed because its VM size is none that Batch offers in the region.

    The service then names the property: PropertyName vmSize, of InvalidPropertyValue (doAzureParallel#299).
    """
    values = getattr(getattr(error, "model", None), "error_values", None) or ()
    named = {str(each.value).lower() for each in values if str(each.key).lower() == "propertyname"}
    return error_code(error) == _BAD_PROPERTY and _VM_SIZE.lower() in named
