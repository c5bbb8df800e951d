"""Errors of Azure Batch and Blob Storage, translated from those of their SDKs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

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

from tasks.errors import RunError
from tasks.errors.advice import help_against, help_of, why_no_token
from tasks.errors.codes import PASSING_CONFLICTS, Where
from tasks.errors.responses import Response, UnusableResponse

_TRANSIENT_STATUSES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}

NO_TOKEN_HELPS = (
    "sign in with `az login`, or set the accounts' keys (AZURE_BATCH_ACCESS_KEY, AZURE_STORAGE_CONNECTION_STRING)"
)


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
        no_token = isinstance(error, HttpResponseError) and is_no_token(error)
        if isinstance(error, HttpResponseError) and error.response is not None and not lost and not no_token:
            return cls._answered(error)
        if no_token:
            # Step 0 has got one, so this may pass; and who signs in again meanwhile lets the run continue.
            return cls(f"Entra ID gave no token: {_no_token(str(error.message))}", code="NoToken", transient=True)
        whole = "whole " if isinstance(error, HttpResponseError) else ""
        return cls(f"no {whole}answer from the service: {error.message}", code="NoAnswer", transient=lost)

    @classmethod
    def _answered(cls, error: HttpResponseError) -> ServiceError:
        return cls.answered(_response(error), error_code(error), text_of(error), details_of(error))

    @classmethod
    def answered(
        cls, response: Response, code: str, text: str, details: Sequence[tuple[str, str]] = ()
    ) -> ServiceError:
        """Of a response that refuses the request: its code, its message in a line, and further values."""
        status = response.status
        transient = code in PASSING_CONFLICTS or status in _TRANSIENT_STATUSES or status >= 500 or status < 400
        if not response.request_id:  # so its body is not the service's either
            return cls(f"no answer from {response.service.value}: {response.origin}", code=code, transient=transient)
        lines = [f"{response.service.value} answered {status} {code}: {text}"]
        lines += [f"  {name}: {value}" for name, value in details]
        lines.append(f"  request id: {response.request_id}")
        texts = " ".join([text, *(value for _, value in details)])
        if helps := help_against(response.service, Where.REQUEST, code, response.names, texts):
            lines.append(f"  {helps} [{code}]")
        return cls("\n".join(lines), code=code, transient=transient)


class EmbeddedAzureEnded(ServiceError):
    """The embedded local Azure ended before the run did, and all that was in it with it."""

    def __init__(self, message: str, *, code: str = "EmbeddedAzureEnded", transient: bool = False) -> None:
        super().__init__(message, code=code, transient=transient)


# What the SDKs raise for a failed request, and its translation.
SERVICE_FAILURES = (AzureError, DeserializationError, ServiceError)


def error_code(error: HttpResponseError) -> str:
    """The service's error code, such as PoolNotFound or ContainerAlreadyExists; without one, the HTTP status."""
    batch = getattr(getattr(error, "model", None), "code", None)
    storage = getattr(error, "error_code", None)
    return str(getattr(storage, "value", storage) or batch or f"HTTP {error.status_code}")


def is_no_token(error: HttpResponseError) -> bool:
    """Whether Entra ID has given no token, and not Batch or Storage refused one."""
    of_a_service = getattr(error, "model", None) or getattr(error, "error_code", None)
    return isinstance(error, ClientAuthenticationError) and not of_a_service


def _no_token(message: str) -> str:
    entry = why_no_token(message)
    helps = (entry and help_of(entry, {})) or NO_TOKEN_HELPS
    return f"{entry.meaning if entry else message.splitlines()[0]}; {helps}"


def _response(error: HttpResponseError) -> Response:
    """The response of the error, without its body."""
    answer: Any = error.response
    request = answer.request
    return Response(
        method=request.method, url=request.url, status=answer.status_code, headers=answer.headers, body=None
    )


def text_of(error: HttpResponseError) -> str:
    """The first line of the service's message."""
    message = getattr(getattr(getattr(error, "model", None), "message", None), "value", None)
    text: str = message or error.message or str(error.reason)
    return text.strip().splitlines()[0] if text.strip() else "no message"


def details_of(error: HttpResponseError) -> list[tuple[str, str]]:
    """The key-value details of a Batch error, or the additional fields of a Storage error."""
    values = getattr(getattr(error, "model", None), "error_values", None)  # the SDK's name for `values`
    details = [(str(value.key), str(value.value)) for value in values or ()]
    details += [(str(key), str(value)) for key, value in (getattr(error, "additional_info", None) or {}).items()]
    return details
