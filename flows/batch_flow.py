"""The decorator of every flow that runs a workload (run name, hooks), and types of parameters that all have."""

# No postponed annotations: a flow that is served is pickled, and looks for the names in them.

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, ParamSpec, TypeVar

from prefect import Flow, flow
from prefect.runtime import flow_run
from pydantic import BeforeValidator, Field

from flows.hooks import clean_up_dead_run
from tasks.errors import InputError
from tasks.errors.log import log_errors_without_traceback
from tasks.inputs.files import as_list, describe_inputs
from tasks.run.groups import MOST_FILES_PER_TASK
from tasks.run.settings import settings_in

P = ParamSpec("P")
R = TypeVar("R")

Inputs = Annotated[list[str], BeforeValidator(as_list)]
NoneOrMore = Annotated[int, Field(json_schema_extra={"minimum": 0})]
CostLimit = Annotated[float, Field(json_schema_extra={"exclusiveMinimum": 0})] | None
FilesPerTask = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": MOST_FILES_PER_TASK})] | None


def batch_flow(name: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a function the flow of the workload of that name; one of its parameters is `inputs`."""
    log_errors_without_traceback()
    make_flow: Callable[[Callable[P, R]], Flow[P, R]] = flow(
        name=name,
        flow_run_name=lambda: _run_name(name),
        persist_result=False,
        on_crashed=[clean_up_dead_run],
        on_cancellation=[clean_up_dead_run],
    )
    return make_flow


def _run_name(name: str) -> str:
    """For example "top-words 3 files 2026-11-22 09:30"; without the count if the files cannot be found.

    Of a check "top-words check 3 files 2026-11-22 09:30".
    """
    check = " check" if dict(settings_in(flow_run.parameters)).get("check") else ""
    try:
        found = f" {describe_inputs(as_list(flow_run.parameters['inputs']))}"
    except InputError:
        found = ""
    return f"{name}{check}{found} {datetime.now():%Y-%m-%d %H:%M}"
