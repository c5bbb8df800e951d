"""Bring a task's resource files to its node, and its output files from there to Blob Storage.

Blocking: call it in a thread. A failure is told as the `failureInfo` that Azure Batch would give. No URL is
ever told with its query string, which is where the SAS signature is.
"""

from __future__ import annotations

from local_azure.batch.node.downloads import stage_in
from local_azure.batch.node.transfer_common import Limits, TransferFailed
from local_azure.batch.node.uploads import stage_out

__all__ = ["Limits", "TransferFailed", "stage_in", "stage_out"]
