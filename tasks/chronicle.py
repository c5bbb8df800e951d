"""What is remembered of a run while it goes on, for those who read of it when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from tasks.artifacts import publish_report
from tasks.azure import Azure
from tasks.errors import TopWordsError
from tasks.events import CleanedUp, RunEvents
from tasks.outcomes import TaskOutcome
from tasks.pool import UsedPool
from tasks.prices import price_of, region_of
from tasks.report import RunFacts, is_loopback, report
from tasks.results import Results
from tasks.settings import CleanUp, Disposal, Run
from tasks.steps import StepTime
from tasks.summary import Summary

_THINGS = ("containers", "job", "pool")
_NO_POOL = UsedPool(id="", slots_per_node=1, own=False)
_MOST_WORDS = 30  # in the chart


@dataclass(kw_only=True)
class Chronicle:
    """One run, told as it goes on."""

    azure: Azure
    run: Run
    name: str
    results: Results
    allow_failures: int
    steps: list[StepTime]
    pool: UsedPool | None = None
    outcomes: Sequence[TaskOutcome] = ()
    summary: Summary | None = None
    problem: TopWordsError | None = None  # why waiting was given up
    began: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def close(self, clean_up: CleanUp, done: Sequence[str]) -> None:
        """Publish the report, and the event that the run has cleaned up after itself; neither ever raises.

        `done` are those of containers, job and pool of which the clean-up has done what it was told.
        """
        sent = [thing for thing in _THINGS if thing in done and self._deletes(clean_up, thing)]
        kept = [thing for thing in _THINGS if thing not in sent]
        publish_report(lambda: report(self._facts(sent, kept)))
        events = RunEvents(account=self.azure.batch_account.name, flow_run_id=self.run.flow_run_id)
        events.emit(CleanedUp(job_id=self.run.job_id, deleted=tuple(sent), kept=tuple(kept)))

    def cost_while_waiting(self) -> str | None:
        """What the pool costs while somebody is asked whether to delete it, for that person to read."""
        pool = self.pool
        if pool is None or not pool.own:
            return None
        nodes = pool.dedicated_nodes + pool.spot_nodes
        if is_loopback(self.azure.batch_account.endpoint):
            return f"The pool's {nodes} nodes are on the embedded local Azure and cost nothing."
        price = price_of(pool.vm_size, region_of(self.azure.batch_account.endpoint))
        if price is None:
            return f"The pool's {nodes} nodes of {pool.vm_size} bill while you decide; their price is not known here."
        most = "at most " if pool.spot_nodes else "about "
        return (
            f"The pool's {nodes} nodes of {pool.vm_size} cost {most}${price.per_hour * nodes:.2f} an hour while you "
            f"decide ({price.source})."
        )

    def headline(self) -> str:
        """The run's result in a line."""
        done = sum(outcome.succeeded for outcome in self.outcomes)
        return f"{done} of {len(self.outcomes)} files have been counted; the summary is in {self.results.folder}."

    def _deletes(self, clean_up: CleanUp, thing: str) -> bool:
        if thing == "pool" and self.pool is not None and not self.pool.own:
            return False
        return getattr(clean_up, thing) is not Disposal.KEEP

    def _facts(self, deleted: Sequence[str], kept: Sequence[str]) -> RunFacts:
        pool = self.pool or _NO_POOL
        alive = self._pool_seconds() if pool.own else None
        return RunFacts(
            run_name=self.name,
            flow_run_id=self.run.flow_run_id,
            where=self.azure.describe(),
            batch_endpoint=self.azure.batch_account.endpoint,
            pool_id=pool.id,
            own_pool=pool.own,
            vm_size=pool.vm_size,
            dedicated_nodes=pool.dedicated_nodes,
            spot_nodes=pool.spot_nodes,
            steps=[(step.name, step.seconds) for step in sorted(self.steps, key=lambda step: step.began)],
            pool_seconds=alive,
            node_seconds=None if alive is None else alive * pool.dedicated_nodes,
            spot_node_seconds=(alive or 0) * pool.spot_nodes,
            started=self.began,
            ended=datetime.now(timezone.utc),
            outcomes=self.outcomes,
            allowed_failures=self.allow_failures,
            results=str(self.results.folder),
            deleted=deleted,
            kept=kept,
            pool_kept="pool" in kept and pool.own,
            nodes_until=self.run.until,
            problem=str(self.problem or ""),
            top_words=self._top_words(),
        )

    def _pool_seconds(self) -> float | None:
        """From the request for the pool to that for its end; what Azure bills is a little less."""
        made = [step.began for step in self.steps if step.name.startswith("3 ")]
        ended = [step.began for step in self.steps if step.name == "9 delete pool"]
        return ((ended or [datetime.now(timezone.utc)])[-1] - made[0]).total_seconds() if made else None

    def _top_words(self) -> list[tuple[str, int]]:
        if self.summary is None:
            return []
        overall = self.summary.overall.head(_MOST_WORDS)
        return [(str(word), int(count)) for word, count in zip(overall["word"], overall["count"], strict=True)]
