"""The page that a person opens after a run: where it ran, what failed and why, how long it took, what it may cost."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from tasks.accounts.clouds import is_loopback
from tasks.errors.secrets import without_secrets
from tasks.errors.text import cut, visible
from tasks.reporting.charts import timeline
from tasks.reporting.cost import Estimate, node_seconds, usd
from tasks.reporting.node_time import NodeTime
from tasks.reporting.text import count, escape_markdown, short_node, span
from tasks.run.file_outcomes import by_batch_task
from tasks.run.identity import RefusedSize
from tasks.run.outcomes import TaskOutcome, missing
from tasks.run.price import Price

MOST_FAILURES_IN_FULL = 50
MOST_NAMES = 200  # of files without output
MOST_STEPS = 100
LOCAL = "The embedded local Azure costs nothing."
_NAMED = 3  # files, in the line with the reason why a run failed
STDERR_LINES = 20
STDERR_CHARACTERS = 2_000


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The facts of a run when it is over.

    `where` describes the accounts it used, without secrets. `pool_seconds` go from the pool's creation until its
    deletion was sent, or the run's end. These, the nodes' time and their price are None where unknown, as they are for
    an existing pool; `pool_id` is empty where none was used. `kept` was to be kept, while `not_deleted`
    was to be deleted and was not.
    """

    run_name: str
    flow_run_id: str
    where: str
    batch_endpoint: str
    pool_id: str
    own_pool: bool
    vm_size: str
    refused_sizes: Sequence[RefusedSize] = ()  # VM sizes of which the pool got no nodes
    dedicated_nodes: int
    spot_nodes: int = 0
    added_nodes: int = 0  # dedicated ones, while the run waited for spot nodes
    steps: Sequence[tuple[str, float]] = ()
    pool_seconds: float | None = None
    node_time: NodeTime | None = None
    price: Price | None = None
    started: datetime
    ended: datetime
    outcomes: Sequence[TaskOutcome] = ()
    allowed_failures: int = 0
    results: str
    deleted: Sequence[str] = ()
    kept: Sequence[str] = ()
    not_deleted: Sequence[str] = ()
    pool_stays: bool = False
    problem: str = ""  # why the run ended early
    nodes_until: str = ""  # when the pool's autoscale formula gives up its nodes
    joined: str = ""  # what the workload shows of its joined outputs, as markdown

    @property
    def estimate(self) -> Estimate | None:
        """What the nodes cost; None where that is not known, or they are not this run's."""
        if self.node_time is None or self.price is None or not self.own_pool:
            return None
        files = sum(outcome.completed and not outcome.earlier for outcome in self.outcomes)
        return Estimate(time=self.node_time, price=self.price, files=files)

    @property
    def no_node_seen(self) -> bool:
        """Whether no Batch task is known to have had a node, so that maybe none of them ever came."""
        return bool(self.outcomes) and not any(outcome.node for outcome in self.outcomes)


