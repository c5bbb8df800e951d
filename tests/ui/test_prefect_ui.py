"""What a person sees and clicks in Prefect's UI, from the form that starts a run to the page of one that failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from azure.batch.models import (
    BatchStartTask,
)
from azure.core.exceptions import ResourceNotFoundError
from playwright.sync_api import expect

from tasks.accounts.clients import Azure
from tasks.run.identity import Role, Run
from tasks.run.settings import TimeLimits
from tasks.run.vm_sizes import DEFAULT_SIZES
from tests.support.accounts import add_pool
from tests.support.deployed import Deployed
from tests.support.pages import PrefectUI, browser_page, cells, chromium, drawn_width
from tests.support.paths import DATA

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium is installed; on Debian: apt-get install chromium"
)


@pytest.fixture(scope="module")
def ui(deployed: Deployed) -> Iterator[PrefectUI]:
    with browser_page(chromium() or "") as page:
        yield PrefectUI(page=page, deployed=deployed)


@pytest.fixture(autouse=True)
def no_page_stays_open(ui: PrefectUI) -> Iterator[None]:
    """While the next test waits for its run, nothing is drawn."""
    yield
    ui.leave()


@pytest.fixture(scope="module")
def accounts(azure_settings: dict[str, str]) -> Azure:
    azure = Azure.from_environment(azure_settings)
    assert azure is not None
    return azure


def named(run_id: UUID) -> Run:
    """The names of what the run creates."""
    return Run.start(str(run_id), "top-words", TimeLimits())


def left_over(azure: Azure, run_id: UUID) -> list[str]:
    """What there is of the run in the accounts, but for what is being deleted."""
    name = named(run_id).name
    with azure.batch() as batch, azure.blobs() as blobs:
        pools = [f"pool {pool.id}" for pool in batch.list_pools() if pool.state != "deleting"]
        jobs = [f"job {job.id}" for job in batch.list_jobs() if job.state != "deleting"]
        found = pools + jobs + [f"container {each.name}" for each in blobs.list_containers()]
    return [thing for thing in found if name in thing]


# Runs that others than the form start, all at once: this file is to take as long as its slowest run.


@dataclass(frozen=True, kw_only=True)
class Runs:
    endless: UUID
    refused: UUID
    troubled: UUID
    unstartable: UUID
    gate: Path  # the nodes of `troubled` start when it exists


def make_pool(azure: Azure, name: str, command: str) -> None:
    """A pool of a user's own, with one node and that start task."""
    start_task = BatchStartTask(command_line=f"/bin/sh -c '{command}'", wait_for_success=True)
    add_pool(azure, name, target_dedicated_nodes=1, start_task=start_task)


