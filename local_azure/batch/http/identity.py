"""The identity endpoint: issues tokens to whoever has its header, in the form of a managed identity of App Service.

`DefaultAzureCredential` of each language finds it by IDENTITY_ENDPOINT and IDENTITY_HEADER. The form is Microsoft's
"REST endpoint reference" in "How to use managed identities for App Service and Azure Functions".
"""

from __future__ import annotations

import hmac
import json
from typing import Any
from urllib.parse import parse_qs

from local_azure.batch.engine.service import Service
from local_azure.batch.http.app import Receive, Scope, Send
from local_azure.batch.rest import tokens
from local_azure.batch.state.access import PRINCIPAL, Entra

PATH = "/msi/token"
_API_VERSION = "2019-08-01"


class _Refused(Exception):
    """No token; with the status of the response."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class IdentityApp:
    """The ASGI application."""

    def __init__(self, service: Service, entra: Entra) -> None:
        self._service = service
        self._entra = entra

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, document = 200, self._token(scope)
        except _Refused as error:
            status, document = error.status, {"statusCode": error.status, "message": str(error)}
        body = json.dumps(document).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _token(self, scope: Scope) -> dict[str, Any]:
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        if (scope["method"], scope["path"]) != ("GET", PATH):
            raise _Refused(404, f"The path is {PATH}, and the method GET.")
        if not hmac.compare_digest(headers.get("x-identity-header", b""), self._entra.header.encode()):
            raise _Refused(401, "The header X-IDENTITY-HEADER is not the value of IDENTITY_HEADER.")
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if query.get("api-version") != [_API_VERSION] or not query.get("resource"):
            raise _Refused(400, f"The query needs api-version={_API_VERSION} and a resource.")
        service, resource = self._service, query["resource"][0]
        if (identity := query.get("mi_res_id")) and not _is_of_a_pool(service, identity[0]):
            raise _Refused(400, "No managed identity found for specified ClientId/ResourceId/PrincipalId.")
        token, expires = issue(service, self._entra, resource)
        return {
            "access_token": token,
            "expires_on": str(expires),
            "resource": resource,
            "token_type": "Bearer",
            "client_id": PRINCIPAL,
        }


def issue(service: Service, entra: Entra, resource: str) -> tuple[str, int]:
    """A token for the resource and its expiry, in seconds since 1970."""
    return tokens.issue(entra.secret, resource, service.faults.issued, service.now(), service.clock.machine_time())


def token_of(service: Service, entra: Entra, resource: str) -> str:
    return issue(service, entra, resource)[0]


def _is_of_a_pool(service: Service, identity: str) -> bool:
    pools = service.store.pools.where("json_extract(document, '$.identity') IS NOT NULL")
    return any(identity.lower() in service.identities(pool.id) for pool in pools)
