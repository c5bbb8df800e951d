"""What every step of a flow has in common: a Prefect task that is retried where that can help, and never cached."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from tasks.errors import SERVICE_FAILURES, ServiceError

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 4
RETRIES_OF_DELETES = 7  # for what is not deleted goes on billing
FIRST_DELAY = 2  # seconds; then 4, 8, 16, and of deletes 32, 64, 128


def is_transient(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: the answer was lost, or the service was busy, broken or still deleting."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ServiceError) and error.transient


def step(name: str, *, retries: int = RETRIES) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function the Prefect task of one step.

    Its result is never persisted or reused: a remembered "pool created" outlives the pool, and results can hold
    SAS URLs. Every error of an Azure SDK leaves it as a ServiceError.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        make_task: Callable[[Callable[P, R]], Task[P, R]] = task(
            name=name,
            task_run_name=name,
            retries=retries,
            retry_delay_seconds=exponential_backoff(FIRST_DELAY),
            retry_jitter_factor=0.5,
            retry_condition_fn=is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        return make_task(_observed(name, function))

    return decorate


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """When a step, or one try of it, began, and the seconds that it took."""

    name: str
    began: datetime
    seconds: float


_step_times: ContextVar[list[StepTime] | None] = ContextVar("step_times", default=None)


@contextmanager
def timed_steps() -> Iterator[list[StepTime]]:
    """The times of the steps that run meanwhile, also in threads of theirs, in the order in which they end."""
    times: list[StepTime] = []
    token = _step_times.set(times)
    try:
        yield times
    finally:
        _step_times.reset(token)


def _observed(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """The function with its errors readable and its time taken."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        began, start = datetime.now(timezone.utc), time.monotonic()
        try:
            return function(*args, **kwargs)
        except SERVICE_FAILURES as error:
            raise ServiceError.of(error) from None
        finally:
            _note(StepTime(name=name, began=began, seconds=time.monotonic() - start))

    return call


def _note(step_time: StepTime) -> None:
    # A function of its own: Prefect pickles flows to serve them, with the globals of each wrapper in them.
    if (times := _step_times.get()) is not None:
        times.append(step_time)