def report(facts: RunFacts) -> str:
    """The report as markdown, its pictures as data URIs; at most about 400 kB, however large the run."""
    parts = [
        f"# {_plain(facts.run_name)}",
        f"**{result_line(facts)}**",
        _problem(facts.problem),
        _plain(facts.where),
        _links(facts.flow_run_id),
        _overview(facts),
        _failures(facts),
        facts.joined,
    ]
    if any(outcome.started for outcome in facts.outcomes):
        ran = by_batch_task(facts.outcomes)
        parts.append(f"## Batch tasks\n\n![Timeline]({timeline(ran, facts.ended)})\n\n{_durations(ran)}")
    parts += [_steps(facts), _cost(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _problem(text: str) -> str:
    """The problem as a block of its own, because it can end with lines of stderr."""
    lines = without_secrets(text)[:STDERR_CHARACTERS].splitlines()
    return "\n".join(f"> {_plain(line)}  " for line in lines)


def result_line(facts: RunFacts) -> str:
    """Such as "3 files: 2 succeeded, 1 failed (1 allowed)"."""
    outcomes = facts.outcomes
    succeeded = sum(outcome.succeeded for outcome in outcomes)
    failed = sum(outcome.completed and not outcome.succeeded for outcome in outcomes)
    unfinished = len(outcomes) - succeeded - failed
    earlier = sum(outcome.succeeded and outcome.started is None for outcome in outcomes)
    line = f"{count(len(outcomes), 'file')}: {succeeded:,} succeeded"
    line += f" ({earlier:,} of them earlier)" if earlier else ""
    line += f", {failed:,} failed" + (f", {unfinished:,} did not finish" if unfinished else "")
    return line + (f" ({facts.allowed_failures:,} allowed)" if facts.allowed_failures else "")


def why_failed(outcomes: Sequence[TaskOutcome], allowed: int, problem: BaseException | None) -> str:
    """Why a run fails, in a line that names the first files; empty where it completes."""
    without = missing(outcomes)
    if problem is not None:
        return str(problem).partition("\n")[0]
    if len(without) <= allowed:
        return ""
    named = "; ".join(map(_briefly, without[:_NAMED]))
    more = f"; and {len(without) - _NAMED:,} more" if len(without) > _NAMED else ""
    return f"{len(without):,} of {count(len(outcomes), 'file')} without output ({allowed:,} allowed): {named}{more}"


def _briefly(outcome: TaskOutcome) -> str:
    """Such as "a.txt exited non-zero, exit code 3 (no such word)"."""
    exit_code = f", exit code {outcome.exit_code}" if outcome.exit_code else ""
    last_line = (outcome.stderr.strip().splitlines() or [""])[-1]
    detail = last_line or (outcome.failure.message if outcome.failure else "")
    because = f" ({cut(without_secrets(detail), 150)})" if detail else ""
    return f"{outcome.file} {outcome.cause.value if outcome.cause else outcome.state}{exit_code}{because}"


def _links(flow_run_id: str) -> str:
    """Links relative to the artifact's page: a run does not know the address at which people open the UI."""
    page = f"../../runs/flow-run/{flow_run_id}"
    return f"[The run]({page}) · [its log]({page}?tab=Logs) · [its artifacts]({page}?tab=Artifacts)"


def _overview(facts: RunFacts) -> str:
    owner = "made for this run" if facts.own_pool else "an existing pool, neither changed nor deleted"
    requeues = sum(outcome.requeues for outcome in by_batch_task(facts.outcomes))
    rows = [
        ("pool", f"{facts.pool_id}, {owner}" if facts.pool_id else "none was used"),
        ("nodes", _nodes(facts) if facts.pool_id else "none"),
        ("no nodes of", "; ".join(map(str, facts.refused_sizes))),
        ("started", f"{facts.started.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"),
        ("ended", f"{facts.ended.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"),
        ("took", span((facts.ended - facts.started).total_seconds())),
        ("requeues", f"{requeues:,}: Batch tasks begun again after the loss of their node, such as a preemption"),
        ("results", facts.results),
        ("deleted", ", ".join(facts.deleted) or "nothing"),
        ("kept", ", ".join(facts.kept) or "nothing"),
        ("NOT deleted", f"{', '.join(facts.not_deleted)}: see the log; the sweep deletes it once it has expired"),
        ("flow run", facts.flow_run_id),
    ]
    absent = {
        "no nodes of": not facts.refused_sizes,
        "requeues": not requeues,
        "NOT deleted": not facts.not_deleted,
    }
    shown = [(name, value) for name, value in rows if not absent.get(name)]
    return "\n".join(["| run | |", "|:--|:--|", *(f"| {name} | {_plain(value)} |" for name, value in shown)])


def _nodes(facts: RunFacts) -> str:
    spot = f" and {facts.spot_nodes:,} spot" if facts.spot_nodes else ""
    added = f"; {facts.added_nodes:,} dedicated were added while it waited for spot nodes" if facts.added_nodes else ""
    asked, none = (" asked for", "; none of them ran a Batch task") if facts.no_node_seen else ("", "")
    return f"{facts.dedicated_nodes:,} dedicated{spot}{asked}, of {facts.vm_size}{added}{none}"


def _failures(facts: RunFacts) -> str:
    """The failed ones in full, then the names of all files without output."""
    without = missing(facts.outcomes)
    if not without:
        return ""
    in_full = sorted(without, key=lambda outcome: not outcome.completed)[:MOST_FAILURES_IN_FULL]
    parts = [f"## {count(len(without), 'file')} without output", *(_failure(outcome) for outcome in in_full)]
    if len(without) > len(in_full):
        parts.append(f"The first {len(in_full)} of {len(without):,} are described in full. {_names(without)}")
    return "\n\n".join(parts)


def _failure(outcome: TaskOutcome) -> str:
    facts: list[tuple[str, object]] = [
        ("Batch task", outcome.id),
        ("cause", outcome.reason or outcome.state),
        ("service's words", outcome.failure),
        ("exit code", outcome.exit_code),
        ("node", short_node(outcome.node)),
        ("retries", outcome.retries or None),
        ("requeues", outcome.requeues or None),
    ]
    lines = [f"- {name}: {_plain(str(value))}" for name, value in facts if value is not None]
    text = "\n".join([f"### {_plain(outcome.file)}", "", *lines])
    return f"{text}\n\n{_block(outcome.stderr)}" if outcome.stderr.strip() else text


def _block(stderr: str) -> str:
    """The last lines of a task's stderr as a code block that they cannot end: its fence is longer than any in them."""
    text = visible(without_secrets(stderr).replace("\r\n", "\n").replace("\r", "\n")).strip("\n")
    lines = text[-STDERR_CHARACTERS:].split("\n")[-STDERR_LINES:]
    shown = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", shown)), default=0))
    cut_off = "the end of " if len(shown) < len(text) else ""
    return f"{cut_off}stderr:\n\n{fence}text\n{shown}\n{fence}"


def _names(outcomes: Sequence[TaskOutcome]) -> str:
    names = ", ".join(_plain(outcome.file, 80) for outcome in outcomes[:MOST_NAMES])
    more = f" and {len(outcomes) - MOST_NAMES:,} more" if len(outcomes) > MOST_NAMES else ""
    return f"All without output: {names}{more}"


def _durations(tasks: Sequence[TaskOutcome]) -> str:
    seconds = [task.seconds for task in tasks if task.seconds is not None]
    if not seconds:
        return ""
    shortest, longest = span(min(seconds)), span(max(seconds))
    median = span(statistics.median(seconds))
    return f"{count(len(seconds), 'Batch task')} ran: shortest {shortest}, median {median}, longest {longest}."


def _steps(facts: RunFacts) -> str:
    if not facts.steps:
        return ""
    rows = [f"| {_plain(name)} | {seconds:,.1f} |" for name, seconds in facts.steps[:MOST_STEPS]]
    more = len(facts.steps) - len(rows)
    rows += [f"| and {more:,} more | {sum(seconds for _, seconds in facts.steps[MOST_STEPS:]):,.1f} |"] if more else []
    return "\n".join(["## Time by step", "", "| step | seconds |", "|:--|--:|", *rows])


def _cost(facts: RunFacts) -> str:
    return "\n\n".join(["## Cost", *_cost_lines(facts)])


def _cost_lines(facts: RunFacts) -> Iterable[str]:
    if not facts.pool_id:
        yield "No pool was used, so no node was billed."
        return
    if not facts.own_pool:
        free = is_loopback(facts.batch_endpoint)
        yield LOCAL if free else "The pool was there before this run and is billed whether or not it runs."
        return
    lived = f" The pool lived {span(facts.pool_seconds)}." if facts.pool_seconds is not None else ""
    if facts.node_time is None:
        yield f"How long the nodes lived is not known.{lived}"
    else:
        seconds = node_seconds(facts.node_time)
        yield f"{seconds[0].upper()}{seconds[1:]}.{lived}"
    if is_loopback(facts.batch_endpoint):
        yield LOCAL
        return
    if facts.node_time is not None:
        yield facts.estimate.sentences if facts.estimate else _without_price(facts)
    if facts.pool_stays:
        until = f"{facts.nodes_until} at the latest, or " if facts.nodes_until else ""
        price = facts.price
        hourly = price.hourly(facts.dedicated_nodes + facts.added_nodes, facts.spot_nodes) if price else 0
        about = f", about {usd(hourly)} an hour" if hourly else ""
        yield f"**The pool is still there: its nodes go on billing until {until}it is deleted{about}.**"


def _without_price(facts: RunFacts) -> str:
    return f"No price is known for {_plain(facts.vm_size)}, so there is no estimate."


def _plain(text: str, columns: int = 400) -> str:
    return escape_markdown(cut(without_secrets(text), columns))
