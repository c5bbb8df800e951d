"""The errors of the Batch service as data: code, status and message. http/app.py serialises them."""

from __future__ import annotations

from enum import Enum
from typing import Any


class Code(Enum):
    """A Batch error code (the member's name), its HTTP status and its standard message."""

    ConditionNotMet = (412, "The condition specified using HTTP conditional header(s) is not met.")
    NotModified = (304, "The condition specified using HTTP conditional header(s) is not met.")

    InvalidAuthenticationInfo = (400, "Authentication information is not given in the correct format.")
    InvalidHeaderValue = (
        400,
        "The value provided for one of the HTTP headers was not in the correct format.",
    )
    InvalidInput = (400, "One of the request inputs is not valid.")
    InvalidPropertyValue = (
        400,
        "The value provided for one of the properties in the request body is invalid.",
    )
    InvalidQueryParameterValue = (
        400,
        "Value for one of the query parameters specified in the request URI is invalid.",
    )
    InvalidRequestBody = (400, "The specified Request Body is not syntactically valid.")
    InvalidUri = (400, "The requested URI does not represent any resource on the server.")
    MissingRequiredProperty = (400, "A required property was not specified in the request body.")
    MissingRequiredQueryParameter = (400, "A required query parameter was not specified in the request URI.")
    OutOfRangeInput = (400, "One of the request inputs is out of range.")
    OutOfRangePriority = (400, "The specified priority is out of range.")
    OutOfRangeQueryParameterValue = (
        400,
        "A query parameter specified in the request URI is outside the permissible range.",
    )
    UnsupportedProperty = (400, "One of the properties specified in the request body is not supported.")
    UnsupportedQueryParameter = (
        400,
        "One of the query parameters specified in the request URI is not supported.",
    )
    UnsupportedRequestVersion = (400, "The specified API version is not supported.")
    InvalidAutoScalingSettings = (400, "The specified autoscaling settings are invalid.")
    AutoScalingFormulaSyntaxError = (400, "The specified autoscaling formula has a syntax error.")
    TaskDependenciesNotSpecifiedOnJob = (
        400,
        "The task has dependencies, but its job was not created with usesTaskDependencies.",
    )
    TaskDependencyListTooLong = (400, "The list of task dependencies is too long.")

    AuthenticationFailed = (
        403,
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly"
        " including the signature.",
    )

    AuthorizationFailure = (403, "This request is not authorized to perform this operation.")
    PermissionDenied = (403, "Server failed to authorize the request.")

    ApplicationNotFound = (404, "The specified application does not exist.")
    FileNotFound = (404, "The specified file does not exist.")
    JobNotFound = (404, "The specified job does not exist.")
    JobScheduleNotFound = (404, "The specified job schedule does not exist.")
    NodeNotFound = (404, "The specified node does not exist.")
    NodeUserNotFound = (404, "The specified node user does not exist.")
    PoolNotFound = (404, "The specified pool does not exist.")
    ResourceNotFound = (404, "The specified resource does not exist.")
    TaskNotFound = (404, "The specified task does not exist.")

    UnsupportedHttpVerb = (405, "The resource doesn't support the specified HTTP verb.")

    ActiveJobAndScheduleQuotaReached = (409, "Active job and schedule quota for the account has been reached.")
    InvalidApplicationPackageReferences = (
        409,
        "One or more of the specified application package references are invalid.",
    )
    InvalidCertificateReferences = (409, "One or more of the specified certificate references are invalid.")
    JobBeingDeleted = (409, "The specified job is already being deleted.")
    JobBeingTerminated = (409, "The specified job is being terminated.")
    JobCompleted = (409, "The specified job is already in a completed state.")
    JobDisabled = (409, "The specified job is disabled.")
    JobExists = (409, "The specified job already exists.")
    JobNotActive = (409, "The specified job is not in an active state.")
    JobPreparationTaskOrReleaseTaskNotSpecified = (
        409,
        "The specified job has no job preparation task and no job release task.",
    )
    JobScheduleBeingDeleted = (409, "The specified job schedule is being deleted.")
    JobScheduleBeingTerminated = (409, "The specified job schedule is being terminated.")
    JobScheduleCompleted = (409, "The specified job schedule is already in a completed state.")
    JobScheduleExists = (409, "The specified job schedule already exists.")
    JobScheduleWithSameIdExists = (409, "A job schedule of the specified id exists.")
    JobWithSameIdExists = (409, "A job of the specified id exists.")
    NodeAlreadyInTargetSchedulingState = (
        409,
        "The specified node is already in the target scheduling state.",
    )
    NodeBeingCreated = (409, "The specified node is being created.")
    NodeBeingRebooted = (409, "The specified node is being rebooted.")
    NodeBeingReimaged = (409, "The specified node is being reimaged.")
    NodeBeingStarted = (409, "The specified node is being started.")
    NodeStateUnusable = (409, "The specified node is in an unusable state.")
    NodeUserExists = (409, "The specified node user already exists.")
    OperationInvalidForCurrentState = (409, "The operation is invalid for the resource's current state.")
    OperationNotValidOnNode = (409, "The requested operation is not valid on the specified node.")
    OperationNotValidOnPool = (409, "The requested operation is not valid on the specified pool.")
    PoolBeingCreated = (409, "The specified pool is being created.")
    PoolBeingDeleted = (409, "The specified pool is being deleted.")
    PoolBeingResized = (409, "The specified pool is being resized.")
    PoolExists = (409, "The specified pool already exists.")
    PoolQuotaReached = (409, "Pool quota for the account has been reached.")
    TaskCompleted = (409, "The specified task is already in a completed state.")
    TaskExists = (409, "The specified task already exists.")
    TaskFilesCleanedup = (409, "The files of the specified task have been removed from the node.")
    TaskFilesUnavailable = (409, "The files of the specified task are unavailable: it has no node.")
    TaskIdSameAsJobPreparationTask = (409, "The id of the task is that of the job's job preparation task.")
    TaskIdSameAsJobReleaseTask = (409, "The id of the task is that of the job's job release task.")
    TaskNotCompleted = (409, "The specified task is not in a completed state.")
    TaskSucceeded = (409, "The specified task has succeeded.")

    MissingContentLengthHeader = (411, "The Content-Length header was not specified.")
    RequestBodyTooLarge = (413, "The size of the request body exceeds the maximum size permitted.")
    InvalidRange = (416, "The range specified is invalid for the current size of the resource.")

    InternalError = (500, "Server encountered an internal error. Please try after some time.")
    NotImplemented = (501, "The local Batch service does not implement this.")
    TooManyEnableAutoScaleRequests = (503, "Automatic scaling was enabled on the pool less than 30 seconds ago.")
    ServerBusy = (503, "The server is busy.")

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message


