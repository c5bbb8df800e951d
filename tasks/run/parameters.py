"""The checks of the flow's parameters that need no service and no Prefect: a command makes them before it imports."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from uuid import UUID

from tasks.errors import InputError
from tasks.inputs.files import Found, find_inputs
from tasks.run.groups import MOST_FILES_PER_TASK
from tasks.run.output_address import refuse_output_among_inputs
from tasks.run.settings import PoolSettings

FLOW_RUN = "prefect.flow-run."  # how the event that triggers a sweep names the flow run
_MOST_BYTES = 512 * 1024  # of all parameters of a flow run, as JSON; Prefect's server refuses more
_OTHERS = 4 * 1024  # left for the parameters beside the inputs


def refuse_bad_input(
    inputs: Sequence[str], allow_failures: int = 0, output: str = "", files_per_task: int | None = None
) -> Found:
    """What the inputs name. Raises InputError, naming the thing and the fix, for anything that cannot work."""
    if allow_failures < 0:
        raise InputError(f"allow_failures is {allow_failures}; allow 0 or more files to be without output")
    if files_per_task is not None and not 1 <= files_per_task <= MOST_FILES_PER_TASK:
        raise InputError(
            f"files_per_task is {files_per_task:,}; give a Batch task 1 to {MOST_FILES_PER_TASK:,} files, or leave it "
            "out to have it chosen"
        )
    found = find_inputs(inputs)
    if output:
        refuse_output_among_inputs(output, found)
    return found


def refuse_bad_limit(limit: float | None, pool: PoolSettings) -> None:
    """Raises InputError where no run could keep that cost_limit, whatever nodes cost."""
    if limit is None:
        return
    if not (math.isfinite(limit) and limit > 0):
        raise InputError(f"cost_limit is {limit}; it is an amount of US dollars above 0, or none for no limit")
    if pool.existing_pool_id:
        raise InputError(
            "cost_limit is for the run's own pool: an existing pool bills whether or not this run uses it; "
            "leave out one of the two"
        )


def refuse_too_many_paths(inputs: Sequence[str]) -> None:
    """Raises InputError where a shell has expanded a glob into more text than Prefect takes as a parameter."""
    size = len(json.dumps(inputs))
    if size > _MOST_BYTES - _OTHERS:
        raise InputError(
            f"{len(inputs):,} inputs with {size:,} bytes of paths are more than the {_MOST_BYTES:,} bytes that Prefect "
            "accepts as parameters; quote the glob, so that the flow expands it and not the shell: 'texts/*.txt'"
        )


def flow_run_uuid(flow_run_id: str | None) -> UUID | None:
    """The id, bare or as the event of a trigger gives it (prefect.flow-run.<id>). Raises InputError for any other."""
    if not flow_run_id:  # also a field of the form that was filled in and emptied again
        return None
    try:
        return UUID(flow_run_id.strip().removeprefix(FLOW_RUN))
    except ValueError:
        raise InputError(
            f"flow_run_id is {flow_run_id!r}, which is no id of a flow run; it looks like "
            f"0190f3e2-7c5b-7a30-9d1c-2b8f0e6a4d11 or {FLOW_RUN}0190f3e2-7c5b-7a30-9d1c-2b8f0e6a4d11"
        ) from None
