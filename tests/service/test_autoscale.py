from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from hypothesis import given
from hypothesis import strategies as st

from local_azure.batch.engine.formula import parse
from local_azure.batch.engine.formula_values import FormulaError, Samples
from tests.support.batch_service import SLOW, create_job, pool_options, task, wait_for, wait_for_nodes
from tests.support.formulas import FORMULAS

BY_TASKS = "$TargetDedicatedNodes = min(3, $PendingTasks.GetSample(1)); $NodeDeallocationOption = taskcompletion;"


def scaled(formula: str = BY_TASKS, **options) -> m.BatchPoolCreateOptions:
    return pool_options(
        target_dedicated_nodes=None,
        enable_auto_scale=True,
        auto_scale_formula=formula,
        auto_scale_evaluation_interval=timedelta(minutes=5),
        **options,
    )


def wait_until_evaluated(client) -> m.BatchPool:
    return wait_for(lambda: next((p for p in client.list_pools() if p.auto_scale_run), None))


def test_pool_follows_its_formula(client, service):
    create_job(client)
    client.create_tasks("job", [task("one", "/bin/sleep 60"), task("two")])
    client.create_pool(scaled())
    wait_for(lambda: client.get_job_task_counts("job").task_counts.completed == 1)
    assert client.get_pool("pool").target_dedicated_nodes == 2
    client.terminate_task("job", "one")
    wait_for(lambda: client.get_job_task_counts("job").task_counts.completed == 2)
    assert client.get_pool("pool").target_dedicated_nodes == 2, "the formula is not evaluated before its time"
    service.advance(minutes=6)
    wait_for(lambda: not list(client.list_nodes("pool")))
    run = client.get_pool("pool").auto_scale_run
    assert run.results == "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=taskcompletion"
    assert run.error is None


def test_disabling_during_a_resize_stops_it(start_service):
    service = start_service(SLOW)
    client = service.client()
    client.create_pool(scaled("$TargetDedicatedNodes = 1"))
    created = client.get_pool("pool").etag
    service.advance(seconds=61)  # the pool is steady, so the formula is evaluated
    wait_for(lambda: client.get_pool("pool").auto_scale_run)
    scaled_up = client.get_pool("pool")
    assert scaled_up.allocation_state == "resizing"
    assert scaled_up.etag > created, "the service has changed the targets"
    client.disable_pool_auto_scale("pool")
    assert client.get_pool("pool").allocation_state == "stopping"
    assert client.get_pool("pool").etag == scaled_up.etag, "as in recorded answers of Azure"
    service.advance(seconds=61)
    pool = wait_for(lambda: next((p for p in client.list_pools() if p.allocation_state == "steady"), None))
    assert [error.code for error in pool.resize_errors] == ["ResizeStopped"]


def test_formula_of_the_documentation_is_evaluated(client):
    client.create_pool(scaled("$TargetDedicatedNodes = 0;"))
    wait_until_evaluated(client)
    formula = """
        startingNumberOfVMs = 1;
        maxNumberofVMs = 25;
        pendingTaskSamplePercent = $PendingTasks.GetSamplePercent(180 * TimeInterval_Second);
        pendingTaskSamples = pendingTaskSamplePercent < 70 ? startingNumberOfVMs :
            avg($PendingTasks.GetSample(180 * TimeInterval_Second));
        $TargetDedicatedNodes=min(maxNumberofVMs, pendingTaskSamples);
        $curTime = time("2026-03-02T10:00:00Z");
        $workHours = $curTime.hour >= 8 && $curTime.hour < 18;
        $isWeekday = $curTime.weekday >= 1 && $curTime.weekday <= 5;
        $TargetLowPriorityNodes = $workHours && $isWeekday ? 20 : 10;
        $NodeDeallocationOption = taskcompletion;
    """
    run = client.evaluate_pool_auto_scale("pool", m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=formula))
    values = dict(item.split("=", 1) for item in run.results.split(";"))
    assert values["$TargetDedicatedNodes"] == "0"
    assert values["$TargetLowPriorityNodes"] == "20"
    assert values["$NodeDeallocationOption"] == "taskcompletion"
    assert values["$curTime"] == "2026-03-02T10:00:00.0000000Z"
    assert client.get_pool("pool").target_low_priority_nodes == 0


