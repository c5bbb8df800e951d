"""What can go wrong, as a person should read it.

RunError
 ├ InputError      the caller's input or settings cannot work; nothing was created
 ├ ServiceError    Azure Batch or Blob Storage refused a request, or did not answer
 ├ ConflictError   a resource with this run's name exists and is not this run's
 ├ RunTimeout      the run reached a time limit
 ├ Stalled         no Batch task made progress for too long
 ├ Cancelled       somebody cancelled the run while it waited for its Batch tasks
 ├ TasksFailed     Batch tasks ended without success, or can never run
 ├ ResultsError    a file of the results cannot be read or written on this machine
 ├ NotDownloaded   outputs are in their container, but could not be downloaded
 └ NotDeleted      the run has succeeded, but some of its resources could not be deleted
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from copy import copy
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    DeserializationError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
)

from tasks.errors.responses import Response, UnusableResponse
from tasks.errors.text import visible

if TYPE_CHECKING:
    from typing_extensions import Self


# What has to be over first: a resource of the same name that is still going away, or a pool's change of size; and
# what was damaged on the way.
_PASSING_CONFLICTS = {"ContainerBeingDeleted", "JobBeingDeleted", "PoolBeingDeleted", "PoolBeingResized", "Md5Mismatch"}
_TRANSIENT_STATUSES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_SIGN_IN = (
    "Sign in with `az login`, or set the accounts' keys (AZURE_BATCH_ACCESS_KEY, AZURE_STORAGE_CONNECTION_STRING)"
)
# A SAS signature also where its URL was quoted: in another URL, once or more often, or as JSON.
_EQUALS = r"(?:=|%(?:25)*3D|\\u003d|[\"']\s*:\s*[\"'])"
_SIGNATURE = re.compile(
    # After a letter it is part of a word, unless that letter ends an escape: of ?, or of a terminal's colour.
    rf"((?:(?<![A-Za-z])|(?<=%3F)|(?<=\dm))sig{_EQUALS}|AccountKey{_EQUALS}|SharedKey [^:\s]+:)"
    r"(?:(?!\\u0026|%(?:25)*26)[^&;\s'\"])+",
    re.IGNORECASE,
)


class RunError(Exception):
    """An error whose message says all that a person needs; its traceback would only hide it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(visible(without_secrets(message)))
        self._result: tuple[Any, Sequence[Any]] = (None, ())
        self._report_url = ""

    @property
    def summary(self) -> Any:
        """What the outputs of the files that succeeded were joined into, where the run came that far."""
        return self._result[0]

    @property
    def outcomes(self) -> Sequence[Any]:
        """What became of each file, where that is known."""
        return self._result[1]

    @property
    def report_url(self) -> str:
        """The page of the run's report, where there is one."""
        return self._report_url

    def with_message(self, message: str) -> Self:
        """The same error in other words."""
        other = copy(self)
        other.args = (visible(without_secrets(message)),)
        return other

    def with_result(self, summary: object, outcomes: Sequence[Any]) -> Self:
        """The same error with what the run has come to all the same."""
        other = copy(self)
        other._result = (summary, outcomes)
        return other

    def with_report(self, url: str) -> Self:
        other = copy(self)
        other._report_url = url
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self}"


class InputError(RunError, ValueError):
    """The caller's input or settings cannot work."""


class ConflictError(RunError):
    """A resource with this run's name exists and belongs to something else."""


class RunTimeout(RunError):
    """The run reached one of its time limits."""


class Stalled(RunError):
    """No Batch task ran or ended for longer than the run was to wait."""


class Cancelled(RunError):
    """Somebody cancelled the run in the Prefect UI."""


class TasksFailed(RunError):
    """Batch tasks ended without success, or can never run."""


class ResultsError(RunError):
    """A file of the results cannot be read or written on this machine."""


class NotDownloaded(RunError):
    """Outputs are in the output container, which keeps them, but could not be downloaded."""


class NotDeleted(RunError):
    """The run has succeeded, but some of its resources could not be deleted."""


