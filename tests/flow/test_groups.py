"""Steps 2, 4 and 5 with small files in groups: what they leave in the accounts, and what a retry makes of it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from azure.batch.models import BatchTask
from azure.storage.blob import ContainerClient

import tasks.job
from tasks.accounts.clients import Azure
from tasks.containers import create_containers
from tasks.download import download_output
from tasks.files import upload_files
from tasks.inputs.blobs import all_inputs
from tasks.inputs.files import InputFile, find_inputs
from tasks.job import add_tasks, create_job, find_done
from tasks.monitor import monitor_tasks
from tasks.pool import create_pool
from tasks.reporting.artifacts import sas_links
from tasks.resources.batch_task import BatchTasks, Work
from tasks.run.identity import Role, Run, UsedPool
from tasks.run.outcomes import AddedTask, TaskOutcome
from tasks.run.previous_attempt import void_group_records
from tasks.run.program import Program
from tasks.run.results import Results
from tasks.run.scripts import FOR_GROUPS, FOR_IDENTITY, OUR_SCRIPTS
from tasks.run.settings import Disposal, TimeLimits
from tasks.run.uploads import Uploads
from tests.support.monitoring import pace
from tests.support.polling import wait_until
from tests.support.runs import APPLICATION, ONE_NODE, in_flow

IDENTITY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
pytestmark = pytest.mark.usefixtures("prefect_server")

LIMITS = TimeLimits(run_minutes=60, task_minutes=7, task_retries=2)
WORK = Work(script="top_words.py", limits=LIMITS)
LARGE = "m.bin"  # among the others, and alone


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt of a run up to step 5, on a pool that does not exist, so that no task begins."""

    azure: Azure
    run: Run
    folder: Path
    work: Work = WORK
    application: Mapping[str, Path] = field(default_factory=lambda: APPLICATION)

    @property
    def inputs(self) -> Sequence[InputFile]:
        return find_inputs([str(self.folder)]).files

    def upload(self) -> Uploads:
        create_containers(self.azure, self.run)
        return upload_files(self.azure, self.run, self.inputs, self.application, 1, self.work)

    def add(self) -> tuple[Uploads, list[AddedTask]]:
        pool = UsedPool(id=self.run.pool_id, slots_per_node=1, own=True)
        uploads = self.upload()
        create_job(self.azure, self.run, pool, uploads, Disposal.KEEP)
        return uploads, add_tasks(self.azure, self.run, pool, uploads, self.work)

    def again(self) -> Attempt:
        """The next attempt of the same run, a minute later."""
        return replace(self, run=replace(self.run, started=self.run.started + timedelta(minutes=1)))

    def blobs(self, role: Role) -> ContainerClient:
        return self.azure.blobs().get_container_client(self.run.container(role))

    def tasks(self) -> dict[str, BatchTask]:
        with self.azure.batch() as batch:
            return {str(task.id): task for task in batch.list_tasks(self.run.job_id)}

    def record(self, group: str, number: int, uploads: Uploads, **exit_codes: int) -> None:
        """Write a list of records, as a node does; keywords are names without ending."""
        files = {file.name.partition(".")[0]: file for file in uploads.inputs}
        made = {"exit_code": 0, "node": "n", "task": group, "seconds": 0.1, "outputs": [], "stdout": 0, "stderr": 0}
        records = [
            {**made, "name": files[name].name, "input": {"size": files[name].size, "md5": files[name].md5, "etag": ""},
             "exit_code": code}
            for name, code in exit_codes.items()
        ]  # fmt: skip
        self.blobs(Role.OUTPUT).upload_blob(f"groups/{group}/{number:05}.json", json.dumps(records))


def environment(task: BatchTask) -> dict[str, str]:
    return {item.name: item.value or "" for item in task.environment_settings or ()}


