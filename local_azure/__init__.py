"""A local Azure: Blob Storage by Azurite, and a Batch service that runs local processes."""

from local_azure.embedded import LocalAzure, LocalAzureFailed

__all__ = ["LocalAzure", "LocalAzureFailed"]
