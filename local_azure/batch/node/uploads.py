"""Uploads output files from the task's directory to a container of Blob Storage."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_azure.batch.node.patterns import Match, expand_variables, is_wild, matches
from local_azure.batch.node.transfer_common import (
    Limits,
    TokenOf,
    TransferFailed,
    no_tokens,
    node_errors,
    open_container,
    public_url,
    storage_errors,
    token_for,
)
from local_azure.batch.state.paths import as_text

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

# https://learn.microsoft.com/rest/api/storageservices/put-blob, with and without prefix, and the SDK's names
CONTENT_HEADERS = {
    prefix + name: f"{'' if name == 'cache-control' else 'content_'}{field}"
    for prefix in ("", "x-ms-blob-")
    for name, field in {
        "content-type": "type",
        "content-encoding": "encoding",
        "content-language": "language",
        "content-disposition": "disposition",
        "cache-control": "cache_control",
    }.items()
}


def stage_out(
    output_files: Sequence[Mapping[str, Any]],
    working_directory: Path,
    *,
    succeeded: bool,
    environment: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    token_of: TokenOf = no_tokens,
) -> None:
    """Upload the output files, in the format of the API, whose upload condition matches the task's result.

    `environment` has the variables of patterns such as `$AZ_BATCH_TASK_ID*.txt`. All output files are tried, so that
    logs are uploaded even if a result is missing; then TransferFailed is raised for the first failure.
    """
    failures = []
    for file in output_files:
        if _wanted(file, succeeded=succeeded):
            try:
                _upload(file, working_directory, environment or {}, limits or Limits(), token_of)
            except TransferFailed as failure:
                failures.append(failure)
    if failures:
        raise failures[0]


def _wanted(file: Mapping[str, Any], *, succeeded: bool) -> bool:
    condition = file.get("uploadOptions", {}).get("uploadCondition", "taskcompletion").lower()
    return condition in ("taskcompletion", "tasksuccess" if succeeded else "taskfailure")


def _upload(
    file: Mapping[str, Any],
    working_directory: Path,
    environment: Mapping[str, str],
    limits: Limits,
    token_of: TokenOf,
) -> None:
    destination = file["destination"]["container"]
    pattern = expand_variables(file["filePattern"], environment)
    details = {"FilePattern": pattern, "Destination": public_url(destination["containerUrl"])}
    try:
        found = matches(pattern, working_directory)
        settings = _upload_settings(destination.get("uploadHeaders", []))
    except ValueError as error:
        raise TransferFailed("FileUploadMiscError", str(error), details, category="UserError") from error
    if not found and not is_wild(pattern):
        # Azure does not document this case. A named file is required; a wildcard may match no file.
        reason = "the file does not exist in the task's directory"
        raise TransferFailed("FileUploadMiscError", reason, details, category="UserError")
    with storage_errors("FileUploadAccessDenied", "FileUploadContainerNotFound", "FileUploadMiscError", details):
        token = token_for(destination, token_of, "FileUploadAccessDenied", details)
        container = open_container(destination["containerUrl"], limits, token) if found else None
        for match in found:
            assert container is not None
            _upload_file(container, match, _blob_name(match, pattern, destination.get("path")), settings, details)


def _blob_name(match: Match, pattern: str, path: str | None) -> str:
    """The name of the blob: `path`, which for a pattern with a wildcard is the virtual directory of the blobs."""
    name = as_text(match.name)
    if is_wild(pattern):
        return f"{path.rstrip('/')}/{name}" if path else name
    return path or name


def _upload_settings(headers: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The SDK's arguments for uploadHeaders. Raises ValueError for headers that Put Blob does not support."""
    from azure.storage.blob import ContentSettings

    content: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for header in headers:
        name, value = header["name"].lower(), header.get("value", "")
        if name in CONTENT_HEADERS:
            content[CONTENT_HEADERS[name]] = value
        elif name.startswith("x-ms-meta-"):
            metadata[header["name"][len("x-ms-meta-") :]] = value
        elif name == "x-ms-access-tier":
            settings["standard_blob_tier"] = value
        else:
            raise ValueError(f"the upload header {header['name']!r} is not supported for output files")
    return {**settings, "content_settings": ContentSettings(**content), "metadata": metadata}


def _upload_file(
    container: ContainerClient,
    match: Match,
    blob: str,
    settings: Mapping[str, Any],
    details: Mapping[str, str],
) -> None:
    with node_errors("FileUploadMiscError", {**details, "FilePath": as_text(match.path.name)}):
        descriptor = os.open(match.path, os.O_RDONLY | os.O_NOFOLLOW)  # it was not a link when it was found
    with open(descriptor, "rb") as file:
        container.upload_blob(blob, file, length=os.fstat(descriptor).st_size, overwrite=True, **settings)
