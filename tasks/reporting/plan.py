"""A run's plan as people read it: in the terminal, as a page in the Prefect UI, and as a few lines of the log."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tasks.accounts.identity import KEY
from tasks.errors.secrets import without_secrets
from tasks.errors.text import visible
from tasks.reporting.prices import LEFT_OUT, Price, price_of, region_of
from tasks.reporting.text import escape_markdown, span
from tasks.run.identity import Role
from tasks.run.plan import RunPlan, place_of
from tasks.run.settings import Disposal
from tasks.run.vm_sizes import cores, most_slots

_COLUMNS = 110  # of the terminal
_LABEL = 13


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
        return f"This run cannot work: {len(plan.problems)} {'problem' if len(plan.problems) == 1 else 'problems'}"
    if plan.estimate is None:
        return "This run has nothing to process: all results are here"
    return f"This run can work: {_work(plan)}; {_duration(plan)}; {_cost(plan)}"


def log_lines(plan: RunPlan) -> list[str]:
    """What a run's log has of it."""
    return [f"Plan of run {plan.run.name}: {headline(plan)}", f"Plan of run {plan.run.name}: {_clean_up(plan)}"]


def _rows(plan: RunPlan) -> Iterator[tuple[str, str]]:
    accounts, pool = plan.accounts, plan.pool
    yield "accounts", accounts.where
    yield "sign-in", f"Batch: {accounts.batch_signer}; Storage: {accounts.storage_signer}"
    yield "inputs", _inputs(plan)
    if plan.estimate:
        yield "Batch tasks", f"{plan.batch_tasks:,}, of {_up_to(plan.largest)}; {pool.at_once:,} at once"
        yield "pool", _pool(plan)
        if pool.image:
            yield "image", _image(plan)
        if not pool.existing:
            yield "VM sizes", "; ".join(f"{number}. {_size(size)}" for number, size in enumerate(pool.vm_sizes, 1))
            yield "quota", _quota(plan)
    yield "SAS URLs", _sas(plan)
    if plan.estimate:
        yield "duration", f"{_duration(plan)}: {_parts(plan)}; run_minutes is {plan.settings.limits.run_minutes}"
        yield "assumed", _assumed(plan)
        yield "cost", f"{_cost(plan)}{_price_source(plan)}"
    yield "at the end", _clean_up(plan)
    yield "results", plan.results


def _inputs(plan: RunPlan) -> str:
    done = plan.inputs - plan.to_process
    parts = [f"{plan.to_process:,} {'file' if plan.to_process == 1 else 'files'} to process, {plan.size:,} bytes"]
    parts += [f"{plan.in_place:,} of them blobs that are read where they are"] if plan.in_place else []
    return ", ".join(parts + ([f"{done:,} more are done already"] if done else []))


def _up_to(largest: int) -> str:
    return "one file each" if largest == 1 else f"up to {largest:,} files"


def _work(plan: RunPlan) -> str:
    files = f"{plan.to_process:,} {'file' if plan.to_process == 1 else 'files'}"
    tasks = f"{plan.batch_tasks:,} Batch {'task' if plan.batch_tasks == 1 else 'tasks'}"
    return f"{files} in {tasks} on {_nodes(plan)} of {plan.pool.vm_sizes[0]}"


def _nodes(plan: RunPlan) -> str:
    pool = plan.pool
    kinds = [
        f"{count:,} {kind}" for count, kind in ((pool.dedicated_nodes, "dedicated"), (pool.spot_nodes, "spot")) if count
    ]
    return f"{' and '.join(kinds) or 'no'} {'node' if pool.nodes == 1 else 'nodes'}"


def _pool(plan: RunPlan) -> str:
    pool = plan.pool
    name = (
        f"existing pool {pool.existing}, neither changed nor deleted"
        if pool.existing
        else f"new pool {plan.run.pool_id}"
    )
    limit = "" if pool.existing else f" (at most {most_slots(pool.vm_sizes[0])}: 4 for each core, 256 in all)"
    takes = f", of which a Batch task takes {pool.slots_per_task}" if pool.slots_per_task > 1 else ""
    return f"{name}: {_nodes(plan)} with {pool.slots_per_node} task slots each{limit}{takes}"


