"""A run's plan as people read it: in the terminal, as a page in the Prefect UI, and as a few lines of the log."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from datetime import timedelta

from tasks.errors.advice import filled
from tasks.errors.code_table import FAMILY_QUOTA
from tasks.errors.secrets import without_secrets
from tasks.errors.text import visible
from tasks.reporting.cost import rates_of, usd
from tasks.reporting.prices import LEFT_OUT
from tasks.reporting.retail_prices import PriceLookup
from tasks.reporting.text import count, escape_markdown, rough_span, span
from tasks.resources.pool import node_count
from tasks.run.estimate import Estimate
from tasks.run.identity import Role
from tasks.run.plan import Accounts, Image, PlannedPool, RunPlan, place_of
from tasks.run.price import Price
from tasks.run.settings import Disposal
from tasks.run.vm_sizes import cores, most_slots

_CODE = re.compile(r"(`[^`\n]+`)")
_COLUMNS = 110  # of the terminal
_LABEL = 13
_SHOWN = 0.05  # seconds; a shorter part is left out


def as_text(plan: RunPlan) -> str:
    """For the terminal; without the problems, which are the error that follows."""
    filled = (
        textwrap.fill(
            f"{label:<{_LABEL}}{visible(without_secrets(text))}",
            _COLUMNS,
            subsequent_indent=" " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for label, text in [*_rows(plan), *(("WARNING", each) for each in plan.warnings)]
    )
    return "\n".join([headline(plan), "", *filled])


def as_markdown(plan: RunPlan) -> str:
    """For an artifact."""
    rows = [f"| {label.replace(' ', '&nbsp;')} | {_cell(without_secrets(text))} |" for label, text in _rows(plan)]
    notes = [_note("Problem", each) for each in plan.problems] + [_note("Warning", each) for each in plan.warnings]
    return "\n".join([f"**{headline(plan)}**", "", *notes, "| | |", "|:--|:--|", *rows]) + "\n"


def _cell(text: str) -> str:
    """The text with its commands, which stand between backticks, as code that can be copied."""
    parts = _CODE.split(text)
    return "".join(part.replace("|", "\\|") if at % 2 else escape_markdown(part) for at, part in enumerate(parts))


def _note(kind: str, text: str) -> str:
    lines = [_cell(line.strip()).replace("\\|", "|") for line in without_secrets(text).splitlines()]
    return "**{}:** {}\n".format(kind, "\\\n".join(lines))


def headline(plan: RunPlan) -> str:
    """The plan in a line."""
    if plan.problems:
        return f"This run cannot work: {count(len(plan.problems), 'problem')}"
    if plan.estimate is None or plan.pool is None:
        return "This run has nothing to process: all results are here"
    work = f"{_work(plan)} on {_nodes(plan.pool)} of {plan.pool.vm_sizes[0]}"
    return f"This run can work: {work}; {_duration(plan.estimate, plan)}; {_cost(plan.estimate, plan, plan.pool)}"


def log_lines(plan: RunPlan) -> list[str]:
    """What a run's log has of it."""
    lines = [headline(plan), *([] if plan.problems else [f"at the end it {_clean_up(plan)}"])]
    return [f"Plan of run {plan.run.name}: {line}" for line in lines]


def price_for(accounts: Accounts, pool: PlannedPool | None, prices: PriceLookup) -> Price | None:
    """The price of a node of the first size; None where it costs the run nothing, or is not known."""
    return None if accounts.is_local or pool is None or pool.existing else prices.of(pool.vm_sizes[0])


