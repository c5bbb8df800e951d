"""What every step of a flow has in common: a Prefect task that is retried where that can help, and never cached."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateDetails, TaskRun
from prefect.context import FlowRunContext
from prefect.runtime import task_run
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import quote

from tasks.errors.service import SERVICE_FAILURES, ServiceError

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 4
RETRIES_OF_DELETES = 7  # for what is not deleted goes on billing
FIRST_DELAY = 2  # seconds; then 4, 8, 16, and of deletes 32, 64, 128


def is_transient(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: the answer was lost, or the service was busy, broken or still deleting."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ServiceError) and error.transient


class _Step(Task[P, R]):
    """A Prefect task that follows the step before it in the graph of the run.

    By itself Prefect draws an edge from each value that a task takes to the task that made it, after having looked
    through the whole of it; of steps that share their values that is a tangle, and between others there is none.
    """

    if not TYPE_CHECKING:  # the types are those of Task

        def __call__(self, *args, **kwargs):
            try:
                return super().__call__(*map(quote, args), **_following(kwargs))
            finally:
                if steps := _step_times.get():
                    _previous.set(steps[-1].task_run_id)
                if run := FlowRunContext.get():  # for the edges that are not drawn it remembers each item of a result
                    run.run_results.clear()

        def submit(self, *args, **kwargs):
            return super().submit(*map(quote, args), **_following(kwargs))


def _following(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with the last step that was called as what to wait for; those submitted run side by side."""
    control: dict[str, Any] = {name: arguments[name] for name in ("return_state", "wait_for") if name in arguments}
    values = {name: quote(value) for name, value in arguments.items() if name not in control}
    if previous := _previous.get():
        # Only its id is asked for. It may have failed: what cleans up after it runs all the same.
        control.setdefault("wait_for", [Completed(data=previous, state_details=StateDetails(task_run_id=previous))])
    return {**values, **control}


def step(name: str, *, retries: int = RETRIES) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function the Prefect task of one step.

    Its result is never persisted or reused: a remembered "pool created" outlives the pool, and results can hold
    SAS URLs. Every error of an Azure SDK leaves it as a ServiceError.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return _Step(
            _observed(name, function),
            name=name,
            task_run_name=name,
            retries=retries,
            retry_delay_seconds=exponential_backoff(FIRST_DELAY),
            retry_jitter_factor=0.5,
            retry_condition_fn=is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    return decorate


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """When a step, or one try of it, began, and the seconds that it took."""

    name: str
    began: datetime
    seconds: float
    task_run_id: UUID | None = None  # Prefect's


_step_times: ContextVar[list[StepTime] | None] = ContextVar("step_times", default=None)
_previous: ContextVar[UUID | None] = ContextVar("previous", default=None)  # the task run of the last step called


@contextmanager
def timed_steps() -> Iterator[list[StepTime]]:
    """The times of the steps that run meanwhile, also in threads of theirs, in the order in which they end."""
    times: list[StepTime] = []
    tokens = _step_times.set(times), _previous.set(None)
    try:
        yield times
    finally:
        _step_times.reset(tokens[0])
        _previous.reset(tokens[1])


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
            _note(StepTime(name=name, began=began, seconds=time.monotonic() - start, task_run_id=_task_run_id()))

    return call


def _task_run_id() -> UUID | None:
    id = task_run.id
    return UUID(str(id)) if id else None


def _note(step_time: StepTime) -> None:
    # A function of its own: Prefect pickles flows to serve them, with the globals of each wrapper in them.
    if (times := _step_times.get()) is not None:
        times.append(step_time)
