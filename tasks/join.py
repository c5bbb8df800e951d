"""The step after the tutorial's: join the outputs of all files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.kept import save_manifest
from tasks.reporting.artifacts import publish_table
from tasks.run.destination import Destination
from tasks.run.outcomes import TaskOutcome
from tasks.run.results import Outputs, Results
from tasks.run.workload import J, T, Workload
from tasks.step import step
from tasks.tables.write import write_table


@step("summarise")
def join_outputs(
    azure: Azure,
    workload: Workload[T, J],
    outcomes: Sequence[TaskOutcome],
    results: Results,
    destination: Destination,
) -> J:
    """What the workload makes of the outputs of the files that succeeded; leaves a manifest of them, too."""
    joined = workload.join(results.outputs(outcomes))
    save_manifest(azure, outcomes, results, destination)
    return joined


def save_table(frame: pd.DataFrame, outputs: Outputs[Any], name: str) -> pd.DataFrame:
    """Leave the table in the results folder as <name>.csv and .parquet, publish its first rows as the artifact <name>.

    Returns the table. Raises ResultsError.
    """
    path = outputs.folder / f"{name}.csv"
    write_table(frame, path)
    publish_table(frame, key=name, description=name, missing=outputs.missing)
    get_run_logger().info("Table %s: %d rows; for people %s, for programs %s.parquet", name, len(frame), path, name)
    return frame
