"""The lines of log files by level, one Batch task per file: another workload for the same steps.

python -m examples.log_levels.flow '/var/log/app/*.log'    # without a file: the sample logs
"""

# No postponed annotations: a flow that is served is pickled, and looks for the names in them.

if __name__ == "__main__":  # before the imports below, which take seconds
    from examples.log_levels.command_line import main

    main()

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from flows.batch_flow import Inputs, batch_flow
from flows.nine_steps import run_workload
from tasks.errors import InputError
from tasks.join import save_table
from tasks.run.results import Outputs
from tasks.run.settings import RunSettings
from tasks.run.workload import Workload

NODE_SCRIPT = Path(__file__).with_name("count_levels.py")
LEVELS = ("ERROR", "WARNING", "INFO", "DEBUG")


@batch_flow("log-levels")
def log_levels(inputs: Inputs, levels: tuple[str, ...] = LEVELS, settings: RunSettings = RunSettings()) -> pd.DataFrame:
    """Count the lines of log files by level on Azure Batch, one Batch task per file.

    Args:
        inputs: Files, folders and globs on the machine where the flow runs.
        levels: The words to look for; a line counts for the first that it holds.
        settings: The pool, the limits, what is deleted, and where the results go.
    """
    bad = [level for level in levels if not re.fullmatch(r"\w+", level, re.ASCII)]
    if bad or not levels:
        raise InputError(f"levels holds {bad}; name one or more levels, each a word of letters, digits and _")
    join = partial(table, levels=levels)
    workload = Workload(name="log-levels", node_script=NODE_SCRIPT, arguments=levels, read=counts_in, join=join)
    return run_workload(workload, inputs, settings)


def counts_in(file: str, path: Path) -> dict[str, int]:
    """What the node script counted in one file. Raises where its output is not one."""
    return dict(json.loads(path.read_text(encoding="utf-8"))["levels"])


def table(outputs: Outputs[dict[str, int]], *, levels: Sequence[str]) -> pd.DataFrame:
    """A row per file, those with most lines of the first level first: the file, and a count for each level."""
    columns = ["file", *dict.fromkeys(levels), "other"]
    rows = [{"file": file, **counts} for file, counts in outputs.read.items()]
    counted = pd.DataFrame(rows, columns=columns).sort_values([levels[0], "file"], ascending=[False, True])
    return save_table(counted, outputs, "log-levels")
