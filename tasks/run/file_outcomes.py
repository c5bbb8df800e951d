"""What became of each file of a group: from its Batch task, and from the record that this has left of the file."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from azure.batch.models import BatchTaskState

from tasks.errors.secrets import without_secrets
from tasks.run.group_records import NO_RECORDS, GroupRecords, Written
from tasks.run.outcomes import AddedTask, Cause, TaskOutcome, cause_of_exit

MOST_SHOWN = 2000  # characters of the end of stderr
_PROBLEMS = {
    "timed out": Cause.TIME_LIMIT,
    "could not start": Cause.START,
    "could not fetch": Cause.FETCH,
    "could not upload": Cause.UPLOAD,
}
_KILLED = re.compile(r"killed by signal (\d+)")
_OF_SCRIPT = {Cause.EXIT_CODE, Cause.NOT_TEXT}  # so that the exit code of a Batch task is that of one of its files


def outcomes_of_files(task: AddedTask, outcome: TaskOutcome, records: GroupRecords = NO_RECORDS) -> list[TaskOutcome]:
    """The outcome of each file of the Batch task; the outcome itself where it has one file.

    A file without record has ended, if at all, with its Batch task.
    """
    if not task.members:
        return [outcome]
    begun = any(name in records.files for name in task.members)
    return [outcome_of_file(outcome, name, records.files.get(name), others=begun) for name in task.members]


def outcome_of_file(outcome: TaskOutcome, name: str, written: Written | None, *, others: bool = False) -> TaskOutcome:
    """The outcome of the file of that name.

    outcome: of its Batch task. written: its record, if there is one. others: whether other files of the group have one.
    """
    if written is None:
        return _without_record(outcome, name, others)
    found, record = written.record, written.record.record
    cause, detail = (None, "") if found.succeeded else _cause(found.problem, record.exit_code)
    return TaskOutcome(
        id=outcome.id,
        file=name,
        state=BatchTaskState.COMPLETED.value,
        exit_code=None if found.problem and not record.exit_code else record.exit_code,
        node=record.node or None,
        started=found.began,
        seconds=record.seconds,
        retries=written.tries - 1,
        requeues=outcome.requeues,
        succeeded=found.succeeded,
        cause=cause,
        detail=detail,
        stderr="" if found.succeeded else shown_end(found.stderr_end),
    )


def _without_record(outcome: TaskOutcome, name: str, others: bool) -> TaskOutcome:
    # Not when it began, which says nothing about this file.
    own = replace(outcome, file=name, started=None, seconds=None, retries=0)
    if outcome.failed and others and outcome.cause in _OF_SCRIPT:
        return replace(own, cause=Cause.NOT_RUN, exit_code=None, failure=None, stderr="")
    return own


def _cause(problem: str, exit_code: int) -> tuple[Cause, str]:
    if not problem:
        return cause_of_exit(exit_code), ""
    if killed := _KILLED.match(problem):
        number = int(killed[1])
        with suppress(ValueError):
            return Cause.KILLED, signal.Signals(number).name
        return Cause.KILLED, str(number)
    cause = next((cause for start, cause in _PROBLEMS.items() if problem.startswith(start)), None)
    return (cause, "") if cause else (Cause.OTHER, problem)


def by_batch_task(outcomes: Sequence[TaskOutcome]) -> list[TaskOutcome]:
    """The outcomes of files as those of their Batch tasks, each from its first start to its last end."""
    groups: dict[tuple[str, bool], list[TaskOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.id, outcome.earlier), []).append(outcome)
    return [group[0] if len(group) == 1 else _together(group) for group in groups.values()]


def _together(files: Sequence[TaskOutcome]) -> TaskOutcome:
    running = next((each for each in files if not each.completed), None)
    last = running or max(files, key=lambda each: each.failed)
    started = min((each.started for each in files if each.started), default=None)
    ends = [each.ended for each in files if each.ended]
    return replace(
        last,
        started=started,
        seconds=(max(ends) - started).total_seconds() if started and ends and not running else None,
        node=last.node or next((each.node for each in files if each.node), None),
    )


def all_succeeded(names: Sequence[str], records: GroupRecords) -> bool:
    """Whether each of the files has the record of a success."""
    return all((written := records.files.get(name)) is not None and written.record.succeeded for name in names)


def shown_end(text: str) -> str:
    """The end of what was written to stdout or stderr, without secrets, and without bytes that are no text."""
    readable = text.strip().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return without_secrets(readable)[-MOST_SHOWN:]  # first blanked, then cut
