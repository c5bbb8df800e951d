"""A run's plan as people read it: in the terminal, as a page in the Prefect UI, and as a few lines of the log."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tasks.accounts.identity import KEY
from tasks.errors.secrets import without_secrets
from tasks.errors.text import visible
from tasks.reporting.prices import LEFT_OUT
from tasks.reporting.retail_prices import PriceLookup
from tasks.reporting.text import count, escape_markdown, span
from tasks.run.estimate import Estimate
from tasks.run.identity import Role
from tasks.run.plan import Accounts, Image, PlannedPool, Prices, RunPlan, place_of
from tasks.run.settings import Disposal
from tasks.run.vm_sizes import cores, most_slots

_COLUMNS = 110  # of the terminal
_LABEL = 13
_SHOWN = 0.05  # seconds; a shorter part is left out


def as_text(plan: RunPlan) -> str:
    """For the terminal."""
    rows = [
        *_rows(plan),
        *(("WARNING", each) for each in plan.warnings),
        *(("PROBLEM", each) for each in plan.problems),
    ]
    filled = (
        textwrap.fill(
            f"{label:<{_LABEL}}{visible(without_secrets(text))}",
            _COLUMNS,
            subsequent_indent=" " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for label, text in rows
    )
    return "\n".join([headline(plan), "", *filled])


def as_markdown(plan: RunPlan) -> str:
    """For an artifact."""
    rows = [f"| {label} | {escape_markdown(without_secrets(text))} |" for label, text in _rows(plan)]
    notes = [f"> **Problem:** {escape_markdown(each)}\n" for each in plan.problems]
    notes += [f"> **Warning:** {escape_markdown(each)}\n" for each in plan.warnings]
    return "\n".join([f"**{headline(plan)}**", "", *notes, "| | |", "|:--|:--|", *rows]) + "\n"


def headline(plan: RunPlan) -> str:
    """The plan in a line."""
    if plan.problems:
        return f"This run cannot work: {count(len(plan.problems), 'problem')}"
    found = plan.estimate
    if found is None:
        return "This run has nothing to process: all results are here"
    return f"This run can work: {_work(plan)}; {_duration(found, plan)}; {_cost(found, plan)}"


def log_lines(plan: RunPlan) -> list[str]:
    """What a run's log has of it."""
    return [f"Plan of run {plan.run.name}: {headline(plan)}", f"Plan of run {plan.run.name}: {_clean_up(plan)}"]


def prices_of(accounts: Accounts, pool: PlannedPool, prices: PriceLookup) -> Prices | None:
    """The prices of nodes of the first size; None where they cost nothing, are not the run's, or are not known."""
    if accounts.is_local or pool.existing:
        return None
    price = prices.of(pool.vm_sizes[0])
    if price is None:
        return None
    most = price.spot_per_hour is None
    return Prices(dedicated=price.per_hour, spot=price.spot, spot_is_most=most, source=price.source)


def _rows(plan: RunPlan) -> Iterator[tuple[str, str]]:
    accounts, pool, found = plan.accounts, plan.pool, plan.estimate
    yield "accounts", accounts.where
    yield "sign-in", f"Batch: {accounts.batch_signer}; Storage: {accounts.storage_signer}"
    yield "inputs", _inputs(plan)
    if found:
        yield "Batch tasks", f"{plan.batch_tasks:,}, of {_up_to(plan.largest)}; {pool.at_once:,} at once"
        yield from _rows_of_pool(plan)
        yield (
            "duration",
            f"{_duration(found, plan)}: {_parts(found)}; run_minutes is {plan.settings.limits.run_minutes}",
        )
        yield "assumed", _assumed(plan)
        source = f" ({plan.prices.source}; without {LEFT_OUT})" if plan.prices else ""
        yield "cost", f"{_cost(found, plan)}{source}"
    yield "SAS URLs", _sas(plan)
    yield "at the end", _clean_up(plan)
    yield "results", plan.results


def _rows_of_pool(plan: RunPlan) -> Iterator[tuple[str, str]]:
    pool = plan.pool
    yield "pool", _pool(plan)
    if pool.image:
        yield "image", _image(pool.image)
    if not pool.existing:
        yield "VM sizes", ", else ".join(map(_size, pool.vm_sizes))
        yield "quota", _quota(plan)


def _inputs(plan: RunPlan) -> str:
    done = plan.inputs - plan.to_process
    parts = [f"{count(plan.to_process, 'file')} to process, {plan.size:,} bytes"]
    parts += [f"{plan.in_place:,} of them blobs that are read where they are"] if plan.in_place else []
    return ", ".join(parts + ([f"{done:,} more are done already"] if done else []))


def _up_to(largest: int) -> str:
    return "one file each" if largest == 1 else f"up to {largest:,} files"


def _work(plan: RunPlan) -> str:
    tasks = count(plan.batch_tasks, "Batch task")
    return f"{count(plan.to_process, 'file')} in {tasks} on {_nodes(plan)} of {plan.pool.vm_sizes[0]}"