@pytest.fixture(scope="module")
def runs(deployed: Deployed, accounts: Azure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("ui")
    gate = folder / "gate"
    make_pool(accounts, "team-gated", f"until test -e {gate}; do sleep 0.1; done")
    make_pool(accounts, "team-full", "echo the disk is full >&2; exit 7")
    begin: dict[str, Any] = {"inputs": [str(DATA)], "output_folder": str(folder)}
    yield Runs(
        endless=deployed.start(**begin, delay_seconds=600),
        refused=deployed.start(**begin, pool={"slots_per_task": 2}),
        troubled=deployed.start(**begin, pool={"existing_pool_id": "team-gated"}, limits={"task_retries": 0}),
        unstartable=deployed.start(**begin, pool={"existing_pool_id": "team-full"}),
        gate=gate,
    )
    gate.touch()
    with accounts.batch() as batch:
        for pool in ("team-gated", "team-full"):
            with suppress(ResourceNotFoundError):
                batch.begin_delete_pool(pool)


# The form


def test_the_form_has_each_parameter_described_with_its_default(ui: PrefectUI) -> None:
    form = ui.form()
    numbers = {
        "top_n": "10", "Dedicated Nodes": "2", "Spot Nodes": "0", "Slots Per Node": "1", "Slots Per Task": "1",
        "Run Minutes": "120", "Task Minutes": "60", "Task Retries": "1", "Stall Minutes": "30", "Ask Minutes": "30",
        "allow_failures": "0", "delay_seconds": "0",
    }  # fmt: skip
    for title, value in numbers.items():
        expect(form.get_by_role("spinbutton", name=f"{title} (Optional)", exact=True)).to_have_value(value)
    expect(form.get_by_role("spinbutton")).to_have_count(len(numbers))
    expect(form.get_by_role("textbox", name="output_folder")).to_have_value("results")
    for thing in ("Containers", "Job", "Pool"):
        expect(form.get_by_role("button", name=f"Select {thing}")).to_have_text("delete")
    expect(form.get_by_role("button", name="Add item")).to_have_count(2)  # of inputs and of VM sizes
    for described in (
        "Files, folders and globs on the machine where the flow runs",
        "How many words to list for each file.",
        "The pool of compute nodes.",
        "Spot nodes of the new pool: far cheaper, but Azure may take them away",
        "None: the newest verified Ubuntu LTS",
        "What to delete when the run ends, well or badly.",
        "Name of a Prefect block with the Batch and storage accounts",
    ):
        expect(form.get_by_text(described)).to_be_visible()


def test_the_older_form_has_the_same_parameters(ui: PrefectUI) -> None:
    form = ui.form(older=True)
    numbers = [field.input_value() for field in form.get_by_role("spinbutton").all()]
    assert numbers == ["10", "2", "0", "1", "1", "120", "60", "1", "30", "30", "0", "0"]
    expect(form.get_by_role("button", name="delete", exact=True)).to_have_count(3)
    expect(form.get_by_text("How many words to list for each file.")).to_be_visible()
    expect(form.get_by_role("button", name="Add item")).to_have_count(2)  # of inputs and of VM sizes


def test_the_form_does_not_start_a_run_with_a_wrong_value(ui: PrefectUI, deployed: Deployed) -> None:
    before = len(deployed.runs("top-words"))
    form = ui.form()
    top_n = form.get_by_role("spinbutton", name="top_n")
    top_n.fill("0")
    form.get_by_role("button", name="Submit").click()
    expect(top_n).to_be_focused()  # and beside it the browser shows what it says
    assert top_n.evaluate("field => field.validationMessage") == "Value must be greater than or equal to 1."
    assert len(deployed.runs("top-words")) == before


def test_what_the_form_lets_through_the_flow_refuses_first(
    ui: PrefectUI, deployed: Deployed, accounts: Azure, runs: Runs
) -> None:
    deployed.wait(runs.refused, "Failed")
    said = "slots_per_task is 2, but a node has 1 (slots_per_node); no node could ever run such a task"
    expect(ui.log(runs.refused, errors_only=True).filter(has_text=said).first).to_be_visible()
    assert left_over(accounts, runs.refused) == []


@pytest.fixture(scope="module")
def cancelled(ui: PrefectUI, deployed: Deployed, runs: Runs) -> UUID:
    """A run in whose midst somebody has clicked Cancel."""
    deployed.wait_for_log(runs.endless, "2 running, 1 queued")
    ui.cancel(runs.endless)
    return runs.endless


def test_a_run_can_be_cancelled_while_its_tasks_run(deployed: Deployed, cancelled: UUID) -> None:
    deployed.wait(cancelled, "Cancelling", "Cancelled")  # what it leaves is looked at below, when it has ended


# A run, from its form to its report


@pytest.fixture(scope="module")
def from_the_form(ui: PrefectUI, accounts: Azure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UUID]:
    form = ui.form()
    form.get_by_role("spinbutton", name="top_n").fill("3")
    form.get_by_role("spinbutton", name="delay_seconds").fill("8")
    form.get_by_role("textbox", name="output_folder").fill(str(tmp_path_factory.mktemp("form")))
    ui.choose("Job", "ask")
    ui.choose("Pool", "ask")
    run_id = ui.submit()
    yield run_id
    with accounts.batch() as batch, suppress(ResourceNotFoundError):
        batch.begin_delete_job(named(run_id).job_id)


def test_the_form_starts_a_run_with_its_values(from_the_form: UUID, deployed: Deployed) -> None:
    given = deployed.run(from_the_form).parameters
    assert given["top_n"] == 3
    assert given["delay_seconds"] == 8
    assert given["inputs"] == ["data/*.txt"]
    assert given["clean_up"] == {"containers": "delete", "job": "ask", "pool": "ask", "ask_minutes": 30}
    assert given["pool"]["dedicated_nodes"] == 2
    assert given["pool"]["vm_size"] == list(DEFAULT_SIZES)


def test_while_it_runs_progress_states_and_log_show_it(ui: PrefectUI, deployed: Deployed, from_the_form: UUID) -> None:
    deployed.wait_for_log(from_the_form, "2 running, 1 queued")
    progress = ui.artifact(from_the_form, "batch-task-progress")
    expect(progress.get_by_text("Progress: 0%")).to_be_visible()
    expect(progress.get_by_text("2 running, 1 queued")).to_be_visible()
    states = ui.artifact(from_the_form, "batch-task-states")
    assert [row[:3] for row in cells(states.get_by_role("table"))] == [
        ["topNtask0", "clouds.txt", "running"],
        ["topNtask1", "harbour.txt", "running"],
        ["topNtask2", "kitchen.txt", "active"],
    ]
    log = ui.log(from_the_form, newest_first=True)
    expect(log.filter(has_text="2 running, 1 queued")).to_be_visible()


# Meanwhile: runs that end otherwise


def test_a_run_that_was_cancelled_leaves_nothing_and_says_so(
    ui: PrefectUI, deployed: Deployed, accounts: Azure, cancelled: UUID
) -> None:
    deployed.wait(cancelled, "Cancelled")
    expect(ui.run(cancelled).get_by_text("Cancelled", exact=True)).to_be_visible()
    log = ui.log(cancelled, newest_first=True)
    expect(log.filter(has_text=f"Pool {named(cancelled).pool_id}: deleted")).to_be_visible()
    assert left_over(accounts, cancelled) == []
    report = ui.markdown(cancelled, "run-report")
    expect(report.get_by_role("row", name="deleted containers, job, pool")).to_be_visible()
    expect(report.get_by_text("3 files: 0 succeeded, 0 failed, 3 did not finish")).to_be_visible()
    expect(report.get_by_text("The run was cancelled, or its process was terminated")).to_be_visible()


def spoil_two_files(azure: Azure, run: Run) -> None:
    """Take one input away, and let somebody else hold the blob to which the output of another goes."""
    with azure.blobs() as blobs:
        blobs.get_blob_client(run.container(Role.INPUT), "kitchen.txt").delete_blob()
        output = blobs.get_blob_client(run.container(Role.OUTPUT), "outputs/harbour.txt/harbour_OUTPUT.txt")
        output.upload_blob(b"")
        output.acquire_lease(lease_duration=60)


def test_why_files_failed_is_in_the_log_and_in_the_report(
    ui: PrefectUI, deployed: Deployed, accounts: Azure, runs: Runs
) -> None:
    deployed.wait_for_log(runs.troubled, "3 Batch tasks added")
    spoil_two_files(accounts, named(runs.troubled))
    runs.gate.touch()
    deployed.wait(runs.troubled, "Failed")
    stderr = "harbour_OUTPUT.txt failed: HTTP 412 LeaseIdMissing"
    log = ui.log(runs.troubled, errors_only=True)
    expect(
        log.filter(has_text="Batch task topNtask1 (harbour.txt) could not upload, exit code 74").first
    ).to_be_visible()
    expect(log.filter(has_text=stderr).first).to_be_visible()
    expect(log.filter(has_text="Batch task topNtask2 (kitchen.txt) could not fetch its file").first).to_be_visible()

    report = ui.artifact(runs.troubled, "run-report")
    expect(report.get_by_text("3 files: 1 succeeded, 2 failed").first).to_be_visible()
    expect(report.get_by_role("heading", name="2 files without output")).to_be_visible()
    for file, cause in [("harbour.txt", "could not upload"), ("kitchen.txt", "could not fetch its file")]:
        expect(report.get_by_role("heading", name=file)).to_be_visible()
        expect(report.get_by_role("listitem").filter(has_text=f"cause: {cause}")).to_be_visible()
    expect(report.locator("pre").filter(has_text=stderr)).to_be_visible()

    ui.run(runs.troubled)  # from the page of the run, in two clicks
    ui.page.get_by_role("tab", name="Artifacts").click()
    ui.page.get_by_text("batch-task-states", exact=True).last.click()
    states = cells(ui.page.get_by_role("main").get_by_role("table"))
    assert [row[2] for row in states] == ["failed: could not upload", "failed: could not fetch its file", "completed"]
    by_file = ui.artifact(runs.troubled, "top-words-by-file")
    expect(by_file.get_by_text("without harbour.txt, kitchen.txt")).to_be_visible()


def test_why_no_node_starts_is_in_the_log_and_in_the_report(ui: PrefectUI, deployed: Deployed, runs: Runs) -> None:
    deployed.wait(runs.unstartable, "Failed")
    log = ui.log(runs.unstartable, errors_only=True)
    for said in ("the start task ended with exit code 7", "stderr: the disk is full"):
        expect(log.filter(has_text=said).first).to_be_visible()
    page = ui.artifact(runs.unstartable, "run-report")
    expect(page.get_by_text("3 files: 0 succeeded, 0 failed, 3 did not finish").first).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="cause: never started")).to_have_count(3)
    expect(page.get_by_text("the disk is full").first).to_be_visible()
    state_message = page.get_by_role("complementary")  # beside the report
    expect(state_message.get_by_text("the disk is full")).to_be_visible()


