"""The lines of log files by level, one Batch task per file: the steps of tasks/, unchanged, for another workload.

python -m examples.log_levels.flow                    # the sample logs, on the embedded local Azure
python -m examples.log_levels.flow '/var/log/app/*.log'
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from examples.log_levels.command_line import main

    main()

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import pandas as pd
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from pydantic import BeforeValidator

from flows.hooks import clean_up_dead_run
from tasks.accounts.choose import azure_for_run
from tasks.approval import ask
from tasks.check import check_accounts, check_input
from tasks.containers import create_containers, delete_containers
from tasks.download import download_output
from tasks.errors import InputError, NotDeleted, RunError, TasksFailed, log_errors_without_traceback
from tasks.errors.text import visible
from tasks.files import upload_files
from tasks.job import Work, add_tasks, create_job, delete_job, find_counted
from tasks.lifecycle import SafetyNet, not_deleted
from tasks.monitor import how_it_ended, monitor_tasks
from tasks.pool import create_pool, delete_pool
from tasks.record import Chronicle
from tasks.reporting.artifacts import MOST_TABLE_ROWS, best_effort
from tasks.run.identity import Run
from tasks.run.inputs import as_list
from tasks.run.outcomes import TaskOutcome, missing
from tasks.run.results import Results, at
from tasks.run.settings import CleanUp, PoolSettings, TimeLimits
from tasks.run.tables import write_table
from tasks.step import step, timed_steps
from tasks.stopped import fetch_finished
from tasks.summary import end_with
from tasks.watching.watch import Patience

HERE = Path(__file__).resolve().parent
NODE_SCRIPT = HERE / "count_levels.py"
LEVELS = ("ERROR", "WARNING", "INFO", "DEBUG")
CSV = "log_levels.csv"

log_errors_without_traceback()


@dataclass(frozen=True, kw_only=True, eq=False)
class LogLevels:
    """A row per file, those with most lines of the first level first: the file, and a count for each level."""

    by_file: pd.DataFrame
    folder: Path
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        without = f"\n\nWithout output: {', '.join(self.missing)}" if self.missing else ""
        return visible(f"{self.by_file.to_string(index=False)}{without}\n\nResults: {self.folder}")


@flow(
    name="log-levels",
    flow_run_name=lambda: f"log-levels {flow_run.id[-12:]}",
    persist_result=False,
    on_crashed=[clean_up_dead_run],
    on_cancellation=[clean_up_dead_run],
)
def log_levels(
    inputs: Annotated[list[str], BeforeValidator(as_list)],
    levels: tuple[str, ...] = LEVELS,
    pool: PoolSettings = PoolSettings(),
    limits: TimeLimits = TimeLimits(),
    output_folder: str = "results",
    clean_up: CleanUp = CleanUp(),
    allow_failures: int = 0,
    accounts: str | None = None,
) -> LogLevels:
    """Count the lines of log files by level on Azure Batch, one Batch task per file.

    Args:
        inputs: Files, folders and globs on the machine where the flow runs.
        levels: The words to look for; a line counts for the first that it holds.
        pool: The pool of compute nodes.
        limits: How long things may take.
        output_folder: Where to put the results: a folder of the run's own is made in it.
        clean_up: What to delete when the run ends, well or badly.
        allow_failures: So many files may be without output in a run that completes.
        accounts: Name of a Prefect block with the Batch and storage accounts; without one, the environment's.
    """
    where = azure_for_run(accounts)
    run = Run.start(str(flow_run.id), "log-levels", limits)
    clean_up = clean_up.of_pool(pool)
    work = Work(limits=limits, slots=pool.slots_per_task, arguments=levels)

    with where as azure, timed_steps() as times, SafetyNet(azure, run, clean_up) as net:
        refuse_bad_levels(levels)
        files = check_input(inputs, top_n=1, delay_seconds=0, limits=limits, allow_failures=allow_failures)
        results = Results.of(output_folder, run.name, counts_in)
        check_accounts(azure, pool, results)
        counted, to_count = results.sort(files)
        chronicle = Chronicle(
            azure=azure, run=run, results=results, files=files, counted=counted, allowed=allow_failures, steps=times
        )
        net.spread(chronicle.outputs_left)
        deletes: dict[str, PrefectFuture[None]] = {}

        def delete_what_bills() -> dict[str, PrefectFuture[None]]:
            return {
                "pool": delete_pool.submit(azure, run, pool, clean_up.pool),
                "job": delete_job.submit(azure, run, clean_up.job),
            }

        try:
            outcomes = chronicle.outcomes
            if to_count:  # all of them, unless a previous attempt of this run has counted some
                create_containers(azure, run, clean_up.containers)
                uploads = chronicle.uploads = upload_files(azure, run, to_count, NODE_SCRIPT)
                if not (outcomes := find_counted(azure, run, uploads)):
                    used_pool = chronicle.pool = create_pool(azure, run, pool, uploads.node_script, clean_up.pool)
                    create_job(azure, run, used_pool, uploads, clean_up.job)
                    batch_tasks = add_tasks(azure, run, used_pool, uploads, work)
                    monitored = monitor_tasks(
                        azure,
                        run,
                        used_pool,
                        batch_tasks,
                        Patience(limits=limits, pool=pool),
                        seen=chronicle.seen,
                        return_state=True,
                    )
                    outcomes = chronicle.add(how_it_ended(monitored))
                    if chronicle.cancelled:
                        deletes = delete_what_bills()
                outcomes = chronicle.note(outcomes)
                outcomes = chronicle.note(download_output(azure, run, uploads, outcomes, results, chronicle.seen.board))
            summary = summarise(outcomes, results, levels)
            chronicle.stored = True
            if not deletes:
                clean_up = net.clean_up = ask(
                    clean_up,
                    summary=chronicle.headline(),
                    failure=chronicle.failure(),
                    pool_cost=chronicle.cost_while_waiting(),
                )
        finally:
            # Pool and job at once, because they bill: of a run that is stopped only 30 seconds are left here.
            deletes = deletes or delete_what_bills()
            fetch_finished(chronicle)
            deletes["containers"] = delete_containers.submit(azure, run, clean_up.containers, chronicle.holds())
            wait(list(deletes.values()))
            deleted = [thing for thing, delete in deletes.items() if delete.state.is_completed()]
            if len(deleted) == len(deletes):
                net.fold()
            chronicle.close(clean_up, deleted)

    return complete(summary, allow_failures, chronicle.problem, not_deleted(deletes, run))


def refuse_bad_levels(levels: Sequence[str]) -> None:
    """Raises InputError where no line could ever hold one of them, or none is given."""
    if not levels:
        raise InputError("levels is empty; name at least one word to look for, such as ERROR")
    for level in levels:
        if not re.fullmatch(r"\w+", level, re.ASCII):
            raise InputError(f"levels holds {level!r}; a level is one word of letters, digits and _")


@step("summarise")
def summarise(outcomes: Sequence[TaskOutcome], results: Results, levels: Sequence[str]) -> LogLevels:
    """Join the downloaded counts into one table, and leave it in the folder as a CSV file."""
    counted = [(each.file, counts_in(each.file, results.path(each.output_name))) for each in outcomes if each.succeeded]
    columns = ["file", *dict.fromkeys(levels), "other"]
    by_file = pd.DataFrame([{"file": file, **counts} for file, counts in counted], columns=columns)
    by_file = by_file.sort_values([levels[0], "file"], ascending=[False, True])
    with at(results.path(CSV)):
        write_table(by_file, results.path(CSV))
    summary = LogLevels(by_file=by_file, folder=results.folder, missing=tuple(each.file for each in missing(outcomes)))
    publish(summary)
    return summary


def counts_in(file: str, path: Path) -> dict[str, int]:
    """What the node script counted in the file. Raises RunError where the file is not an output of it."""
    try:
        counts: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["levels"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not an output of {NODE_SCRIPT.name}: {error}") from None
    return counts


@best_effort
def publish(summary: LogLevels) -> None:
    rows = summary.by_file.head(MOST_TABLE_ROWS).to_dict(orient="records")
    create_table_artifact([{str(name): value for name, value in row.items()} for row in rows], key="log-levels")


def complete(summary: LogLevels, allow_failures: int, problem: RunError | None, not_deleted: str = "") -> LogLevels:
    """The summary, if it lacks no more files than were allowed and all was deleted; else the reason, naming them."""
    lacks = f"the table in {summary.folder} lacks {', '.join(summary.missing)}"
    error = problem and problem.saying(f"{problem}\nTherefore {lacks}")
    if error is None and len(summary.missing) > allow_failures:
        error = TasksFailed(f"{lacks}: their Batch tasks failed, see {summary.folder / 'logs'}")
    if not_deleted:
        error = error.saying(f"{error}\n{not_deleted}") if error else NotDeleted(not_deleted)
    return summary if error is None else cast(LogLevels, end_with(error))
