"""The flow: the classic Azure Batch tutorial, step by step.

python -m flows.top_words 'texts/*.txt' --top-n 10
"""

# No postponed annotations: a flow that is served is pickled, and would look for their names in vain.

if __name__ == "__main__":  # before the imports below, which take seconds
    from flows.cli import main

    main()

from datetime import datetime
from typing import Annotated

from prefect import flow
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from pydantic import BeforeValidator, Field

from flows.hooks import clean_up_dead_run
from tasks.accounts.choose import azure_for_run
from tasks.approval import ask
from tasks.check import check_accounts, check_input
from tasks.containers import create_containers, delete_containers
from tasks.download import download_output
from tasks.errors import InputError, log_errors_without_traceback
from tasks.files import upload_files
from tasks.job import Work, add_tasks, create_job, delete_job, find_counted
from tasks.lifecycle import SafetyNet, not_deleted
from tasks.monitor import how_it_ended, monitor_tasks
from tasks.pool import create_pool, delete_pool
from tasks.record import Chronicle
from tasks.run.identity import Run
from tasks.run.inputs import as_list, encoding_arguments, find_inputs
from tasks.run.results import Results
from tasks.run.settings import CleanUp, PoolSettings, TimeLimits
from tasks.step import timed_steps
from tasks.stopped import fetch_finished
from tasks.summary import Summary, complete, parse_output, summarise
from tasks.watching.watch import Patience

log_errors_without_traceback()

OneOrMore = Annotated[list[str], BeforeValidator(as_list)]
AtLeastOne = Annotated[int, Field(json_schema_extra={"minimum": 1})]
NoneOrMore = Annotated[int, Field(json_schema_extra={"minimum": 0})]
NotNegative = Annotated[float, Field(json_schema_extra={"minimum": 0})]


def _run_name() -> str:
    """Such as "top-words 3 files 2026-11-22 09:30", as far as the files can be found."""
    try:
        count = len(find_inputs(as_list(flow_run.parameters["inputs"])))
    except InputError:
        return f"top-words {datetime.now():%Y-%m-%d %H:%M}"
    return f"top-words {count} {'file' if count == 1 else 'files'} {datetime.now():%Y-%m-%d %H:%M}"


@flow(
    name="top-words",
    flow_run_name=_run_name,
    persist_result=False,
    on_crashed=[clean_up_dead_run],
    on_cancellation=[clean_up_dead_run],
)
def top_words(
    inputs: OneOrMore,
    top_n: AtLeastOne = 10,
    pool: PoolSettings = PoolSettings(),
    limits: TimeLimits = TimeLimits(),
    output_folder: str = "results",
    clean_up: CleanUp = CleanUp(),
    allow_failures: NoneOrMore = 0,
    accounts: str | None = None,
    delay_seconds: NotNegative = 0,
    encoding: str | None = None,
) -> Summary:
    """Find the most frequent words of many text files on Azure Batch, one Batch task per file.

    Args:
        inputs: Files, folders and globs on the machine where the flow runs, such as `data/*.txt`.
        top_n: How many words to list for each file.
        pool: The pool of compute nodes.
        limits: How long things may take.
        output_folder: Where to put the results: a folder of the run's own is made in it.
        clean_up: What to delete when the run ends, well or badly.
        allow_failures: So many files may be without output in a run that completes; the summary names them.
        accounts: Name of a Prefect block with the Batch and storage accounts; without one, the environment's.
        delay_seconds: Seconds that each Batch task waits before it counts, for watching a run at leisure.
        encoding: Encoding of files without byte-order mark, such as windows-1251; by default UTF-8, UTF-16 or UTF-32.
    """
    where = azure_for_run(accounts)
    run = Run.start(str(flow_run.id), "top-words", limits)
    clean_up = clean_up.of_pool(pool)
    slots, arguments = pool.slots_per_task, encoding_arguments(encoding)
    work = Work(top_n=top_n, delay_seconds=delay_seconds, limits=limits, slots=slots, arguments=arguments)

    with where as azure, timed_steps() as times, SafetyNet(azure, run, clean_up) as net:
        files = check_input(inputs, top_n, delay_seconds, limits, allow_failures)
        results = Results.of(output_folder, run.name, parse_output)
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
                uploads = chronicle.uploads = upload_files(azure, run, to_count)
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
            summary = chronicle.summary = summarise(outcomes, results, top_n)
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

    return complete(summary, outcomes, allow_failures, chronicle.problem, not_deleted(deletes, run))