def _rows(plan: RunPlan) -> Iterator[tuple[str, str]]:
    accounts, pool, found = plan.accounts, plan.pool, plan.estimate
    yield "accounts", accounts.where
    same = accounts.batch_signer == accounts.storage_signer
    storage = "" if same else f"; Storage: {accounts.storage_signer}"
    yield "sign-in", f"Batch{' and Storage' if same else ''}: {accounts.batch_signer}{storage}"
    if plan.inputs:
        yield "inputs", _inputs(plan)
    if pool and (found or plan.problems):
        if found:
            yield "Batch tasks", f"{_work(plan)}, {_up_to(plan.largest)}; {pool.at_once:,} at once"
        yield from _rows_of_pool(plan, pool)
        if found:
            yield from _rows_of_estimate(found, plan, pool)
    yield "SAS URLs", _sas(plan)
    yield "at the end", _clean_up(plan)
    yield "results", plan.results


def _rows_of_pool(plan: RunPlan, pool: PlannedPool) -> Iterator[tuple[str, str]]:
    settings = plan.settings.pool
    yield "pool", _pool(plan, pool)
    if pool.image:
        yield "image", _image(pool.image)
    if settings.container_image:
        yield "container", f"Batch tasks run in {settings.container_image}"
    if pool.existing:
        return
    yield "VM sizes", ", else ".join(map(_size, pool.vm_sizes))
    yield "quota", _quota(pool, plan.accounts.names)
    if settings.subnet_id:
        yield "network", f"subnet {settings.subnet_id}; public IP addresses: {settings.public_ip.value}"


def _rows_of_estimate(found: Estimate, plan: RunPlan, pool: PlannedPool) -> Iterator[tuple[str, str]]:
    limit = plan.settings.limits.run_minutes
    yield "duration", f"{_duration(found, plan)}: {_parts(found)}; run_minutes is {limit:,}"
    yield "assumed", _assumed(plan)
    yield "cost", _cost(found, plan, pool) + (_price(plan.price, pool) if plan.price else "")
    if plan.run.budget:
        until = plan.run.nodes_until(pool.dedicated_nodes, pool.spot_nodes, plan.run.started)
        yield (
            "cost_limit",
            f"${plan.run.budget.limit:,.2f}: the pool gives up its nodes by {until:%Y-%m-%d %H:%M %Z}, "
            f"{rough_span(until - plan.run.started)} after the start",
        )


def _inputs(plan: RunPlan) -> str:
    done = plan.inputs - plan.to_process
    parts = [f"{count(plan.to_process, 'file')} to process, {plan.size:,} bytes"]
    parts += [f"{plan.in_place:,} of them blobs that are read where they are"] if plan.in_place else []
    return ", ".join(parts + ([f"{done:,} more are done already"] if done else []))


def _up_to(largest: int) -> str:
    return "of one file each" if largest == 1 else f"of up to {largest:,} files each"


def _work(plan: RunPlan) -> str:
    return f"{count(plan.to_process, 'file')} in {count(plan.batch_tasks, 'Batch task')}"


def _nodes(pool: PlannedPool) -> str:
    return node_count(pool.dedicated_nodes, pool.spot_nodes)


def _pool(plan: RunPlan, pool: PlannedPool) -> str:
    takes = f", of which a Batch task takes {pool.slots_per_task}" if pool.slots_per_task > 1 else ""
    has = f"{_nodes(pool)} with {count(pool.slots_per_node, 'task slot')} each"
    if pool.existing:
        return f"existing pool {pool.existing} of {pool.vm_sizes[0]}, neither changed nor deleted: {has}{takes}"
    most = min(map(most_slots, pool.vm_sizes))
    return f"new pool {plan.run.pool_id}: {has} (at most {most}: 4 for each core, 256 in all){takes}"


def _size(vm_size: str) -> str:
    known = cores(vm_size)
    return f"{vm_size} ({count(known, 'core') if known else 'its name does not show its cores'})"


def _image(image: Image) -> str:
    return f"{image.name}, {'verified' if image.verified else 'NOT verified'}, {image.support}"


