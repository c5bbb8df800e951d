"""Stages a task's resource files in, and its output files out to Blob Storage.

Blocking: call it in a thread. A failure has the fields of the `failureInfo` of Azure Batch. URLs are reported without
their query string, which contains the SAS signature.
"""

from __future__ import annotations

from local_azure.batch.node.downloads import stage_in
from local_azure.batch.node.transfer_common import Limits, TransferFailed
from local_azure.batch.node.uploads import stage_out

__all__ = ["Limits", "TransferFailed", "stage_in", "stage_out"]
