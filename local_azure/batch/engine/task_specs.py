"""Task specifications: validation and defaults."""

from __future__ import annotations

from local_azure.batch.engine import container_specs, dependencies, exit_conditions, references
from local_azure.batch.state.errors import BatchError, Code, invalid_property, not_implemented
from local_azure.batch.state.store import Document
from local_azure.batch.state.wire import UNLIMITED_TEXT, check_id

DEFAULT_RETENTION = "P7D"
# The service's own error names this limit ("Total size of commandLine cannot be more than 32768 characters", reported
# in virtual-kubelet/virtual-kubelet#503). It also bounds the time that splitting takes, which grows with the square.
MAXIMUM_COMMAND_LINE = 32_768


def with_defaults(spec: Document, job: Document) -> Document:
    """The specification, once checked, with defaults for a task of the job. Raises BatchError if the job refuses it."""
    references.complete(spec)
    references.refuse(spec)
    _check_ids_of_job_tasks(spec["id"], job)
    dependencies.check(spec.get("dependsOn"), job)
    exit_conditions.check(spec.get("exitConditions"), job)
    if "multiInstanceSettings" in spec:
        spec["multiInstanceSettings"] = {"numberOfInstances": 1, **spec["multiInstanceSettings"]}
    return {
        "requiredSlots": 1,
        **spec,
        "userIdentity": user_identity(spec),
        "constraints": constraints(spec.get("constraints", {}), job),
        "executionInfo": {"retryCount": 0, "requeueCount": 0},
    }


def constraints(given: Document, job: Document) -> Document:
    defaults = {"maxWallClockTime": UNLIMITED_TEXT, "retentionTime": DEFAULT_RETENTION}
    return {**defaults, "maxTaskRetryCount": job["constraints"]["maxTaskRetryCount"], **given}


def user_identity(task: Document) -> Document:
    """The identity under which a task of any kind runs: an auto user, unless it names an account."""
    given: Document = task.get("userIdentity", {"autoUser": {}})
    if "autoUser" not in given:
        return given
    return {**given, "autoUser": {"scope": "pool", "elevationLevel": "nonadmin", **given["autoUser"]}}


def check_constraints(given: Document) -> None:
    retries = given.get("maxTaskRetryCount", 0)
    if retries < -1:
        raise invalid_property("constraints.maxTaskRetryCount", retries, "it must be -1, for no limit, or not negative")


def check(spec: Document) -> None:
    """Check what does not depend on the task's job."""
    check_id("id", spec["id"])
    check_command(spec)
    check_constraints(spec.get("constraints", {}))
    if spec.get("requiredSlots", 1) < 1:
        raise invalid_property("requiredSlots", spec["requiredSlots"], "it must be positive")
    if settings := spec.get("multiInstanceSettings"):
        _check_instances(settings, spec)


def _check_ids_of_job_tasks(task_id: str, job: Document) -> None:
    for name, code in (
        ("jobPreparationTask", Code.TaskIdSameAsJobPreparationTask),
        ("jobReleaseTask", Code.TaskIdSameAsJobReleaseTask),
    ):
        own = job.get(name)
        if own and own.get("id", "").lower() == task_id.lower():
            raise BatchError(code)


def check_command(task: Document, path: str = "") -> None:
    """Check the properties that all kinds of tasks share; `path` is the task's in the body, ending in a dot."""
    _check_command_line(f"{path}commandLine", task["commandLine"])
    for resource in task.get("resourceFiles", ()):
        _check_resource_file(resource)
    container_specs.check_task(task.get("containerSettings"), path)


def _check_instances(settings: Document, task: Document) -> None:
    if settings.get("numberOfInstances", 1) < 1:
        raise invalid_property(
            "multiInstanceSettings.numberOfInstances", settings["numberOfInstances"], "it must be positive"
        )
    _check_command_line("multiInstanceSettings.coordinationCommandLine", settings["coordinationCommandLine"])
    for resource in settings.get("commonResourceFiles", ()):
        _check_resource_file(resource)
    if "containerSettings" in task:
        raise not_implemented("A task with containerSettings and multiInstanceSettings")


def _check_command_line(name: str, command_line: str) -> None:
    if not command_line.strip():
        raise invalid_property(name, command_line, "it must not be empty")
    if len(command_line) > MAXIMUM_COMMAND_LINE:
        shown = f"{command_line[:100]}..."
        raise invalid_property(name, shown, f"it must not have more than {MAXIMUM_COMMAND_LINE} characters")


def _check_resource_file(resource: Document) -> None:
    sources = ("httpUrl", "storageContainerUrl", "autoStorageContainerName")
    given = [name for name in sources if resource.get(name)]
    if len(given) != 1:
        raise invalid_property("resourceFiles", ", ".join(given), f"give exactly one of {', '.join(sources)}")
    if given == ["httpUrl"] and not resource.get("filePath"):
        raise BatchError(
            Code.MissingRequiredProperty,
            "A resource file with an httpUrl needs a filePath.",
            PropertyName="filePath",
        )