def _size(vm_size: str) -> str:
    known = cores(vm_size)
    return f"{vm_size} ({known} cores)" if known else f"{vm_size} (its name does not show its cores)"


def _image(plan: RunPlan) -> str:
    image = plan.pool.image
    assert image
    until = f"supported by Azure Batch until {image.supported_until}" if image.supported_until else ""
    return ", ".join(
        filter(
            None, [image.name, "verified" if image.verified else "NOT verified", until or "no end of support announced"]
        )
    )


def _quota(plan: RunPlan) -> str:
    """The cores that are needed, and how to see the quota: no request of Azure Batch that a run makes shows it."""
    pool, each = plan.pool, plan.pool.cores_per_node or 0
    needs = [
        f"{count * each:,} {kind} cores"
        for count, kind in ((pool.dedicated_nodes, "dedicated"), (pool.spot_nodes, "spot"))
        if count
    ]
    query = "{dedicated:dedicatedCoreQuota,spot:lowPriorityCoreQuota,families:dedicatedCoreQuotaPerVmFamily}"
    return (
        (
            f"{' and '.join(needs)} are needed; not read, because only Azure Resource Manager knows it: "
            f"az batch account list --query \"[?name=='{plan.accounts.batch_name}'].{query}\""
        )
        if each
        else "not read"
    )


def _sas(plan: RunPlan) -> str:
    life = span(plan.run.lifetime.total_seconds())
    if plan.accounts.storage_signer == KEY:
        return f"end with run_minutes, {life} after the start; signed with the account key"
    return f"end with run_minutes, {life} after the start; signed as a user delegation, which Azure limits to 7 days"


def _duration(plan: RunPlan) -> str:
    assert plan.estimate
    script = "" if plan.speed else " and the time of the script"
    return f"about {span(plan.estimate.seconds)}{script}"


def _parts(plan: RunPlan) -> str:
    found = plan.estimate
    assert found
    parts = {
        "start": found.start,
        "upload": found.upload,
        "add": found.add,
        "work": found.work,
        "download": found.download,
    }
    return ", ".join(f"{name} {span(seconds)}" for name, seconds in parts.items())


def _assumed(plan: RunPlan) -> str:
    place = place_of(plan.accounts)
    speed = plan.speed
    script = (
        f"the script takes {speed.seconds:,.3g} s per file, as it did for {speed.files:,} files of {speed.run}"
        + ("" if speed.same_files else " (other files)")
        if speed
        else "the script takes no time: it is not known before its first run"
    )
    line = f", {place.line * 8 / 1e6:,.0f} Mbit/s to Storage" if plan.size and plan.in_place < plan.to_process else ""
    return f"{span(place.start)} until nodes run Batch tasks{line}; {script}"


def _price(plan: RunPlan) -> Price | None:
    return price_of(plan.pool.vm_sizes[0], region_of(plan.accounts.batch_endpoint))


def _cost(plan: RunPlan) -> str:
    found, pool = plan.estimate, plan.pool
    assert found
    if plan.accounts.is_local:
        return "the embedded local Azure costs nothing"
    if pool.existing:
        return "no nodes of its own"
    price = _price(plan)
    if price is None:
        return f"the price of {pool.vm_sizes[0]} is not known here"
    script = "" if plan.speed else ", without the time of the script"
    most = "at most " if pool.spot_nodes else "about "
    return (
        f"{most}${price.of(found.node_seconds):,.2f} for nodes and ${found.cost_of_requests:,.2f} for requests{script}"
    )


def _price_source(plan: RunPlan) -> str:
    price = None if plan.accounts.is_local or plan.pool.existing else _price(plan)
    return f" ({price.source}; without {LEFT_OUT})" if price else ""


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
