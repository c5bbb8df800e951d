"""Exit conditions: the consequences of a task's result for its job and for the tasks that depend on it."""

from __future__ import annotations

from dataclasses import dataclass

from local_azure.batch.node.node_agent import Result
from local_azure.batch.state.errors import invalid_property
from local_azure.batch.state.store import Document


@dataclass(frozen=True, kw_only=True)
class Consequence:
    job_action: str  # none, disable or terminate; applied only if the job's onTaskFailure says so
    satisfies: bool  # whether dependent tasks may run


def check(conditions: Document | None, job: Document) -> None:
    """Raises InvalidPropertyValue for a job action if the job's onTaskFailure is noaction."""
    if conditions and job["onTaskFailure"] == "noaction":
        for options in _all_options(conditions):
            if "jobAction" in options:
                reason = "the job's onTaskFailure is noaction, so no job action may be specified"
                raise invalid_property("exitConditions.exitOptions.jobAction", options["jobAction"], reason)


def _all_options(conditions: Document) -> list[Document]:
    mappings = [*conditions.get("exitCodes", ()), *conditions.get("exitCodeRanges", ())]
    named = [conditions[name] for name in ("preProcessingError", "fileUploadError", "default") if name in conditions]
    return [mapping["exitOptions"] for mapping in mappings] + named


def consequence(conditions: Document | None, result: Result) -> Consequence:
    """By default, success satisfies dependencies; failure blocks them and terminates the job."""
    options = _options(conditions or {}, result)
    job_action = options.get("jobAction", "none" if result.succeeded else "terminate")
    action = options.get("dependencyAction", "satisfy" if result.succeeded else "block")
    return Consequence(job_action=job_action, satisfies=action == "satisfy")


def _options(conditions: Document, result: Result) -> Document:
    code = result.exit_code
    by_code = result.succeeded or result.may_be_retried  # the exit code decided the result
    if by_code and code is not None:
        for mapping in conditions.get("exitCodes", ()):
            if mapping["code"] == code:
                return dict(mapping["exitOptions"])
        for mapping in conditions.get("exitCodeRanges", ()):
            if mapping["start"] <= code <= mapping["end"]:
                return dict(mapping["exitOptions"])
    if result.failure and result.failure["code"].startswith("FileUpload"):
        return dict(conditions.get("fileUploadError") or conditions.get("default", {}))
    if result.failure and code is None and result.failure["code"] != "TaskEnded":
        return dict(conditions.get("preProcessingError") or conditions.get("default", {}))
    return {} if result.succeeded else dict(conditions.get("default", {}))
