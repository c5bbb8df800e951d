"""Why Azure Batch gives a pool no nodes of a VM size, by its codes, and whether time or another size helps."""

from __future__ import annotations

from enum import Enum

from azure.batch.models import ResizeError
from azure.core.exceptions import HttpResponseError

from tasks.errors.codes import SPOT_QUOTAS, Code
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
_REMEDIES: dict[str, Remedy] = {
    Code.FAMILY_CORE_QUOTA_REACHED: Remedy.OTHER_FAMILY,
    Code.ACCOUNT_CORE_QUOTA_REACHED: Remedy.FEWER_CORES,
    **dict.fromkeys(SPOT_QUOTAS, Remedy.FEWER_CORES),
    Code.UNSUPPORTED_VM_SIZE: Remedy.OTHER_SIZE,
    Code.ALLOCATION_TIMED_OUT: Remedy.OTHER_SIZE,  # after the whole resize timeout
    Code.ALLOCATION_TIMEDOUT: Remedy.OTHER_SIZE,
    Code.ALLOCATION_FAILED: Remedy.PATIENCE,
    Code.RESERVED_CAPACITY_FAILED: Remedy.TIME,
    Code.RESIZE_STOPPED: Remedy.TIME,
}

_LONGEST = 300  # characters of the details of an error

_VM_SIZE = "vmSize"
NOT_OFFERED = "Batch does not offer it in this region"  # of a VM size, where is_size_refused


def remedy_of(code: str | None) -> Remedy | None:
    """What helps against that error of an allocation; None where neither time nor another size does."""
    return _REMEDIES.get(code or "")


def described(error: ResizeError) -> str:
    """Code and message, with the details: of AllocationFailed only these have the reason."""
    details = "; ".join(f"{detail.name}: {detail.value}" for detail in error.error_values or ())
    return f"{error.code}: {error.message}" + (f" ({cut(details, _LONGEST)})" if details else "")


def is_size_refused(error: HttpResponseError) -> bool:
    """Whether a pool was not created or changed because its VM size is none that Batch offers in the region.

    The service then names the property: PropertyName vmSize, of InvalidPropertyValue (doAzureParallel#299).
    """
    values = getattr(getattr(error, "model", None), "error_values", None) or ()
    named = {str(each.value).lower() for each in values if str(each.key).lower() == "propertyname"}
    return error_code(error) == Code.INVALID_PROPERTY_VALUE and _VM_SIZE.lower() in named
