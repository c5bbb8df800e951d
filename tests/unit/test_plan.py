"""The plan of a run: what it says, what it warns of, and what it refuses, without any service."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

from tasks.accounts.identity import KEY
from tasks.inputs.files import InputFile
from tasks.reporting.plan import as_markdown, as_text, headline, log_lines, prices_of
from tasks.reporting.retail_prices import PriceLookup
from tasks.run.identity import Run
from tasks.run.plan import Accounts, Image, PlannedPool, RunPlan, make_plan, planned_pool
from tasks.run.settings import CleanUp, Disposal, RunSettings, TimeLimits
from tasks.run.speed import Speed

START = datetime(2026, 11, 28, 9, tzinfo=timezone.utc)
IMAGE = Image(name="canonical:ubuntu-24_04-lts:server", verified=True, supported_until=date(2029, 4, 25))
ACCOUNTS = Accounts(
    where="Batch account mybatch and storage account mystorage",
    batch_endpoint="https://mybatch.westeurope.batch.azure.com",
    batch_name="mybatch",
    batch_signer=KEY,
    storage_signer=KEY,
    is_local=False,
)


def files(count: int, size: int = 2_000_000) -> list[InputFile]:
    return [InputFile(name=f"{n}.txt", size=size, source=f"/in/{n}.txt", task_id=f"t{n}") for n in range(count)]


def took(seconds: float, *, same_files: bool = True) -> Speed:
    return Speed(seconds=seconds, files=10, run="top-words-0a1b", same_files=same_files)


def plan(
    count: int = 3,
    *,
    settings: RunSettings = RunSettings(),
    image: Image = IMAGE,
    speed: Speed | None = None,
    size: int = 2_000_000,
    **others: Any,
) -> RunPlan:
    run = Run(
        workload="top-words",
        flow_run_id="0198c0de-0000-7000-8000-00000000c0de",
        started=START,
        lifetime=timedelta(minutes=settings.limits.run_minutes),
    )
    values: dict[str, Any] = {
        "accounts": ACCOUNTS,
        "pool": planned_pool(settings.pool, image),
        "prices": prices_of(ACCOUNTS, planned_pool(settings.pool, image), PriceLookup(ACCOUNTS.batch_endpoint)),
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


def test_a_cost_limit_below_the_estimate_is_warned_of() -> None:
    (warning,) = plan(100, speed=took(14), settings=RunSettings(cost_limit=0.05)).warnings
    assert warning == (
        "this run needs nodes for about $0.08, and cost_limit is $0.05: it will end with files not processed; set a "
        "larger cost_limit, or give this run fewer files"
    )
    assert plan(100, speed=took(14), settings=RunSettings(cost_limit=5)).warnings == []
    assert plan(100, speed=took(14), settings=RunSettings(cost_limit=0.05), prices=None).warnings == []


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
        "sign-in Batch: account key; Storage: account key",
        "inputs 6 files to process, 12,000,000 bytes, 4 more are done already",
        "Batch tasks 6, of one file each; 2 at once",
        "2 dedicated nodes with 1 task slot each (at most 8: 4 for each core, 256 in all)",
        "image canonical:ubuntu-24_04-lts:server, verified, supported by Azure Batch until 2029-04-25",
        "VM sizes Standard_D2ads_v5 (2 cores), else Standard_D2ds_v5 (2 cores)",
        "quota needs 4 dedicated cores; not read",
        "az batch account list --query \"[?name=='mybatch']",
        "SAS URLs end with run_minutes, 2 h 0 min after the start; signed with the account key",
        "duration about 9 min 9 s",
        "the script takes 60 s per file, as for 10 files of top-words-0a1b",
        "cost about $0.04 for nodes and $0.00 for requests (Azure's list price for Linux",
        "at the end deletes pool top-words-00000000c0de, job top-words-00000000c0de, containers",
    ):
        assert part in text, part


def test_a_user_delegation_is_said_to_end_after_seven_days() -> None:
    by_identity = replace(ACCOUNTS, storage_signer="ada@example.org (Entra ID)")
    text = " ".join(as_text(plan(accounts=by_identity)).split())
    assert "signed as a user delegation, which Azure limits to 7 days" in text
    assert "Batch: account key; Storage: ada@example.org (Entra ID)" in text


def test_an_existing_pool_has_no_image_quota_or_price_of_the_run() -> None:
    pool = PlannedPool(
        vm_sizes=["Standard_D4s_v5"],
        dedicated_nodes=2,
        spot_nodes=1,
        slots_per_node=4,
        slots_per_task=2,
        existing="team",
    )
    found = plan(pool=pool, prices=prices_of(ACCOUNTS, pool, PriceLookup(ACCOUNTS.batch_endpoint)))
    text = " ".join(as_text(found).split())
    assert found.pool.at_once == 6
    assert (
        "pool existing pool team, neither changed nor deleted: 2 dedicated and 1 spot nodes with 4 task slots each, of "
        "which a Batch task takes 2"
    ) in text
    assert "at the end deletes job top-words-00000000c0de, containers" in text
    assert not re.search(r"image|quota|new pool", text)


def test_what_is_kept_and_what_is_asked_for_is_said() -> None:
    clean_up = CleanUp(job=Disposal.KEEP, pool=Disposal.ASK)
    _, line = log_lines(plan(settings=RunSettings(clean_up=clean_up)))
    assert line.startswith("Plan of run top-words-00000000c0de: deletes containers top-words-00000000c0de-application")
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