@pytest.mark.parametrize(
    "formula",
    ["", "$TargetDedicatedNodes = ;", "$TargetDedicatedNodes = min(1, 2", "1 = 2;", "x = nosuch(1);", "x = #;"],
)
def test_formula_that_cannot_be_read_is_refused(client, formula):
    with pytest.raises(HttpResponseError) as refusal:
        client.create_pool(scaled(formula))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "AutoScalingFormulaSyntaxError")


def test_syntax_errors_name_line_and_column():
    for formula, place in (
        ("x = 1;\n  y = #;", "line 2, column 7"),
        ("x = 1;\n/* two\nlines */ 1 = 2;", "line 3, column 12"),
        ("/**/" * 1_000 + "x = #;", "line 1, column 4005"),
        ("x = 1; /* open", "line 1, column 8"),
    ):
        with pytest.raises(FormulaError, match=place):
            parse(formula)


NOW = datetime(2026, 3, 2, 10, tzinfo=timezone.utc)
SAMPLED = {
    "$PendingTasks": Samples(6.0),
    "$ActiveTasks": Samples(4.0),
    "$TaskSlotsPerNode": Samples(4.0),
    "$PreemptedNodeCount": Samples(1.0),
    "$CPUPercent": Samples(0.0, known=False),
    "$TargetDedicatedNodes": Samples(2.0),
    "$CurrentDedicatedNodes": Samples(4.0),
    "time": NOW,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_public_formulas_are_evaluated(name):
    formula, nodes = FORMULAS[name]
    assigned = parse(formula).evaluate(SAMPLED)
    assert assigned["$TargetDedicatedNodes"] == nodes


def test_public_formulas_have_no_error_in_a_pool(client):
    client.create_pool(scaled("$TargetDedicatedNodes = 0"))
    wait_until_evaluated(client)
    for formula, _ in FORMULAS.values():
        options = m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=formula)
        assert client.evaluate_pool_auto_scale("pool", options).error is None


def test_a_statement_that_is_no_assignment_is_an_error_of_its_run(client):
    """As a test of Microsoft's client for JavaScript expects of Azure."""
    client.create_pool(scaled("$TargetDedicatedNodes = 1"))
    wait_until_evaluated(client)
    options = m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula="$something_useless")
    run = client.evaluate_pool_auto_scale("pool", options)
    assert run.error.code == "AutoScalingFormulaEvaluationError"
    assert run.results == "$TargetDedicatedNodes=1;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"


def test_formula_error_is_in_the_autoscale_run(client):
    client.create_pool(scaled("$TargetDedicatedNodes = unknown + 1;"))
    pool = wait_until_evaluated(client)
    run = pool.auto_scale_run
    assert run.error.code == "AutoScalingFormulaEvaluationError"
    assert [item.value for item in run.error.error_values or ()] == ["the variable unknown is not defined"]
    assert run.results == "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
    assert pool.target_dedicated_nodes == 0


def test_scaling_is_enabled_and_disabled(client, service):
    client.create_pool(pool_options(target_dedicated_nodes=0))
    wait_for(lambda: client.get_pool("pool").allocation_state == "steady")
    client.enable_pool_auto_scale(
        "pool", m.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes = 1;")
    )
    wait_for_nodes(client, "pool", "idle")
    assert client.get_pool("pool").auto_scale_evaluation_interval == timedelta(minutes=15)
    with pytest.raises(ResourceExistsError) as refusal:
        client.begin_resize_pool("pool", m.BatchPoolResizeOptions(target_dedicated_nodes=2))
    assert refusal.value.error.code == "OperationNotValidOnPool"
    with pytest.raises(HttpResponseError) as too_soon:
        service.client(retry_total=0).enable_pool_auto_scale("pool", m.BatchPoolEnableAutoScaleOptions())
    assert (too_soon.value.status_code, too_soon.value.error.code) == (503, "TooManyEnableAutoScaleRequests")
    client.disable_pool_auto_scale("pool")
    pool = client.get_pool("pool")
    assert (pool.enable_auto_scale, pool.auto_scale_formula, pool.target_dedicated_nodes) == (False, None, 1)


