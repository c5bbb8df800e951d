"""What the product does about each service code of the table, found by feeding the code in where it is handled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

from azure.batch.models import BatchError, BatchTask, BatchTaskAddStatus, BatchTaskCreateOptions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.core.rest import HttpRequest
from prefect.logging import disable_run_logger
from pydantic import SecretStr

from tasks.accounts.access import explained
from tasks.accounts.clients import Azure
from tasks.accounts.environment import BatchAccount, StorageAccount
from tasks.errors import InputError
from tasks.errors.code_table import INPUT
from tasks.errors.codes import JOB_ENDED, Code, Known, Reaction, Service, Where
from tasks.errors.service import ServiceError
from tasks.inputs.addresses import BlobAddress
from tasks.inputs.blobs import all_inputs
from tasks.inputs.files import Found as FoundInputs
from tasks.inputs.files import InputFile
from tasks.kept import check_destination
from tasks.resources.bulk import add_all
from tasks.resources.container import ContainerResource
from tasks.resources.job import JobResource
from tasks.resources.ownership import create_or_adopt
from tasks.resources.pool import PoolResource
from tasks.resources.quota import create_within_quota
from tasks.resources.resource import Creatable, Found, Resource
from tasks.run.destination import Destination
from tasks.run.fetch import Fetcher, Useless
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask, TaskOutcome
from tasks.run.polling import Polling
from tasks.run.records import Output
from tasks.run.results import Results
from tasks.watching.decide import Action
from tasks.watching.logs import start_task_stderr
from tasks.watching.memory import Memory
from tasks.watching.sizes import NextSize
from tasks.watching.snapshot import SnapshotReader
from tasks.watching.watch import LastSeen, Watch
from tests.support.watched import (
    DONE,
    EXISTING,
    LIMITS,
    NOON,
    OWN,
    QUEUED,
    Watched,
    counts,
    job,
    minute,
    node,
    refused,
    scaled_pool,
    tasks,
)
from tests.support.watched import (
    Service as Looked,
)

BLOBS = "https://mystorage.blob.core.windows.net"
KEY = SecretStr("a2V5")
AZURE = Azure(
    batch_account=BatchAccount(name="mybatch", endpoint="https://mybatch.westeurope.batch.azure.com", key=KEY),
    storage_account=StorageAccount(name="mystorage", endpoint=BLOBS, key=KEY),
)
ADDRESSES = {
    Service.BATCH: "https://mybatch.westeurope.batch.azure.com/pools?api-version=2025-06-01",
    Service.STORAGE: f"{BLOBS}/c",
}
WATCHED = replace(LIMITS, names=AZURE.names)
RUN = Run(workload="top-words", flow_run_id="run", started=NOON, lifetime=timedelta(hours=1))
OTHER = replace(RUN, flow_run_id="another")
SIZED = replace(OWN, vm_size="Standard_D4as_v5", other_sizes=("Standard_D2s_v5",), dedicated_nodes=1)
STATUS = {
    Code.SERVER_BUSY: 503,
    Code.INTERNAL_ERROR: 500,
    Code.OPERATION_TIMED_OUT: 500,
    Code.TOO_MANY_REQUESTS: 429,
    Code.REQUEST_BODY_TOO_LARGE: 413,
    Code.MD5_MISMATCH: 400,
    Code.INVALID_PROPERTY_VALUE: 400,
}
REFUSAL = 403  # of what no function of its own is fed with


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the run did, and the message with which it did so."""

    reaction: Reaction
    message: str = ""


def seen(known: Known) -> Seen:
    """What happens where the code occurs."""
    with disable_run_logger():
        return (_ALONE.get((known.code, known.where)) or _PLACES[known.where])(known)


class Response:
    """A response of a service, as an error of its SDK holds it."""

    def __init__(self, service: Service, status: int) -> None:
        self.request = HttpRequest("GET", ADDRESSES[service])
        self.status_code = status
        self.reason = "Because"
        self.headers = {service.request_id: "42"}


