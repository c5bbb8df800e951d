from __future__ import annotations

import base64
import html
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any
from xml.etree import ElementTree

import pytest

from tasks.accounts.clouds import region_of
from tasks.errors import TasksFailed
from tasks.reporting.charts import bar_chart
from tasks.reporting.node_time import KindTime, NodeTime
from tasks.reporting.prices import price_of
from tasks.reporting.report import RunFacts, report, result_line, why_failed
from tasks.run.outcomes import Cause, Failure, TaskOutcome

START = datetime(2026, 11, 22, 9, 30, tzinfo=timezone.utc)
ENDPOINT = "https://mybatch.westeurope.batch.azure.com"
SAS = "https://account.blob.core.windows.net/in/a.txt?sv=2026-04-06&sig=c2VjcmV0%3D&se=2026-11-22"
EXITED = Failure(category="UserError", code="FailureExitCode", message="The task exited")


def outcome(file: str, **changes: Any) -> TaskOutcome:
    """Of a Batch task that ran for four seconds and succeeded, unless changed."""
    done = TaskOutcome(
        id=f"id-of-{file}",
        file=file,
        state="completed",
        exit_code=0,
        node="tvmps_1",
        started=START,
        seconds=4,
        succeeded=True,
    )
    return replace(done, **changes)


def failed(file: str, **changes: Any) -> TaskOutcome:
    return outcome(file, **{"succeeded": False, "exit_code": 3, "failure": EXITED, "cause": Cause.EXIT_CODE, **changes})


def facts(*outcomes: TaskOutcome, **changes: Any) -> RunFacts:
    run = RunFacts(
        run_name="top-words 3 files 2026-11-22 09:30",
        flow_run_id="01920000-0000-7000-8000-0123456789ab",
        where="Batch account mybatch, storage account mystorage",
        batch_endpoint=ENDPOINT,
        pool_id="top-words-0123456789ab",
        own_pool=True,
        vm_size="Standard_D2s_v3",
        dedicated_nodes=2,
        started=START - timedelta(seconds=40),
        ended=START + timedelta(seconds=212),
        outcomes=outcomes,
        results="results/top-words-0123456789ab",
    )
    return replace(run, **changes)


