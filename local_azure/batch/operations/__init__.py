"""One function per operation of the REST API."""