def error_of(known: Known, status: int = 0) -> HttpResponseError:
    """The code as the SDK raises it; of a 404 or 409 by its own class."""
    status = STATUS.get(known.code) or (404 if known.code.endswith("NotFound") else status or 409)
    kinds = {401: ClientAuthenticationError, 404: ResourceNotFoundError, 409: ResourceExistsError}
    error = kinds.get(status, HttpResponseError)(message="Refused.", response=Response(known.service, status))  # type: ignore[arg-type]
    detail = ("PropertyName", "vmSize") if known.detail == "vmsize" else ("AuthenticationErrorDetail", known.detail)
    if known.service is Service.BATCH:
        values = [{"key": detail[0], "value": detail[1]}]
        error.model = BatchError({"code": known.code.value, "message": {"value": "Refused."}, "values": values})
    else:
        error.error_code = known.code.value  # type: ignore[attr-defined]
        error.additional_info = dict([detail])  # type: ignore[attr-defined]
    return error


# Requests.


def _request(known: Known) -> Seen:
    """In step 0 first, and where that lets it pass, in a later step."""
    error = error_of(known, REFUSAL)
    try:
        with explained(AZURE, known.service, known.detail):
            raise error
    except InputError as problem:
        return Seen(reaction=Reaction.REFUSE, message=str(problem))
    except HttpResponseError:
        failure = ServiceError.of(error)
    return Seen(reaction=Reaction.RETRY if failure.transient else Reaction.FAIL, message=str(failure))


def _no_host(known: Known) -> Seen:
    with _refusing() as messages, explained(AZURE, known.service):
        raise ServiceRequestError("Failed to resolve 'mybatch' ([Errno -2] Name or service not known)")
    return Seen(reaction=Reaction.REFUSE, message=messages[0])


@contextmanager
def _refusing() -> Iterator[list[str]]:
    messages: list[str] = []
    try:
        yield messages
    except InputError as problem:
        messages.append(str(problem))


