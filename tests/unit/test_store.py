from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_azure.batch.state.store import Row, Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "batch.db")
    yield store
    store.close()


def job(store: Store, name: str = "job") -> Row:
    return store.jobs.add(Row(keys=(name,), document={"id": name, "state": "active"}, extra={"schedule": None}))


def test_rows_come_back_as_they_were_put(store, tmp_path):
    row = job(store)
    row.document["note"] = "ö\u2028\0"
    row.private["secret"] = 1
    store.jobs.save(row)
    other = Store(tmp_path / "batch.db")
    assert other.jobs.get("job") == row
    assert other.instance == store.instance
    other.close()


def test_transaction_is_all_or_nothing(store):
    def failing() -> None:
        with store.transaction():
            job(store)
            with store.transaction():
                job(store, "other")
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert list(store.jobs.where()) == []
    with store.transaction():
        job(store)
    assert store.jobs.get("job") is not None


def test_state_is_on_the_disk_before_the_transaction_is_over(store):
    assert store.value("PRAGMA journal_mode") == "wal"
    assert store.value("PRAGMA synchronous") == 2  # FULL
    assert store.value("PRAGMA foreign_keys") == 1


def test_page_has_the_rows_with_one_of_the_values_in_order_of_their_ids(store):
    job(store)
    for name, state in {"b": "active", "a": "running", "d": "active", "c": "completed", "e": "running"}.items():
        store.tasks.add(Row(keys=("job", name), document={"state": state, "requiredSlots": 1}))
    found = store.tasks.page(("job",), "a", "state", frozenset({"active", "running", "other"}))
    assert [row.id for row in found] == ["b", "d", "e"]
    assert list(store.tasks.page(("job",), "", "state", frozenset())) == []


def test_taken_id_is_refused(store):
    job(store)
    with pytest.raises(sqlite3.IntegrityError):
        job(store)


STATES = st.sampled_from(["active", "running", "completed", "delete"])
RESULTS = st.sampled_from(["success", "failure"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), STATES, RESULTS, st.integers(1, 3)), max_size=40))
def test_counts_of_tasks_are_those_of_the_tasks(tmp_path_factory, changes):
    store = Store(tmp_path_factory.mktemp("store") / "batch.db")
    job(store)
    for number, state, result, slots in changes:
        name = f"t{number}"
        document = {"state": state, "requiredSlots": slots, "executionInfo": {"result": result}}
        row = store.tasks.get("job", name)
        if state == "delete":
            if row:
                store.tasks.remove(row)
        elif row is None:
            store.tasks.add(Row(keys=("job", name), document=document))
        else:
            # The slots of a task never change after it has been added.
            row.document |= {**document, "requiredSlots": row.document["requiredSlots"]}
            store.tasks.save(row)
    kept = store.execute("SELECT state, result, tasks, slots FROM task_counts WHERE tasks > 0 ORDER BY 1, 2").fetchall()
    counted = store.execute(
        "SELECT state, result, count(*), sum(slots) FROM tasks GROUP BY state, result ORDER BY 1, 2"
    ).fetchall()
    assert kept == counted
    store.close()
