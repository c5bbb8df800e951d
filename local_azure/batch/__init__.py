"""A local service that speaks the Azure Batch REST API and runs tasks as processes of this machine."""
