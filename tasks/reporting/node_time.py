"""How long the nodes of a pool lived, by the service's own times: while they started, were idle, and ran Batch tasks.

A node bills from its allocation until it is gone, also while a Batch task of it has failed or its start task runs; a
preempted spot node does not. What is between two looks is known only within bounds, which are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from azure.batch.models import BatchNode, BatchNodeState

from tasks.resources.pool import is_spot
from tasks.run.outcomes import TaskOutcome

NODE_FIELDS = ["id", "state", "allocationTime", "lastBootTime", "stateTransitionTime", "isDedicated", "startTaskInfo"]

_ENDED = {BatchNodeState.PREEMPTED, BatchNodeState.DEALLOCATED}  # which bill nothing
_TAKING = {BatchNodeState.IDLE, BatchNodeState.RUNNING, BatchNodeState.OFFLINE}
_COMING = {BatchNodeState.CREATING, BatchNodeState.STARTING}


@dataclass(frozen=True, kw_only=True)
class NodeSpan:
    """The time for which a node billed, once from its allocation to its end.

    It began at `began` or later, but before `began_by`; it was there until `seen`, and gone by `gone` (None: it is
    there still).
    """

    id: str
    dedicated: bool
    began: datetime
    began_by: datetime
    seen: datetime
    ready: datetime | None = None  # when it could take Batch tasks
    gone: datetime | None = None

    def at_most(self, now: datetime) -> float:
        """Seconds."""
        return max(0.0, ((self.gone or now) - self.began).total_seconds())

    def at_least(self) -> float:
        return max(0.0, (self.seen - self.began_by).total_seconds())


@dataclass(frozen=True, kw_only=True)
class NodeLog:
    """What was seen of a pool's nodes, look by look."""

    spans: tuple[NodeSpan, ...] = ()

    def noted(self, nodes: Iterable[BatchNode], now: datetime) -> NodeLog:
        """After a look that listed all nodes of the pool; now: by the service's clock, where that is known."""
        open_spans = {span.id: span for span in self.spans if span.gone is None}
        closed = [span for span in self.spans if span.gone is not None]
        listed = {str(node.id): node for node in nodes}
        for id, span in open_spans.items():
            closed += [replace(span, gone=max(now, span.seen))] if id not in listed else []
        spans = [_span(node, open_spans.get(id), _last(id, closed), now) for id, node in listed.items()]
        return NodeLog(spans=(*closed, *filter(None, spans)))


def _last(id: str, closed: Iterable[NodeSpan]) -> datetime | None:
    return max((span.gone for span in closed if span.id == id and span.gone), default=None)


def _span(node: BatchNode, known: NodeSpan | None, before: datetime | None, now: datetime) -> NodeSpan | None:
    """The node's present span; None for one that bills nothing and was not known to."""
    entered = node.state_transition_time or now
    if node.state in _ENDED:
        if known is None and (before is not None or node.allocation_time is None):
            return None
        found = known or _first(node, None, entered)
        return replace(found, seen=max(found.began_by, entered), gone=max(found.began, entered))
    found = known or _first(node, before, now)
    ready = found.ready or _ready(node)
    return replace(found, seen=max(now, found.seen), ready=ready if ready and ready > found.began else None)


def _first(node: BatchNode, before: datetime | None, now: datetime) -> NodeSpan:
    """A node that is seen for the first time, or again after it was preempted."""
    began = node.allocation_time or now
    began_by = began
    if before is not None and before > began:  # its allocation was that of its first span
        began = began_by = now
        if node.state in _COMING and node.state_transition_time:
            began = began_by = max(before, node.state_transition_time)
        else:
            began = before
    dedicated = node.is_dedicated if node.is_dedicated is not None else not is_spot(str(node.id))
    return NodeSpan(id=str(node.id), dedicated=dedicated, began=began, began_by=began_by, seen=began_by)