# And on with the run


def test_progress_states_and_log_change_when_tasks_complete(
    ui: PrefectUI, deployed: Deployed, from_the_form: UUID
) -> None:
    deployed.wait(from_the_form, "Paused")
    log = ui.log(from_the_form, newest_first=True)
    expect(log.filter(has_text="3 of 3 Batch tasks completed (3 succeeded, 0 failed)")).to_be_visible()
    expect(ui.artifact(from_the_form, "batch-task-progress").get_by_text("Progress: 100%")).to_be_visible()
    states = ui.artifact(from_the_form, "batch-task-states")
    assert [row[2:4] for row in cells(states.get_by_role("table"))] == [["completed", "0"]] * 3


def test_the_links_open_the_files_as_long_as_there_are_containers(
    ui: PrefectUI, deployed: Deployed, from_the_form: UUID
) -> None:
    deployed.wait(from_the_form, "Paused")
    page = ui.artifact(from_the_form, "sas-links")
    expect(page.get_by_role("link", name="top_words.py")).to_be_visible()
    link = page.get_by_role("link", name="clouds.txt")
    assert "&sig=" in (link.get_attribute("href") or "")
    link.click()
    expect(ui.page.locator("pre")).to_contain_text((DATA / "clouds.txt").read_text().splitlines()[0])


