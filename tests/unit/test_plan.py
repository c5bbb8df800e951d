"""The plan of a run: what it says, what it warns of, and what it refuses, without any service."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from azure.batch.models import BatchPool

from tasks.inputs.files import InputFile
from tasks.reporting.plan import as_markdown, as_text, headline, log_lines, price_for
from tasks.reporting.retail_prices import PriceLookup
from tasks.reporting.text import rough_span
from tasks.resources.pool import nodes_of
from tasks.run.budget import Budget
from tasks.run.identity import Run
from tasks.run.plan import Accounts, Checked, Image, PlannedPool, RunPlan, make_plan, planned_pool
from tasks.run.settings import CleanUp, Disposal, PoolSettings, PublicIp, RunSettings, TimeLimits
from tasks.run.speed import Speed

START = datetime(2026, 11, 28, 9, tzinfo=timezone.utc)
IMAGE = Image(name="canonical:ubuntu-24_04-lts:server", verified=True, supported_until=date(2029, 4, 25))
ACCOUNTS = Accounts(
    where="Batch account mybatch and storage account mystorage",
    batch_signer="the account key",
    storage_signer="the account key",
    storage_has_key=True,
    names={"account": "mybatch", "region": "westeurope", "storage": "mystorage"},
    is_local=False,
)


FOUND = Checked.__dataclass_fields__.keys() - {"settings"}
ENDPOINT = "https://mybatch.westeurope.batch.azure.com"


def files(count: int, size: int = 2_000_000) -> list[InputFile]:
    return [InputFile(name=f"{n}.txt", size=size, source=f"/in/{n}.txt", task_id=f"t{n}") for n in range(count)]


def took(seconds: float, *, same_files: bool = True) -> Speed:
    return Speed(seconds=seconds, files=10, run="top-words-0a1b", same_files=same_files)


def plan(
    count: int = 3,
    *,
    settings: RunSettings = RunSettings(),
    image: Image = IMAGE,
    budget: Budget | None = None,
    speed: Speed | None = None,
    size: int = 2_000_000,
    **others: Any,
) -> RunPlan:
    run = Run(
        workload="top-words",
        flow_run_id="0198c0de-0000-7000-8000-00000000c0de",
        started=START,
        lifetime=timedelta(minutes=settings.limits.run_minutes),
        budget=budget,
    )
    known = {"accounts": ACCOUNTS, "pool": planned_pool(settings.pool, image), "settings": settings.pool}
    checked = Checked(**{**known, **{name: others.pop(name) for name in list(others) if name in FOUND}})
    values: dict[str, Any] = {
        "checked": checked,
        "price": price_for(checked.accounts, checked.pool, PriceLookup(ENDPOINT)),
        "inputs": count,
        "results": "results/top-words-00000000c0de",
    }
    return make_plan(run=run, settings=settings, to_process=files(count, size), speed=speed, **{**values, **others})


def minutes(run_minutes: int) -> RunSettings:
    return RunSettings(limits=TimeLimits(run_minutes=run_minutes))


# run_minutes against the estimate.


def test_a_run_that_cannot_end_in_time_is_refused_with_the_fix() -> None:
    found = plan(1_000, speed=took(21.6))
    assert found.problems == [
        "this run needs at least 180 minutes, and run_minutes is 120 (1,000 files of 21.6 s each, as in "
        "top-words-0a1b, with 2 Batch tasks at once); set run_minutes to 308, or use more nodes (dedicated_nodes)"
    ]
    assert found.warnings == []
    assert headline(found) == "This run cannot work: 1 problem"


def test_a_time_that_only_the_estimate_exceeds_is_a_warning() -> None:
    found = plan(1_000, speed=took(14))
    assert found.problems == []
    assert [each.partition(", and")[0] for each in found.warnings] == ["this run needs about 142 minutes"]


def test_the_time_of_other_files_is_a_warning_and_no_refusal() -> None:
    found = plan(1_000, speed=took(21.6, same_files=False))
    assert (found.problems, len(found.warnings)) == ([], 1)


def test_a_retry_is_never_refused_for_its_time() -> None:
    found = plan(1_000, speed=took(21.6), is_retry=True)
    assert (found.problems, len(found.warnings)) == ([], 1)


def test_what_no_permitted_time_is_enough_for_needs_nodes() -> None:
    (problem,) = plan(1_000, speed=took(2_000), settings=minutes(7 * 24 * 60)).problems
    assert problem.endswith("; use more nodes (dedicated_nodes), or several runs")


def test_without_the_time_of_the_script_the_rest_is_compared() -> None:
    (warning,) = plan(3, settings=minutes(5)).warnings
    assert "without the time of the script, which is not known yet" in warning
    assert plan(3).warnings == []


# What it says.


def test_files_are_in_the_batch_tasks_that_the_run_will_form() -> None:
    found = plan(1_000, size=1_000)
    assert (found.batch_tasks, found.largest) == (16, 63)
    assert plan(10, size=1_000, settings=RunSettings(files_per_task=4)).batch_tasks == 3


def test_the_text_says_all_that_was_asked_for() -> None:
    text = " ".join(as_text(plan(6, inputs=10, speed=took(60))).split())
    for part in (
        "sign-in Batch and Storage: the account key",
        "inputs 6 files to process, 12,000,000 bytes, 4 more are done already",
        "Batch tasks 6 files in 6 Batch tasks, of one file each; 2 at once",
        "2 dedicated nodes with 1 task slot each (at most 8: 4 for each core, 256 in all)",
        "image canonical:ubuntu-24_04-lts:server, verified, supported by Azure Batch until 2029-04-25",
        "VM sizes Standard_D2ads_v5 (2 cores), else Standard_D2ds_v5 (2 cores)",
        "quota needs 4 dedicated cores; not read",
        "az batch account list --query ",
        "SAS URLs end with run_minutes, 2 h after the start; signed with the account key",
        "duration about 9 min: start 5 min 0 s, ",
        "the script takes 60 s per file, as for 10 files of top-words-0a1b",
        "cost about $0.0381 for nodes and $0.0002 for requests: Standard_D2ads_v5 at $",
        "for a dedicated node and hour (Azure's list price for Linux, pay-as-you-go, in westeurope, of 20",
        "at the end deletes pool top-words-00000000c0de, job top-words-00000000c0de, containers",
    ):
        assert part in text, part


def test_a_user_delegation_is_said_to_end_after_seven_days() -> None:
    by_identity = replace(ACCOUNTS, storage_signer="the identity ada@example.org", storage_has_key=False)
    text = " ".join(as_text(plan(accounts=by_identity)).split())
    assert "signed as a user delegation, which Azure limits to 7 days" in text
    assert "Batch: the account key; Storage: the identity ada@example.org" in text


def test_an_existing_pool_has_no_image_quota_or_price_of_the_run() -> None:
    pool = PlannedPool(
        vm_sizes=["Standard_D4s_v5"],
        dedicated_nodes=2,
        spot_nodes=1,
        slots_per_node=4,
        slots_per_task=2,
        existing="team",
    )
    found = plan(pool=pool, settings=RunSettings(pool=PoolSettings(existing_pool_id="team")))
    assert found.pool is not None
    text = " ".join(as_text(found).split())
    assert found.pool.at_once == 6
    assert (
        "pool existing pool team of Standard_D4s_v5, neither changed nor deleted: 2 dedicated and 1 spot nodes with 4 "
        "task slots each, of which a Batch task takes 2"
    ) in text
    assert "at the end deletes job top-words-00000000c0de, containers" in text
    assert not re.search(r"image|quota|new pool", text)


@pytest.mark.parametrize(
    ("found", "nodes"),
    [
        ({"currentDedicatedNodes": 3, "currentLowPriorityNodes": 2}, (3, 2)),
        ({"currentDedicatedNodes": 1, "targetDedicatedNodes": 6}, (6, 0)),
        ({}, (1, 0)),
    ],
)
def test_an_existing_pool_counts_with_the_nodes_that_it_is_to_have(
    found: dict[str, int], nodes: tuple[int, int]
) -> None:
    assert nodes_of(BatchPool({"id": "theirs", "state": "active", **found})) == nodes


def test_what_is_kept_and_what_is_asked_for_is_said() -> None:
    clean_up = CleanUp(job=Disposal.KEEP, pool=Disposal.ASK)
    _, line = log_lines(plan(settings=RunSettings(clean_up=clean_up)))
    assert line.startswith(
        "Plan of run top-words-00000000c0de: at the end it deletes containers top-words-00000000c0de-application"
    )
    assert "asks whether to delete pool top-words-00000000c0de; keeps job top-words-00000000c0de" in line


def test_a_run_with_nothing_to_process_needs_no_estimate() -> None:
    found = plan(0, inputs=5)
    assert (found.estimate, found.problems) == (None, [])
    assert headline(found) == "This run has nothing to process: all results are here"
    assert "5 more are done already" in as_text(found)


def test_the_page_shows_problems_first_and_no_markup_of_names() -> None:
    page = as_markdown(plan(1_000, speed=took(21.6), results="a|b"))
    assert page.index("**Problem:**") < page.index("| accounts |")
    assert "a&#124;b" in page


# cost_limit, and what the account check has found.


BUDGET = Budget(limit=0.5, per_hour=0.36, spot_per_hour=0.05, source="a list of today")


def test_a_cost_limit_is_said_with_the_end_of_the_nodes() -> None:
    text = " ".join(as_text(plan(6, budget=BUDGET)).split())
    assert "cost_limit $0.50: the pool gives up its nodes by 2026-11-28 09:31 UTC, 32 min after the start" in text


def test_a_cost_limit_that_is_too_low_is_refused_with_the_fix() -> None:
    found = plan(1_000, speed=took(5), budget=BUDGET)
    assert found.problems == [
        "this run needs at least 42 minutes, and cost_limit ($0.50) is enough for 31 minutes of its nodes; set "
        "cost_limit to 1.32, or use smaller nodes or spot nodes"
    ]
    assert [each.partition(", and")[0] for each in plan(600, speed=took(5), budget=BUDGET).warnings] == [
        "this run needs about 42 minutes"
    ]


def test_spot_nodes_have_a_price_of_their_own() -> None:
    settings = RunSettings(pool=PoolSettings(dedicated_nodes=1, spot_nodes=2))
    text = as_text(plan(settings=settings))
    assert "on 1 dedicated and 2 spot nodes of Standard_D2ads_v5" in text
    assert "for a dedicated node and hour and at $" in " ".join(text.split())


def test_network_container_and_identity_of_the_nodes_are_said() -> None:
    network = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/nodes"
    identity = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/reader"
    pool = PoolSettings(subnet_id=network, public_ip=PublicIp.NONE, container_image="ghcr.io/team/align:1.2")
    text = " ".join(as_text(plan(settings=RunSettings(pool=pool))).split())
    assert f"network subnet {network}; public IP addresses: none" in text
    assert "container Batch tasks run in ghcr.io/team/align:1.2" in text
    pool = PoolSettings(existing_pool_id="team", node_identity=identity)
    text = " ".join(as_text(plan(settings=RunSettings(pool=pool))).split())
    assert f"SAS URLs none: nodes read and store blobs with the managed identity {identity}" in text


def test_what_was_found_is_said_beside_all_problems() -> None:
    found = plan(problems=["one", "two\n  run `az`"], warnings=["a size retires"], pool=None)
    text, page = as_text(found), as_markdown(found)
    assert headline(found) == "This run cannot work: 2 problems"
    assert "sign-in" in text
    assert "WARNING      a size retires" in text
    assert not re.search(r"VM sizes|duration|one", text)
    assert "**Problem:** two\\\nrun `az`" in page
    assert 'dedicatedCoreQuotaPerVmFamily \\|\\| dedicatedCoreQuotaPerVMFamily]"` |' in as_markdown(plan())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (59, "59 s"), (60, "1 min"), (3_570, "1 h"), (7_800, "2 h 10 min"), (273_600, "3 d 4 h")],
)
def test_rough_spans_have_one_or_two_units(seconds: int, text: str) -> None:
    assert rough_span(timedelta(seconds=seconds)) == text