def _by_kind(plan: RunPlan) -> list[tuple[int, str]]:
    kinds = (plan.pool.dedicated_nodes, "dedicated"), (plan.pool.spot_nodes, "spot")
    return [(nodes, kind) for nodes, kind in kinds if nodes]


def _nodes(plan: RunPlan) -> str:
    kinds = " and ".join(f"{nodes:,} {kind}" for nodes, kind in _by_kind(plan))
    return f"{kinds} {'node' if plan.pool.nodes == 1 else 'nodes'}"


def _pool(plan: RunPlan) -> str:
    pool = plan.pool
    takes = f", of which a Batch task takes {pool.slots_per_task}" if pool.slots_per_task > 1 else ""
    has = f"{_nodes(plan)} with {count(pool.slots_per_node, 'task slot')} each"
    if pool.existing:
        return f"existing pool {pool.existing}, neither changed nor deleted: {has}{takes}"
    most = most_slots(pool.vm_sizes[0])
    return f"new pool {plan.run.pool_id}: {has} (at most {most}: 4 for each core, 256 in all){takes}"


def _size(vm_size: str) -> str:
    known = cores(vm_size)
    return f"{vm_size} ({count(known, 'core') if known else 'its name does not show its cores'})"


def _image(image: Image) -> str:
    verified = "verified" if image.verified else "NOT verified"
    until = image.supported_until
    end = f"supported by Azure Batch until {until}" if until else "no end of its support is announced"
    return f"{image.name}, {verified}, {end}"


def _quota(plan: RunPlan) -> str:
    """The cores that are needed, and how to see the quota: only Azure Resource Manager shows it."""
    each = plan.pool.cores_per_node
    needs = " and ".join(f"{count(nodes * (each or 0), f'{kind} core')}" for nodes, kind in _by_kind(plan))
    query = "{dedicated:dedicatedCoreQuota,spot:lowPriorityCoreQuota,families:dedicatedCoreQuotaPerVmFamily}"
    return (
        f"{f'needs {needs}; ' if each else ''}not read, because Azure Batch itself does not show it; see "
        f"az batch account list --query \"[?name=='{plan.accounts.batch_name}'].{query}\""
    )


def _sas(plan: RunPlan) -> str:
    life = span(plan.run.lifetime.total_seconds())
    by_key = plan.accounts.storage_signer == KEY
    how = "with the account key" if by_key else "as a user delegation, which Azure limits to 7 days"
    return f"end with run_minutes, {life} after the start; signed {how}"


def _duration(found: Estimate, plan: RunPlan) -> str:
    return f"about {span(found.seconds)}{'' if plan.speed else ' and the time of the script'}"


def _parts(found: Estimate) -> str:
    parts = {name: getattr(found, name) for name in ("start", "upload", "add", "work", "download")}
    return ", ".join(f"{name} {span(seconds)}" for name, seconds in parts.items() if seconds >= _SHOWN)


def _assumed(plan: RunPlan) -> str:
    place, speed = place_of(plan.accounts), plan.speed
    line = f", {place.line * 8 / 1e6:,.0f} Mbit/s to Storage" if plan.in_place < plan.to_process else ""
    if speed is None:
        script = "the script takes no time: it is not known before its first run"
    else:
        others = "" if speed.same_files else ", most of them others"
        script = f"the script takes {speed.seconds:,.3g} s per file, as for {count(speed.files, 'file')} of {speed.run}"
        script += others
    return f"{span(place.start)} until nodes run Batch tasks{line}; {script}"


def _cost(found: Estimate, plan: RunPlan) -> str:
    if plan.accounts.is_local:
        return "the embedded local Azure costs nothing"
    if plan.pool.existing:
        return f"the existing pool bills in any case, requests ${found.cost_of_requests:,.2f}"
    if plan.prices is None:
        return f"the price of {plan.pool.vm_sizes[0]} is not known here"
    most = "at most" if plan.pool.spot_nodes and plan.prices.spot_is_most else "about"
    script = "" if plan.speed else ", without the time of the script"
    nodes = plan.prices.of(plan.pool, found.node_seconds)
    return f"{most} ${nodes:,.2f} for nodes and ${found.cost_of_requests:,.2f} for requests{script}"


def _clean_up(plan: RunPlan) -> str:
    clean_up, run = plan.settings.clean_up.of_pool(plan.settings.pool), plan.run
    containers = ", ".join(run.container(role) for role in Role)
    names = {"pool": f"pool {run.pool_id}", "job": f"job {run.job_id}", "containers": f"containers {containers}"}
    if plan.pool.existing:
        names.pop("pool")
    said = {Disposal.DELETE: "deletes", Disposal.ASK: "asks whether to delete", Disposal.KEEP: "keeps"}
    of = {how: [name for thing, name in names.items() if getattr(clean_up, thing) is how] for how in said}
    parts = [f"{said[how]} {', '.join(things)}" for how, things in of.items() if things]
    if not plan.pool.existing:
        parts.append(f"no node stays longer than run_minutes, {span(run.lifetime.total_seconds())}")
    return "; ".join(parts)
