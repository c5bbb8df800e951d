"""Each service code fed in where it occurs: what the run then does is what the table says, and its fix is named.

What step 0 says of the codes of requests is also tested through the step itself, in tests/flow/test_access.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from enum import Enum

import pytest
from azure.core.exceptions import ClientAuthenticationError
from prefect.logging import disable_run_logger

from tasks.accounts.access import explained
from tasks.errors import InputError
from tasks.errors.code_table import KNOWN
from tasks.errors.codes import TEMPORARY_ALLOCATIONS, Code, Known, Reaction, Service, Where
from tasks.errors.service import ServiceError
from tasks.run.outcomes import Cause
from tests.support.service_codes import (
    AZURE,
    RUN,
    SIZED,
    Seen,
    error_of,
    outcome,
    refused_input,
    resize,
    seen,
    start_task,
    without_quota,
)


class Result(Enum):
    RECOVERS = "the run recovers"
    EARLY = "the fix is named before anything exists"
    LATER = "the fix is named later"
    NEITHER = "shown as it is"


SHOWN_AS_THEY_ARE = {
    (Code.FAILURE_EXIT_CODE, Where.TASK),  # the program's own failure, with the end of its stderr
    (Code.BLOB_NOT_FOUND, Where.REQUEST),  # an output that the Batch task has stored is not there
}


def result_of(known: Known, found: Seen) -> Result:
    match found.reaction:
        case Reaction.REFUSE:
            return Result.EARLY if names_its_fix(known, found) else Result.NEITHER
        case Reaction.FAIL | Reaction.FILES_FAIL:
            return Result.LATER if names_its_fix(known, found) else Result.NEITHER
    return Result.RECOVERS


def names_its_fix(known: Known, found: Seen) -> bool:
    """Whether advice and command are in the message, the command with the names of the accounts."""
    parts = [part for part in (known.advice, known.command.partition("{")[0].strip()) if part]
    named = "<account>" not in found.message and "<storage>" not in found.message
    return bool(parts) and named and all(part in found.message for part in parts)


def of(where: Where) -> list[Known]:
    return [each for each in KNOWN if each.where is where]


@pytest.mark.parametrize("known", KNOWN, ids=lambda each: f"{each.where.name} {each.code} {each.detail[:10]}")
def test_the_run_does_with_a_code_what_the_table_says(known: Known) -> None:
    found = seen(known)
    assert found.reaction is known.reaction
    assert (result_of(known, found) is Result.NEITHER) == ((known.code, known.where) in SHOWN_AS_THEY_ARE)


def test_nearly_all_codes_are_recovered_from_or_named_with_their_fix() -> None:
    counted = Counter(result_of(each, seen(each)) for each in KNOWN)
    assert counted == {Result.RECOVERS: 38, Result.EARLY: 48, Result.LATER: 28, Result.NEITHER: 2}


@pytest.mark.parametrize("known", of(Where.RESIZE), ids=lambda each: each.code)
def test_without_another_vm_size_the_run_waits_or_names_the_fix(known: Known) -> None:
    found = resize(known, replace(SIZED, other_sizes=()))
    if known.code in TEMPORARY_ALLOCATIONS:
        assert found.reaction is Reaction.WAIT
        assert found.message.endswith(f"Azure could not allocate: {known.code}: No.")
    else:
        assert result_of(known, found) is Result.LATER


@pytest.mark.parametrize("known", of(Where.TASK), ids=lambda each: each.code)
def test_a_start_task_that_fails_names_what_helps(known: Known) -> None:
    found = start_task(known)
    assert found.reaction is Reaction.FAIL
    assert (result_of(known, found) is Result.LATER) == (known.code is not Code.FAILURE_EXIT_CODE)


@pytest.mark.parametrize("code", [Code.POOL_QUOTA_REACHED, Code.ACTIVE_JOB_QUOTA_REACHED])
def test_a_quota_that_nobody_frees_is_named_with_its_command(code: Code) -> None:
    (known,) = (each for each in KNOWN if each.code is code)
    with disable_run_logger():
        assert result_of(known, without_quota(known, holder=RUN)) is Result.LATER


# Codes that are not in the table.


@pytest.mark.parametrize("status", [400, 403, 404, 409])
def test_an_unknown_code_of_a_request_is_shown_as_it_is(status: int) -> None:
    (known,) = (each for each in KNOWN if each.code is Code.PERMISSION_DENIED)
    error = error_of(known, status)
    error.model.code = "SomethingNew"
    with pytest.raises(type(error)), explained(AZURE, Service.BATCH):
        raise error
    failure = ServiceError.of(error)
    assert not failure.transient
    assert str(failure).splitlines() == [
        f"Azure Batch answered {status} SomethingNew: Refused.",
        "  AuthenticationErrorDetail: ",
        "  request id: 42",
    ]


def test_an_unknown_code_of_entra_id_fails_step_0_and_is_shown_as_it_is() -> None:
    said = (
        "DefaultAzureCredential failed.\n\tAzureCliCredential: AADSTS1: Something new.\nTo mitigate this issue, see x."
    )
    with pytest.raises(InputError) as refused, explained(AZURE, Service.STORAGE):
        raise ClientAuthenticationError(message=said)
    assert str(refused.value) == (
        "no token for the storage account mystorage: AzureCliCredential: AADSTS1: Something new.\n"
        "  sign in with `az login`, or set the accounts' keys (AZURE_BATCH_ACCESS_KEY, AZURE_STORAGE_CONNECTION_STRING)"
    )


def test_without_a_sign_in_an_input_is_refused_at_once() -> None:
    error = ClientAuthenticationError(message="DefaultAzureCredential failed to retrieve a token.")
    with pytest.raises(InputError) as refused:
        refused_input(error)
    assert str(refused.value).splitlines() == [
        "no token for input https://theirs.blob.core.windows.net/texts: nobody is signed in: no key is set, and none "
        "of the ways to Entra ID gives a token",
        "  sign in: `az login`",
        "  Microsoft Entra ID gave no token: CredentialUnavailableError",
    ]


# Time limits.


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
