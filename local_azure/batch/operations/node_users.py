"""Operations on the users of a node. They are validated and stored, but cannot log in: a node is a directory here."""

from __future__ import annotations

from datetime import timedelta

from local_azure.batch.engine.service import Service
from local_azure.batch.rest.call import Call, Response, created, done
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import is_id, parse_timestamp, timestamp

DEFAULT_LIFETIME = timedelta(days=1)


def create_node_user(service: Service, call: Call) -> Response:
    body = call.body("BatchNodeUserCreateOptions")
    if not is_id(body["name"]):
        raise invalid_property("name", body["name"], "it is not a valid user name")
    node = _usable_node(service, call)
    if service.store.node_users.get(node.seq, body["name"].lower()):
        raise BatchError(Code.NodeUserExists)
    document = _without_secrets(service, body)
    service.store.node_users.add(Row(keys=(node.seq, body["name"].lower()), document=document))
    path = ("pools", call.ids["poolId"], "nodes", node.document["id"], "users", body["name"])
    return created(call, {}, *path)


def replace_node_user(service: Service, call: Call) -> Response:
    body = call.body("BatchNodeUserReplaceOptions")
    row = _user(service, call)
    row.document = _without_secrets(service, {"name": row.document["name"], **body})
    service.store.node_users.save(row)
    return done(call, 200)


def delete_node_user(service: Service, call: Call) -> Response:
    service.store.node_users.remove(_user(service, call))
    return Response(status=200)


def _usable_node(service: Service, call: Call) -> Row:
    node = service.node(call.ids["poolId"], call.ids["nodeId"])
    if node.document["state"] not in ("idle", "running", "starttaskfailed", "waitingforstarttask", "offline"):
        raise BatchError(Code.OperationInvalidForCurrentState, f"The node is {node.document['state']}.")
    return node


def _user(service: Service, call: Call) -> Row:
    node = _usable_node(service, call)
    row = service.store.node_users.get(node.seq, call.ids["userName"].lower())
    if row is None:
        raise BatchError(Code.NodeUserNotFound)
    return row


def _without_secrets(service: Service, body: Document) -> Document:
    """The stored properties: no password and no SSH key, as nothing would use them."""
    expiry = body.get("expiryTime", timestamp(service.now() + DEFAULT_LIFETIME))
    if parse_timestamp(expiry) <= service.now():
        raise invalid_property("expiryTime", expiry, "it has passed")
    return {"name": body["name"], "isAdmin": body.get("isAdmin", False), "expiryTime": expiry}
