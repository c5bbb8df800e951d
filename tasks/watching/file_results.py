"""What became of each file of the groups, once their Batch tasks are no longer watched: read, reported and shown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from azure.batch import BatchClient

from tasks.accounts.clients import Azure
from tasks.errors.service import SERVICE_FAILURES
from tasks.reporting.artifacts import TaskBoard
from tasks.reporting.events import RunEvents
from tasks.run.file_outcomes import all_succeeded, outcomes_of_files
from tasks.run.group_records import NO_RECORDS, GroupRecords, for_each_group
from tasks.run.identity import Run
from tasks.run.outcomes import AddedTask, Monitored, TaskOutcome
from tasks.run.previous_attempt import records_there
from tasks.run.records import record_blob
from tasks.watching.failures import Failures

_MOST_STDERR = 500  # files of which the end of stderr is kept in memory: as many as the table shows


def with_distinct_ids(tasks: Sequence[AddedTask]) -> list[AddedTask]:
    """The Batch tasks to watch; a file that is done without one may have the id of its group's."""
    taken = {task.id for task in tasks if not task.earlier}
    watched = []
    for number, task in enumerate(tasks):
        if task.earlier and task.id in taken:
            task = replace(task, id=f"{task.id}-{number}")
        taken.add(task.id)
        watched.append(task)
    return watched


def of_files(azure: Azure, run: Run, tasks: Sequence[AddedTask], monitored: Monitored) -> Monitored:
    """The same with an outcome for each file. Raises one of SERVICE_FAILURES where all Batch tasks have completed."""
    groups = {task.id: (task, each) for task, each in zip(tasks, monitored.outcomes, strict=True) if task.members}
    if not groups:
        return monitored
    keep_stderr = _stderr_keeper()

    def expanded(group: str, records: GroupRecords) -> list[TaskOutcome]:
        task, outcome = groups[group]
        return [keep_stderr(each) for each in outcomes_of_files(task, outcome, records)]

    found: Mapping[str, list[TaskOutcome]] = {}
    try:
        found = for_each_group(azure, run, groups, expanded)
    except SERVICE_FAILURES:
        if monitored.problem is None:
            raise  # else what is known is that problem
    outcomes: list[TaskOutcome] = []
    for task, outcome in zip(tasks, monitored.outcomes, strict=True):
        if task.members:
            outcomes += found[task.id] if task.id in found else expanded(task.id, NO_RECORDS)
        else:
            outcomes.append(outcome if outcome.id == task.id else replace(outcome, id=task.id))
    return replace(monitored, outcomes=outcomes)


def _stderr_keeper() -> Callable[[TaskOutcome], TaskOutcome]:
    kept = 0

    def keep(outcome: TaskOutcome) -> TaskOutcome:
        nonlocal kept
        kept += bool(outcome.stderr)
        return replace(outcome, stderr="") if outcome.stderr and kept > _MOST_STDERR else outcome

    return keep


def report_files(
    azure: Azure, batch: BatchClient, run: Run, events: RunEvents, groups: Collection[str], monitored: Monitored
) -> None:
    """Log the failed files of these groups, and emit their events."""
    failed = [outcome for outcome in monitored.outcomes if outcome.failed and outcome.id in groups]
    failures = Failures(azure, batch, run, events, groups=groups, of_files=True)
    failures.report(failed)
    failures.close()


def show_files(board: TaskBoard, outcomes: Sequence[TaskOutcome]) -> None:
    """Show each file, as far as the table goes, in place of each Batch task."""
    completed = sum(outcome.completed for outcome in outcomes)
    succeeded, failed = sum(each.succeeded for each in outcomes), sum(each.failed for each in outcomes)
    status = f"{completed} of {len(outcomes)} files completed ({succeeded} succeeded, {failed} failed)"
    board.show(outcomes, completed, len(outcomes), status)


def proven(azure: Azure, run: Run, tasks: Sequence[AddedTask]) -> Collection[str]:
    """Records that prove the success of a Batch task, as blobs by the name of its file; none where they cannot be read.

    Of a group, whose file is a label, there is one where all its files have the record of a success.
    """
    members = {task.id: task.members for task in tasks if task.members}
    try:
        found = set(records_there(azure, run))
        if members:
            whole = for_each_group(azure, run, members, lambda group, records: all_succeeded(members[group], records))
            found |= {record_blob(task.file) for task in tasks if whole.get(task.id)}
        return found
    except SERVICE_FAILURES:
        return ()