def test_the_answers_for_job_and_pool_are_followed(
    ui: PrefectUI, deployed: Deployed, accounts: Azure, from_the_form: UUID
) -> None:
    deployed.wait(from_the_form, "Paused")
    form = ui.resume_form(from_the_form)
    expect(form.get_by_text("3 of 3 files have succeeded")).to_be_visible()
    expect(form.get_by_text("The pool's 2 nodes are on the embedded local Azure and cost nothing.")).to_be_visible()
    job, pool = form.get_by_role("switch", name="Delete job?"), form.get_by_role("switch", name="Delete pool?")
    expect(job).to_be_checked()
    expect(pool).to_be_checked()
    job.click()
    ui.resume(form)
    deployed.wait(from_the_form, "Completed")
    assert left_over(accounts, from_the_form) == [f"job {named(from_the_form).job_id}"]


def test_the_report_of_a_run_shows_its_pictures_and_what_was_kept(
    ui: PrefectUI, deployed: Deployed, from_the_form: UUID
) -> None:
    deployed.wait(from_the_form, "Completed")
    for older in (False, True):
        report = ui.artifact(from_the_form, "run-report", older=older)
        expect(report.get_by_text("3 files: 3 succeeded, 0 failed").first).to_be_visible()
        for picture in ("Bar chart of the top words", "Timeline"):
            assert drawn_width(report.get_by_role("img", name=picture)) == 720
        for fact in ("nodes 2 dedicated, of Standard_D2ads_v5", "deleted containers, pool", "kept job"):
            expect(report.get_by_role("row", name=fact)).to_be_visible()


@pytest.mark.parametrize(
    ("link", "shown"), [("its log", "Finished in state Completed()"), ("its artifacts", "sas-links")]
)
def test_the_report_s_links_lead_to_the_run_s_log_and_artifacts(
    ui: PrefectUI, deployed: Deployed, from_the_form: UUID, link: str, shown: str
) -> None:
    deployed.wait(from_the_form, "Completed")
    ui.markdown(from_the_form, "run-report").get_by_role("link", name=link).click()
    ui.page.wait_for_url(f"**/v2/runs/flow-run/{from_the_form}*")
    expect(ui.page.get_by_text(shown).first).to_be_visible()


def test_the_summary_is_two_tables(ui: PrefectUI, deployed: Deployed, from_the_form: UUID) -> None:
    deployed.wait(from_the_form, "Paused", "Completed")
    by_file = cells(ui.artifact(from_the_form, "top-words-by-file").get_by_role("table"))
    assert [row[:4] for row in by_file[:2]] == [["clouds.txt", "1", "the", "16"], ["clouds.txt", "2", "a", "10"]]
    assert len(by_file) == 9
    overall = cells(ui.artifact(from_the_form, "top-words-overall").get_by_role("table"))
    assert overall[0] == ["1", "the", "64", "64", "3"]
