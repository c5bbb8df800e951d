"""Collects the facts of a run for its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Generic

from azure.batch.models import BatchTaskState
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.accounts.clients import Azure
from tasks.accounts.clouds import is_loopback
from tasks.errors import Cancelled, CostLimit, RunError
from tasks.errors.service import SERVICE_FAILURES
from tasks.errors.text import listed
from tasks.inputs.files import InputFile
from tasks.reporting.artifacts import attempt_suffix, publish_report
from tasks.reporting.cost import node_seconds
from tasks.reporting.events import CleanedUp, RunEvents
from tasks.reporting.node_time import NODE_FIELDS, NodeTime, node_time
from tasks.reporting.pages import remember_cost
from tasks.reporting.report import RunFacts, report, why_failed
from tasks.reporting.retail_prices import PriceLookup
from tasks.resources.nodes import nodes_now
from tasks.run.file_outcomes import by_batch_task, outcome_of_file
from tasks.run.identity import Role, Run, UsedPool
from tasks.run.outcomes import AddedTask, Monitored, TaskOutcome, in_order
from tasks.run.price import Price
from tasks.run.results import Results
from tasks.run.settings import CleanUp, Disposal
from tasks.run.uploads import UploadedFile, Uploads
from tasks.run.workload import J
from tasks.step import StepTime
from tasks.watching.progress import Progress
from tasks.watching.watch import LastSeen

_THINGS = ("containers", "job", "pool")
_NO_POOL = UsedPool(id="", slots_per_node=1, own=False)


@dataclass(kw_only=True)
class RunRecord(Generic[J]):
    """What is known of one run, as far as it has come."""

    azure: Azure
    run: Run
    results: Results
    files: Sequence[InputFile | UploadedFile]
    done: Sequence[TaskOutcome]  # by a previous attempt of the run
    allowed: int  # failures
    steps: list[StepTime]
    report_joined: Callable[[J], str]
    pool: UsedPool | None = None
    joined: J | None = None
    problem: RunError | None = None  # why waiting was given up
    began: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    uploads: Uploads | None = None
    seen: LastSeen = field(default_factory=LastSeen)
    stored: bool = False  # all that the run was to leave is on this machine, and the containers are needed no more
    pool_gone: datetime | None = None  # when its delete was sent
    prices: PriceLookup | None = None  # None: the table's
    nodes_read: datetime | None = None  # by the service's clock, just before the delete
    not_downloaded: Sequence[str] | None = None  # the finished files whose outputs are not; None: not known

    def __post_init__(self) -> None:
        self._of_batch_tasks: Sequence[TaskOutcome] = ()
        self._outcomes: Sequence[TaskOutcome] | None = None  # of all files, once they were asked for

    def note_uploads(self, uploads: Uploads) -> None:
        """What the nodes fetch; it takes the place of the files, which take memory too."""
        uploaded = {file.name: file for file in uploads.inputs}
        self.files = [uploaded.get(file.name) or file for file in self.files]
        self.uploads = uploads

    def note_end(self, monitored: Monitored) -> None:
        """How watching the Batch tasks ended."""
        self.pool, self.problem = monitored.pool, monitored.problem
        self.note(monitored.outcomes)

    def note_deletes(self) -> None:
        """The deletes are about to be sent: the last look at the pool's nodes, whose times go with them."""
        self.pool_gone = datetime.now(timezone.utc)
        self.pool = self.seen.pool or self.pool  # as it is, also where a signal has ended watching
        if self.pool is None or not self.pool.own:
            return
        with suppress(*SERVICE_FAILURES), self.azure.batch() as batch:  # the estimate is only less exact then
            nodes, self.nodes_read = nodes_now(batch, self.pool.id, NODE_FIELDS)
            self.seen.nodes = self.seen.nodes.noted(nodes, self.nodes_read)

    def note(self, outcomes: Sequence[TaskOutcome]) -> None:
        """What is known of these files now."""
        done = {outcome.file for outcome in self.done}
        self._of_batch_tasks = [outcome for outcome in outcomes if outcome.file not in done]
        self._outcomes = in_order(self.files, self.done, outcomes)

    @property
    def outcomes(self) -> Sequence[TaskOutcome]:
        """What is known of all files."""
        if self._outcomes is None:
            self._outcomes = in_order(self.files, self.done)
        return self._outcomes

    @property
    def known(self) -> dict[str, TaskOutcome]:
        """What was known last of each file that was uploaded, by its name."""
        files = self.uploads.inputs if self.uploads else ()
        last = {outcome.file: outcome for outcome in self._of_batch_tasks}
        return {file.name: last.get(file.name) or self._seen(file) for file in files}

    def _seen(self, file: UploadedFile) -> TaskOutcome:
        """What is known of the file by its Batch task alone."""
        seen = self.seen.outcomes.get(file.task_id)
        return outcome_of_file(seen, file.name, None) if seen else TaskOutcome.of(_added(file), None)

    @property
    def ends_at_once(self) -> bool:
        """Whether nodes are to bill no longer than they must: the run was cancelled, or has reached its cost_limit."""
        return isinstance(self.problem, Cancelled | CostLimit)

    def outputs_left(self) -> bool:
        """Whether containers hold outputs, or may do so, that are nowhere else."""
        if self.stored or self.results.kept:
            return False
        if self.not_downloaded is not None:
            return bool(self.not_downloaded)
        return self.seen.succeeded > 0 or any(map(self._may_have_outputs(), self.known.values()))

    def _may_have_outputs(self) -> Callable[[TaskOutcome], bool]:
        """Whether a file may have outputs; of a group's, only its record says so."""
        groups = self.uploads.bundles if self.uploads else ()
        noted = {outcome.file for outcome in self._of_batch_tasks}

        def may(outcome: TaskOutcome) -> bool:
            known = outcome.completed and outcome.file in noted
            begun = outcome.id in groups and outcome.state != BatchTaskState.ACTIVE
            return outcome.succeeded or (begun and not known)

        return may

    def holds(self) -> bool | None:
        """The same for the step that deletes containers; None where only their tags can say so."""
        return self.outputs_left() or (False if self.stored or self.not_downloaded is not None else None)

    def left_text(self) -> str:
        """Which finished outputs are not on this machine, and where they are; empty where there is none."""
        names = self.not_downloaded or ()
        if not names:
            return ""
        lacking = f"Not downloaded: the outputs of {listed(names)}. "
        if self.azure.ends_with_run:
            return f"{lacking}The embedded local Azure ends with this run, and their container with it; run again"
        return (
            f"{lacking}Container {self.run.container(Role.OUTPUT)} keeps them until {self.run.expires_text}; "
            f"retry flow run {self.run.flow_run_id} before, and they are not processed again"
        )

    def close(self, clean_up: CleanUp, done: Sequence[str], ending: BaseException | None) -> None:
        """Publish the report, and the event that the run has cleaned up after itself; neither ever raises.

        `done` are those of containers, job and pool that the clean-up has deleted or kept as it should; `ending` is the
        exception with which the run ends, if any.
        """
        ending = ending or self.problem
        deletes = [thing for thing in _THINGS if self._deletes(clean_up, thing)]
        cleaned_up = CleanedUp(
            job_id=self.run.job_id,
            deleted=tuple(thing for thing in deletes if thing in done),
            kept=tuple(thing for thing in _THINGS if thing not in deletes),
            not_deleted=tuple(thing for thing in deletes if thing not in done),
        )
        if cleaned_up.not_deleted:
            what = " and ".join(cleaned_up.not_deleted)
            get_run_logger().error(
                "NOT deleted: %s; the sweep deletes it once it has expired (%s)", what, self.run.expires_text
            )
        reason = "\n".join(filter(None, [_reason(ending) if ending else "", self.left_text()]))
        if self.seen.board.is_shown and ending is not None and not isinstance(ending, Exception):
            self._show_end(reason)
        publish_report(lambda: self._report(cleaned_up, reason))
        RunEvents(account=self.azure.batch_account.name, flow_run_id=self.run.flow_run_id).emit(cleaned_up)

    def _show_end(self, reason: str) -> None:
        """Of a run that was stopped: what monitoring showed last is no longer so."""
        in_job = [outcome for outcome in self.outcomes if not outcome.earlier]
        progress = Progress.of_outcomes(by_batch_task(in_job), earlier=len(self.outcomes) - len(in_job))
        status = progress.at_the_end(reason.partition("\n")[0])
        completed = sum(outcome.completed for outcome in self.outcomes)
        self.seen.board.show(self.outcomes, completed, len(self.outcomes), status)

    def cost_while_waiting(self) -> str | None:
        """What the pool costs while somebody is asked whether to delete it, for that person to read."""
        pool = self.pool
        if pool is None or not pool.own:
            return None
        nodes = pool.nodes
        if is_loopback(self.azure.batch_account.endpoint):
            return f"The pool's {nodes} nodes are on the embedded local Azure and cost nothing."
        price = self._price(pool.vm_size, wait=False)
        if price is None:
            return f"The pool's {nodes} nodes of {pool.vm_size} bill while you decide; their price is not known here."
        most = "at most " if pool.spot_nodes and price.spot_per_hour is None else "about "
        hourly = price.hourly(pool.dedicated_nodes + pool.added_nodes, pool.spot_nodes)
        return (
            f"The pool's {nodes} nodes of {pool.vm_size} cost {most}${hourly:.2f} an hour while you decide "
            f"({price.source})."
        )

    def _price(self, vm_size: str, *, wait: bool = True) -> Price | None:
        lookup = self.prices or PriceLookup(self.azure.batch_account.endpoint)
        return lookup.of(vm_size, wait=wait)

    def failure(self) -> str:
        """Why the run fails, for the person who is asked what to delete; empty where it completes."""
        return why_failed(self.outcomes, self.allowed, self.problem)

    def headline(self) -> str:
        """The run's result in a line."""
        done = sum(outcome.succeeded for outcome in self.outcomes)
        return f"{done} of {len(self.outcomes)} files have succeeded; the results are in {self.results.folder}."

    def _deletes(self, clean_up: CleanUp, thing: str) -> bool:
        if thing == "containers" and self.outputs_left():
            return False
        if thing == "pool" and self.pool is not None and not self.pool.own:
            return False
        return getattr(clean_up, thing) is not Disposal.KEEP

    def _report(self, cleaned_up: CleanedUp, problem: str) -> str:
        """The page; and the cost in a line, for the log and for the end of the command."""
        facts = self._facts(cleaned_up, problem)
        if facts.node_time and facts.estimate and not is_loopback(facts.batch_endpoint):
            text = f"{facts.estimate} for {node_seconds(facts.node_time)}".replace("**", "")
            remember_cost(f"Estimated cost: {text} ({facts.estimate.price.source})")
            get_run_logger().info("Pool %s: estimated cost %s", facts.pool_id, text)
        return report(facts)

    def _facts(self, cleaned_up: CleanedUp, problem: str) -> RunFacts:
        pool = self.pool or _NO_POOL
        made, gone = self._pool_times()
        alive = (gone - made).total_seconds() if pool.own and made else None
        time = self._node_time(pool, made, gone)
        return RunFacts(
            run_name=f"{flow_run.name}{attempt_suffix()}",
            flow_run_id=self.run.flow_run_id,
            where=self.azure.describe(),
            batch_endpoint=self.azure.batch_account.endpoint,
            pool_id=pool.id,
            own_pool=pool.own,
            vm_size=pool.vm_size,
            refused_sizes=pool.refused_sizes,
            dedicated_nodes=pool.dedicated_nodes,
            spot_nodes=pool.spot_nodes,
            added_nodes=pool.added_nodes,
            steps=[(step.name, step.seconds) for step in sorted(self.steps, key=lambda step: step.began)],
            pool_seconds=alive,
            node_time=time,
            price=self._price(pool.vm_size) if time else None,
            started=self.began,
            ended=datetime.now(timezone.utc),
            outcomes=self.outcomes,
            allowed_failures=self.allowed,
            results=str(self.results.folder) + (f"; outputs stay in {kept}" if (kept := self.results.kept) else ""),
            deleted=cleaned_up.deleted,
            kept=cleaned_up.kept,
            not_deleted=cleaned_up.not_deleted,
            pool_stays=pool.own and "pool" not in cleaned_up.deleted,
            nodes_until=f"{pool.nodes_until or self.run.expires:%Y-%m-%d %H:%M %Z}",
            problem=problem,
            joined=self.report_joined(self.joined) if self.joined is not None else "",
        )

    def _node_time(self, pool: UsedPool, made: datetime | None, gone: datetime) -> NodeTime | None:
        """By the nodes that were seen; else as if all that were asked for had been there, which is the most."""
        if not pool.own or made is None:
            return None
        if self.seen.nodes.spans:
            until = self.nodes_read or self.pool_gone or datetime.now(timezone.utc)
            return node_time(self.seen.nodes, by_batch_task(self._of_batch_tasks), made, until)
        if self.nodes_read:  # and there was none
            return NodeTime()
        alive = (gone - made).total_seconds()
        added = pool.added_nodes * (gone - pool.added_at).total_seconds() if pool.added_at else 0
        return NodeTime.at_most(alive * pool.dedicated_nodes + added, alive * pool.spot_nodes)

    def _pool_times(self) -> tuple[datetime | None, datetime]:
        """When the pool was asked for, and when its end was, or now; what Azure bills is a little less."""
        return (self.pool.asked_at if self.pool else None), self.pool_gone or datetime.now(timezone.utc)


def _added(file: UploadedFile) -> AddedTask:
    return AddedTask(id=file.task_id, file=file.name)


def _reason(error: BaseException) -> str:
    if isinstance(error, RunError):
        return str(error)
    if isinstance(error, TerminationSignal):
        return "The run was cancelled, or its process was terminated"
    if isinstance(error, KeyboardInterrupt):
        return "The run was interrupted from the keyboard"
    return f"{type(error).__name__}: {error}"