class _Raises:
    """A client of which every request is refused, and which is its own context and sub-clients."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __enter__(self) -> _Raises:
        return self

    def __exit__(self, *ended: object) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: object, **options: object) -> Any:
            if name in ("get_blob_client", "get_container_client"):
                return self
            raise self._error

        return call


class _Refused(Azure):
    """Accounts of which every container is refused with the error in `problems`."""

    problems: Sequence[Exception] = ()

    def source(self, source: object) -> Any:
        return _Raises(self.problems[0])

    def blobs(self, endpoint: str = "") -> Any:
        return _Raises(self.problems[0])


def _refused(error: Exception) -> Azure:
    """Accounts of which every container answers so."""
    accounts = type("Refused", (_Refused,), {"problems": [error]})
    return cast(Azure, accounts(batch_account=AZURE.batch_account, storage_account=AZURE.storage_account))


def refused_input(error: Exception) -> list[InputFile]:
    """An input in another account, which answers so."""
    address = BlobAddress.parse("https://theirs.blob.core.windows.net/texts/")
    return all_inputs(_refused(error), FoundInputs(files=(), addresses=[address]), NOON)


def _container(known: Known) -> Seen:
    """Of an input in another account, or of the folder for kept outputs."""
    error = error_of(known)
    with _refusing() as messages:
        if known.code is not Code.CONTAINER_NOT_FOUND or known.detail == INPUT:
            refused_input(error)
        else:
            check_destination(_refused(error), Destination(endpoint=BLOBS, container="c", prefix="p", kept=True))
    return Seen(reaction=Reaction.REFUSE, message=messages[0]) if messages else Seen(reaction=Reaction.FAIL)


# What exists, is being deleted, or is too many.


def _resource(known: Known, kind: type[Resource]) -> Creatable:
    """One that answers the first attempt to create it with the code."""
    codes = [known]

    class Answers(Creatable):
        exists, being_deleted = kind.exists, kind.being_deleted

        def create(self) -> None:
            if codes:
                raise error_of(codes.pop())

        def read(self) -> Found:
            return Found(kind=self.kind, id=self.id, tags=RUN.tags, state="active")

        def renew(self, found: Found) -> None: ...
        def mark(self, tags: object) -> None: ...
        def delete(self) -> None: ...

    Answers.kind = kind.kind
    return Answers("mine")


def _creating(known: Known) -> Seen:
    kinds: Sequence[type[Resource]] = (PoolResource, JobResource, ContainerResource)
    kind = next(each for each in kinds if known.code in (each.exists, each.being_deleted))
    created = create_or_adopt(RUN, _resource(known, kind), Polling(sleep=lambda seconds: None))
    return Seen(reaction=Reaction.WAIT if created else Reaction.ADOPT)


def without_quota(known: Known, *, holder: Run) -> Seen:
    """Where a resource of that run uses up the quota."""
    kind: type[Resource] = PoolResource if known.code is Code.POOL_QUOTA_REACHED else JobResource
    holds = [Found(kind=kind.kind, id="theirs", tags=replace(holder.tags, kept=holder is RUN), state="active")]
    polling = Polling(sleep=lambda seconds: None, now=lambda: NOON)
    try:
        create_within_quota(RUN, _resource(known, kind), lambda: holds, polling, names=AZURE.names)
    except ServiceError as failure:
        return Seen(reaction=Reaction.FAIL, message=str(failure))
    return Seen(reaction=Reaction.WAIT)


# Batch tasks that are added.


class _Adding:
    """Takes Batch tasks, or answers with the code."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def create_task_collection(self, job_id: str, group: Any) -> Any:
        if self._known.code in JOB_ENDED or (
            self._known.code is Code.REQUEST_BODY_TOO_LARGE and len(group.task_values) > 1
        ):
            raise error_of(self._known)
        error = SimpleNamespace(code=self._known.code.value, message=None)
        failed = self._known.code is Code.TASK_EXISTS
        status = BatchTaskAddStatus.CLIENT_ERROR if failed else BatchTaskAddStatus.SUCCESS
        each = SimpleNamespace(status=status, error=error if failed else None, task_id="t")
        return SimpleNamespace(result_values=[each])

    def update_job(self, job_id: str, changes: object) -> None: ...

    def list_tasks(self, job_id: str, select: object) -> Collection[BatchTask]:
        return [BatchTask({"id": "0"}), BatchTask({"id": "1"})]


def _adding(known: Known) -> Seen:
    added = [BatchTaskCreateOptions(id=str(at), command_line="true") for at in range(2)]
    add_all(cast(Any, _Adding(known)), "job", added)
    return Seen(reaction=Reaction.RETRY if known.code is Code.REQUEST_BODY_TOO_LARGE else Reaction.DONE)


# What is gone.


def _unreadable(known: Known) -> Seen:
    assert start_task_stderr(cast(Any, _Raises(error_of(known))), "pool", "node") == ""
    return Seen(reaction=Reaction.DONE)


