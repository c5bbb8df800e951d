"""The flow: the classic Azure Batch tutorial, step by step.

python -m flows.top_words 'texts/*.txt' --top-n 10
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BeforeValidator, Field

from tasks.azure import azure_for_run
from tasks.check import check_accounts, check_input, folder_of
from tasks.containers import create_containers, delete_containers
from tasks.errors import InputError, log_errors_without_traceback
from tasks.files import download_output, upload_files
from tasks.inputs import as_list, find_inputs
from tasks.job import Work, add_tasks, create_job, delete_job
from tasks.monitor import monitor_tasks
from tasks.pool import create_pool, delete_pool
from tasks.settings import CleanUp, PoolSettings, Run, TimeLimits
from tasks.summary import Summary, complete, summarise

log_errors_without_traceback()

OneOrMore = Annotated[list[str], BeforeValidator(as_list)]
AtLeastOne = Annotated[int, Field(json_schema_extra={"minimum": 1})]
NotNegative = Annotated[float, Field(json_schema_extra={"minimum": 0})]


def _run_name() -> str:
    """Such as "top-words 3 files 2026-11-22 09:30", as far as the files can be found."""
    try:
        count = len(find_inputs(as_list(flow_run.parameters["inputs"])))
    except InputError:
        return f"top-words {datetime.now():%Y-%m-%d %H:%M}"
    return f"top-words {count} {'file' if count == 1 else 'files'} {datetime.now():%Y-%m-%d %H:%M}"


@flow(name="top-words", flow_run_name=_run_name, persist_result=False)
def top_words(
    inputs: OneOrMore,
    top_n: AtLeastOne = 10,
    pool: PoolSettings = PoolSettings(),  # noqa: B008 (immutable)
    limits: TimeLimits = TimeLimits(),  # noqa: B008
    output_folder: str = "results",
    clean_up: CleanUp = CleanUp(),  # noqa: B008
    delay_seconds: NotNegative = 0,
) -> Summary:
    """Find the most frequent words of many text files on Azure Batch, one Batch task per file.

    Args:
        inputs: Files, folders and globs on the machine where the flow runs, such as `data/*.txt`.
        top_n: How many words to list for each file.
        pool: The pool of compute nodes.
        limits: How long things may take.
        output_folder: Where to put the results: a folder of the run's own is made in it.
        clean_up: What to delete when the run ends, well or badly.
        delay_seconds: Seconds that each Batch task waits before it counts, for watching a run at leisure.
    """
    where = azure_for_run()
    files = check_input(inputs, top_n, delay_seconds, limits)
    run = Run.begun_now(str(flow_run.id), limits)
    results = folder_of(output_folder) / run.name
    work = Work(top_n=top_n, delay_seconds=delay_seconds, limits=limits)

    with where as azure:
        check_accounts(azure, pool, results)
        try:
            create_containers(azure, run)
            uploads = upload_files(azure, run, files)
            used_pool = create_pool(azure, run, pool, uploads.node_script)
            create_job(azure, run, used_pool, limits)
            batch_tasks = add_tasks(azure, run, used_pool, uploads, work)
            outcomes = monitor_tasks(azure, run, used_pool, batch_tasks)
            download_output(azure, run, outcomes, results)
        finally:
            # With return_state the second delete runs although the first has failed.
            deletes = [
                delete_containers(azure, run, clean_up.containers, return_state=True),
                delete_job(azure, run, clean_up.job, return_state=True),
                delete_pool(azure, run, pool, clean_up.pool, return_state=True),
            ]

    summary = summarise(outcomes, results, top_n)
    for deleted in deletes:
        deleted.result()
    return complete(summary, len(files))


if __name__ == "__main__":
    from flows.command_line import main

    main()
