"""Runs a flow for its command, and prints what it ends with."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pkgutil import resolve_name
from typing import Any

import httpx
import typer
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_UI_URL,
    get_current_settings,
    temporary_settings,
)

from flows.prefect_server import ensure_prefect_server
from tasks.errors import RunError
from tasks.reporting.pages import Page, address, forget_report, latest_cost, latest_report, ui_url
from tasks.reporting.plan import as_text
from tasks.run.plan import RunPlan
from tasks.script_results import ScriptResults
from tasks.summary import Summary


def run_flow(entrypoint: str, parameters: Mapping[str, Any]) -> None:
    """Run the flow `module:name` and print its summary. Raises RunError with the address of the report."""
    flow = resolve_name(entrypoint)  # not imported above: a flow's module imports its command
    started = time.monotonic()
    ensure_prefect_server()
    forget_report()
    with _prefect_settings():
        try:
            # Not the run's state: after a lost answer the server's state has no result.
            summary: Summary | ScriptResults | RunPlan = flow(**parameters)
        except RunError as error:
            if error.summary:
                print(f"\n{_as_text(error.summary)}\n\n{_page_of_run(error.summary)}")
            if cost := latest_cost():
                print(f"\n{cost}")
            raise error.with_report(latest_report()) from None
        except Exception as error:
            raise RunError(_explained(error, parameters["output_folder"])).with_report(latest_report()) from error
    elapsed = f"Elapsed time: {time.monotonic() - started:.1f} s."
    where = "Nothing was created." if isinstance(summary, RunPlan) else f"Results: {summary.folder}"
    print(f"\n{_as_text(summary)}\n\n{elapsed} {where}")
    if cost := latest_cost():
        print(cost)
    print(_page_of_run(summary))
    if report := latest_report():
        print(f"Report: {report}")


def run_sweep(*parameters: Any) -> None:
    sweep = resolve_name("flows.sweep:sweep")
    ensure_prefect_server()
    state = sweep(*parameters, return_state=True)
    if not state.is_completed():
        print(f"\nError: {state.result(raise_on_failure=False)}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"\n{state.message}")


def _explained(error: Exception, output: str) -> str:
    if isinstance(error, httpx.HTTPError):  # of Prefect's client; that of Azure's is a RunError
        where = get_current_settings().api.url or "a temporary address"
        return (
            f"the Prefect server at {where} is not responding ({type(error).__name__}: {error}). The Batch work "
            f"does not need it: finished outputs are in the run's folder in {output}, and the log shows what was "
            "cleaned up"
        )
    return f"{type(error).__name__}: {error}"


def _prefect_settings() -> AbstractContextManager[object]:
    """No heartbeats to a temporary server: it ends with the run, which would wait up to a second for the last one.

    For any other server, the UI that it shows by default, which Prefect's own log lines then link to.
    """
    if ui := ui_url():
        return temporary_settings({PREFECT_UI_URL: ui})
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def _as_text(summary: Summary | ScriptResults | RunPlan) -> str:
    return as_text(summary) if isinstance(summary, RunPlan) else str(summary)


def _page_of_run(summary: Summary | ScriptResults | RunPlan) -> str:
    return f"See this run in the Prefect UI: {address(Page.RUN, summary.flow_run_id)}"
