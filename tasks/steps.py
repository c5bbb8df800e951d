"""What every step of a flow has in common: a Prefect task that is retried where that can help, and never cached."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from azure.core.exceptions import AzureError
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from tasks.errors import ServiceError

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 4
FIRST_DELAY = 2  # seconds; then 4, 8, 16


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
        return make_task(_with_readable_errors(function))

    return decorate


def _with_readable_errors(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except AzureError as error:
            raise ServiceError.of(error) from None

    return call
