"""The HTTP server: routes, and what becomes of a request."""
