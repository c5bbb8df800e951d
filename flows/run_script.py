"""The flow that runs any script over any files.

python -m flows.run_script count_levels.py 'logs/**/*.log' -- --level ERROR
"""

# No postponed annotations: a flow that is served is pickled, and looks up the names in them.

if __name__ == "__main__":  # before the imports below, which take seconds
    from flows.cli import main_of_run_script

    main_of_run_script()

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import BeforeValidator

from flows.batch_flow import CostLimit, FilesPerTask, Inputs, NoneOrMore, batch_flow
from flows.nine_steps import run_workload
from tasks.packages.needed import find_packages
from tasks.run.output_address import refuse_join_of_kept_outputs
from tasks.run.scripts import find_script
from tasks.run.settings import CleanUp, PoolSettings, RunSettings, TimeLimits
from tasks.run.workload import Workload
from tasks.script_results import OUTCOMES, TABLE, ScriptResults, collect
from tasks.tables.joins import Join
from tasks.tables.outputs import read_outputs

Text = Annotated[str, BeforeValidator(lambda given: os.fspath(given) if isinstance(given, os.PathLike) else given)]


@batch_flow("run-script")
def run_script(
    script: Text,
    inputs: Inputs,
    arguments: Sequence[Text] = (),
    requirements: Text | None = None,
    modules: Sequence[Text] = (),
    join: Join | None = None,
    pool: PoolSettings = PoolSettings(),
    limits: TimeLimits = TimeLimits(),
    output_folder: Text = "results",
    clean_up: CleanUp = CleanUp(),
    allow_failures: NoneOrMore = 0,
    files_per_task: FilesPerTask = None,
    isolate: bool = False,
    skip_done: bool = False,
    cost_limit: CostLimit = None,
    accounts: str | None = None,
    check: bool = False,
) -> ScriptResults:
    """Run a script over many files on Azure Batch, one Batch task per file or group of small files.

    Args:
        script: A Python or shell file, or any other executable for Linux, on the machine where the flow runs.
        inputs: Files, folders, globs, lists of them (`@files.txt`), and blobs such as `az://account/container/prefix`.
        arguments: What the script is given before the input file; `{input}`, `{output_dir}`, `{name}` and `{stem}` are
            filled in.
        requirements: A requirements file with the packages that the script imports, unless it names them itself.
        modules: Python modules and folders of modules that the script imports.
        join: Which outputs to join into one table, and their format.
        pool: The pool of compute nodes.
        limits: How long things may take.
        output_folder: Where to put the results: a folder of the run's own is made in it.
        clean_up: What to delete when the run ends, well or badly.
        allow_failures: How many files may fail in a run that completes; the outcomes name them.
        files_per_task: The most small files that one Batch task processes. None: chosen from their sizes, so that few
            files are processed one by one, and many in groups.
        isolate: Run each file in a process of its own, also where the script offers `process_file`.
        skip_done: Process only inputs that are new or changed since their outputs were made in `output_folder`.
        cost_limit: The most that the nodes may cost in US dollars, by estimate. The run ends before they cost more.
        accounts: Name of a Prefect block with the Batch and storage accounts; without one, the environment's.
        check: Create nothing in Azure; return the plan of the run (a RunPlan) instead of its result. Fails where the
            run could not work.
    """
    path = find_script(script)
    refuse_join_of_kept_outputs(join, output_folder)
    workload = Workload(
        name="run-script",
        node_script=path,
        arguments=arguments,
        read=partial(_read, join=join),
        join=partial(collect, join=join),
        tables=(OUTCOMES, TABLE),
        packages=find_packages(path, requirements, modules),
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


def _read(file: str, folder: Path, *, join: Join | None) -> pa.Table | None:
    """What of the file's outputs is joined. Raises where that cannot be read."""
    return read_outputs(join, folder) if join else None
