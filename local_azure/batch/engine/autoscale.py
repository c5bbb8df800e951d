"""Automatic scaling: evaluates a pool's formula periodically and sets the pool's targets."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from local_azure.batch.engine.formula import Formula, parse
from local_azure.batch.engine.formula_values import OPTIONS, FormulaError, Samples, text_of
from local_azure.batch.engine.nodes import current
from local_azure.batch.engine.service import Service
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.states import ALLOCATION
from local_azure.batch.state.store import Document, Row
from local_azure.batch.state.wire import duration, parse_duration, parse_timestamp, timestamp

DEFAULT_INTERVAL = "PT15M"
MINIMUM_INTERVAL, MAXIMUM_INTERVAL = timedelta(minutes=5), timedelta(hours=168)

MAXIMUM_NODES = 2**31 - 1  # the largest 32-bit integer, as in the API
_TARGETS = {"$TargetDedicatedNodes": "targetDedicatedNodes", "$TargetLowPriorityNodes": "targetLowPriorityNodes"}
_OPTION = "$NodeDeallocationOption"
# Documented variables without samples here, so that their GetSamplePercent is 0.
_NOT_MEASURED = (
    "$CPUPercent",
    "$WallClockSeconds",
    "$MemoryBytes",
    "$DiskBytes",
    "$DiskReadBytes",
    "$DiskWriteBytes",
    "$DiskReadOps",
    "$DiskWriteOps",
    "$NetworkInBytes",
    "$NetworkOutBytes",
)


def checked_formula(text: str) -> Formula:
    try:
        return parse(text)
    except FormulaError as error:
        reason = f"{str(error)[0].upper()}{str(error)[1:]}."
        raise BatchError(Code.AutoScalingFormulaSyntaxError, reason, Reason=reason) from error


def check_interval(text: str) -> None:
    if not MINIMUM_INTERVAL <= parse_duration(text) <= MAXIMUM_INTERVAL:
        reason = f"it must be between {duration(MINIMUM_INTERVAL)} and {duration(MAXIMUM_INTERVAL)}"
        raise invalid_property("autoScaleEvaluationInterval", text, reason)


def check_spec(spec: Document) -> None:
    """Check that a pool has either targets or a formula that sets them."""
    formula, targets = spec.get("autoScaleFormula"), set(_TARGETS.values())
    if not spec.get("enableAutoScale"):
        if formula is not None:
            raise invalid_property("autoScaleFormula", formula, "it is for pools with enableAutoScale only")
        return
    if formula is None:
        raise BatchError(Code.MissingRequiredProperty, PropertyName="autoScaleFormula")
    if named := sorted(targets & spec.keys()):
        raise invalid_property(named[0], spec[named[0]], "the autoscale formula sets it")
    checked_formula(formula)
    spec.setdefault("autoScaleEvaluationInterval", DEFAULT_INTERVAL)
    check_interval(spec["autoScaleEvaluationInterval"])


def evaluate(service: Service, pool: Row, formula: Formula) -> tuple[Document, Document]:
    """The autoScaleRun, and the values the formula sets: targets, and "deallocation" if it sets the option."""
    run: Document = {"timestamp": timestamp(service.now())}
    try:
        assigned = formula.evaluate(_variables(service, pool))
        wanted: Document = {name: _target(assigned[key]) for key, name in _TARGETS.items() if key in assigned}
        if _OPTION in assigned:
            wanted["deallocation"] = _option(assigned[_OPTION])
    except FormulaError as error:
        values = [{"name": "Message", "value": str(error)}]
        run["error"] = {"code": "AutoScalingFormulaEvaluationError", "message": str(error), "values": values}
        assigned, wanted = {}, {}
    targets = {**pool.document, **wanted}
    shown: dict[str, Any] = {key: float(targets[name]) for key, name in _TARGETS.items()}
    shown[_OPTION] = wanted.get("deallocation", "requeue")
    shown |= {name: value for name, value in assigned.items() if name not in shown}
    # Those of a formula that failed are the current ones, as a test of Microsoft's client for JavaScript expects.
    run["results"] = ";".join(f"{name}={text_of(value)}" for name, value in shown.items())
    return run, wanted


def _target(value: Any) -> int:
    if isinstance(value, Samples):
        value = value.value
    if isinstance(value, list):
        value = value[-1] if value else 0.0
    if not isinstance(value, float):
        raise FormulaError(f"a number of nodes cannot be {text_of(value)}")
    return int(min(max(0.0, value), MAXIMUM_NODES))


def _option(value: Any) -> str:
    if value not in OPTIONS:
        raise FormulaError(f"{_OPTION} cannot be {text_of(value)}: it is one of {', '.join(sorted(OPTIONS))}")
    return str(value)


def _variables(service: Service, pool: Row) -> dict[str, Any]:
    counts = dict.fromkeys(("active", "running", "preparing", "success", "failure"), 0)
    for state, result, tasks in service.store.execute(
        "SELECT task_counts.state, result, tasks FROM task_counts JOIN jobs ON jobs.id = job WHERE pool = ?", pool.id
    ):
        counts[result if state == "completed" else state] += tasks
    nodes = list(service.store.nodes.where("pool = ?", pool.id))
    dedicated, spot = current(service, pool)
    running = counts["running"] + counts["preparing"]
    values = {
        "$ActiveTasks": counts["active"],
        "$RunningTasks": running,
        "$PendingTasks": counts["active"] + running,
        "$SucceededTasks": counts["success"],
        "$FailedTasks": counts["failure"],
        "$TaskSlotsPerNode": pool.document["taskSlotsPerNode"],
        "$CurrentDedicatedNodes": dedicated,
        "$CurrentLowPriorityNodes": spot,
        "$SampleNodeCount": len(nodes),
        "$PreemptedNodeCount": sum(node.document["state"] == "preempted" for node in nodes),
        "$UsableNodeCount": sum(node.document["state"] in ("idle", "running") for node in nodes),
        **{name: pool.document[target] for name, target in _TARGETS.items()},
    }
    variables: dict[str, Any] = {name: Samples(0.0, known=False) for name in _NOT_MEASURED}
    variables |= {name: Samples(float(value)) for name, value in values.items()}
    return {**variables, _OPTION: "requeue", "time": service.now()}


def _is_off_target(service: Service, pool: Row) -> bool:
    kinds = [node.document["isDedicated"] for node in service.store.nodes.where("pool = ?", pool.id)]
    targets = (pool.document["targetDedicatedNodes"], pool.document["targetLowPriorityNodes"])
    return (kinds.count(True), kinds.count(False)) != targets


def step(service: Service, pool: Row) -> datetime | None:
    """Evaluate the pool's formula if it is due; returns when it is due next. Saves a changed pool."""
    document, now = pool.document, service.now()
    if not document["enableAutoScale"] or document["allocationState"] != "steady":
        return None
    if (planned := pool.private.get("evaluation")) and parse_timestamp(planned) > now:
        return parse_timestamp(planned)
    run, wanted = evaluate(service, pool, parse(document["autoScaleFormula"]))
    following = now + parse_duration(document["autoScaleEvaluationInterval"])
    document["autoScaleRun"] = run
    pool.private["evaluation"] = timestamp(following)
    pool.private["deallocation"] = wanted.pop("deallocation", "requeue")
    changed = any(document[name] != value for name, value in wanted.items())
    document.update(wanted)
    if changed:
        service.touch(document, now)
    if changed or _is_off_target(service, pool):  # retries a failed allocation
        document.pop("resizeErrors", None)
        ALLOCATION.enter(document, "resizing", now)
        service.reconciler.wake("pool", pool.id)
    service.store.pools.save(pool)
    return following
