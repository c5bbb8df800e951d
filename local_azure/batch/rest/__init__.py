"""The REST API: calls and responses, signatures, OData, the shapes of bodies."""
