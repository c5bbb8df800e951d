"""The run's job: create, adopt, tag, delete."""

from __future__ import annotations

from collections.abc import Mapping

from azure.batch import BatchClient
from azure.batch.models import (
    BatchJobConstraints,
    BatchJobCreateOptions,
    BatchJobState,
    BatchJobUpdateOptions,
    BatchPoolInfo,
)
from azure.core.exceptions import ResourceExistsError

from tasks.errors import error_code
from tasks.resources.base import Resource
from tasks.resources.bulk import ENDED_CODES
from tasks.resources.tags import metadata, tags
from tasks.run.identity import Run
from tasks.run.settings import Disposal

ENDED_STATES = (BatchJobState.TERMINATING, BatchJobState.COMPLETED)


class Job(Resource):
    """The run's job."""

    exists = "JobExists"
    going = "JobBeingDeleted"

    def __init__(self, batch: BatchClient, run: Run, pool_id: str = "", disposal: Disposal = Disposal.DELETE) -> None:
        self._batch = batch
        self._tags = run.tags_for(disposal)
        self._run = run
        self._pool_id = pool_id  # known where the job may be created
        self.name = f"job {run.job_id}"

    def create(self) -> None:
        self._batch.create_job(
            BatchJobCreateOptions(
                id=self._run.job_id,
                pool_info=BatchPoolInfo(pool_id=self._pool_id),
                # The service itself ends the job after this, also when nobody is left to do so.
                constraints=BatchJobConstraints(max_wall_clock_time=self._run.lifetime),
                metadata=metadata(self._tags),
            )
        )

    def tags(self) -> Mapping[str, str] | None:
        job = self._batch.get_job(self._run.job_id)
        return None if job.state == BatchJobState.DELETING else tags(job.metadata)

    def renew(self) -> None:
        """The new time limit. An ended job stays as it is, and one that is to end with its last task goes on to do so.

        Azure Batch refuses to turn the latter off again.
        """
        job = self._batch.get_job(self._run.job_id)
        if job.state in ENDED_STATES or job.creation_time is None:
            return
        limit = self._run.expires - job.creation_time  # the service counts from the job's creation
        changes = BatchJobUpdateOptions(
            constraints=BatchJobConstraints(max_wall_clock_time=limit),
            metadata=metadata(self._tags),
        )
        try:
            self._batch.update_job(self._run.job_id, changes)
        except ResourceExistsError as error:
            if error_code(error) not in ENDED_CODES:  # it may have ended just now
                raise

    def mark(self, tags: Mapping[str, str]) -> None:
        self._batch.update_job(self._run.job_id, BatchJobUpdateOptions(metadata=metadata(tags)))

    def delete(self) -> None:
        self._batch.begin_delete_job(self._run.job_id)

    def has_ended(self) -> bool:
        return self._batch.get_job(self._run.job_id).state in ENDED_STATES

    def has_ended_with_its_tasks(self) -> bool:
        """Whether it ended because none was left to run, and not because somebody ended it."""
        info = self._batch.get_job(self._run.job_id).execution_info
        return info is not None and info.termination_reason == "AllTasksComplete"

    def as_tagged(self) -> Job:
        """The same, to be kept if the one that is there is."""
        kept = (self.tags() or {}).get("kept") == "yes"
        return Job(self._batch, self._run, self._pool_id, Disposal.KEEP if kept else Disposal.DELETE)
