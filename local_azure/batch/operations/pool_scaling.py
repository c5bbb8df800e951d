"""Operations on a pool's automatic scaling."""

from __future__ import annotations

from datetime import timedelta

from local_azure.batch.engine import autoscale
from local_azure.batch.engine.service import Service
from local_azure.batch.operations.pools import changeable, save, save_unmodified
from local_azure.batch.rest.call import Call, Response, done
from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.states import ALLOCATION
from local_azure.batch.state.wire import parse_timestamp, timestamp

PAUSE = timedelta(seconds=30)  # between two requests that enable it for a pool

_RUN = "Microsoft.Azure.Batch.Protocol.Entities.AutoScaleRun"  # as odata.metadata names it


def enable_pool_auto_scale(service: Service, call: Call) -> Response:
    body = call.optional_body("BatchPoolEnableAutoScaleOptions")
    if "autoScaleFormula" in body:
        autoscale.checked_formula(body["autoScaleFormula"])
    if "autoScaleEvaluationInterval" in body:
        autoscale.check_interval(body["autoScaleEvaluationInterval"])
    row = changeable(service, call)
    document = row.document
    if not document["enableAutoScale"] and document["allocationState"] != "steady":
        raise BatchError(Code.PoolBeingResized)
    last = row.private.get("enabled")
    if document["enableAutoScale"] and last and parse_timestamp(last) + PAUSE > service.now():
        raise BatchError(Code.TooManyEnableAutoScaleRequests)
    formula = body.get("autoScaleFormula", document.get("autoScaleFormula"))
    if formula is None:
        raise BatchError(Code.MissingRequiredProperty, PropertyName="autoScaleFormula")
    interval = body.get("autoScaleEvaluationInterval") or document.get("autoScaleEvaluationInterval")
    interval = interval or autoscale.DEFAULT_INTERVAL
    document |= {"enableAutoScale": True, "autoScaleFormula": formula, "autoScaleEvaluationInterval": interval}
    row.private["enabled"] = timestamp(service.now())
    row.private.pop("evaluation", None)
    return save(service, call, row, 200)


def disable_pool_auto_scale(service: Service, call: Call) -> Response:
    """Disable it; a resize under way is stopped, and so ends with the error ResizeStopped."""
    row = changeable(service, call)
    row.document["enableAutoScale"] = False
    if row.document["allocationState"] == "resizing":
        ALLOCATION.enter(row.document, "stopping", service.now())
    for name in ("autoScaleFormula", "autoScaleEvaluationInterval", "autoScaleRun"):
        row.document.pop(name, None)
    return save_unmodified(service, call, row, 200)


def evaluate_pool_auto_scale(service: Service, call: Call) -> Response:
    """Evaluate a formula without applying it."""
    formula = autoscale.checked_formula(call.body("BatchPoolEvaluateAutoScaleOptions")["autoScaleFormula"])
    row = changeable(service, call)
    if not row.document["enableAutoScale"]:
        raise BatchError(Code.OperationNotValidOnPool, "Automatic scaling is not enabled on the pool.")
    run, _ = autoscale.evaluate(service, row, formula)
    return Response(document=run, kind=_RUN, headers=done(call, 200).headers)
