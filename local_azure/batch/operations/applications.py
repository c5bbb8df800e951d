"""Operations on the applications of the account, which has none: in Azure its management API adds them."""

from __future__ import annotations

from local_azure.batch.engine.service import Service
from local_azure.batch.rest.call import Call, Listing, Response
from local_azure.batch.state.errors import BatchError, Code

_LISTING = Listing(kind="applications", filterable={}, show=lambda row: row.document)


def list_applications(service: Service, call: Call) -> Response:
    return _LISTING.respond(call, lambda after: ())


def get_application(service: Service, call: Call) -> Response:
    raise BatchError(Code.ApplicationNotFound)
