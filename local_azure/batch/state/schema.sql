-- The state of one Batch account. Every resource is a row: its keys, and the JSON document that clients see. Columns used
-- in queries are generated from the document, so the two cannot differ; data that clients never see has its own columns.
-- Ids are stored in lower case, as Batch compares them; the document has them as written.
-- No STRICT tables: they need SQLite 3.37, and Python 3.10 is also built with older versions.

CREATE TABLE account (
    instance TEXT NOT NULL          -- marks the processes of this data directory
);

CREATE TABLE pools (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}'
);

CREATE TABLE nodes (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    pool     TEXT NOT NULL REFERENCES pools (id),
    id       TEXT NOT NULL,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}',
    state    TEXT GENERATED ALWAYS AS (json_extract(document, '$.state')) VIRTUAL,
    UNIQUE (pool, id)
);

CREATE TABLE node_users (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    node     INTEGER NOT NULL REFERENCES nodes (seq) ON DELETE CASCADE,
    id       TEXT NOT NULL,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}',
    UNIQUE (node, id)
);

CREATE TABLE schedules (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}'
);

CREATE TABLE jobs (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}',
    state    TEXT GENERATED ALWAYS AS (json_extract(document, '$.state')) VIRTUAL,
    priority INTEGER GENERATED ALWAYS AS (json_extract(document, '$.priority')) VIRTUAL,
    pool     TEXT GENERATED ALWAYS AS (lower(json_extract(document, '$.executionInfo.poolId'))) VIRTUAL,
    schedule TEXT                   -- the id of the job schedule that created it
);
CREATE INDEX jobs_of_pool ON jobs (pool, state, priority);
CREATE INDEX jobs_of_schedule ON jobs (schedule) WHERE schedule IS NOT NULL;

CREATE TABLE tasks (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    job      TEXT NOT NULL REFERENCES jobs (id),
    id       TEXT NOT NULL,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}',
    blocked  INTEGER NOT NULL DEFAULT 0,    -- 1 while a task that it depends on is not as required
    satisfies INTEGER NOT NULL DEFAULT 0,   -- 1 once it has ended as those that depend on it require
    expires  TEXT,                          -- when its directory on the node is to be removed
    state    TEXT GENERATED ALWAYS AS (json_extract(document, '$.state')) VIRTUAL,
    result   TEXT GENERATED ALWAYS AS (json_extract(document, '$.executionInfo.result')) VIRTUAL,
    slots    INTEGER GENERATED ALWAYS AS (json_extract(document, '$.requiredSlots')) VIRTUAL,
    node     TEXT GENERATED ALWAYS AS (json_extract(document, '$.nodeInfo.nodeId')) VIRTUAL,
    UNIQUE (job, id)
);
CREATE INDEX tasks_to_run ON tasks (job, seq) WHERE json_extract(document, '$.state') = 'active' AND blocked = 0;
CREATE INDEX tasks_of_node ON tasks (json_extract(document, '$.nodeInfo.nodeId'), seq)
    WHERE json_extract(document, '$.nodeInfo.nodeId') IS NOT NULL;
CREATE INDEX tasks_to_clean ON tasks (expires) WHERE expires IS NOT NULL;

-- The number of tasks per job, state and result, maintained by triggers: read often, and slow to count.
CREATE TABLE task_counts (
    job    TEXT NOT NULL,
    state  TEXT NOT NULL,
    result TEXT NOT NULL,
    tasks  INTEGER NOT NULL,
    slots  INTEGER NOT NULL,
    PRIMARY KEY (job, state, result)
) WITHOUT ROWID;

CREATE TRIGGER task_added AFTER INSERT ON tasks BEGIN
    INSERT INTO task_counts VALUES (new.job, new.state, ifnull(new.result, ''), 1, new.slots)
        ON CONFLICT DO UPDATE SET tasks = tasks + 1, slots = slots + new.slots;
END;
CREATE TRIGGER task_removed AFTER DELETE ON tasks BEGIN
    UPDATE task_counts SET tasks = tasks - 1, slots = slots - old.slots
        WHERE job = old.job AND state = old.state AND result = ifnull(old.result, '');
END;
CREATE TRIGGER task_changed AFTER UPDATE OF document ON tasks
    WHEN old.state <> new.state OR ifnull(old.result, '') <> ifnull(new.result, '') BEGIN
    UPDATE task_counts SET tasks = tasks - 1, slots = slots - old.slots
        WHERE job = old.job AND state = old.state AND result = ifnull(old.result, '');
    INSERT INTO task_counts VALUES (new.job, new.state, ifnull(new.result, ''), 1, new.slots)
        ON CONFLICT DO UPDATE SET tasks = tasks + 1, slots = slots + new.slots;
END;

-- The dependencies of tasks: an id, or a range of integer ids.
CREATE TABLE dependencies (
    job      TEXT NOT NULL,
    task     INTEGER NOT NULL REFERENCES tasks (seq) ON DELETE CASCADE,
    on_task  TEXT,
    on_first INTEGER,
    on_last  INTEGER
);
CREATE INDEX dependencies_of_task ON dependencies (task);
CREATE INDEX dependencies_on_task ON dependencies (job, on_task);

-- A job on a node: its job preparation and release tasks there.
CREATE TABLE job_nodes (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    job      TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    id       TEXT NOT NULL,         -- the node's
    pool     TEXT NOT NULL,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}',
    UNIQUE (job, id)
);

-- Running attempts, or those that ran when the service was killed. A row is written before the process is started and
-- removed in the transaction that records its end.
CREATE TABLE attempts (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    kind  TEXT NOT NULL,            -- see scheduler.Kind
    pool  TEXT NOT NULL,
    node  TEXT NOT NULL,
    job   TEXT,
    task  INTEGER,                  -- tasks.seq; a deleted task's attempt still holds its slots
    slots INTEGER NOT NULL,
    stop  TEXT                      -- why it was told to end, see scheduler.Stop
);
CREATE INDEX attempts_of_node ON attempts (pool, node);
CREATE INDEX attempts_of_job ON attempts (job);
CREATE UNIQUE INDEX attempts_of_task ON attempts (task) WHERE task IS NOT NULL;

-- Directories to be removed, relative to the data directory.
CREATE TABLE remains (path TEXT NOT NULL);
