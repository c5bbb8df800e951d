"""An embedded local Azure: Blob Storage by Azurite, and a Batch service that runs local processes."""
