"""Requests to this machine bypass proxies."""

from __future__ import annotations

from collections.abc import MutableMapping

_OURS = ("127.0.0.1", "localhost", "::1")


def bypass_proxies(environment: MutableMapping[str, str]) -> None:
    """Add the loopback addresses to NO_PROXY, in both cases, for this process and its children."""
    given = f"{environment.get('no_proxy', '')},{environment.get('NO_PROXY', '')}"
    hosts = dict.fromkeys(host for part in given.split(",") if (host := part.strip()))
    if "*" not in hosts:
        value = ",".join(hosts | dict.fromkeys(_OURS))
        environment.update({"no_proxy": value, "NO_PROXY": value})
