"""The uploaded files as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """A blob and the URL from which a node reads it, whose SAS permits nothing else."""

    blob_name: str
    size: int  # bytes
    output_name: str
    task_id: str  # of the Batch task that counts it
    md5: str  # hexadecimal
    modified: datetime  # when the blob got its content, by the service's clock
    sas_url: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Uploads:
    """What step 2 leaves in the application and input containers."""

    node_script: UploadedFile
    inputs: Sequence[UploadedFile]
