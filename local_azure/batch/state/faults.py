"""Faults on demand: what can go wrong in Azure and hardly ever does while somebody looks."""

from __future__ import annotations

from dataclasses import dataclass, field

from local_azure.batch.state.clock import Timings
from local_azure.batch.state.errors import BatchError, Code

NODE_QUOTA = 200  # nodes of all pools together; each is a few directories


@dataclass(kw_only=True)
class RequestFault:
    """What happens to the next requests of an operation: a delay, and then an error or the loss of the connection.

    It happens before the operation is carried out, or after that was committed: then the client is told of a failure
    although its request has succeeded.
    """

    operation: str = "*"  # the SDK's name of it, create_pool for example; * is any
    after_commit: bool = False
    status: int = 0  # answer this status
    retry_after: int = 0  # seconds, told with the status
    drop: bool = False  # close the connection without an answer
    delay: float = 0.0  # seconds
    times: int = 1  # how many requests it happens to
    skip: int = 0  # how many it lets pass before


@dataclass(frozen=True, kw_only=True)
class ResizeFault:
    """How the next allocation of a pool ends, without having added or removed a node."""

    code: str = "AllocationFailed"  # of the resizeErrors
    message: str = "The desired number of nodes could not be allocated."
    pool: str = ""  # its id in lower case; "" is any


_CODES = {429: "TooManyRequests", 503: "ServerBusy", 500: "InternalError", 403: "AuthenticationFailed", 409: "Conflict"}


@dataclass(kw_only=True)
class Faults:
    """All faults that are to happen; the service asks it at the places where they could."""

    requests: list[RequestFault] = field(default_factory=list)
    resizes: list[ResizeFault] = field(default_factory=list)
    node_quota: int = NODE_QUOTA
    failing_start_tasks: int = 0  # how many of the next start tasks fail, whatever they do
    stale_task_counts: int = 0  # how many of the next task counts are as if nothing had happened since the tasks came
    timings: Timings | None = None  # instead of the service's own
    capitalised_statuses: bool = False  # write the statuses of tasks in a collection as "Success" and "ClientError"

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

    def take_resize(self, pool: str) -> ResizeFault | None:
        """How the allocation of the pool that begins now is made to end."""
        fault = next((each for each in self.resizes if each.pool in ("", pool)), None)
        if fault:
            self.resizes.remove(fault)
        return fault

    def take_start_task(self) -> bool:
        """Whether the start task that is to run now is one of those that fail."""
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
    """The error answer of a request fault."""

    def __init__(self, fault: RequestFault) -> None:
        super().__init__(Code.InternalError, "This error was asked for.")
        self.status = fault.status
        self.name = _CODES.get(fault.status, "InjectedFault")
        self.headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