def section(page: str, heading: str) -> str:
    """What is below a heading of the page, without the pictures' data."""
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,...", page)
    found = re.search(rf"^## {re.escape(heading)}\n\n(.*?)(?=\n\n## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no section {heading} in {text}"
    return found[1].strip()


def test_the_report_begins_with_the_result_and_where_it_ran() -> None:
    page = report(
        facts(
            outcome("a.txt"),
            failed("b.txt", requeues=2),
            spot_nodes=1,
            deleted=("job", "pool"),
            kept=("containers",),
        )
    )
    assert [line for line in page.split("\n\n## ")[0].splitlines() if "](" not in line] == [
        "# top-words 3 files 2026-11-22 09:30",
        "",
        "**2 files: 1 succeeded, 1 failed**",
        "",
        "Batch account mybatch, storage account mystorage",
        "",
        "",
        "| run | |",
        "|:--|:--|",
        "| pool | top-words-0123456789ab, made for this run |",
        "| nodes | 2 dedicated and 1 spot, of Standard_D2s_v3 |",
        "| started | 2026-11-22 09:29:20 UTC |",
        "| ended | 2026-11-22 09:33:32 UTC |",
        "| took | 4 min 12 s |",
        "| requeues | 2: Batch tasks begun again after the loss of their node, such as a preemption |",
        "| results | results/top-words-0123456789ab |",
        "| deleted | job, pool |",
        "| kept | containers |",
        "| flow run | 01920000-0000-7000-8000-0123456789ab |",
    ]


@pytest.mark.parametrize(
    ("outcomes", "allowed", "line"),
    [
        ((), 0, "0 files: 0 succeeded, 0 failed"),
        ((outcome("a"),), 0, "1 file: 1 succeeded, 0 failed"),
        ((outcome("a"), outcome("b"), failed("c")), 1, "3 files: 2 succeeded, 1 failed (1 allowed)"),
        (
            (outcome("a", node=None, started=None, seconds=None, exit_code=None), outcome("b")),
            0,
            "2 files: 2 succeeded (1 of them earlier), 0 failed",
        ),
        (
            (outcome("a", state="running", succeeded=False, seconds=None), failed("b")),
            0,
            "2 files: 0 succeeded, 1 failed, 1 did not finish",
        ),
    ],
)
def test_the_result_line_counts_every_file_once(outcomes: tuple[TaskOutcome, ...], allowed: int, line: str) -> None:
    assert result_line(facts(*outcomes, allowed_failures=allowed)) == line


def test_a_failure_has_its_cause_and_the_last_lines_of_stderr() -> None:
    stderr = "".join(f"line {number}\n" for number in range(1, 31))
    page = report(facts(failed("b.txt", stderr=stderr, retries=1, requeues=2)))
    assert section(page, "1 file without output").splitlines() == [
        "### b.txt",
        "",
        "- Batch task: id-of-b.txt",
        "- cause: exited non-zero",
        "- service's words: FailureExitCode (UserError): The task exited",
        "- exit code: 3",
        "- node: tvmps_1",
        "- retries: 1",
        "- requeues: 2",
        "",
        "the end of stderr:",
        "",
        "```text",
        *(f"line {number}" for number in range(11, 31)),
        "```",
    ]


def test_a_file_whose_batch_task_never_ended_follows_the_failed_ones() -> None:
    waiting = TaskOutcome(id="t0", file="waiting.txt", state="active")
    told = section(report(facts(waiting, failed("b.txt"))), "2 files without output")
    assert told.index("### b.txt") < told.index("### waiting.txt")
    assert told.endswith("### waiting.txt\n\n- Batch task: t0\n- cause: active")


@pytest.mark.parametrize("stderr", ["```\n# escaped\n", "~~~\n`````\n# escaped", "a ``` b ```` c", "`" * 500])
def test_stderr_cannot_end_its_code_block(stderr: str) -> None:
    told = section(report(facts(failed("b.txt", stderr=stderr))), "1 file without output")
    opening, _, rest = told.partition("stderr:\n\n")[2].partition("text\n")
    assert set(opening) == {"`"}
    body, _, after = rest.rpartition(f"\n{opening}")
    assert after == ""
    assert opening not in body
    assert body == stderr.strip("\n")


def test_stderr_loses_its_colours_and_control_characters() -> None:
    told = section(report(facts(failed("b", stderr="\x1b[31mred\x1b[0m\x00\r\ndone\ud800"))), "1 file without output")
    assert "```text\n�red��\ndone�\n```" in told


def test_no_signature_reaches_the_report() -> None:
    failure = Failure(category="UserError", code="BlobDownloadMiscError", message=f"cannot fetch {SAS}")
    page = report(
        facts(
            failed("b.txt", stderr=f"GET {SAS}", failure=failure),
            where=f"Endpoint=x;AccountKey=c2VjcmV0;{SAS}",
            steps=[(SAS, 1.0)],
            kept=[SAS],
        )
    )
    assert "c2VjcmV0" not in page
    assert html.unescape(page).count("sig=***") == 5


def test_awkward_names_stay_text() -> None:
    name = "a|b](javascript:x) <img src=x>\n# `c` **d** \u202etxt"
    page = report(facts(failed(name), run_name=name, pool_id=name, kept=[name], vm_size=name))
    plain = "a&#124;b&#93;(javascript:x) &#60;img src=x&#62;⏎# &#96;c&#96; &#42;&#42;d&#42;&#42; �txt"
    assert f"\n### {plain}\n" in page
    assert f"| pool | {plain}, made for this run |" in page
    assert page.startswith(f"# {plain}\n")
    assert "<img" not in page


def test_the_pictures_are_data_uris() -> None:
    page = report(facts(outcome("a.txt"), joined=f"![chart]({bar_chart([('the', 3)], 't')})"))
    pictures = re.findall(r"!\[[^\]]+\]\((.*?)\)", page)
    assert len(pictures) == 2
    for picture in pictures:
        assert picture.startswith("data:image/svg+xml;base64,")
        ElementTree.fromstring(base64.b64decode(picture.partition(",")[2]))


def test_task_durations_are_minimum_median_and_maximum() -> None:
    lengths = [0.25, 4, 90, 3_600 + 300]
    outcomes = [outcome(f"{length}", seconds=length) for length in lengths]
    told = section(report(facts(*outcomes)), "Batch tasks")
    assert told.endswith("4 Batch tasks ran: shortest 0.2 s, median 47.0 s, longest 1 h 5 min.")


def test_the_steps_are_a_table_of_seconds() -> None:
    page = report(facts(steps=[("0 check input", 0.04), ("6 monitor tasks", 1_222.66)]))
    assert section(page, "Time by step").splitlines() == [
        "| step | seconds |",
        "|:--|--:|",
        "| 0 check input | 0.0 |",
        "| 6 monitor tasks | 1,222.7 |",
    ]


WEST_EUROPE = price_of("Standard_D2s_v3", "westeurope")
LIST = "(Azure's list price for Linux, pay-as-you-go, in westeurope, of 2026-08-20)"


def billed(dedicated: float, spot: float = 0) -> dict[str, Any]:
    return {"node_time": NodeTime(dedicated=KindTime(running=dedicated), spot=KindTime(running=spot))}


def test_the_estimated_cost_names_price_date_and_what_is_left_out() -> None:
    page = report(facts(outcome("a.txt"), outcome("b.txt"), **billed(3_600), pool_seconds=1_800, price=WEST_EUROPE))
    assert section(page, "Cost") == (
        "3,600 node-seconds: 0 starting, 0 idle, 3,600 running. The pool lived 30 min 0 s.\n\n"
        f"Estimated cost: **$0.1200**, $0.0600 a file at $0.1200 for a dedicated node and hour {LIST}. "
        "Compute alone, without disks, network, storage, and any discount of yours."
    )


@pytest.mark.parametrize(
    ("dedicated", "cost"),
    [
        (3_600, "**$0.1311** at $0.1200 for a dedicated node and hour and at $0.0222 for a spot node and hour"),
        (0, "**$0.0111** at $0.0222 for a spot node and hour"),
    ],
    ids=["beside dedicated ones", "alone"],
)
def test_spot_nodes_have_a_price_of_their_own(dedicated: float, cost: str) -> None:
    told = section(report(facts(**billed(dedicated, 1_800), price=WEST_EUROPE)), "Cost")
    assert f"Estimated cost: {cost} {LIST}." in told


def test_nodes_that_were_added_for_want_of_spot_nodes_are_told() -> None:
    added = facts(dedicated_nodes=0, spot_nodes=4, added_nodes=4, **billed(0), pool_stays=True, price=WEST_EUROPE)
    page = report(added)
    assert (
        "| nodes | 0 dedicated and 4 spot, of Standard_D2s_v3; 4 dedicated were added while it waited for spot nodes |"
    ) in page
    assert "about $0.5687 an hour.**" in page


def test_a_run_that_ends_early_has_its_estimate() -> None:
    told = section(report(facts(problem="cancelled", **billed(3_600), price=WEST_EUROPE)), "Cost")
    assert "Estimated cost: **$0.1200** at" in told


def test_failed_deletes_are_listed_apart_from_what_is_kept() -> None:
    page = report(facts(deleted=("job",), kept=("containers",), not_deleted=("pool",)))
    assert "| kept | containers |\n| NOT deleted | pool: see the log; the sweep deletes it once" in page


def test_run_log_and_artifacts_are_links_on_the_artifact_page() -> None:
    page = "../../runs/flow-run/01920000-0000-7000-8000-0123456789ab"
    links = f"[The run]({page}) · [its log]({page}?tab=Logs) · [its artifacts]({page}?tab=Artifacts)"
    assert links in report(facts()).splitlines()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_endpoint": "http://127.0.0.1:4711"}, "The embedded local Azure costs nothing."),
        ({"batch_endpoint": "http://localhost:4711/"}, "The embedded local Azure costs nothing."),
        ({"batch_endpoint": "http://[::1]:4711"}, "The embedded local Azure costs nothing."),
        ({"own_pool": False}, "The pool was there before this run and is billed whether or not it runs."),
        ({"vm_size": "Standard_X9", "price": None}, "No price is known for Standard_X9, so there is no estimate."),
        ({"node_time": None}, "How long the nodes lived is not known."),
        ({"node_time": None, "pool_seconds": 0.3}, "How long the nodes lived is not known. The pool lived 0.3 s."),
        ({"pool_id": "", "own_pool": False}, "No pool was used, so no node was billed."),
        (
            {"pool_stays": True, "price": None},
            "**The pool is still there: its nodes go on billing until it is deleted.**",
        ),
        (
            {"pool_stays": True},
            "**The pool is still there: its nodes go on billing until it is deleted, about $0.2400 an hour.**",
        ),
    ],
)
def test_what_is_not_billed_or_not_known_is_said(changes: dict[str, Any], told: str) -> None:
    assert section(report(facts(**{**billed(60), "price": WEST_EUROPE, **changes})), "Cost").endswith(told)


