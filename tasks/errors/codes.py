"""The service codes that this project reacts to or explains: the one table. A code that is not in it is shown as it is.

docs/errors.md is made from it: `python docs/errors.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class Service(str, Enum):
    """A service as a message names it."""

    BATCH = "Azure Batch"
    STORAGE = "Blob Storage"
    ENTRA_ID = "Microsoft Entra ID"

    @property
    def request_id(self) -> str:
        """The header that each of its responses carries."""
        return "request-id" if self is Service.BATCH else "x-ms-request-id"


class Where(StrEnum):
    """Where a code is seen."""

    REQUEST = "response to a request"
    RESIZE = "resize error of a pool"
    NODE = "error of a node"
    TASK = "failure of a Batch task"
    JOB = "reason for the end of a job"
    SIGN_IN = "sign-in"


class Reaction(StrEnum):
    """What the run does."""

    RETRY = "tries again"
    WAIT = "waits until it has passed"
    NEXT_SIZE = "tries the next VM size"
    ADOPT = "reuses what exists if it is this run's"
    DONE = "takes it as done"
    REFUSE = "stops in step 0, before anything exists"
    FAIL = "fails and names the fix"
    FILES_FAIL = "counts the files of that Batch task as failed"


class Code(StrEnum):
    """The codes as the services write them."""

    # Requests to both services.
    ACCOUNT_IS_DISABLED = "AccountIsDisabled"
    ACCOUNT_NOT_FOUND = "AccountNotFound"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    AUTHORIZATION_FAILURE = "AuthorizationFailure"
    HOST_NOT_FOUND = "HostNotFound"  # not of a service: there was no response
    INTERNAL_ERROR = "InternalError"
    OPERATION_TIMED_OUT = "OperationTimedOut"
    REQUEST_BODY_TOO_LARGE = "RequestBodyTooLarge"
    RESOURCE_NOT_FOUND = "ResourceNotFound"
    SERVER_BUSY = "ServerBusy"
    # Requests to Azure Batch.
    ACTIVE_JOB_QUOTA_REACHED = "ActiveJobAndScheduleQuotaReached"
    AUTHORIZATION_FAILED = "AuthorizationFailed"
    FILE_NOT_FOUND = "FileNotFound"
    INSUFFICIENT_ACCOUNT_PERMISSIONS = "InsufficientAccountPermissions"
    INSUFFICIENT_PERMISSIONS = "InsufficientPermissions"
    INVALID_PROPERTY_VALUE = "InvalidPropertyValue"
    JOB_BEING_DELETED = "JobBeingDeleted"
    JOB_BEING_TERMINATED = "JobBeingTerminated"
    JOB_COMPLETED = "JobCompleted"
    JOB_EXISTS = "JobExists"
    JOB_NOT_ACTIVE = "JobNotActive"
    JOB_NOT_FOUND = "JobNotFound"
    NODE_NOT_FOUND = "NodeNotFound"
    PERMISSION_DENIED = "PermissionDenied"
    POOL_BEING_DELETED = "PoolBeingDeleted"
    POOL_BEING_RESIZED = "PoolBeingResized"
    POOL_EXISTS = "PoolExists"
    POOL_NOT_FOUND = "PoolNotFound"
    POOL_QUOTA_REACHED = "PoolQuotaReached"
    TASK_EXISTS = "TaskExists"
    TASK_NOT_FOUND = "TaskNotFound"
    TOO_MANY_REQUESTS = "TooManyRequests"
    # Requests to Blob Storage; BlobNotFound is a failure of Batch tasks, too.
    AUTHORIZATION_PERMISSION_MISMATCH = "AuthorizationPermissionMismatch"
    AUTHORIZATION_PROTOCOL_MISMATCH = "AuthorizationProtocolMismatch"
    AUTHORIZATION_SOURCE_IP_MISMATCH = "AuthorizationSourceIPMismatch"
    BLOB_NOT_FOUND = "BlobNotFound"
    CONTAINER_ALREADY_EXISTS = "ContainerAlreadyExists"
    CONTAINER_BEING_DELETED = "ContainerBeingDeleted"
    CONTAINER_NOT_FOUND = "ContainerNotFound"
    INVALID_AUTHENTICATION_INFO = "InvalidAuthenticationInfo"
    KEY_NOT_PERMITTED = "KeyBasedAuthenticationNotPermitted"
    MD5_MISMATCH = "Md5Mismatch"
    NO_AUTHENTICATION_INFORMATION = "NoAuthenticationInformation"
    PUBLIC_ACCESS_NOT_PERMITTED = "PublicAccessNotPermitted"
    # Sign-in: of Entra ID, and the class of azure-identity where nobody is signed in.
    CREDENTIAL_UNAVAILABLE = "CredentialUnavailableError"
    MFA_NEEDED = "AADSTS50076"
    USER_OF_OTHER_TENANT = "AADSTS50020"
    SIGN_IN_REVOKED = "AADSTS50173"
    CONDITIONAL_ACCESS = "AADSTS53003"
    ENTRA_ID_BUSY = "AADSTS90006"
    ENTRA_ID_DIRECTORY_BUSY = "AADSTS90033"
    NO_SUCH_TENANT = "AADSTS90002"
    NO_SUCH_APPLICATION = "AADSTS700016"
    SIGN_IN_EXPIRED = "AADSTS700082"
    WRONG_SECRET = "AADSTS7000215"
    SECRET_EXPIRED = "AADSTS7000222"
    # Resize errors of a pool.
    ACCOUNT_CORE_QUOTA_REACHED = "AccountCoreQuotaReached"
    FAMILY_CORE_QUOTA_REACHED = "AccountVMSeriesCoreQuotaReached"
    LOW_PRIORITY_CORE_QUOTA_REACHED = "AccountLowPriorityCoreQuotaReached"
    SPOT_CORE_QUOTA_REACHED = "AccountSpotCoreQuotaReached"
    ALLOCATION_FAILED = "AllocationFailed"
    ALLOCATION_TIMED_OUT = "AllocationTimedOut"
    ALLOCATION_TIMEDOUT = "AllocationTimedout"  # the same code in another version of the SDK
    DEPENDENT_RESOURCE_NOT_FOUND = "DependentResourceNotFound"
    FAILED_IDENTITY_OPERATION = "FailedIdentityOperation"
    INCOMPATIBLE_VM_SIZE = "IncompatibleVMSize"
    RESERVED_CAPACITY_FAILED = "ReservedCapacityFailed"
    RESIZE_STOPPED = "ResizeStopped"
    UNSUPPORTED_VM_SIZE = "UnsupportedVMSize"
    # Failures of Batch tasks; DiskFull is an error of nodes, too.
    BLOB_ACCESS_DENIED = "BlobAccessDenied"
    BLOB_DOWNLOAD_MISC_ERROR = "BlobDownloadMiscError"
    BLOB_DOWNLOAD_TIMED_OUT = "BlobDownloadTimedOut"
    COMMAND_LAUNCH_FAILED = "CommandLaunchFailed"
    COMMAND_PROGRAM_NOT_FOUND = "CommandProgramNotFound"
    CONTAINER_INVALID_IMAGE = "ContainerInvalidImage"
    CONTAINER_INVALID_REGISTRY = "ContainerInvalidRegistry"
    CONTAINER_INVALID_SETTINGS = "ContainerInvalidSettings"
    CONTAINER_MISC_ERROR = "ContainerMiscError"
    DISK_FULL = "DiskFull"
    FAILURE_EXIT_CODE = "FailureExitCode"
    FILE_UPLOAD_ACCESS_DENIED = "FileUploadAccessDenied"
    FILE_UPLOAD_CONTAINER_NOT_FOUND = "FileUploadContainerNotFound"
    FILE_UPLOAD_MISC_ERROR = "FileUploadMiscError"
    RESOURCE_CONTAINER_ACCESS_DENIED = "ResourceContainerAccessDenied"
    RESOURCE_DIRECTORY_CREATE_FAILED = "ResourceDirectoryCreateFailed"
    RESOURCE_FILE_CREATE_FAILED = "ResourceFileCreateFailed"
    RESOURCE_FILE_WRITE_FAILED = "ResourceFileWriteFailed"
    TASK_ENDED = "TaskEnded"
    # Reasons for the end of a job.
    ALL_TASKS_COMPLETE = "AllTasksComplete"
    JOB_TIME_LIMIT = "MaxWallClockTimeExpiry"


GONE = frozenset(
    {
        Code.POOL_NOT_FOUND,
        Code.JOB_NOT_FOUND,
        Code.TASK_NOT_FOUND,
        Code.NODE_NOT_FOUND,
        Code.FILE_NOT_FOUND,
        Code.CONTAINER_NOT_FOUND,
        Code.BLOB_NOT_FOUND,
        Code.RESOURCE_NOT_FOUND,
    }
)
# What has to be over first: a resource of the same name that is still going away, or a pool's change of size; and
# what was damaged on the way.
PASSING_CONFLICTS = frozenset(
    {
        Code.CONTAINER_BEING_DELETED,
        Code.JOB_BEING_DELETED,
        Code.POOL_BEING_DELETED,
        Code.POOL_BEING_RESIZED,
        Code.MD5_MISMATCH,
    }
)
JOB_ENDED = frozenset({Code.JOB_BEING_TERMINATED, Code.JOB_COMPLETED, Code.JOB_NOT_ACTIVE})
NOT_PUBLIC = frozenset({Code.PUBLIC_ACCESS_NOT_PERMITTED, Code.RESOURCE_NOT_FOUND, Code.NO_AUTHENTICATION_INFORMATION})
# Allocations that Azure may still grant, at one of the formula's next evaluations. Others, such as a quota that is
# used up or an image that is gone, stay as they are.
TEMPORARY_ALLOCATIONS = frozenset(
    {
        Code.ALLOCATION_FAILED,
        Code.ALLOCATION_TIMED_OUT,
        Code.ALLOCATION_TIMEDOUT,
        Code.RESIZE_STOPPED,
        Code.RESERVED_CAPACITY_FAILED,
    }
)
SPOT_QUOTAS = frozenset({Code.LOW_PRIORITY_CORE_QUOTA_REACHED, Code.SPOT_CORE_QUOTA_REACHED})
COULD_NOT_START = frozenset({Code.COMMAND_LAUNCH_FAILED, Code.COMMAND_PROGRAM_NOT_FOUND})
COULD_NOT_FETCH = frozenset(
    {
        Code.BLOB_NOT_FOUND,
        Code.BLOB_ACCESS_DENIED,
        Code.BLOB_DOWNLOAD_MISC_ERROR,
        Code.BLOB_DOWNLOAD_TIMED_OUT,
        Code.RESOURCE_CONTAINER_ACCESS_DENIED,
        Code.RESOURCE_FILE_CREATE_FAILED,
        Code.RESOURCE_FILE_WRITE_FAILED,
    }
)
COULD_NOT_UPLOAD = frozenset(
    {Code.FILE_UPLOAD_ACCESS_DENIED, Code.FILE_UPLOAD_CONTAINER_NOT_FOUND, Code.FILE_UPLOAD_MISC_ERROR}
)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a code in one place where it is seen.

    detail: a part of the service's message or its values, in lower case, that the entry needs; such entries come
    before the general one. advice, command: texts with placeholders such as {account}.
    """

    code: Code
    service: Service
    where: Where
    meaning: str
    reaction: Reaction
    source: str
    advice: str = ""
    command: str = ""
    detail: str = ""
