"""Injected faults: failures of Azure that are rare but must be tested."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from local_azure.batch.state.access import Access, Issued
from local_azure.batch.state.clock import Timings
from local_azure.batch.state.errors import BatchError, Code

NODE_QUOTA = 200  # nodes of all pools together; each is a few directories
NO_QUOTA = 10**9


@dataclass(kw_only=True)
class RequestFault:
    """A fault of the next requests of an operation: a delay, then an error or a lost connection.

    It is injected before the operation, or after its commit: then the client gets an error although its request has
    succeeded.
    """

    operation: str = "*"  # the name of the SDK's method, for example create_pool; * is any
    after_commit: bool = False
    status: int = 0  # respond with this status
    retry_after: int = 0  # seconds, in the Retry-After header
    drop: bool = False  # close the connection without a response
    delay: float = 0.0  # seconds
    times: int = 1  # the number of requests affected
    skip: int = 0  # the number of requests before them that are not


@dataclass(kw_only=True)
class ResizeFault:
    """The error with which the next allocations end, without adding or removing nodes."""

    code: str = "AllocationFailed"  # in resizeErrors
    message: str = "The desired number of nodes could not be allocated."
    pool: str = ""  # its id in lower case; "" is any
    vm_size: str = ""  # in lower case; "" is any
    family: str = ""  # such as dasv5, for each Standard_D<cores>as_v5; "" is any
    times: int = 1  # the number of allocations affected

    def affects(self, pool: str, vm_size: str) -> bool:
        return self.pool in ("", pool) and self.vm_size in ("", vm_size) and self.family in ("", family_of(vm_size))


def family_of(vm_size: str) -> str:
    """The family of a VM size by its name in lower case: dasv5 of standard_d2as_v5."""
    return re.sub(r"\d+(-\d+)?", "", vm_size.partition("_")[2], count=1).replace("_", "")


_CODES = {429: "TooManyRequests", 503: "ServerBusy", 500: "InternalError", 403: "AuthenticationFailed", 409: "Conflict"}


@dataclass(kw_only=True)
class Faults:
    """All pending faults; the service checks them where they apply."""

    requests: list[RequestFault] = field(default_factory=list)
    resizes: list[ResizeFault] = field(default_factory=list)
    node_quota: int = NODE_QUOTA
    pool_quota: int = NO_QUOTA
    job_quota: int = NO_QUOTA  # active jobs and job schedules together
    unavailable_sizes: frozenset[str] = frozenset()  # VM sizes that the region does not offer, in lower case
    failing_start_tasks: int = 0  # the number of next start tasks that fail
    stale_task_counts: int = 0  # the number of next task counts that are all zero
    timings: Timings | None = None  # instead of the service's own
    batch_access: Access | None = None  # likewise
    storage_access: Access | None = None  # likewise
    issued: Issued = field(default_factory=Issued)
    capitalised_statuses: bool = True  # of tasks in a collection; else "success" and "clienterror"

    def for_request(self, operation: str) -> RequestFault | None:
        for fault in self.requests:
            if fault.operation not in ("*", operation) or fault.times <= 0:
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.times -= 1
            self.requests = [other for other in self.requests if other.times > 0]
            return fault
        return None

    def take_resize(self, pool: str, vm_size: str) -> ResizeFault | None:
        """Use up and return the fault for the allocation of the pool that starts now."""
        fault = next((each for each in self.resizes if each.affects(pool, vm_size)), None)
        if fault:
            fault.times -= 1
            self.resizes = [each for each in self.resizes if each.times > 0]
        return fault

    def take_start_task(self) -> bool:
        """True if the start task that starts now is to fail."""
        if self.failing_start_tasks <= 0:
            return False
        self.failing_start_tasks -= 1
        return True

    def take_task_counts(self) -> bool:
        if self.stale_task_counts <= 0:
            return False
        self.stale_task_counts -= 1
        return True


class Injected(BatchError):
    """The error response of a request fault."""

    def __init__(self, fault: RequestFault) -> None:
        super().__init__(Code.InternalError, "This error was injected.")
        self.status = fault.status
        self.name = _CODES.get(fault.status, "InjectedFault")
        self.headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