class BatchError(Exception):
    """An error response: `detail` is added to the code's message, `values` are the key-value list of the body."""

    def __init__(self, code: Code, detail: str = "", **values: Any) -> None:
        super().__init__(code.name, detail)
        self.code = code
        self.detail = detail
        self.values = values
        self.status = code.status
        self.name = code.name
        self.headers: dict[str, str] = {}

    @property
    def text(self) -> str:
        return f"{self.code.message} {self.detail}".rstrip()

    def document(self, request_id: str, time: str) -> dict[str, Any]:
        """The body of the response, with message, request id and time on separate lines."""
        body = self.fields()
        body["message"]["value"] += f"\nRequestId:{request_id}\nTime:{time}"
        return body

    def fields(self) -> dict[str, Any]:
        body: dict[str, Any] = {"code": self.name, "message": {"lang": "en-US", "value": self.text}}
        if self.values:
            body["values"] = [{"key": key, "value": str(value)} for key, value in self.values.items()]
        return body


class TokenRefused(BatchError):
    """The code of a wrong signature, but with status 401, another message and a challenge."""

    def __init__(self, reason: str, tenant: str, audience: str) -> None:
        super().__init__(Code.AuthenticationFailed, AuthenticationErrorDetail=reason)
        self.status = 401
        authority = f"https://login.microsoftonline.com/{tenant}"
        self.headers = {"WWW-Authenticate": f'Bearer authorization_uri="{authority}", resource_id="{audience}"'}

    @property
    def text(self) -> str:
        return self.code.message.replace(" including the signature", "")


def invalid_property(name: str, value: object, reason: str) -> BatchError:
    return BatchError(
        Code.InvalidPropertyValue,
        f"{name}: {reason}",
        PropertyName=name,
        PropertyValue=value,
        Reason=reason,
    )


def invalid_query(reason: str, name: str, value: str) -> BatchError:
    return BatchError(
        Code.InvalidQueryParameterValue, reason, QueryParameterName=name, QueryParameterValue=value, Reason=reason
    )


def not_implemented(what: str, why: str = "") -> BatchError:
    """501 for a feature of Azure Batch that is not implemented; accepting it without effect would mislead."""
    return BatchError(Code.NotImplemented, f"{what} is not implemented{': ' + why if why else ''}.", What=what)
