"""The addresses of nodes, which are those of no machine, except where nodes reach each other."""

from __future__ import annotations

from local_azure.batch.state.store import Document

# A node has an endpoint for SSH, as in Azure. Its addresses are reserved for documentation (RFC 5737, 3849 and 2606).
NO_LOGIN = {
    "name": "SSHRule.0",
    "protocol": "tcp",
    "publicIPAddress": "192.0.2.1",
    "publicFQDN": "no-remote-login.invalid",
    "frontendPort": 50000,
    "backendPort": 22,
}
NO_LOGIN_IPV6 = {**NO_LOGIN, "name": "SSHRule-ipv6.0", "publicIPAddress": "2001:db8::1"}


def addresses(pool: Document, number: int) -> Document:
    """What a node shows of its addresses; `number` is another one for each node."""
    # Nodes that reach each other have addresses of loopback, all of which this machine has.
    network = "127.0" if pool["enableInterNodeCommunication"] else "10.0"
    of_node: Document = {"ipAddress": f"{network}.{number // 250 % 256}.{number % 250}"}
    endpoints, public = [NO_LOGIN], {"publicIPAddress": NO_LOGIN["publicIPAddress"]}
    settings = pool.get("networkConfiguration", {}).get("publicIPAddressConfiguration", {})
    if "IPv6" in settings.get("ipFamilies", ()):
        of_node["ipv6Address"] = f"fd00::{number:x}"
        endpoints.append(NO_LOGIN_IPV6)
        public["publicIPv6Address"] = NO_LOGIN_IPV6["publicIPAddress"]
    has_public = settings.get("provision") != "nopublicipaddresses"
    return {**of_node, "endpointConfiguration": {"inboundEndpoints": endpoints}, **(public if has_public else {})}
