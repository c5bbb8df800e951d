"""The job of a run: create, adopt, tag, delete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event

from azure.batch import BatchClient
from azure.batch.models import (
    BatchJob,
    BatchJobConstraints,
    BatchJobCreateOptions,
    BatchJobState,
    BatchJobUpdateOptions,
    BatchPoolInfo,
)
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from tasks.errors.codes import JOB_ENDED, Code
from tasks.errors.service import error_code
from tasks.resources.resource import Creatable, Found, Kind, Resource
from tasks.resources.tags import metadata, tags
from tasks.run.identity import Run
from tasks.run.settings import Disposal
from tasks.run.tags import Tags

_LOOK_SECONDS = 0.3
ENDED_STATES = (BatchJobState.TERMINATING, BatchJobState.COMPLETED)


class JobResource(Resource):
    """A job by its id."""

    kind = Kind.JOB
    exists = Code.JOB_EXISTS
    being_deleted = Code.JOB_BEING_DELETED

    def __init__(self, batch: BatchClient, id: str) -> None:
        super().__init__(id)
        self._batch = batch

    def read(self) -> Found:
        return _found(self._batch.get_job(self.id))

    def mark(self, tags: Tags) -> None:
        self._batch.update_job(self.id, BatchJobUpdateOptions(metadata=metadata(tags)))

    def delete(self) -> None:
        self._batch.begin_delete_job(self.id)

    def is_over(self) -> bool:
        """Whether none of its tasks runs any more: it has completed, or is gone."""
        try:
            return self._batch.get_job(self.id, select=["id", "state"]).state == BatchJobState.COMPLETED
        except ResourceNotFoundError:
            return True


class Job(JobResource, Creatable):
    """The run's own job."""

    def __init__(self, batch: BatchClient, run: Run, pool_id: str = "", disposal: Disposal = Disposal.DELETE) -> None:
        super().__init__(batch, run.job_id)
        self._tags = replace(run.tags, kept=disposal is Disposal.KEEP)
        self._run = run
        self._pool_id = pool_id  # known where the job may be created

    def create(self) -> None:
        self._batch.create_job(
            BatchJobCreateOptions(
                id=self.id,
                pool_info=BatchPoolInfo(pool_id=self._pool_id),
                # The service itself ends the job after this, also when nobody is left to do so.
                constraints=BatchJobConstraints(max_wall_clock_time=self._run.lifetime),
                metadata=metadata(self._tags),
            )
        )

    def renew(self, found: Found) -> None:
        """The new time limit. An ended job stays as it is, and one that is to end with its last task goes on to do so.

        Azure Batch refuses to turn the latter off again.
        """
        job = self._batch.get_job(self.id)
        if job.state in ENDED_STATES or job.creation_time is None:
            return
        limit = self._run.expires - job.creation_time  # the service counts from the job's creation
        changes = BatchJobUpdateOptions(
            constraints=BatchJobConstraints(max_wall_clock_time=limit),
            metadata=metadata(self._tags),
        )
        try:
            self._batch.update_job(self.id, changes)
        except ResourceExistsError as error:
            if error_code(error) not in JOB_ENDED:  # it may have ended just now
                raise

    def has_ended(self) -> bool:
        return self._batch.get_job(self.id).state in ENDED_STATES

    def has_ended_with_its_tasks(self) -> bool:
        """Whether it ended because none was left to run, and not because somebody ended it."""
        info = self._batch.get_job(self.id).execution_info
        return info is not None and info.termination_reason == Code.ALL_TASKS_COMPLETE

    def as_tagged(self) -> Job:
        """The same job, to be kept if the one that exists is."""
        kept = self.read().tags.kept
        return Job(self._batch, self._run, self._pool_id, Disposal.KEEP if kept else Disposal.DELETE)


def wait_until_over(is_over: Callable[[], bool], stop: Event, seconds: float) -> bool:
    """Whether the job is over within that time, and before the event is set."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop.wait(_LOOK_SECONDS):
        if is_over():
            return True
    return False


def list_jobs(batch: BatchClient) -> Iterator[Found]:
    return map(_found, batch.list_jobs(select=["id", "state", "metadata"]))


def _found(job: BatchJob) -> Found:
    state = str(getattr(job.state, "value", job.state) or "")
    return Found(kind=Kind.JOB, id=job.id or "", tags=Tags.read(tags(job.metadata)), state=state)