def test_evaluation_needs_scaling_to_be_enabled(client):
    client.create_pool(pool_options(target_dedicated_nodes=0))
    with pytest.raises(ResourceExistsError) as refusal:
        client.evaluate_pool_auto_scale("pool", m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula="x = 1;"))
    assert refusal.value.error.code == "OperationNotValidOnPool"


def test_interval_out_of_range_is_refused(client):
    options = scaled()
    options.auto_scale_evaluation_interval = timedelta(minutes=4)
    with pytest.raises(HttpResponseError) as refusal:
        client.create_pool(options)
    assert refusal.value.error.code == "InvalidPropertyValue"


def test_targets_beside_a_formula_are_refused(client):
    options = scaled()
    options.target_dedicated_nodes = 1
    with pytest.raises(HttpResponseError) as refusal:
        client.create_pool(options)
    assert refusal.value.error.code == "InvalidPropertyValue"


@pytest.mark.parametrize(
    "formula",
    [
        "$TargetDedicatedNodes = 1" + " + 1" * 2000,
        'x = "text";' + "x = x + x;" * 60 + "$TargetDedicatedNodes = 0",
        "$TargetDedicatedNodes = 0; $NodeDeallocationOption = time()",
    ],
    ids=["too long", "growing text", "no option"],
)
def test_formula_that_cannot_be_computed_is_an_error_of_its_run(client, formula):
    client.create_pool(scaled("$TargetDedicatedNodes = 0"))
    wait_until_evaluated(client)
    run = client.evaluate_pool_auto_scale("pool", m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=formula))
    assert run.error.code == "AutoScalingFormulaEvaluationError"


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        ('x = 1 + "a"', "x cannot be computed: 1 + a is not defined"),
        ("x = 1 / 0", "x cannot be computed: 1 / 0 is a division by zero"),
        ("x = avg($CPUPercent.GetSample(1))", "x cannot be computed: avg has no values"),
        ("x = time(0)", "x cannot be computed: 0 is not a text"),
        ("x = $NoSuch", "the variable $NoSuch is not defined"),
    ],
)
def test_run_that_fails_says_why_in_terms_of_the_formula(client, formula, reason):
    client.create_pool(scaled("$TargetDedicatedNodes = 0"))
    wait_until_evaluated(client)
    run = client.evaluate_pool_auto_scale("pool", m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=formula))
    assert (run.error.message, [each.value for each in run.error.error_values]) == (reason, [reason])
    assert run.results == "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"


def test_number_of_nodes_is_bounded(client):
    client.create_pool(scaled("$TargetDedicatedNodes = 0"))
    wait_until_evaluated(client)
    formula = f"$TargetDedicatedNodes = {'9' * 400}; $TargetLowPriorityNodes = max($PendingTasks.GetSample({'9' * 20}))"
    run = client.evaluate_pool_auto_scale("pool", m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=formula))
    assert run.error is None
    assert run.results.startswith("$TargetDedicatedNodes=2147483647;$TargetLowPriorityNodes=0;")


@pytest.mark.parametrize("formula", ["$a = " + "-" * 5000 + "1", "$a = " + "(" * 4000], ids=["signs", "parentheses"])
def test_formula_that_is_nested_too_deeply_is_refused(formula):
    with pytest.raises(FormulaError, match="nested too deeply"):
        parse(formula)


NAMES = ("$TargetDedicatedNodes", "$PendingTasks", "GetSample", "TimeInterval_Minute", "time", "hour", "min", "avg")
WORDS = st.sampled_from([*"x=;1+-/()[],?:<!.", *NAMES, '"2026-01-01"', "0.5", "&&", "requeue"])


@given(st.lists(WORDS, max_size=25).map(" ".join))
def test_any_formula_is_computed_or_refused_and_nothing_else(text):
    variables = {"$PendingTasks": Samples(2.0), "time": datetime(2026, 1, 1, tzinfo=timezone.utc)}
    with contextlib.suppress(FormulaError):
        parse(f"x = 1; {text}").evaluate(variables)