class _Gone:
    """A Batch account in which a pool, job or Batch task is gone, and no node has come."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def _unless(self, code: Code, found: Any) -> Any:
        if self._known.code is code:
            raise error_of(self._known)
        return found

    def get_job_task_counts(self, job_id: str) -> Any:
        none = dict.fromkeys(("running", "completed", "succeeded", "failed"), 0)
        return self._unless(Code.JOB_NOT_FOUND, SimpleNamespace(task_counts=SimpleNamespace(active=2, **none)))

    def get_job(self, job_id: str) -> Any:
        return self._unless(Code.JOB_NOT_FOUND, job())

    def get_pool(self, pool_id: str) -> Any:
        return self._unless(Code.POOL_NOT_FOUND, scaled_pool())

    def get_task(self, job_id: str, task_id: str, select: object) -> Any:
        return self._unless(Code.TASK_NOT_FOUND, BatchTask({"id": task_id}))

    def list_nodes(self, pool_id: str, **options: object) -> list[Any]:
        return []

    def list_tasks(self, job_id: str, **options: object) -> list[Any]:
        return []


def _gone(known: Known) -> Seen:
    added = [AddedTask(id=f"task{at}", file=f"{at}.txt") for at in range(2)]
    reader = SnapshotReader(azure=AZURE, batch=cast(Any, _Gone(known)), run=RUN, pool_id="pool", tasks=added)
    return _decided(Watched(EXISTING, WATCHED), cast(Looked, reader))


def _no_blob(known: Known) -> Seen:
    with TemporaryDirectory() as folder:
        fetcher = Fetcher(
            results=Results(folder=Path(folder)),
            blobs=cast(Any, _Raises(ServiceError.of(error_of(known)))),
            container=cast(Any, None),
        )
        try:
            fetcher.fetch([(Output(path="o", blob="a/o", size=1, md5=b""), Path(folder) / "o")])
        except Useless as useless:
            return Seen(reaction=Reaction.FILES_FAIL, message=str(useless))
    return Seen(reaction=Reaction.DONE)


# While Batch tasks are watched.


def _watch(act: Callable[..., Any], memory: Memory) -> Watch:
    nothing: Any = SimpleNamespace(report_size_not_offered=lambda pool: None)
    return Watch(
        reader=nothing,
        narrator=nothing,
        limits=WATCHED,
        polling=Polling(),
        memory=memory,
        seen=LastSeen(),
        set_nodes=act,
        use_size=act,
    )


def _changing_pool(known: Known) -> Seen:
    """Nodes, or another VM size, that the service does not take."""

    def refuse(*arguments: object) -> None:
        raise error_of(known)

    following = NextSize(size="Standard_D2s_v5", later=(), refused=(), at_once=True)
    watch = _watch(refuse, replace(Memory.start(SIZED, WATCHED, NOON), changing=following))
    if known.detail:
        watch._use_next_size()
        return Seen(reaction=Reaction.NEXT_SIZE, message=watch.memory.pool.instead_of)
    watch._add_dedicated()
    return Seen(reaction=Reaction.WAIT if watch.memory.resize_refused else Reaction.DONE)


def _decided(watched: Watched, *looks: Looked) -> Seen:
    """At looks five minutes apart."""
    for at, looked in enumerate(looks):
        decision = watched.look(looked, at=at * 6)
        if decision.action is Action.NEXT_SIZE:
            return Seen(reaction=Reaction.NEXT_SIZE, message=decision.line)
        if decision.action is Action.ALL_COMPLETED:
            return Seen(reaction=Reaction.DONE)
        if decision.problem:
            return Seen(reaction=Reaction.FAIL, message=str(decision.problem))
    return Seen(reaction=Reaction.WAIT, message=decision.line)


def resize(known: Known, used: UsedPool = SIZED) -> Seen:
    """A pool that got no nodes of its VM size; without another to try, with that one alone."""

    def look(at: datetime) -> Looked:
        pool = scaled_pool(**refused(known.code), allocationStateTransitionTime=at.isoformat())
        return Looked(counts=counts(), tasks=tasks(QUEUED), pool=pool)

    return _decided(Watched(used, WATCHED), look(NOON), look(minute(6)))


def _node(known: Known) -> Seen:
    errors = [{"code": known.code.value, "message": "It is."}]
    return _decided(
        Watched(SIZED, WATCHED),
        Looked(counts=counts(), tasks=tasks(QUEUED), pool=scaled_pool(), nodes=[node("unusable", errors=errors)]),
    )


def start_task(known: Known) -> Seen:
    """A failure of Batch tasks, as that of each node's start task."""
    failure = {"category": "usererror", "code": known.code.value, "message": "It failed."}
    info = {"failureInfo": failure, **({"exitCode": 1} if known.code is Code.FAILURE_EXIT_CODE else {})}
    failed = node("starttaskfailed", startTaskInfo=info)
    return _decided(
        Watched(SIZED, WATCHED), Looked(counts=counts(), tasks=tasks(QUEUED), pool=scaled_pool(), nodes=[failed])
    )


