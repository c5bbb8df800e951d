"""The flow: the classic Azure Batch tutorial, step by step.

python -m flows.top_words 'texts/*.txt' --top-n 10
"""

# No postponed annotations: a flow that is served is pickled, and looks up the names in them.

if __name__ == "__main__":  # before the imports below, which take seconds
    from flows.cli import main

    main()

from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from flows.batch_flow import CostLimit, FilesPerTask, Inputs, NoneOrMore, batch_flow
from flows.nine_steps import run_workload
from flows.word_arguments import ALL_WORDS, word_arguments
from tasks.run.output_address import refuse_join_of_kept_outputs
from tasks.run.settings import CleanUp, PoolSettings, RunSettings, TimeLimits
from tasks.run.workload import Workload
from tasks.summary import TABLES, Summary, for_report, parse_output, summarise

NODE_SCRIPT = Path(__file__).resolve().parents[1] / "node_scripts" / "top_words.py"

AtLeastOne = Annotated[int, Field(json_schema_extra={"minimum": 1})]
NotNegative = Annotated[float, Field(json_schema_extra={"minimum": 0})]


@batch_flow("top-words")
def top_words(
    inputs: Inputs,
    top_n: AtLeastOne = 10,
    pool: PoolSettings = PoolSettings(),
    limits: TimeLimits = TimeLimits(),
    output_folder: str = "results",
    clean_up: CleanUp = CleanUp(),
    allow_failures: NoneOrMore = 0,
    files_per_task: FilesPerTask = None,
    isolate: bool = False,
    skip_done: bool = False,
    cost_limit: CostLimit = None,
    accounts: str | None = None,
    check: bool = False,
    delay_seconds: NotNegative = 0,
    encoding: str | None = None,
    exact: bool = False,
) -> Summary:
    """Find the most frequent words of many text files on Azure Batch, one Batch task per file or group of small files.

    Args:
        inputs: Files, folders and globs on the machine where the flow runs, such as `data/*.txt`.
        top_n: How many words to list for each file.
        pool: The pool of compute nodes.
        limits: How long things may take.
        output_folder: Where to put the results: a folder of the run's own is made in it.
        clean_up: What to delete when the run ends, well or badly.
        allow_failures: How many files may be without output in a run that completes; the summary names them.
        files_per_task: The most small files that one Batch task processes. None: chosen from their sizes, so that few
            files are processed one by one, and many in groups.
        isolate: Run each file in a process of its own, also where the script offers `process_file`.
        skip_done: Process only inputs that are new or changed since their outputs were made in `output_folder`.
        cost_limit: The most that the nodes may cost in US dollars, by estimate. The run ends before they cost more.
        accounts: Name of a Prefect block with the Batch and storage accounts; without one, the environment's.
        check: Create nothing in Azure; return the plan of the run (a RunPlan) instead of its result. Fails where the
            run could not work.
        delay_seconds: Seconds that each Batch task waits before it counts, for watching a run at leisure.
        encoding: Encoding of files without byte-order mark, such as windows-1251 or utf-16-le; by default UTF-8.
        exact: Whether totals over all files are exact; each file then has a second output, with all of its words.
    """
    refuse_join_of_kept_outputs("the summary", output_folder)
    workload = Workload(
        name="top-words",
        node_script=NODE_SCRIPT,
        arguments=word_arguments(top_n, delay_seconds, encoding, limits, exact=exact),
        read=partial(parse_output, all_words=ALL_WORDS if exact else ""),
        join=partial(summarise, top_n=top_n, exact=exact),
        report=for_report,
        tables=TABLES,
    )
    settings = RunSettings(
        pool=pool,
        limits=limits,
        output_folder=output_folder,
        clean_up=clean_up,
        allow_failures=allow_failures,
        files_per_task=files_per_task,
        isolate=isolate,
        skip_done=skip_done,
        cost_limit=cost_limit,
        accounts=accounts,
        check=check,
    )
    return run_workload(workload, inputs, settings)
