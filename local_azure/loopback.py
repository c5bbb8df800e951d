"""Requests to this machine: they bypass proxies, and trust the certificate of its services."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping

# Where programs look for the certificates that they trust: OpenSSL, and so Python, curl, Go, .NET; requests, and so the
# Azure SDKs for Python and `az`; curl, for which it comes before that of OpenSSL; Node.js, which adds them to its own.
REPLACING = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ADDING = "NODE_EXTRA_CA_CERTS"
TRUST = (*REPLACING, ADDING)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
SPLITS = re.compile(r"[^\w@%+=:,./-]")  # what a shell splits or expands where it reads settings
PAST_PROXIES = ("no_proxy", "NO_PROXY")
_OURS = ("127.0.0.1", "localhost", "::1")


def bypass_proxies(environment: MutableMapping[str, str]) -> None:
    """Add the loopback addresses to NO_PROXY, in both cases, for this process and its children."""
    given = f"{environment.get('no_proxy', '')},{environment.get('NO_PROXY', '')}"
    hosts = dict.fromkeys(host for part in given.split(",") if (host := part.strip()))
    if "*" not in hosts:
        value = ",".join(hosts | dict.fromkeys(_OURS))
        environment.update(dict.fromkeys(PAST_PROXIES, value))


def past_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """What a client needs to reach this machine where the environment has a proxy; nothing where it has none.

    The environment is one in which `bypass_proxies` was called. Hosts that a shell would change are left out.
    """
    proxies = [name for proxy in _PROXIES for name in (proxy, proxy.upper()) if environment.get(name)]
    hosts = environment.get("no_proxy", "*").split(",")
    if not proxies or "*" in hosts:
        return {}
    # A wildcard is expanded in no assignment, and in `export $(cat FILE)` only to files of such odd names.
    kept = [host for host in hosts if not SPLITS.search(host.replace("*", ""))]
    return dict.fromkeys(PAST_PROXIES, ",".join(kept))


def trusting(bundle: str) -> dict[str, str]:
    """The variables by which programs trust the certificates in the file."""
    return dict.fromkeys(TRUST, bundle)
