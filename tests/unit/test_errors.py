"""How errors read, which are worth a retry, and that they hold no secret."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    DecodeError,
    DeserializationError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
)
from azure.core.rest import HttpRequest
from prefect._internal.states import exception_to_crashed_state_sync
from prefect.client.schemas.objects import TaskRun
from prefect.exceptions import TerminationSignal
from prefect.states import Failed

from tasks.errors import InputError, TasksFailed
from tasks.errors.log import log_errors_without_traceback
from tasks.errors.secrets import without_secrets
from tasks.errors.service import ServiceError
from tasks.reporting.artifacts import task_table
from tasks.reporting.text import escape_markdown, short_node
from tasks.run.outcomes import Cause, Failure, TaskOutcome
from tasks.step import is_transient


class Response:
    def __init__(self, status_code: int) -> None:
        self.request = HttpRequest("GET", "https://account.blob.core.windows.net/container?comp=list")
        self.status_code = status_code
        self.reason = "Because"
        self.headers = {"x-ms-request-id": "42"}


def answered(status: int, message: str = "Bad things.\nRequestId:42") -> ServiceError:
    return ServiceError.of(HttpResponseError(message=message, response=Response(status)))  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_or_broken_service_is_asked_again(status: int) -> None:
    assert answered(status).transient


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 413])
def test_a_refusal_is_final(status: int) -> None:
    assert not answered(status).transient


def test_a_lost_connection_is_tried_again() -> None:
    assert ServiceError.of(ServiceRequestError("Connection refused")).transient


def test_a_missing_sign_in_says_how_to_sign_in() -> None:
    error = ServiceError.of(ClientAuthenticationError("DefaultAzureCredential failed.\nAttempted credentials: many"))
    assert str(error) == (
        "Entra ID gave no token: nobody is signed in: no key is set, and none of the ways to Entra ID gives a token; "
        "sign in: `az login`"
    )


def test_a_token_refused_in_the_middle_of_a_run_is_requested_again() -> None:
    assert ServiceError.of(ClientAuthenticationError("the metadata service timed out")).transient


def test_what_gives_the_tokens_is_not_taken_for_a_service() -> None:
    error = ClientAuthenticationError("invalid_grant", response=Response(400))  # type: ignore[arg-type]
    assert (ServiceError.of(error).code, ServiceError.of(error).transient) == ("NoToken", True)
    refused = ClientAuthenticationError("no right", response=Response(401))  # type: ignore[arg-type]
    refused.error_code = "AuthenticationFailed"  # type: ignore[attr-defined]
    assert (ServiceError.of(refused).code, ServiceError.of(refused).transient) == ("AuthenticationFailed", False)


@pytest.mark.parametrize("error", [IncompleteReadError("cut off"), DecodeError("no JSON")])
def test_half_an_answer_is_a_lost_one(error: HttpResponseError) -> None:
    failure = ServiceError.of(error)
    assert (failure.code, failure.transient) == ("NoAnswer", True)
    assert str(failure).startswith("no whole answer from the service: ")


def test_a_value_that_cannot_be_read_is_a_lost_answer() -> None:
    failure = ServiceError.of(DeserializationError())
    assert (failure.code, failure.transient) == ("NoAnswer", True)
    assert str(failure) == "incomplete answer from the service: a value in it cannot be read"


def test_an_error_can_be_kept_and_read_again() -> None:
    error = answered(503).with_result(None, [outcome(0, "completed", True)])
    read = pickle.loads(pickle.dumps(error))
    assert (type(read), str(read), read.code, read.transient) == (ServiceError, str(error), error.code, True)
    assert read.outcomes == error.outcomes


def test_an_error_in_other_words_is_still_what_it_was() -> None:
    other = answered(503).with_message("Sorry: sig=abc")
    assert (str(other), other.code, other.transient) == ("Sorry: sig=***", "HTTP 503", True)
    assert isinstance(TasksFailed("no").with_message("yes"), TasksFailed)


def test_only_transient_errors_of_a_service_make_prefect_retry() -> None:
    def verdict(error: Exception) -> bool:
        return is_transient(None, TaskRun(task_key="x", dynamic_key="x"), Failed(data=error))  # type: ignore[arg-type]

    assert verdict(answered(503))
    assert not verdict(answered(403))
    assert not verdict(InputError("no such file"))
    assert not verdict(ValueError("a bug"))


def test_an_error_shows_service_status_message_and_request_id() -> None:
    assert str(answered(403)) == "Blob Storage answered 403 HTTP 403: Bad things.\n  request id: 42"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a/b?sv=1&sig=abc%3D&se=2", "https://a/b?sv=1&sig=***&se=2"),
        ("DefaultEndpointsProtocol=http;AccountKey=abc==;X=1", "DefaultEndpointsProtocol=http;AccountKey=***;X=1"),
        ("Authorization: SharedKey name:abc= more", "Authorization: SharedKey name:*** more"),
        ("--index-url https://joe:p%40ss@host:8080/simple x@y", "--index-url https://***@host:8080/simple x@y"),
        ("'https://token@host/x'", "'https://***@host/x'"),
        ("https://host/a@b", "https://host/a@b"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_signatures_and_keys_are_blanked(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_prefect_logs_our_errors_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log_errors_without_traceback()
    log_errors_without_traceback()  # once is enough, twice does no harm
    logger = logging.getLogger("prefect.flow_runs")
    for error in (InputError("no file matches"), ValueError("a bug")):
        try:
            raise error
        except Exception as raised:
            with caplog.at_level(logging.ERROR, "prefect.flow_runs"):
                logger.exception("failed: %r", raised)
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]
    assert caplog.records[0].getMessage() == "failed: InputError: no file matches"


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (TerminationSignal(signal=15), "Stopped: the run was cancelled or terminated"),
        (KeyboardInterrupt(), "Stopped: interrupted from the keyboard"),
        (SystemExit(), "Crash detected! Execution was aborted by Python system exit call."),
    ],
)
def test_a_run_that_is_stopped_is_not_called_a_crash(
    ending: BaseException, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    log_errors_without_traceback()
    state = exception_to_crashed_state_sync(ending)
    logging.getLogger("prefect.task_runs").error(f"Crash detected! {state.message}")  # as Prefect's engine does
    assert caplog.messages == [said]


def outcome(index: int, state: str, succeeded: bool = False, failure: Failure | None = None) -> TaskOutcome:
    return TaskOutcome(id=f"topNtask{index}", file="f", state=state, succeeded=succeeded, failure=failure)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://x?sp=cw&sig=ab%2Bc%3D&sv=1", "http://x?sp=cw&sig=***&sv=1"),
        ("?u=http%3A%2F%2Fx%3Fsp%3Dcw%26sig%3Dab%252B", "?u=http%3A%2F%2Fx%3Fsp%3Dcw%26sig%3D***"),
        ("x%3Fsig%3Dab", "x%3Fsig%3D***"),
        ("AccountKey=a2V5==;Blob", "AccountKey=***;Blob"),
        ("design=blue", "design=blue"),
        ("%2526sig%253Dab%2526se%253D1", "%2526sig%253D***%2526se%253D1"),
        ("AccountKey%3Da2V5%3D%3D", "AccountKey%3D***"),
    ],
)
def test_secrets_are_blanked_also_in_a_url_within_a_url(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"http://x?sv=1\u0026sig=ab%2B\u0026se=2", r"http://x?sv=1\u0026sig=***\u0026se=2"),
        (r"sig\u003dab\u0026se", r"sig\u003d***\u0026se"),
        ('{"sig": "ab", "se": 1}', '{"sig": "***", "se": 1}'),
        ("\x1b[31msig=ab", "\x1b[31msig=***"),
    ],
)
def test_secrets_are_blanked_also_in_json_and_in_colour(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_no_error_of_ours_holds_a_secret() -> None:
    assert str(TasksFailed("got no nodes: GET http://x?sig=ab&se=1")) == "got no nodes: GET http://x?sig=***&se=1"


def test_the_task_table_tells_completed_from_succeeded() -> None:
    failure = Failure(category="usererror", code="FailureExitCode", message="m")
    failed = replace(outcome(1, "completed", False, failure), cause=Cause.EXIT_CODE)
    given_up = replace(outcome(2, "running"), cause=Cause.NOT_RUN)
    before = TaskOutcome.done_before("topNtask3", "3.txt")
    rows = task_table([outcome(0, "completed", True), failed, given_up, before, outcome(4, "running")])
    assert {row["task"]: row["state"] for row in rows} == {
        "topNtask0": "completed",
        "topNtask1": "failed: exited non-zero",
        "topNtask2": "running: did not get to its end",
        "topNtask3": "completed earlier",
        "topNtask4": "running",
    }


def test_the_task_table_begins_with_what_explains_a_failure() -> None:
    rows = task_table([outcome(0, "completed", True), outcome(1, "running"), outcome(2, "completed")])
    assert [row["task"] for row in rows] == ["topNtask2", "topNtask1", "topNtask0"]
    assert list(rows[0])[:6] == ["task", "file", "state", "exit code", "stderr", "failure"]


def test_beyond_500_tasks_the_failed_and_running_ones_are_shown_first() -> None:
    many = [outcome(index, "completed", True) for index in range(500)]
    rows = task_table([*many, outcome(500, "active"), outcome(501, "running"), outcome(502, "completed")])
    assert len(rows) == 500
    assert [row["task"] for row in rows[:4]] == ["topNtask502", "topNtask501", "topNtask500", "topNtask0"]


def test_names_cannot_break_out_of_a_markdown_table() -> None:
    assert escape_markdown("a|b\n[x](y) _a_") == "a&#124;b⏎&#91;x&#93;(y) &#95;a&#95;"


def test_a_usual_name_is_not_escaped() -> None:
    assert escape_markdown("it's my_file__2 (final).txt") == "it's my_file__2 (final).txt"


def test_a_node_id_is_shortened_to_its_ends() -> None:
    assert short_node("tvmps_" + "0123456789abcdef" * 4 + "_d") == "tvmps_012345…cdef_d"
    assert short_node("short") == "short"


OBEYED = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \u202etxt.exe\r \u2028"


def test_nothing_that_a_terminal_obeys_is_in_an_error() -> None:
    shown = "�red� �]0;title� �2J �txt.exe� �"
    assert str(InputError(OBEYED)) == str(InputError("").with_message(OBEYED)) == shown
    assert str(InputError("two\nlines\tof שלום 👩‍👧")) == "two\nlines\tof שלום 👩‍👧"


def test_nothing_that_a_terminal_obeys_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log_errors_without_traceback()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).warning("%s of %d", "\x1b[31mx", 3)
    assert caplog.messages == ["�x of 3"] * 2
