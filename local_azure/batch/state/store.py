"""The durable state: an SQLite file; every change is committed before its response is sent."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from heapq import merge
from pathlib import Path
from typing import Any

import orjson

_SCRIPTS = ("schema.sql", "schema_2.sql", "schema_3.sql")  # each leads to the next version of the schema
SCHEMA_VERSION = len(_SCRIPTS)

Document = dict[str, Any]


class UnusableState(Exception):
    """The state in the data directory cannot be read, or was written by a newer version of this service."""


@dataclass(kw_only=True)
class Row:
    """A resource: `document` is visible to clients (without URLs), `private` is not."""

    keys: tuple[Any, ...]
    document: Document
    private: Document = field(default_factory=dict)
    extra: Document = field(default_factory=dict)  # additional columns of this kind of resource
    seq: int = 0

    @property
    def id(self) -> str:
        """The id in lower case, as stored for lookups."""
        return str(self.keys[-1])


class Table:
    """The rows of one kind of resource. Their keys are the owner's, if there is one, and the id."""

    def __init__(self, database: sqlite3.Connection, name: str, keys: tuple[str, ...], extra: tuple[str, ...] = ()):
        self._database = database
        self._name = name
        self._keys = keys
        self._extra = extra
        self._columns = ", ".join(("seq", *keys, *extra, "document", "private"))
        self._match = " AND ".join(f"{key} = ?" for key in keys)

    def get(self, *keys: Any) -> Row | None:
        return next(self.where(self._match, *keys), None)

    def by_seq(self, seq: int) -> Row | None:
        return next(self.where("seq = ?", seq), None)

    def where(self, condition: str = "1", *values: Any) -> Iterator[Row]:
        """The rows that match the SQL `condition`, which may include ORDER BY and LIMIT."""
        cursor = self._database.execute(f"SELECT {self._columns} FROM {self._name} WHERE {condition}", values)
        return map(self._row, cursor)

    def page(self, owner: tuple[Any, ...], after: str, column: str = "", among: Iterable[str] = ()) -> Iterator[Row]:
        """The owner's rows after the id `after`, ordered by id; only those with one of the values in the column."""
        owned = "".join(f"{key} = ? AND " for key in self._keys[:-1])
        if not column:
            return self.where(f"{owned}id > ? ORDER BY id", *owner, after)
        # Not one query for all values: it would sort what it finds.
        found = (self.where(f"{owned}{column} = ? AND id > ? ORDER BY id", *owner, value, after) for value in among)
        return merge(*found, key=lambda row: row.id)

    def add(self, row: Row) -> Row:
        """Raises sqlite3.IntegrityError if the keys are taken."""
        values = (*row.keys, *row.extra.values(), _dump(row.document), _dump(row.private))
        cursor = self._database.execute(_insert(self._name, (*self._keys, *row.extra, "document", "private")), values)
        row.seq = cursor.lastrowid or 0
        return row

    def save(self, row: Row) -> None:
        names = ("document", "private", *row.extra)
        values = (_dump(row.document), _dump(row.private), *row.extra.values())
        assignments = ", ".join(f"{name} = ?" for name in names)
        self._database.execute(f"UPDATE {self._name} SET {assignments} WHERE seq = ?", (*values, row.seq))

    def remove(self, row: Row) -> None:
        self._database.execute(f"DELETE FROM {self._name} WHERE seq = ?", (row.seq,))

    def _row(self, values: tuple[Any, ...]) -> Row:
        keys = len(self._keys)
        return Row(
            seq=values[0],
            keys=values[1 : 1 + keys],
            extra=dict(zip(self._extra, values[1 + keys : -2], strict=True)),
            document=orjson.loads(values[-2]),
            private=orjson.loads(values[-1]),
        )


class Store:
    """The tables of one data directory. Used by one thread of one process."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)  # SQLite creates its other files with the same mode
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._depth = 0
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            raise UnusableState(f"{path} cannot be used: {error}. Give another directory, or delete this one") from None
        self.pools = Table(self._database, "pools", ("id",))
        self.nodes = Table(self._database, "nodes", ("pool", "id"))
        self.node_users = Table(self._database, "node_users", ("node", "id"))
        self.schedules = Table(self._database, "schedules", ("id",))
        self.jobs = Table(self._database, "jobs", ("id",), ("schedule",))
        self.tasks = Table(self._database, "tasks", ("job", "id"), ("blocked", "satisfies", "expires"))
        self.job_nodes = Table(self._database, "job_nodes", ("job", "id"), ("pool",))

    def _open(self) -> None:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "busy_timeout = 5000",
        ):
            self._database.execute(f"PRAGMA {pragma}")
        version = self.value("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            raise UnusableState(
                f"The data directory has schema version {version}, and this version of the service supports "
                f"{SCHEMA_VERSION}: run the newer version of the service, or use another directory"
            )
        if version < SCHEMA_VERSION:
            self._create(version)
        self.instance = str(self.value("SELECT instance FROM account"))

    def _create(self, version: int) -> None:
        """Create the schema, or what it lacks since that version."""
        scripts = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _SCRIPTS[version:]]
        if version == 0:
            scripts.append(f"INSERT INTO account VALUES ('{uuid.uuid4()}');")
        # One transaction with the version number, so a crash leaves the schema of one version or the other.
        self._database.executescript(
            f"BEGIN IMMEDIATE; {''.join(scripts)} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )

    def latest(self) -> str | None:
        """The latest recorded change of a resource; None if there is no resource."""
        times = ("stateTransitionTime", "allocationStateTransitionTime", "lastModified")
        tables = ("pools", "nodes", "schedules", "jobs", "tasks")
        latest = (f"SELECT max(json_extract(document, '$.{at}')) AS time FROM {of}" for of in tables for at in times)
        found = self.value(f"SELECT max(time) FROM ({' UNION ALL '.join(latest)})")
        return None if found is None else str(found)

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """An atomic transaction, on disk when the context ends. A nested one is part of the outer one."""
        if self._depth:
            yield
            return
        self._database.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._database.execute(sql, values)

    def execute_many(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        self._database.executemany(sql, rows)

    def value(self, sql: str, *values: Any) -> Any:
        """The first column of the first row, or None."""
        row = self._database.execute(sql, values).fetchone()
        return None if row is None else row[0]


@cache
def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _dump(document: Document) -> str:
    return orjson.dumps(document).decode()  # text, which SQLite's own functions for JSON read