def test_an_empty_run_has_a_report() -> None:
    page = report(facts())
    assert "**0 files: 0 succeeded, 0 failed**" in page
    assert "| deleted | nothing |" in page
    assert re.findall("^## .*", page, re.MULTILINE) == ["## Cost"]
    assert "![" not in page


def test_a_run_that_used_no_pool_says_so() -> None:
    page = report(facts(pool_id="", own_pool=False))
    assert "| pool | none was used |\n| nodes | none |" in page


def test_the_report_of_thousands_of_failures_stays_small() -> None:
    outcomes = [failed(f"{number:04}" + "界" * 250, stderr="`x`" * 20_000) for number in range(5_000)]
    page = report(
        facts(
            *outcomes, steps=[("s" * 1_000, 1.0)] * 500, joined=f"![chart]({bar_chart([('x' * 9_999, 1)] * 500, 't')})"
        )
    )
    assert len(page.encode()) < 500_000
    assert page.count("\n### ") == 50
    assert "The first 50 of 5,000 are described in full." in page
    assert "and 4,800 more" in page
    assert "| and 400 more | 400.0 |" in page


@pytest.mark.parametrize(
    ("vm_size", "region", "per_hour", "read"),
    [
        ("Standard_D2s_v3", "eastus", 0.096, "2025-03-02"),
        ("STANDARD_d2S_V3", "westeurope", 0.12, "2026-08-20"),
        ("Standard_D2ads_v5", "swedencentral", 0.11, "2026-08-20"),
        ("Standard_A1_v2", "westus2", 0.036, "2025-03-02"),
    ],
)
def test_a_price_is_that_of_the_size_in_the_region(vm_size: str, region: str, per_hour: float, read: str) -> None:
    price = price_of(vm_size, region)
    assert price is not None
    assert price.per_hour == per_hour
    assert price.source == f"Azure's list price for Linux, pay-as-you-go, in {region}, of {read}"
    assert price.of(1_800) == per_hour / 2