def _ready(node: BatchNode) -> datetime | None:
    if info := node.start_task_info:
        return info.end_time if info.exit_code == 0 or node.state in _TAKING else None
    return node.last_boot_time


@dataclass(frozen=True, kw_only=True)
class KindTime:
    """Node-seconds of one kind of node, at most; `unsure` of them may not have been."""

    starting: float = 0.0
    idle: float = 0.0
    running: float = 0.0
    unsure: float = 0.0

    @property
    def total(self) -> float:
        return self.starting + self.idle + self.running

    def plus(self, other: KindTime) -> KindTime:
        return KindTime(
            starting=self.starting + other.starting,
            idle=self.idle + other.idle,
            running=self.running + other.running,
            unsure=self.unsure + other.unsure,
        )


@dataclass(frozen=True, kw_only=True)
class NodeTime:
    """Node-seconds of a pool; `split` is whether it is known what the nodes did."""

    dedicated: KindTime = KindTime()
    spot: KindTime = KindTime()
    split: bool = True

    @property
    def both(self) -> KindTime:
        return self.dedicated.plus(self.spot)

    @classmethod
    def at_most(cls, dedicated: float, spot: float) -> NodeTime:
        """Where no node was seen: as if all that were asked for had been there all the time."""
        kinds = [KindTime(idle=seconds, unsure=seconds) for seconds in (dedicated, spot)]
        return cls(dedicated=kinds[0], spot=kinds[1], split=False)


def node_time(log: NodeLog, batch_tasks: Sequence[TaskOutcome], made: datetime, now: datetime) -> NodeTime:
    """The node-seconds until `now`; made: when the pool was asked for, before which no node of it billed.

    Of a Batch task that was requeued, only the last run is known: earlier ones count as idle.
    """
    ran = _by_node(batch_tasks, now)
    spans = [*log.spans, *_unseen(log, ran, made, now)]
    kinds = {True: KindTime(), False: KindTime()}
    for span in spans:
        kinds[span.dedicated] = kinds[span.dedicated].plus(_of_span(span, ran.get(span.id, ()), now))
    return NodeTime(dedicated=kinds[True], spot=kinds[False])


def _of_span(span: NodeSpan, ran: Sequence[tuple[datetime, datetime]], now: datetime) -> KindTime:
    until = span.gone or now
    total = span.at_most(now)
    running = _covered(ran, span.began, until)
    ready = span.ready or min((start for start, _ in ran if start >= span.began), default=until)
    starting = min(total - running, max(0.0, (min(ready, until) - span.began).total_seconds()))
    unsure = max(0.0, total - span.at_least())
    return KindTime(starting=starting, running=running, idle=max(0.0, total - starting - running), unsure=unsure)


def _by_node(batch_tasks: Iterable[TaskOutcome], now: datetime) -> Mapping[str, list[tuple[datetime, datetime]]]:
    ran: dict[str, list[tuple[datetime, datetime]]] = {}
    for task in batch_tasks:
        if task.node and task.started:
            ran.setdefault(task.node, []).append((task.started, task.ended or now))
    return ran


def _unseen(
    log: NodeLog, ran: Mapping[str, Sequence[tuple[datetime, datetime]]], made: datetime, now: datetime
) -> list[NodeSpan]:
    """Nodes that came and went between two looks, known by the Batch tasks that ran on them."""
    seen = {span.id for span in log.spans}
    return [
        NodeSpan(
            id=id,
            dedicated=not is_spot(id),
            began=min(made, min(start for start, _ in times)),
            began_by=min(start for start, _ in times),
            seen=max(end for _, end in times),
            gone=now,
        )
        for id, times in ran.items()
        if id not in seen
    ]


def _covered(times: Iterable[tuple[datetime, datetime]], began: datetime, until: datetime) -> float:
    """Seconds of that span in which at least one of the times is."""
    covered, reached = timedelta(), began
    for start, end in sorted(times):
        start, end = max(start, reached), min(end, until)
        if end > start:
            covered, reached = covered + (end - start), end
    return covered.total_seconds()
