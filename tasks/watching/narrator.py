"""Reports what is decided about the Batch tasks: in the log, in the task board, and as events."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.logging import get_run_logger

from tasks.errors import RunError, Stalled
from tasks.errors.service import ServiceError
from tasks.reporting.artifacts import TaskBoard
from tasks.reporting.events import JobStalled, PoolReady, Preempted, RunEvents
from tasks.resources.pool import node_count
from tasks.run.identity import UsedPool
from tasks.run.outcomes import AddedTask, TaskOutcome
from tasks.watching.decide import Decision
from tasks.watching.failures import Failures
from tasks.watching.memory import Memory
from tasks.watching.progress import Progress


class Narrator:
    """Reports everything once."""

    def __init__(
        self,
        job_id: str,
        tasks: Sequence[AddedTask],
        events: RunEvents,
        failures: Failures,
        board: TaskBoard,
        refused_sizes: int = 0,  # VM sizes that were reported before
    ) -> None:
        self._job_id = job_id
        self._tasks = tasks
        self._events = events
        self._failures = failures
        self._board = board
        self._logger = get_run_logger()
        self._ready = False
        self._requeues = 0
        self._preemptions = 0
        self._refused_sizes = refused_sizes
        self._fewer = ""

    def report(self, decision: Decision) -> None:
        """Report the decision of one look."""
        memory, counts = decision.memory, decision.counts
        if counts and (counts.completed or counts.running):
            self._report_ready(memory)
        if decision.line:
            self._logger.info(decision.line)
        if decision.warns:
            self._logger.warning(
                "Job %s: %s; what is not done then can be done by a retry. Use more nodes, or a larger run_minutes",
                self._job_id,
                decision.late,
            )
        if decision.fewer not in ("", self._fewer):
            self._fewer = decision.fewer
            self._logger.warning("Pool %s: %s", memory.pool.id, decision.fewer)
        if counts and (decision.line or decision.shown is not None) and decision.problem is None:
            self._show(decision, counts)
        self._report_losses(memory)
        if isinstance(decision.problem, Stalled):
            self._events.emit(
                JobStalled(
                    job_id=self._job_id,
                    pool_id=memory.pool.id,
                    since=memory.last_progress,
                    reason=str(decision.problem),
                )
            )

    def _show(self, decision: Decision, counts: Progress) -> None:
        shown = None if decision.shown is None else self._failures.report(decision.shown)
        outlook = decision.outlook + (f"; {decision.late}" if decision.late else "")
        pool = decision.memory.pool
        if pool.refused_sizes and counts.running:  # what tasks wait for names it, too
            outlook += f"; VM size {pool.vm_size} instead of {pool.instead_of}"
        status = decision.memory.last_status
        self._board.show(shown, counts.files_done, counts.all_files, status, outlook, rows_of=counts.total)

    def report_outage(self, failure: ServiceError) -> None:
        self._logger.warning("Could not read task states, retrying: %s", failure)

    def report_added_nodes(self, memory: Memory, minutes: int | None) -> None:
        pool = memory.pool
        added = node_count(pool.added_nodes, 0)
        why = f"no Batch task made progress on spot nodes for {minutes} minutes"
        self._logger.warning("Pool %s: %s added, because %s", pool.id, added, why)

    def report_deadline(self, memory: Memory) -> None:
        """The pool has a later deadline, since its nodes have cost less than they could."""
        assert memory.pool.nodes_until
        assert memory.spent
        self._logger.info(
            "Pool %s: its nodes have cost $%.2f at most; it keeps them until %s by its budget",
            memory.pool.id,
            memory.spent.dollars,
            f"{memory.pool.nodes_until:%H:%M %Z}",
        )

    def report_size(self, pool: UsedPool) -> None:
        """The pool has another VM size, since it got no nodes of those before it."""
        for refused in pool.refused_sizes[self._refused_sizes :]:
            self._logger.warning("Pool %s: no nodes of VM size %s", pool.id, refused)
        self._refused_sizes = len(pool.refused_sizes)
        self._logger.warning("Pool %s: now of VM size %s, asking for nodes again", pool.id, pool.vm_size)

    def report_size_not_offered(self, pool: UsedPool) -> None:
        """The last of the pool's refused sizes."""
        self._refused_sizes = len(pool.refused_sizes)
        self._logger.warning("Pool %s: not changed to VM size %s", pool.id, pool.refused_sizes[-1])

    def report_end(self, memory: Memory, problem: RunError | None) -> list[TaskOutcome]:
        """Report the end, from each task's outcome: the service's counts may lag behind. Returns the outcomes."""
        outcomes = self._failures.report(
            [memory.outcome(task.id) or TaskOutcome.of(task, None) for task in self._tasks]
        )
        self._failures.close()
        if problem is not None:
            outcomes = [outcome.unfinished() for outcome in outcomes]
        if any(outcome.started for outcome in outcomes):
            self._report_ready(memory)
        self._report_losses(memory)
        in_job = [(task, outcome) for task, outcome in zip(self._tasks, outcomes, strict=True) if not task.earlier]
        progress = Progress.of_outcomes(
            [outcome for _, outcome in in_job],
            earlier=len(self._tasks) - len(in_job),
            files=sum(task.files for task, _ in in_job),
        )
        status = progress.at_the_end(str(problem).partition("\n")[0] if problem else "")
        self._logger.info(status)
        self._board.show(outcomes, progress.files_done, progress.all_files, status)
        return outcomes

    def _report_ready(self, memory: Memory) -> None:
        if self._ready:
            return
        self._ready = True
        pool = memory.pool
        self._events.emit(
            PoolReady(
                pool_id=pool.id,
                vm_size=pool.vm_size,
                dedicated_nodes=pool.dedicated_nodes,
                spot_nodes=pool.spot_nodes,
            )
        )

    def _report_losses(self, memory: Memory) -> None:
        """The nodes that were lost or preempted since the last report."""
        preemptions, requeues = memory.preemptions - self._preemptions, memory.requeues - self._requeues
        if preemptions > 0:
            self._logger.warning("%d spot nodes were preempted; their Batch tasks are requeued", preemptions)
            self._events.emit(Preempted(pool_id=memory.pool.id, nodes=preemptions))
        if requeues > 0:
            self._logger.warning("%d Batch tasks lost their node and are requeued; no retry is used up", requeues)
        self._preemptions, self._requeues = memory.preemptions, memory.requeues
