"""The plan of a run: logged and published when a run begins, and all that a check of it ends with."""

from __future__ import annotations

from typing import Any

from prefect import states
from prefect.logging import get_run_logger

from tasks.errors import InputError
from tasks.errors.text import numbered
from tasks.reporting.artifacts import publish_plan
from tasks.reporting.plan import as_markdown, headline, log_lines
from tasks.run.plan import RunPlan


def show_plan(plan: RunPlan) -> None:
    """Log and publish the plan. Raises InputError, with the plan as its summary, where the run cannot work."""
    logger = get_run_logger()
    for line in log_lines(plan):
        logger.info("%s", line)
    for warning in plan.warnings:
        logger.warning("Plan of run %s: %s", plan.run.name, warning)
    publish_plan(as_markdown(plan))
    if plan.problems:
        error = InputError(numbered(plan.problems))
        raise error.with_result(plan, ()) if plan.settings.check else error


def end_check(plan: RunPlan) -> Any:
    """The state for the flow to return: Completed, with the plan as its message and as the result of the flow."""
    return states.Completed(message=headline(plan), data=plan)