class ServiceError(RunError):
    """Azure Batch or Blob Storage refused a request, or did not answer it."""

    def __init__(self, message: str, *, code: str, transient: bool) -> None:
        super().__init__(message)
        self.code = code
        self.transient = transient

    def __reduce__(self) -> tuple[Any, ...]:
        # Prefect keeps the exception of a failed run, for whoever asks for its result.
        return partial(type(self), code=self.code, transient=self.transient), self.args, self.__dict__

    @classmethod
    def of(cls, error: Exception) -> ServiceError:
        """One of SERVICE_FAILURES as one message: what it was, its code, and the service's own details."""
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, UnusableResponse):
            return cls(str(error.message), code="NoAnswer", transient=True)
        if not isinstance(error, AzureError):
            message = "incomplete answer from the service: a value in it cannot be read"
            return cls(message, code="NoAnswer", transient=True)
        lost = isinstance(error, (ServiceRequestError, ServiceResponseError, IncompleteReadError, DecodeError))
        no_token = isinstance(error, ClientAuthenticationError) and not _of_a_service(error)
        if isinstance(error, HttpResponseError) and error.response is not None and not lost and not no_token:
            return cls._answered(error)
        if no_token:
            # Whatever it is, it was no reason to refuse the run when it began: as likely a hiccup as a lost right.
            reason = str(error.message).splitlines()[0]
            return cls(f"Entra ID gave no token: {reason} {_SIGN_IN}", code="NoToken", transient=True)
        whole = "whole " if isinstance(error, HttpResponseError) else ""
        return cls(f"no {whole}answer from the service: {error.message}", code="NoAnswer", transient=lost)

    @classmethod
    def _answered(cls, error: HttpResponseError) -> ServiceError:
        code = error_code(error)
        status = error.status_code or 0
        response = _response(error)
        transient = code in _PASSING_CONFLICTS or status in _TRANSIENT_STATUSES or status >= 500 or status < 400
        if not response.request_id:  # so its body is not the service's either
            return cls(f"no answer from {response.service.value}: {response.origin}", code=code, transient=transient)
        lines = [f"{response.service.value} answered {status} {code}: {_first_line(error)}"]
        lines += [f"  {name}: {value}" for name, value in _details(error)]
        lines.append(f"  request id: {response.request_id}")
        return cls("\n".join(lines), code=code, transient=transient)


class EmbeddedAzureEnded(ServiceError):
    """The embedded local Azure ended before the run did, and all that was in it with it."""

    def __init__(self, message: str, *, code: str = "EmbeddedAzureEnded", transient: bool = False) -> None:
        super().__init__(message, code=code, transient=transient)


# What the SDKs raise for a request that failed, and what has been made of it already.
SERVICE_FAILURES = (AzureError, DeserializationError, ServiceError)


def error_code(error: HttpResponseError) -> str:
    """The service's own error code, such as PoolNotFound or ContainerAlreadyExists; the status where it has none."""
    batch = getattr(getattr(error, "model", None), "code", None)
    storage = getattr(error, "error_code", None)
    return str(getattr(storage, "value", storage) or batch or f"HTTP {error.status_code}")


def without_secrets(text: str) -> str:
    """The text with SAS signatures, account keys and authorization headers blanked."""
    return _SIGNATURE.sub(r"\1***", text)


def _of_a_service(error: HttpResponseError) -> bool:
    """Whether it is an answer of Batch or Storage, and not of what gives the tokens for them."""
    return bool(getattr(error, "model", None) or getattr(error, "error_code", None))


def _response(error: HttpResponseError) -> Response:
    """What was answered, without its body."""
    answer: Any = error.response
    request = answer.request
    return Response(
        method=request.method, url=request.url, status=answer.status_code, headers=answer.headers, body=None
    )


def _first_line(error: HttpResponseError) -> str:
    message = getattr(getattr(getattr(error, "model", None), "message", None), "value", None)
    text: str = message or error.message or str(error.reason)
    return text.strip().splitlines()[0] if text.strip() else "no message"


def _details(error: HttpResponseError) -> list[tuple[str, str]]:
    """The key-value details of a Batch error, or the additional fields of a Storage error."""
    values = getattr(getattr(error, "model", None), "error_values", None)  # the SDK's name for `values`
    details = [(str(value.key), str(value.value)) for value in values or ()]
    details += [(str(key), str(value)) for key, value in (getattr(error, "additional_info", None) or {}).items()]
    return details


# What Prefect calls a crash is mostly somebody's wish: Cancel in the UI, the worker's end, Ctrl-C.
_STOPPED = {
    "Crash detected! Execution was aborted by a termination signal.": "Stopped: the run was cancelled or terminated",
    "Crash detected! Execution was aborted by an interrupt signal.": "Stopped: interrupted from the keyboard",
}


class _ReadableErrors(logging.Filter):
    """Makes Prefect's own log records readable.

    Drops the traceback of a RunError, whose message is already in them, and says in plain words that a run was
    stopped.

    What a terminal would obey, in names and words, is replaced in every record.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], RunError):
            record.exc_info = None
        if stopped := _STOPPED.get(str(record.msg)):
            record.msg, record.levelno, record.levelname = stopped, logging.WARNING, "WARNING"
        message = record.getMessage()
        if (shown := visible(message)) != message:
            record.msg, record.args = shown, None
        return True


def log_errors_without_traceback() -> None:
    """Make Prefect log a RunError as its message alone; safe to call more than once.

    The SDKs' own warnings, some with a traceback, tell nothing that the errors do not.
    """
    if (sdks := logging.getLogger("azure")).level == logging.NOTSET:
        sdks.setLevel(logging.ERROR)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(present, _ReadableErrors) for present in logger.filters):
            logger.addFilter(_ReadableErrors())
