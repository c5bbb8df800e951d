"""Each service code fed in where it occurs, and what the run then does: recovers, or names the fix, early or late.

What step 0 says of the codes of requests is tested through the step itself, in tests/flow/test_access.py.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, timezone
from enum import Enum

import pytest
from azure.batch.models import BatchError, BatchTask
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.core.rest import HttpRequest
from pydantic import SecretStr

from tasks.accounts.access import explained
from tasks.accounts.clients import Azure
from tasks.accounts.environment import BatchAccount, StorageAccount
from tasks.errors import InputError
from tasks.errors.advice import help_of
from tasks.errors.code_table import KNOWN
from tasks.errors.codes import Code, Known, Reaction, Service, Where
from tasks.errors.service import ServiceError
from tasks.run.outcomes import AddedTask, Cause, TaskOutcome

KEY = SecretStr("a2V5")
AZURE = Azure(
    batch_account=BatchAccount(name="mybatch", endpoint="https://mybatch.westeurope.batch.azure.com", key=KEY),
    storage_account=StorageAccount(name="mystorage", endpoint="https://mystorage.blob.core.windows.net", key=KEY),
)
START = datetime(2026, 11, 1, tzinfo=timezone.utc)
STATUS = {Code.SERVER_BUSY: 503, Code.INTERNAL_ERROR: 500, Code.OPERATION_TIMED_OUT: 500, Code.TOO_MANY_REQUESTS: 429}


class Result(Enum):
    RECOVERS = "the run recovers"
    EARLY = "the fix is named before anything exists"
    LATER = "the fix is named later"
    NEITHER = "shown as it is"


class Response:
    """A response of a service, as an error of its SDK holds it."""

    def __init__(self, service: Service, status: int) -> None:
        query = "?api-version=2025-06-01" if service is Service.BATCH else ""
        self.request = HttpRequest("GET", f"https://mybatch.westeurope.batch.azure.com/pools{query}")
        self.status_code = status
        self.reason = "Because"
        self.headers = {service.request_id: "42"}


def error_of(known: Known, status: int) -> HttpResponseError:
    kind = ClientAuthenticationError if status == 401 else HttpResponseError
    error = kind(message="Refused.", response=Response(known.service, status))  # type: ignore[arg-type]
    values = [{"key": "AuthenticationErrorDetail", "value": known.detail}]
    body = {"code": known.code.value, "message": {"value": "Refused."}, "values": values}
    if known.service is Service.BATCH:
        error.model = BatchError(body)
    else:
        error.error_code = known.code.value  # type: ignore[attr-defined]
        error.additional_info = {"AuthenticationErrorDetail": known.detail}  # type: ignore[attr-defined]
    return error


def of_request(known: Known) -> Result:
    """In step 0 first, and where that lets it pass, in a later step."""
    status = STATUS.get(known.code, 404 if known.code.endswith("NotFound") else 409)
    if known.reaction is Reaction.REFUSE and known.code is not Code.ACCOUNT_NOT_FOUND:
        status = 403
    error = error_of(known, status)
    try:
        with explained(AZURE, known.service, known.detail):
            raise error
    except InputError as refused:
        message = str(refused)
        named = known.meaning in message and message.endswith(f": {known.code}")
        return Result.EARLY if named else Result.NEITHER
    except HttpResponseError:
        failure = ServiceError.of(error)
    if failure.transient:
        return Result.RECOVERS
    return Result.LATER if help_of(known, {}) and f"[{known.code}]" in str(failure) else Result.NEITHER


def of_sign_in(known: Known) -> Result:
    said = f"DefaultAzureCredential failed to retrieve a token. {known.code}: because"
    with pytest.raises(InputError) as refused, explained(AZURE, Service.BATCH):
        raise ClientAuthenticationError(message=said)
    assert f"no token for the Batch account mybatch: {known.meaning}" in str(refused.value)
    return Result.EARLY


def of_task(known: Known) -> Result:
    why = outcome(known.code, minutes=1).why()
    assert str(known.code) in why
    return Result.LATER if help_of(known, {}) and help_of(known, {}) in why else Result.NEITHER


def outcome(code: str, *, minutes: int, exit_code: int | None = None, limit: str = "PT10M") -> TaskOutcome:
    """Of a Batch task that has failed with the code after so many minutes."""
    execution = {
        "startTime": START.isoformat(),
        "endTime": (START + timedelta(minutes=minutes)).isoformat(),
        "retryCount": 0,
        "requeueCount": 0,
        "result": "failure",
        "failureInfo": {"category": "usererror", "code": code, "message": "It failed."},
    }
    if exit_code is not None:
        execution["exitCode"] = exit_code
    task = {"id": "t", "state": "completed", "executionInfo": execution, "constraints": {"maxWallClockTime": limit}}
    return TaskOutcome.of(AddedTask(id="t", file="a.txt"), BatchTask(task))


FED = {Where.REQUEST: of_request, Where.SIGN_IN: of_sign_in, Where.TASK: of_task}
# Of inputs and outputs that are named, with messages of their own (tests/flow/test_source_blobs.py and others), and one
# that is no response at all.
ELSEWHERE = {
    Code.PUBLIC_ACCESS_NOT_PERMITTED,
    Code.RESOURCE_NOT_FOUND,
    Code.CONTAINER_NOT_FOUND,
    Code.HOST_NOT_FOUND,
}
ROWS = [each for each in KNOWN if each.where in FED and each.code not in ELSEWHERE]


@pytest.mark.parametrize(
    "known", [each for each in ROWS if each.reaction is Reaction.REFUSE], ids=lambda each: each.code
)
def test_what_is_refused_in_step_0_is_named_with_its_fix(known: Known) -> None:
    assert FED[known.where](known) is Result.EARLY


@pytest.mark.parametrize("known", [each for each in KNOWN if each.where is Where.TASK], ids=lambda each: each.code)
def test_a_failed_batch_task_names_its_code_and_what_helps(known: Known) -> None:
    ended_by_user = known.code is Code.TASK_ENDED
    expected = Result.LATER if help_of(known, {}) and not ended_by_user else Result.NEITHER
    assert of_task(known) is expected


@pytest.mark.parametrize("code", ["TaskEnded", "ACodeOfItsOwn", "FailureExitCode"])
def test_a_time_limit_is_seen_whatever_the_code(code: str) -> None:
    stopped = outcome(code, minutes=10, exit_code=137)
    assert stopped.cause is Cause.TIME_LIMIT
    assert "limits.task_minutes" in stopped.why()


@pytest.mark.parametrize(
    ("code", "minutes", "exit_code", "cause"),
    [
        ("TaskEnded", 9, 143, Cause.TERMINATED),
        ("ACodeOfItsOwn", 9, 137, Cause.OTHER),
        ("FailureExitCode", 10, 1, Cause.EXIT_CODE),
        ("DiskFull", 11, None, Cause.OTHER),
    ],
)
def test_other_ends_are_no_time_limit(code: str, minutes: int, exit_code: int | None, cause: Cause) -> None:
    assert outcome(code, minutes=minutes, exit_code=exit_code).cause is cause


def test_most_codes_are_recovered_from_or_named_with_their_fix() -> None:
    counted = Counter(FED[each.where](each) for each in ROWS)
    print({result.name: count for result, count in counted.items()})
    assert counted[Result.EARLY] >= 30
    assert counted[Result.RECOVERS] >= 10
    assert counted[Result.LATER] >= 10