@pytest.fixture
def attempt(azure: Azure, run: Run, tmp_path: Path) -> Attempt:
    """Twenty small files: of one slot that makes groups of three."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcdefghijklmnopqrst":
        (folder / f"{name}.txt").write_text(f"the text of {name}" * (ord(name) - 96))
    return Attempt(azure=azure, run=run, folder=folder)


GROUPS = ["abc", "def", "ghi", "jkl", "mno", "pqr", "st"]
IDS = [f"topNtask{at}" for at in (0, 3, 6, 9, 12, 15, 18)]


# Step 2


def test_each_group_is_one_blob_that_is_sent_again_only_where_a_file_changed(
    attempt: Attempt, caplog: pytest.LogCaptureFixture
) -> None:
    def three_times() -> list[Uploads]:
        first, second = attempt.upload(), attempt.upload()
        (attempt.folder / "e.txt").write_text("another text")
        return [first, second, attempt.upload()]

    with caplog.at_level(logging.INFO, "prefect"):
        first, second, third = in_flow(three_times)
    assert list(first.bundles) == IDS
    assert [[file.name for file in group.files] for group in first.groups] == [
        [f"{name}.txt" for name in group] for group in GROUPS
    ]
    assert {file.modified for file in first.inputs} == {first.programmed}
    blobs = {blob.name: blob for blob in attempt.blobs(Role.INPUT).list_blobs()}
    assert list(blobs) == sorted(f"%bundles/{id}" for id in IDS)
    data = attempt.blobs(Role.INPUT).download_blob("%bundles/topNtask3").readall()
    head, _, contents = data.partition(b"\n")
    assert contents == b"".join((attempt.folder / f"{name}.txt").read_bytes() for name in "def")
    assert [(each["name"], each["prefix"]) for each in json.loads(head)["files"]] == [
        (f"{name}.txt", f"outputs/{name}.txt") for name in "def"
    ]
    md5 = blobs["%bundles/topNtask3"].content_settings.content_md5
    assert bytes(md5 or b"") == hashlib.md5(data).digest() == bytes.fromhex(third.bundles["topNtask3"].blob.md5)
    changed = [id for id in IDS if second.bundles[id].digest != third.bundles[id].digest]
    assert (first.bundles, changed) == (second.bundles, ["topNtask3"])
    sent = [message.partition(": ")[2] for message in caplog.messages if "small files" in message]
    there = "; the others are there already"
    assert sent == [f"{count} of the 7 bundles uploaded to {attempt.run.name}-input{more}" for count, more in
                    ((7, ""), (0, there), (1, there))]  # fmt: skip


def test_the_page_of_links_has_a_row_for_each_bundle(attempt: Attempt) -> None:
    (attempt.folder / LARGE).write_bytes(bytes((1 << 20) + 1))
    uploads = in_flow(attempt.upload)
    rows = [line.split(" | ") for line in sas_links(uploads, attempt.run.expires).splitlines() if "-input" in line]
    assert [row[0].partition("](http")[0] for row in rows] == [
        "| [3 files: a.txt and 2 more", "| [3 files: d.txt and 2 more", "| [3 files: g.txt and 2 more",
        "| [3 files: j.txt and 2 more", "| [m.bin", "| [3 files: m.txt and 2 more", "| [3 files: p.txt and 2 more",
        "| [2 files: s.txt and 1 more",
    ]  # fmt: skip
    assert [(file.name, file.task_id) for file in uploads.inputs if file.task_id not in uploads.bundles] == [
        (LARGE, "topNtask12")
    ]


def test_blobs_in_place_are_in_the_list_and_the_link_of_their_bundle_is_not_shown(attempt: Attempt) -> None:
    container = attempt.azure.blobs().create_container(f"{attempt.run.name}-source")  # goes with the run
    made = {name: container.upload_blob(name, name.encode()) for name in ("x y.log", "z.log")}

    def steps() -> Uploads:
        address = f"az://{attempt.azure.storage_account.name}/{container.container_name}/"
        files = all_inputs(attempt.azure, find_inputs([str(attempt.folder / "a.txt"), address]), attempt.run.expires)
        create_containers(attempt.azure, attempt.run)
        work = replace(WORK, files_per_task=10)
        return upload_files(attempt.azure, attempt.run, files, APPLICATION, 1, work)

    uploads = in_flow(steps)
    (bundle,) = uploads.bundles.values()
    head, _, contents = attempt.blobs(Role.INPUT).download_blob("%bundles/topNtask0").readall().partition(b"\n")
    local, first, second = json.loads(head)["files"]
    assert (local["url"], contents) == ("", (attempt.folder / "a.txt").read_bytes())
    assert first["url"].startswith(f"{container.url}/{quote('x y.log')}?")
    assert parse_qs(urlsplit(first["url"]).query)["sp"] == ["r"]
    assert second["etag"] == made["z.log"].get_blob_properties().etag.strip('"')
    assert second["md5"] == hashlib.md5(b"z.log").hexdigest()
    page = sas_links(uploads, attempt.run.expires)
    assert "| 3 files: a.txt and 2 more |" in page
    assert bundle.blob.sas_url not in page
    assert all(file.sas_url == "" for file in uploads.inputs)


# Step 5


def test_on_an_existing_pool_a_batch_task_brings_what_its_work_needs(attempt: Attempt) -> None:
    (attempt.folder / LARGE).write_bytes(bytes((1 << 20) + 1))
    uploads = in_flow(attempt.upload)
    pool = UsedPool(id="theirs", slots_per_node=1, own=False)
    tasks = BatchTasks(attempt.azure, attempt.run, pool, uploads, WORK)
    for group in uploads.groups:
        made = tasks.make(group, range(len(group.files)))
        brought = [str(file.file_path).rpartition("application/")[2] for file in (made.resource_files or [])[1:]]
        own = {*FOR_IDENTITY, *(() if group.id in uploads.bundles else FOR_GROUPS)}
        assert brought == [name for name in APPLICATION if name not in own]


def test_with_an_identity_of_the_pool_no_sas_is_made(attempt: Attempt) -> None:
    (attempt.folder / LARGE).write_bytes(bytes((1 << 20) + 1))
    azure = replace(attempt.azure, node_identity=IDENTITY)
    attempt = replace(attempt, azure=azure)
    uploads = in_flow(attempt.upload)
    tasks = BatchTasks(azure, attempt.run, UsedPool(id="theirs", slots_per_node=1, own=False), uploads, WORK)
    for group in uploads.groups:
        made = tasks.make(group, range(len(group.files)))
        values = {item.name: item.value for item in made.environment_settings or ()}
        assert (values["NODE_IDENTITY"], "RECORD_SAS_TOKEN" in values) == (IDENTITY, False)
        destinations = [file.destination.container for file in made.output_files or ()]
        for each in [*(made.resource_files or ()), *destinations]:
            assert each is not None
            assert each.identity_reference is not None
            assert each.identity_reference.resource_id == IDENTITY
        names = [str(file.file_path).rpartition("application/")[2] for file in made.resource_files or ()]
        assert set(FOR_IDENTITY) <= set(names)
        assert "sig=" not in json.dumps(made.as_dict())
    page = sas_links(uploads, None)
    assert "sig=" not in page
    assert page.startswith("The links have no SAS: ")


def test_the_batch_task_of_a_group_gets_its_bundle_and_says_where_records_go(attempt: Attempt) -> None:
    (attempt.folder / LARGE).write_bytes(bytes((1 << 20) + 1))
    attempt = replace(attempt, work=replace(WORK, isolate=True))
    uploads, added = in_flow(attempt.add)
    tasks = attempt.tasks()
    assert [(task.id, task.file, task.members) for task in added] == [
        ("topNtask0", "a.txt and 2 more", ("a.txt", "b.txt", "c.txt")),
        ("topNtask3", "d.txt and 2 more", ("d.txt", "e.txt", "f.txt")),
        ("topNtask6", "g.txt and 2 more", ("g.txt", "h.txt", "i.txt")),
        ("topNtask9", "j.txt and 2 more", ("j.txt", "k.txt", "l.txt")),
        ("topNtask12", LARGE, ()),
        ("topNtask13", "m.txt and 2 more", ("m.txt", "n.txt", "o.txt")),
        ("topNtask16", "p.txt and 2 more", ("p.txt", "q.txt", "r.txt")),
        ("topNtask19", "s.txt and 1 more", ("s.txt", "t.txt")),
    ]
    assert not any(task.earlier for task in added)
    task = tasks["topNtask3"]
    values = environment(task)
    container = f"{attempt.azure.storage_account.endpoint}/{attempt.run.container(Role.OUTPUT)}"
    tokens = {name: parse_qs(values.pop(name))["sp"] for name in ("RECORD_SAS_TOKEN", "OUTPUT_SAS_TOKEN")}
    assert tokens == {"RECORD_SAS_TOKEN": ["rcw"], "OUTPUT_SAS_TOKEN": ["cw"]}
    assert values == {
        "GROUP_FILE": "bundle",
        "GROUP_DIGEST": uploads.bundles["topNtask3"].digest,
        "GROUP_MEMBERS": "0-2",
        "FILE_SECONDS": "420",
        "ISOLATE": "1",
        "RECORD_URL": f"{container}/groups/topNtask3",
        "RECORDS_FROM": "0",
        "OUTPUT_URL": container,
        "OUTPUT_INLINE": "65536",
        "SAS_EXPIRES": attempt.run.expires.isoformat(),
        "TASKS_PER_NODE": "1",
    }
    (bundle,) = task.resource_files or []
    url = urlsplit(bundle.http_url or "")
    assert (bundle.file_path, parse_qs(url.query)["sp"]) == ("bundle", ["r"])
    assert url.path.endswith("-input/%25bundles/topNtask3")
    assert task.constraints is not None
    assert task.constraints.max_wall_clock_time == timedelta(minutes=3 * 7 + 1)
    assert task.constraints.max_task_retry_count == 2
    assert task.command_line == tasks["topNtask12"].command_line
    assert "ISOLATE" not in environment(tasks["topNtask12"])
    streams = [file.destination.container for file in task.output_files or ()]
    assert [each.path if each else "" for each in streams] == ["logs/topNtask3/stdout.txt", "logs/topNtask3/stderr.txt"]


def test_the_biggest_groups_are_added_first(attempt: Attempt) -> None:
    in_flow(attempt.add)
    created = sorted(attempt.tasks().values(), key=lambda task: task.creation_time or datetime.now(timezone.utc))
    sizes = {"st": 39, "pqr": 51, "mno": 42, "jkl": 33, "ghi": 24, "def": 15, "abc": 6}
    assert [IDS[GROUPS.index(group)] for group in sorted(sizes, key=sizes.__getitem__, reverse=True)] == [
        task.id for task in created
    ]


def test_a_batch_task_of_many_files_may_take_no_longer_than_the_run(attempt: Attempt) -> None:
    attempt = replace(attempt, work=replace(WORK, files_per_task=20, limits=TimeLimits(run_minutes=50, task_minutes=7)))
    in_flow(attempt.add)
    (task,) = attempt.tasks().values()
    assert task.constraints is not None
    assert task.constraints.max_wall_clock_time == timedelta(minutes=50)


def test_with_one_file_per_task_there_is_no_bundle(attempt: Attempt) -> None:
    uploads, added = in_flow(replace(attempt, work=replace(WORK, files_per_task=1)).add)
    assert (uploads.bundles, len(added), len(attempt.tasks())) == ({}, 20, 20)


# A retry


def twice(attempt: Attempt, between: Callable[[Uploads], None]) -> tuple[Uploads, list[AddedTask]]:
    def steps() -> tuple[Uploads, list[AddedTask]]:
        uploads, _ = attempt.add()
        between(uploads)
        return attempt.again().add()

    return in_flow(steps)


def test_a_retry_adds_tasks_for_the_files_that_are_not_done_and_numbers_their_lists_on(attempt: Attempt) -> None:
    """The tasks of the previous attempt wait, with SAS URLs that last: those of groups with nothing to add stay."""

    def between(uploads: Uploads) -> None:
        attempt.record("topNtask0", 0, uploads, a=0, b=0)
        attempt.record("topNtask0", 1, uploads, b=3, c=0)
        attempt.record("topNtask3", 0, uploads, d=0, e=0)
        (attempt.folder / "e.txt").write_text("another text")

    uploads, added = twice(attempt, between)
    tasks = attempt.tasks()
    expires = attempt.again().run.expires.isoformat()
    fresh = {id for id, task in tasks.items() if environment(task)["SAS_EXPIRES"] == expires}
    assert (set(tasks), fresh) == (set(IDS), {"topNtask3"})
    assert {name: environment(tasks["topNtask3"])[name] for name in ("GROUP_MEMBERS", "RECORDS_FROM")} == {
        "GROUP_MEMBERS": "1-2",
        "RECORDS_FROM": "1",
    }
    assert environment(tasks["topNtask3"])["GROUP_DIGEST"] == uploads.bundles["topNtask3"].digest
    assert added[:3] == [
        AddedTask(id="topNtask0", file="a.txt and 2 more", members=("a.txt", "b.txt", "c.txt")),
        AddedTask(id="topNtask3", file="e.txt and 1 more", members=("e.txt", "f.txt")),
        AddedTask(id="topNtask3", file="d.txt", earlier=True),
    ]
    output = attempt.blobs(Role.OUTPUT)
    (void,) = [blob.name for blob in output.list_blobs(name_starts_with="groups/") if "void" in blob.name]
    assert void.startswith("groups/topNtask3/void-")
    assert json.loads(output.download_blob(void).readall()) == [{"name": "e.txt", "void": True, "below": 1}]


def test_what_was_made_void_is_processed_by_the_next_attempt_and_then_counts(attempt: Attempt) -> None:
    """Interrupted after step 5, and again after the files were processed."""
    seen: list[str] = []

    def members(of: Attempt) -> str:
        of.add()
        return environment(of.tasks()["topNtask0"])["GROUP_MEMBERS"]

    def steps() -> list[AddedTask]:
        uploads, _ = attempt.add()
        attempt.record("topNtask0", 0, uploads, a=0, b=0, c=0)
        (attempt.folder / "b.txt").write_text("another text")
        second, third = attempt.again(), attempt.again().again()
        seen.extend([members(second), members(third)])
        attempt.record("topNtask0", 1, third.upload(), b=0)
        return third.again().add()[1]

    added = in_flow(steps)
    assert seen == ["1", "1"]
    assert added[:3] == [
        AddedTask(id="topNtask0", file="b.txt", members=("b.txt",)),
        AddedTask(id="topNtask0", file="a.txt", earlier=True),
        AddedTask(id="topNtask0", file="c.txt", earlier=True),
    ]


def test_where_the_list_of_files_grew_nothing_that_is_done_is_repeated(attempt: Attempt) -> None:
    def between(uploads: Uploads) -> None:
        attempt.record("topNtask0", 0, uploads, a=0, b=0, c=0)
        attempt.record("topNtask3", 0, uploads, d=0)
        (attempt.folder / "0.txt").write_text("first")

    _, added = twice(attempt, between)
    assert [(task.id, task.file, task.earlier) for task in added][:6] == [
        ("topNtask0", "0.txt", False),
        ("topNtask0", "a.txt", True),
        ("topNtask0", "b.txt", True),
        ("topNtask3", "e.txt", False),
        ("topNtask3", "c.txt", True),
        ("topNtask3", "d.txt", True),
    ]
    assert {id: environment(task)["GROUP_MEMBERS"] for id, task in attempt.tasks().items()} == {
        "topNtask0": "0", "topNtask3": "2", **dict.fromkeys(IDS[2:], "0-2"),
    }  # fmt: skip


def test_what_a_task_writes_until_it_is_deleted_does_not_count(attempt: Attempt, tmp_path: Path) -> None:
    """The script has changed, and a task of the old one stores records while the retry replaces it."""
    script = tmp_path / "top_words.py"
    script.write_text("old")
    attempt = replace(attempt, application={**APPLICATION, "top_words.py": script})
    seen: list[AddedTask] = []

    def steps() -> None:
        uploads, _ = attempt.add()
        next_second = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=1)
        wait_until(lambda: datetime.now(timezone.utc) >= next_second)  # blobs have their times in whole seconds
        script.write_text("new")

        def void_then_write(*arguments: Any) -> None:
            void_group_records(*arguments)
            patch.undo()
            attempt.record("topNtask0", 0, uploads, a=0, b=0)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tasks.job, "void_group_records", void_then_write)
            attempt.again().add()
        assert environment(attempt.tasks()["topNtask0"])["RECORDS_FROM"] == "1"
        with attempt.azure.batch() as batch:
            batch.delete_task(attempt.run.job_id, "topNtask0")  # interrupted before this one was added
        seen.extend(attempt.again().again().add()[1])

    in_flow(steps)
    assert seen[0] == AddedTask(id="topNtask0", file="a.txt and 2 more", members=("a.txt", "b.txt", "c.txt"))


def test_files_of_which_all_are_done_need_no_pool(attempt: Attempt) -> None:
    def steps() -> list[list[TaskOutcome]]:
        uploads, _ = attempt.add()
        for id, group in zip(IDS[:-1], GROUPS, strict=False):
            attempt.record(id, 0, uploads, **dict.fromkeys(group, 0))
        again = attempt.again()
        before = find_done(attempt.azure, again.run, again.upload())
        attempt.record("topNtask18", 0, uploads, s=0, t=0)
        return [before, find_done(attempt.azure, again.run, again.upload())]

    before, after = in_flow(steps)
    assert before == []
    assert [(outcome.id, outcome.file, outcome.earlier) for outcome in after] == [
        (id, f"{name}.txt", True) for id, group in zip(IDS, GROUPS, strict=True) for name in group
    ]


# Whole attempts, on nodes

SCRIPT = """#!/bin/sh
echo "$INPUT_NAME" >> {log}
while [ -e {folder}/hold-$INPUT_NAME ]; do sleep 0.05; done
[ ! -e {folder}/fail-$INPUT_NAME ] || exit 7
tr a-z A-Z < "$1" > "$OUTPUT_DIR/out"
"""


@dataclass(frozen=True, kw_only=True)
class OnNodes:
    """Attempts of a run whose script records each file that it is called for."""

    first: Attempt
    results: Results

    @classmethod
    def of(cls, attempt: Attempt) -> OnNodes:
        folder = attempt.folder.parent
        script = folder / "script.sh"
        script.write_text(SCRIPT.format(folder=folder, log=folder / "log"))
        application = {**OUR_SCRIPTS, "script.sh": script}
        work = Work(script="script.sh", limits=TimeLimits(task_retries=0))
        results = Results(folder=folder / "results", program=Program(script="sha256"))
        return cls(first=replace(attempt, application=application, work=work), results=results)

    def begin(self, attempt: Attempt) -> tuple[Uploads, UsedPool, list[AddedTask]]:
        uploads = attempt.upload()
        pool = create_pool(attempt.azure, attempt.run, ONE_NODE, uploads.application)
        create_job(attempt.azure, attempt.run, pool, uploads)
        return uploads, pool, add_tasks(attempt.azure, attempt.run, pool, uploads, attempt.work)

    def whole(self, attempt: Attempt) -> list[TaskOutcome]:
        uploads, pool, added = self.begin(attempt)
        outcomes = monitor_tasks(attempt.azure, attempt.run, pool, added, polling=pace()).outcomes
        return download_output(attempt.azure, attempt.run, uploads, outcomes, self.results)

    def say(self, what: str, name: str) -> Path:
        path = self.first.folder.parent / f"{what}-{name}"
        path.touch()
        return path

    def called(self) -> list[str]:
        """The names that the script was called for since the last time, in their order."""
        log = self.first.folder.parent / "log"
        names = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return names


ALL = [f"{name}.txt" for name in "abcdefghijklmnopqrst"]


def test_a_retry_calls_the_script_only_for_files_that_failed_or_changed(attempt: Attempt) -> None:
    runs = OnNodes.of(attempt)
    failing = runs.say("fail", "e.txt")

    def steps() -> None:
        outcomes = runs.whole(runs.first)
        assert [outcome.file for outcome in outcomes] == ALL
        assert [outcome.file for outcome in outcomes if not outcome.succeeded] == ["e.txt"]
        assert sorted(runs.called()) == ALL
        failing.unlink()
        (attempt.folder / "h.txt").write_text("new")
        outcomes = runs.whole(runs.first.again())
        assert {outcome.succeeded for outcome in outcomes} == {True}
        assert sorted(outcome.file for outcome in outcomes) == ALL
        assert sorted(runs.called()) == ["e.txt", "h.txt"]
        assert (runs.results.folder_of("h.txt") / "out").read_text() == "NEW"

    in_flow(steps)


def test_an_attempt_that_was_interrupted_is_finished_also_where_a_file_came_in_between(attempt: Attempt) -> None:
    """The Batch task that goes on is of a group that is no more: its files are processed again, all others are not."""
    runs = OnNodes.of(attempt)
    holding = runs.say("hold", "k.txt")
    log = attempt.folder.parent / "log"

    def steps() -> None:
        runs.begin(runs.first)
        wait_until(lambda: log.exists() and "k.txt" in log.read_text().split())
        done = runs.called()
        assert done[:-1] == [f"{name}.txt" for name in "pqrmnostj"]  # the biggest groups first
        (attempt.folder / "0.txt").write_text("zero")
        holding.unlink()
        outcomes = runs.whole(runs.first.again())
        assert [(outcome.file, outcome.succeeded) for outcome in sorted(outcomes, key=lambda each: each.file)] == [
            (name, True) for name in ["0.txt", *ALL]
        ]
        again = runs.called()
        assert set(again) >= {"0.txt", *(f"{name}.txt" for name in "abcdefghil")}
        assert not set(again) & {f"{name}.txt" for name in "mnopqrst"}
        assert sorted(path.parent.name for path in runs.results.folder.glob("*/out")) == ["0.txt", *ALL]

    in_flow(steps)
