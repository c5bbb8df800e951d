"""Task dependencies: `dependsOn`, by ids and by ranges of integer ids."""

from __future__ import annotations

from local_azure.batch.engine.service import Service
from local_azure.batch.state.errors import BatchError, Code, invalid_property
from local_azure.batch.state.store import Document, Row

MAXIMUM_CHARACTERS = 64_000  # in total, of the ids a task depends on
LONGEST_RANGE = 2**31 - 1  # the largest integer in a range of ids

# Counts the unsatisfied dependencies of a task: ids, and ranges of which an integer is missing.
_UNSATISFIED = """
    SELECT count(*) FROM dependencies AS wanted WHERE task = ? AND CASE
        WHEN on_task IS NOT NULL THEN NOT EXISTS (
            SELECT 1 FROM tasks WHERE job = wanted.job AND id = wanted.on_task AND satisfies = 1)
        WHEN EXISTS (  -- only to count less often: it finds one at once, until the last tasks of the range run
            SELECT 1 FROM tasks WHERE job = wanted.job AND state IN ('active', 'running') AND id NOT GLOB '*[^0-9]*'
                AND CAST(id AS INTEGER) BETWEEN wanted.on_first AND wanted.on_last AND satisfies = 0) THEN 1
        ELSE on_last - on_first + 1 > (
            SELECT count(DISTINCT CAST(id AS INTEGER)) FROM tasks WHERE job = wanted.job AND satisfies = 1
                AND id NOT GLOB '*[^0-9]*' AND CAST(id AS INTEGER) BETWEEN wanted.on_first AND wanted.on_last)
    END
"""


def check(depends_on: Document | None, job: Document) -> None:
    """Raises BatchError for dependencies that are invalid, or that the job does not allow."""
    if not depends_on:
        return
    if not job["usesTaskDependencies"]:
        raise BatchError(Code.TaskDependenciesNotSpecifiedOnJob)
    if sum(map(len, depends_on.get("taskIds", ()))) > MAXIMUM_CHARACTERS:
        raise BatchError(Code.TaskDependencyListTooLong)
    for span in depends_on.get("taskIdRanges", ()):
        if not 0 <= span["start"] <= span["end"]:
            raise invalid_property("dependsOn.taskIdRanges", span, "a range must have 0 <= start <= end")


def add(service: Service, task: Row) -> None:
    """Record the dependencies of the task, and whether they block it. Saves the task."""
    depends_on = task.document.get("dependsOn", {})
    job = task.keys[0]
    rows = [(job, task.seq, name.lower(), None, None) for name in depends_on.get("taskIds", ())]
    rows += [(job, task.seq, None, span["start"], span["end"]) for span in depends_on.get("taskIdRanges", ())]
    if rows:
        service.store.execute_many("INSERT INTO dependencies VALUES (?, ?, ?, ?, ?)", rows)
        task.extra["blocked"] = int(service.store.value(_UNSATISFIED, task.seq) > 0)
        service.store.tasks.save(task)


def satisfy(service: Service, task: Row) -> None:
    """Unblock the tasks whose last unsatisfied dependency was this task, which must be saved."""
    number = int(task.id) if task.id.isascii() and task.id.isdigit() else -1
    number = min(number, LONGEST_RANGE + 1)  # SQLite's integers have 64 bits, an id may have 64 digits
    waiting = service.store.execute(
        "SELECT task FROM dependencies WHERE job = ? AND on_task = ?"
        " UNION SELECT task FROM dependencies WHERE job = ? AND on_task IS NULL AND ? BETWEEN on_first AND on_last",
        task.keys[0],
        task.id,
        task.keys[0],
        number,
    ).fetchall()
    for (seq,) in waiting:
        if not service.store.value(_UNSATISFIED, seq):
            service.store.execute("UPDATE tasks SET blocked = 0 WHERE seq = ?", seq)