def _job(known: Known) -> Seen:
    """A job that has ended: with Batch tasks left at its time limit, and without any where all have completed."""
    done = DONE if known.code is Code.ALL_TASKS_COMPLETE else QUEUED
    ended = Looked(
        counts=counts(),
        tasks=tasks(done, done),
        job=job("completed", known.code),
        pool=scaled_pool(),
        nodes=[node("idle")],
    )
    return _decided(Watched(SIZED, WATCHED), ended)


def outcome(code: str, *, minutes: int, exit_code: int | None = None, limit: str = "PT10M") -> TaskOutcome:
    """Of a Batch task that has failed with the code after so many minutes."""
    execution = {
        "startTime": NOON.isoformat(),
        "endTime": (NOON + timedelta(minutes=minutes)).isoformat(),
        "retryCount": 0,
        "requeueCount": 0,
        "result": "failure",
        "failureInfo": {"category": "usererror", "code": code, "message": "It failed."},
    }
    if exit_code is not None:
        execution["exitCode"] = exit_code
    task = {"id": "t", "state": "completed", "executionInfo": execution, "constraints": {"maxWallClockTime": limit}}
    return TaskOutcome.of(AddedTask(id="t", file="a.txt"), BatchTask(task))


def _task(known: Known) -> Seen:
    """Of TaskEnded, at the time limit of the Batch task."""
    failed = outcome(known.code, minutes=10 if known.code is Code.TASK_ENDED else 1)
    assert failed.failed
    return Seen(reaction=Reaction.FILES_FAIL, message=failed.why(AZURE.names))


def _sign_in(known: Known) -> Seen:
    error = ClientAuthenticationError(
        message=f"DefaultAzureCredential failed.\n\tAzureCliCredential: {known.code}: No."
    )
    with _refusing() as messages:
        try:
            with explained(AZURE, Service.BATCH):
                raise error
        except ClientAuthenticationError:
            failure = ServiceError.of(error)
            return Seen(reaction=Reaction.RETRY if failure.transient else Reaction.FAIL, message=str(failure))
    return Seen(reaction=Reaction.REFUSE, message=messages[0])


_PLACES: dict[Where, Callable[[Known], Seen]] = {
    Where.REQUEST: _request,
    Where.SIGN_IN: _sign_in,
    Where.RESIZE: resize,
    Where.NODE: _node,
    Where.TASK: _task,
    Where.JOB: _job,
}


def _alone(handle: Callable[[Known], Seen], *codes: Code) -> dict[tuple[Code, Where], Callable[[Known], Seen]]:
    return {(code, Where.REQUEST): handle for code in codes}


# Codes of requests that are handled by who sends the request.
_ALONE = {
    **_alone(_no_host, Code.HOST_NOT_FOUND),
    **_alone(_container, Code.CONTAINER_NOT_FOUND, Code.PUBLIC_ACCESS_NOT_PERMITTED, Code.RESOURCE_NOT_FOUND),
    **_alone(_creating, Code.POOL_EXISTS, Code.JOB_EXISTS, Code.CONTAINER_ALREADY_EXISTS),
    **_alone(_creating, Code.POOL_BEING_DELETED, Code.JOB_BEING_DELETED, Code.CONTAINER_BEING_DELETED),
    **_alone(lambda known: without_quota(known, holder=OTHER), Code.POOL_QUOTA_REACHED, Code.ACTIVE_JOB_QUOTA_REACHED),
    **_alone(_adding, Code.TASK_EXISTS, Code.REQUEST_BODY_TOO_LARGE, *JOB_ENDED),
    **_alone(_unreadable, Code.NODE_NOT_FOUND, Code.FILE_NOT_FOUND),
    **_alone(_gone, Code.POOL_NOT_FOUND, Code.JOB_NOT_FOUND, Code.TASK_NOT_FOUND),
    **_alone(_no_blob, Code.BLOB_NOT_FOUND),
    **_alone(_changing_pool, Code.POOL_BEING_RESIZED),
    **_alone(lambda known: _changing_pool(known) if known.detail else _request(known), Code.INVALID_PROPERTY_VALUE),
}
