"""Requests to this machine: they bypass proxies, and trust the certificate of its services."""

from __future__ import annotations

from collections.abc import MutableMapping

# Where programs look for the certificates that they trust: OpenSSL, and so Python, curl, Go, .NET; requests, and so the
# Azure SDKs for Python and `az`; curl, for which it comes before that of OpenSSL; Node.js, which adds them to its own.
REPLACING = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ADDING = "NODE_EXTRA_CA_CERTS"
TRUST = (*REPLACING, ADDING)
_OURS = ("127.0.0.1", "localhost", "::1")


def bypass_proxies(environment: MutableMapping[str, str]) -> None:
    """Add the loopback addresses to NO_PROXY, in both cases, for this process and its children."""
    given = f"{environment.get('no_proxy', '')},{environment.get('NO_PROXY', '')}"
    hosts = dict.fromkeys(host for part in given.split(",") if (host := part.strip()))
    if "*" not in hosts:
        value = ",".join(hosts | dict.fromkeys(_OURS))
        environment.update({"no_proxy": value, "NO_PROXY": value})


def trusting(bundle: str) -> dict[str, str]:
    """The variables by which programs trust the certificates in the file."""
    return dict.fromkeys(TRUST, bundle)