def test_in_a_region_without_prices_the_price_says_which_it_is() -> None:
    price = price_of("Standard_D2s_v3", "japaneast")
    assert price is not None
    assert price.per_hour == 0.12
    assert "in westeurope, which may differ from that in japaneast, of 2026-08-20" in price.source


def test_a_size_that_is_not_listed_has_no_price() -> None:
    assert price_of("Standard_D2s_v99", "eastus") is None


@pytest.mark.parametrize("region", ["usgovvirginia", "chinaeast2"])
def test_other_clouds_have_no_price_in_the_table(region: str) -> None:
    assert price_of("Standard_D2s_v5", region) is None


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        (ENDPOINT, "westeurope"),
        ("mybatch.eastus2.batch.azure.com", "eastus2"),
        ("https://MyBatch.EastUS.batch.azure.com/", "eastus"),
        ("http://127.0.0.1:4711", None),
        ("https://mybatch.westeurope.batch.azure.com.evil.example", None),
        ("", None),
    ],
)
def test_the_region_is_read_from_the_batch_endpoint(endpoint: str, region: str | None) -> None:
    assert region_of(endpoint) == region


def test_why_a_run_failed_is_a_line_that_names_the_first_files() -> None:
    good, bad = outcome("a.txt"), failed("b.txt", stderr="Traceback\nKeyError: 'x'\n")
    assert why_failed([good, bad], 1, None) == ""
    assert why_failed([good, bad], 0, None) == (
        "1 of 2 files without output (0 allowed): b.txt exited non-zero, exit code 3 (KeyError: 'x')"
    )
    assert why_failed([failed(f"{index}.txt") for index in range(9)], 2, None) == (
        "9 of 9 files without output (2 allowed): 0.txt exited non-zero, exit code 3 (The task exited); "
        "1.txt exited non-zero, exit code 3 (The task exited); 2.txt exited non-zero, exit code 3 (The task exited); "
        "and 6 more"
    )


def test_why_waiting_was_given_up_is_why_the_run_failed() -> None:
    problem = TasksFailed("no node can run tasks; the start task failed\n  stderr: no such disk")
    assert why_failed([outcome("a.txt", succeeded=False)], 0, problem) == "no node can run tasks; the start task failed"
