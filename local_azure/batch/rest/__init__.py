"""The REST API's language: calls and responses, signatures, OData, the shapes of bodies."""
