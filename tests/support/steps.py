"""The steps of a run, which are Prefect tasks, by the names of their functions."""

from __future__ import annotations

from typing import Any

from prefect import Task

import flows.nine_steps
import tasks.beginning
import tasks.lifecycle

STEPS: dict[str, Task[..., Any]] = {
    name: value
    for module in (flows.nine_steps, tasks.beginning, tasks.lifecycle)
    for name, value in vars(module).items()
    if isinstance(value, Task)
}
