"""How a run begins and ends, whatever happens in between."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Generic, cast

from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from typing_extensions import Self

from tasks.accounts.choose import azure_for_run
from tasks.accounts.clients import Azure
from tasks.approval import ask
from tasks.check import check_accounts, check_input, resolve_packages
from tasks.containers import delete_containers
from tasks.direct_clean_up import DirectCleanUp
from tasks.ending import end_with, failure_of
from tasks.errors import RunError
from tasks.inputs.files import InputFile, as_list
from tasks.job import delete_job
from tasks.kept import skip_done
from tasks.plan import end_check, show_plan
from tasks.pool import delete_pool
from tasks.record import RunRecord
from tasks.reporting.cost import budget_of
from tasks.reporting.plan import prices_of
from tasks.reporting.report import is_loopback
from tasks.reporting.retail_prices import PriceLookup
from tasks.resources.batch_task import Work
from tasks.run.destination import Destination
from tasks.run.identity import Run, UsedPool
from tasks.run.outcomes import Monitored, TaskOutcome
from tasks.run.plan import Checked, RunPlan, make_plan
from tasks.run.results import Results
from tasks.run.settings import RunSettings
from tasks.run.speed import known_speed
from tasks.run.uploads import Uploads
from tasks.run.workload import J, T, Workload
from tasks.step import timed_steps
from tasks.stopped import fetch_finished
from tasks.terminal import terminate_on_hangup
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
        settings = self._settings
        prices = self._begin_prices()
        files = check_input(
            self.azure, self.id, inputs, settings.allow_failures, settings.output_folder, settings.files_per_task
        )
        workload = self._workload
        program = workload.program.in_container(settings.pool.container_image)
        results = Results.of(settings.output_folder, self.id.name, files, workload.read, workload.tables, program)
        self.destination = Destination.of(self.azure, self.id, settings.output_folder)
        previous_pool = self.id.pool_id if self.is_retry else ""
        found = check_accounts(self.azure, settings.pool, results, self.destination, previous_pool, only=settings.check)
        self.pool = found.settings
        self._take_budget(prices)
        if settings.skip_done:
            why = skip_done(self.azure, files, results, self.destination, only_look=settings.check)
            results = replace(results, why=why)
        if settings.check:
            to_do = [file for file in files if results.why is None or file.name in results.why]
        else:
            done, to_do = results.sort(files)
            self._record = RunRecord(
                azure=self.azure,
                run=self.id,
                results=results,
                files=files,
                done=done,
                allowed=settings.allow_failures,
                steps=self._steps,
                report_joined=self._workload.report,
                prices=prices,
            )
        if to_do and workload.packages:
            self._resolve_packages()
        self._plan = self._planned(found, results, len(files), to_do, prices)
        show_plan(self._plan)
        if self._record:
            self._direct.arm(self._record.outputs_left)
        return to_do

    def _resolve_packages(self) -> None:
        folder = Path(self._contexts.enter_context(TemporaryDirectory(prefix="packages-")))
        installed = resolve_packages(self.azure, self.pool, self._workload.packages, folder)
        self.application |= {path.name: path for path in installed.files} if installed else {}

    def _planned(
        self, found: Checked, results: Results, inputs: int, to_do: Sequence[InputFile], prices: PriceLookup
    ) -> RunPlan:
        return make_plan(
            run=self.id,
            settings=self._settings,
            accounts=found.accounts,
            pool=found.pool,
            inputs=inputs,
            to_process=to_do,
            speed=known_speed(results, [file.name for file in to_do]),
            prices=prices_of(found.accounts, found.pool, prices),
            results=str(self.destination) if results.kept else str(results.folder),
            is_retry=self.is_retry,
        )

    def checked(self) -> J:
        """What a run that was only to be checked ends with: a Prefect state with the plan, for the flow to return."""
        return cast(J, end_check(self._plan))

    def _begin_prices(self) -> PriceLookup:
        """Begin to look up what a node costs, in the background."""
        prices = PriceLookup(self.azure.batch_account.endpoint)
        if not self._settings.pool.existing_pool_id:
            prices.start(as_list(self._settings.pool.vm_size))
        return prices

    def _take_budget(self, prices: PriceLookup) -> None:
        """Let the run's names carry what it may spend, from which the pool's deadline follows."""
        limit, pool = self._settings.cost_limit, self._settings.pool
        if limit is None:
            return
        if is_loopback(self.azure.batch_account.endpoint):
            get_run_logger().info("cost_limit: nothing to bound, the embedded local Azure costs nothing")
            return
        vm_sizes = as_list(pool.vm_size)
        budget = budget_of(limit, pool, vm_sizes, [prices.of(vm_size) for vm_size in vm_sizes])
        self.id = replace(self.id, budget=budget)
        until = self.id.nodes_until(pool.dedicated_nodes, pool.spot_nodes)
        get_run_logger().info("cost_limit: $%.2f; the pool gives up its nodes by %s", limit, f"{until:%H:%M %Z}")

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
        self._known.uploads = uploads
        return uploads

    def note_pool(self, pool: UsedPool) -> UsedPool:
        self._known.pool = pool
        return pool

    def note_end(self, monitored: Monitored) -> None:
        """How watching the Batch tasks ended; where nodes are to bill no longer, pool and job are deleted at once."""
        self._known.note_end(monitored)
        if self._known.ends_at_once:
            self._delete_what_bills()

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
