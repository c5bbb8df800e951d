"""The HTTP server: connections, routes, and the handling of a request."""