def _quota(pool: PlannedPool, names: Mapping[str, str]) -> str:
    """The cores that are needed, and how to see the quota: only Azure Resource Manager shows it."""
    each = pool.cores_per_node
    kinds = (pool.dedicated_nodes, "dedicated"), (pool.spot_nodes, "spot")
    needs = " and ".join(count(nodes * (each or 0), f"{kind} core") for nodes, kind in kinds if nodes)
    known = f"needs {needs}; " if each else ""
    return f"{known}not read, because Azure Batch itself does not show it: see `{filled(FAMILY_QUOTA, names)}`"


def _sas(plan: RunPlan) -> str:
    if plan.settings.pool.node_identity:
        return f"none: nodes read and store blobs with the managed identity {plan.settings.pool.node_identity}"
    life = rough_span(plan.run.lifetime)
    with_key = "with the account key"
    how = with_key if plan.accounts.storage_has_key else "as a user delegation, which Azure limits to 7 days"
    return f"end with run_minutes, {life} after the start; signed {how}"


def _duration(found: Estimate, plan: RunPlan) -> str:
    return f"about {rough_span(timedelta(seconds=found.seconds))}{'' if plan.speed else ' and the time of the script'}"


def _parts(found: Estimate) -> str:
    parts = {name: getattr(found, name) for name in ("start", "upload", "add", "work", "download")}
    return ", ".join(f"{name} {span(seconds)}" for name, seconds in parts.items() if seconds >= _SHOWN)


def _assumed(plan: RunPlan) -> str:
    place, speed = place_of(plan.accounts), plan.speed
    line = f", {place.line * 8 / 1e6:,.0f} Mbit/s to Storage" if plan.in_place < plan.to_process else ""
    if speed is None:
        script = "without the time of the script, which is not known before its first run"
    else:
        others = "" if speed.same_files else ", most of them others"
        script = f"the script takes {speed.seconds:,.3g} s per file, as for {count(speed.files, 'file')} of {speed.run}"
        script += others
    return f"{span(place.start)} until nodes run Batch tasks{line}; {script}"


def _cost(found: Estimate, plan: RunPlan, pool: PlannedPool) -> str:
    if plan.accounts.is_local:
        return "the embedded local Azure costs nothing"
    requests = f"{usd(found.cost_of_requests)} for requests"
    if pool.existing:
        return f"the existing pool bills in any case, {requests}"
    if plan.price is None:
        return f"the price of {pool.vm_sizes[0]} is not known here, {requests}"
    most = "at most" if pool.spot_nodes and plan.price.spot_per_hour is None else "about"
    script = "" if plan.speed else ", without the time of the script"
    hours = found.node_seconds / max(1, pool.nodes) / 3600
    nodes = plan.price.hourly(pool.dedicated_nodes, pool.spot_nodes) * hours
    return f"{most} {usd(nodes)} for nodes and {requests}{script}"


def _price(price: Price, pool: PlannedPool) -> str:
    rates = rates_of(price, dedicated=bool(pool.dedicated_nodes), spot=bool(pool.spot_nodes))
    return f": {pool.vm_sizes[0]} {rates} ({price.source}; without {LEFT_OUT})"


def _clean_up(plan: RunPlan) -> str:
    existing = bool(plan.settings.pool.existing_pool_id)
    clean_up, run = plan.settings.clean_up.of_pool(plan.settings.pool), plan.run
    containers = ", ".join(run.container(role) for role in Role)
    names = {"pool": f"pool {run.pool_id}", "job": f"job {run.job_id}", "containers": f"containers {containers}"}
    if existing:
        names.pop("pool")
    verbs = {Disposal.DELETE: "deletes", Disposal.ASK: "asks whether to delete", Disposal.KEEP: "keeps"}
    of = {how: [name for thing, name in names.items() if getattr(clean_up, thing) is how] for how in verbs}
    parts = [f"{verbs[how]} {', '.join(things)}" for how, things in of.items() if things]
    if not existing:
        parts.append(f"no node stays longer than run_minutes, {rough_span(run.lifetime)}")
    return "; ".join(parts)
