"""How a run begins and ends, whatever happens in between."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Generic, cast

from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from typing_extensions import Self

from tasks.accounts.choose import azure_for_run
from tasks.accounts.clients import Azure
from tasks.approval import ask
from tasks.beginning import Beginning, Begun
from tasks.containers import delete_containers
from tasks.direct_clean_up import DirectCleanUp
from tasks.ending import end_with, failure_of
from tasks.errors import RunError
from tasks.inputs.files import InputFile
from tasks.job import delete_job
from tasks.plan import end_check, show_plan
from tasks.pool import delete_pool
from tasks.record import RunRecord
from tasks.resources.batch_task import Work
from tasks.resources.sign_of_life import SignOfLife
from tasks.run.heap import return_large_blocks
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import AddedTask, Monitored, TaskOutcome
from tasks.run.results import Results
from tasks.run.run_note import note_folder
from tasks.run.settings import RunSettings
from tasks.run.uploads import Uploads
from tasks.run.workload import J, T, Workload
from tasks.step import timed_steps
from tasks.stopped import fetch_finished, note_ended
from tasks.terminal import interrupt_at_once, terminate_on_hangup
from tasks.watching.cancellation import declared_crashed
from tasks.watching.watch import LastSeen


class BatchRun(Generic[T, J]):
    """One run of a workload: a context that a flow enters before its steps, and that always cleans up after them.

    When it is left, well or badly, it asks what to delete where that was wanted, deletes pool, job and containers
    unless they are to be kept, downloads what a run that is stopped has finished, and publishes the report. Where its
    steps cannot delete, DirectCleanUp does.
    """

    def __init__(self, workload: Workload[T, J], settings: RunSettings) -> None:
        self.id = Run.start(str(flow_run.id), workload.name, settings.limits)
        self.clean_up = settings.clean_up.of_pool(settings.pool)
        self.pool = settings.pool  # from step 0 on with the image that the run uses
        self._workload = workload
        self._settings = settings
        self._contexts = ExitStack()
        self.application = dict(workload.application)  # the files that run on the nodes, by their names there
        self._deletes: dict[str, PrefectFuture[None]] = {}
        self._record: RunRecord[J] | None = None

    @property
    def is_retry(self) -> bool:
        """Whether this is not the first attempt of the flow run."""
        return (flow_run.run_count or 0) > 1

    # How it begins

    def __enter__(self) -> Self:
        terminate_on_hangup()  # also of a run that a worker or a script started from a terminal
        interrupt_at_once()
        return_large_blocks()  # there may be very many files
        with ExitStack() as contexts:
            azure = contexts.enter_context(azure_for_run(self._settings.accounts))
            self.azure: Azure = replace(azure, node_identity=self._settings.pool.node_identity)
            self._steps = contexts.enter_context(timed_steps())
            self._direct = contexts.enter_context(DirectCleanUp(self.azure, self.id, self.clean_up))
            self._contexts = contexts.pop_all()
        return self

    def begin(self, inputs: Sequence[str]) -> list[InputFile]:
        """Step 0: check all that can be checked, and publish the plan.

        Returns the files that no previous attempt has processed. Raises InputError where the run cannot work. Where it
        is only to be checked, nothing is created.
        """
        first = Beginning(self.azure, self.id, self._workload, self._settings, is_retry=self.is_retry)
        found = first.look(inputs, self._contexts)
        self.id, self.pool, self.destination = found.run, found.checked.settings, found.destination
        if not self._settings.check:
            self._record = self._record_of(found)
        self.application |= {path.name: path for path in first.packages(found, self._contexts)}
        self.plan = first.plan(found)
        show_plan(self.plan)
        if self._record:
            self._direct.arm(self._record.outputs_left)
            self._contexts.enter_context(SignOfLife(self.azure, self.id))
        return found.to_process

    def _record_of(self, found: Begun) -> RunRecord[J]:
        return RunRecord(
            azure=self.azure,
            run=found.run,
            results=found.results,
            files=found.files,
            done=found.done,
            allowed=self._settings.allow_failures,
            steps=self._steps,
            report_joined=self._workload.report,
            prices=found.prices,
        )

    def checked(self) -> J:
        """What a run that was only to be checked ends with: a Prefect state with the plan, for the flow to return."""
        return cast(J, end_check(self.plan))

    @property
    def at_once(self) -> int:
        """How many Batch tasks can run at the same time."""
        return self.plan.pool.at_once if self.plan.pool else 1

    @property
    def work(self) -> Work:
        """What each Batch task is to do."""
        return Work(
            limits=self._settings.limits,
            slots=self._settings.pool.slots_per_task,
            script=self._workload.script_name,
            arguments=self._workload.arguments,
            destination=self.destination,
            place_of=self.results.place_of,
            files_per_task=self._settings.files_per_task,
            isolate=self._settings.isolate,
        )

    # What becomes known while it goes on

    def note_uploads(self, uploads: Uploads) -> Uploads:
        self._known.note_uploads(uploads)
        note_folder(self.id.flow_run_id, self.results, uploads.programmed, unless_changed=self.is_retry)
        return uploads

    def note_tasks(self, added: Sequence[AddedTask]) -> Sequence[AddedTask]:
        assert self._known.uploads
        # What another program had recorded counts no more.
        note_folder(self.id.flow_run_id, self.results, self._known.uploads.programmed)
        return added

    def note_pool(self, pool: UsedPool) -> UsedPool:
        self._known.pool = pool
        return pool

    def note_end(self, monitored: Monitored) -> None:
        """How watching the Batch tasks ended; where nodes are to bill no longer, pool and job are deleted at once."""
        self._known.note_end(monitored)
        if self._known.ends_at_once:
            self._delete_what_bills()
            note_ended(self._known)

    def note_outcomes(self, outcomes: Sequence[TaskOutcome]) -> bool:
        """Whether there is anything to note: what became of files."""
        if outcomes:
            self._known.note(outcomes)
        return bool(outcomes)

    def note_joined(self, joined: J) -> None:
        """All outputs are on this machine and joined."""
        self._known.joined = joined
        self._known.stored = True

    @property
    def outcomes(self) -> Sequence[TaskOutcome]:
        return self._known.outcomes

    @property
    def results(self) -> Results:
        return self._known.results

    @property
    def seen(self) -> LastSeen:
        return self._known.seen

    @property
    def _known(self) -> RunRecord[J]:
        assert self._record, "begin() comes first"
        return self._record

    # How it ends

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._contexts:
            if self._record is None:
                return
            # A step fails too where a sweep deletes what it is at work on.
            crashed = declared_crashed() if isinstance(error, RunError) else None
            error = crashed or error
            try:
                if error is None and not self._deletes:
                    self._ask()
            except BaseException as interruption:
                error = interruption
                raise
            finally:
                self._delete_and_report(self._record, error)
            if crashed:
                raise crashed

    def result(self) -> J:
        """What the outputs were joined into, once the run has ended.

        Raises what kept the run from succeeding, with all that is known of it; of a run that was cancelled, it is a
        Prefect state that says so, for the flow to return.
        """
        record = self._known
        error = failure_of(record, self._not_deleted())
        if error is None:
            assert record.joined is not None
            return record.joined
        return cast(J, end_with(error))

    def _ask(self) -> None:
        record = self._known
        self.clean_up = self._direct.clean_up = ask(
            self.clean_up,
            summary=record.headline(),
            failure=record.failure(),
            pool_cost=record.cost_while_waiting(),
        )

    def _delete_and_report(self, record: RunRecord[J], error: BaseException | None) -> None:
        # Pool and job at once, because they bill: of a run that is stopped only 30 seconds are left here.
        self._delete_what_bills()
        fetch_finished(record, error)
        containers = delete_containers.submit(self.azure, self.id, self.clean_up.containers, record.holds())
        self._deletes["containers"] = containers
        wait(list(self._deletes.values()))
        deleted = [thing for thing, delete in self._deletes.items() if delete.state.is_completed()]
        if len(deleted) == len(self._deletes):
            self._direct.disarm()
        record.close(self.clean_up, deleted, error)

    def _delete_what_bills(self) -> None:
        if self._deletes:
            return
        self._known.note_deletes()
        settings = self._settings
        self._deletes = {
            "pool": delete_pool.submit(self.azure, self.id, settings.pool, self.clean_up.pool),
            "job": delete_job.submit(self.azure, self.id, self.clean_up.job),
        }

    def _not_deleted(self) -> str:
        """What was not deleted, and why; empty where all was."""
        states = {thing: delete.state for thing, delete in self._deletes.items()}
        failed = {thing: state for thing, state in states.items() if not state.is_completed()}
        if not failed:
            return ""
        reasons = {thing: state.result(raise_on_failure=False) for thing, state in failed.items()}
        lines = [f"Not deleted: {thing} {self.id.name}: {reason}" for thing, reason in reasons.items()]
        advice = f"A sweep deletes it once it has expired ({self.id.expires_text}): see docs/clean-up.md"
        return "\n".join([*lines, advice])
