BEGIN TRANSACTION;
CREATE TABLE account (
    instance TEXT NOT NULL          -- marks the processes of this data directory
);
INSERT INTO "account" VALUES('15996989-8872-4147-bc0b-dbab809cf547');
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
INSERT INTO "attempts" VALUES(2,'task','upgraded','tvmps_6ec648c144dd0af905de21df2096b1755018f7958657474d493375c7d75049fb_d','job',2,1,NULL);
CREATE TABLE dependencies (
    job      TEXT NOT NULL,
    task     INTEGER NOT NULL REFERENCES tasks (seq) ON DELETE CASCADE,
    on_task  TEXT,
    on_first INTEGER,
    on_last  INTEGER
);
INSERT INTO "dependencies" VALUES('job',3,'running',NULL,NULL);
CREATE TABLE job_nodes (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    job      TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    id       TEXT NOT NULL,         -- the node's
    pool     TEXT NOT NULL,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}',
    UNIQUE (job, id)
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
INSERT INTO "jobs" VALUES(1,'job','{"priority":0,"maxParallelTasks":-1,"allowTaskPreemption":false,"usesTaskDependencies":true,"onAllTasksComplete":"noaction","onTaskFailure":"noaction","id":"job","poolInfo":{"poolId":"upgraded"},"constraints":{"maxWallClockTime":"P10675199DT2H48M5.4775807S","maxTaskRetryCount":0},"creationTime":"2026-11-22T19:38:27.6882760Z","eTag":"0x8DF48D02E49C1F2","lastModified":"2026-11-22T19:38:27.6882930Z","state":"active","stateTransitionTime":"2026-11-22T19:38:27.6882760Z","executionInfo":{"startTime":"2026-11-22T19:38:27.6882760Z","poolId":"upgraded"}}','{}',NULL);
CREATE TABLE node_users (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    node     INTEGER NOT NULL REFERENCES nodes (seq) ON DELETE CASCADE,
    id       TEXT NOT NULL,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}',
    UNIQUE (node, id)
);
INSERT INTO "node_users" VALUES(1,1,'operator','{"name":"operator","isAdmin":false,"expiryTime":"2026-11-23T19:38:27.6837970Z"}','{}');
CREATE TABLE nodes (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    pool     TEXT NOT NULL REFERENCES pools (id),
    id       TEXT NOT NULL,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}',
    state    TEXT GENERATED ALWAYS AS (json_extract(document, '$.state')) VIRTUAL,
    UNIQUE (pool, id)
);
INSERT INTO "nodes" VALUES(1,'upgraded','tvmps_6ec648c144dd0af905de21df2096b1755018f7958657474d493375c7d75049fb_d','{"id":"tvmps_6ec648c144dd0af905de21df2096b1755018f7958657474d493375c7d75049fb_d","schedulingState":"enabled","allocationTime":"2026-11-22T19:38:27.6143140Z","ipAddress":"10.0.0.4","ipv6Address":"fd00::4","affinityId":"TVM:tvmps_6ec648c144dd0af905de21df2096b1755018f7958657474d493375c7d75049fb_d","vmSize":"standard_d2s_v3","totalTasksRun":1,"totalTasksSucceeded":0,"isDedicated":true,"virtualMachineInfo":{"imageReference":{"publisher":"canonical","offer":"ubuntu-24_04-lts","sku":"server","version":"latest"}},"state":"running","stateTransitionTime":"2026-11-22T19:38:27.7557190Z","lastBootTime":"2026-11-22T19:38:27.6767550Z","nodeAgentInfo":{"version":"1.0.0-local","lastUpdateTime":"2026-11-22T19:38:27.6767550Z"}}','{}');
CREATE TABLE pools (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}'
);
INSERT INTO "pools" VALUES(1,'upgraded','{"resizeTimeout":"PT15M","targetDedicatedNodes":1,"targetLowPriorityNodes":0,"enableAutoScale":false,"enableInterNodeCommunication":false,"taskSlotsPerNode":1,"id":"upgraded","vmSize":"standard_d2s_v3","virtualMachineConfiguration":{"imageReference":{"publisher":"canonical","offer":"ubuntu-24_04-lts","sku":"server","version":"latest"},"nodeAgentSKUId":"batch.node.ubuntu 24.04"},"metadata":[{"name":"kept","value":"since version 1"}],"taskSchedulingPolicy":{"nodeFillType":"Spread"},"creationTime":"2026-11-22T19:38:27.6112930Z","eTag":"0x8DF48D02E3E129E","lastModified":"2026-11-22T19:38:27.6117150Z","state":"active","stateTransitionTime":"2026-11-22T19:38:27.6112930Z","allocationState":"steady","allocationStateTransitionTime":"2026-11-22T19:38:27.6482280Z"}','{}');
CREATE TABLE remains (path TEXT NOT NULL);
CREATE TABLE schedules (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL,
    private  TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE task_counts (
    job    TEXT NOT NULL,
    state  TEXT NOT NULL,
    result TEXT NOT NULL,
    tasks  INTEGER NOT NULL,
    slots  INTEGER NOT NULL,
    PRIMARY KEY (job, state, result)
) WITHOUT ROWID;
INSERT INTO "task_counts" VALUES('job','active','',1,1);
INSERT INTO "task_counts" VALUES('job','completed','failure',1,1);
INSERT INTO "task_counts" VALUES('job','running','',1,1);
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
INSERT INTO "tasks" VALUES(1,'job','done','{"userIdentity":{"autoUser":{"scope":"pool","elevationLevel":"nonadmin"}},"requiredSlots":1,"id":"done","commandLine":"/bin/sh -c ''touch \"$AZ_BATCH_NODE_SHARED_DIR/first\"; exit 3''","constraints":{"maxWallClockTime":"P10675199DT2H48M5.4775807S","retentionTime":"P7D","maxTaskRetryCount":0},"executionInfo":{"retryCount":0,"requeueCount":0,"startTime":"2026-11-22T19:38:27.6934730Z","endTime":"2026-11-22T19:38:27.7413530Z","exitCode":3,"result":"failure","failureInfo":{"category":"usererror","code":"FailureExitCode","message":"The task exited with an exit code representing a failure","details":[{"name":"Message","value":"The task process exited with an unexpected exit code"},{"name":"AdditionalErrorCode","value":"FailureExitCode"}]}},"creationTime":"2026-11-22T19:38:27.6923410Z","eTag":"0x8DF48D02E4A60D0","lastModified":"2026-11-22T19:38:27.6923600Z","state":"completed","stateTransitionTime":"2026-11-22T19:38:27.7413530Z","previousState":"running","previousStateTransitionTime":"2026-11-22T19:38:27.6934730Z","nodeInfo":{"affinityId":"TVM:tvmps_6ec648c144dd0af905de21df2096b1755018f7958657474d493375c7d75049fb_d","poolId":"upgraded","nodeId":"tvmps_6ec648c144dd0af905de21df2096b1755018f7958657474d493375c7d75049fb_d","taskRootDirectory":"workitems/job/job-1/done"}}','{}',0,0,'2026-11-29T19:38:27.7413530Z');
INSERT INTO "tasks" VALUES(2,'job','running','{"userIdentity":{"autoUser":{"scope":"pool","elevationLevel":"nonadmin"}},"requiredSlots":1,"id":"running","commandLine":"/bin/sh -c ''test ! -e \"$AZ_BATCH_NODE_SHARED_DIR/first\" || exec sleep 60''","constraints":{"maxWallClockTime":"P10675199DT2H48M5.4775807S","retentionTime":"P7D","maxTaskRetryCount":0},"executionInfo":{"retryCount":0,"requeueCount":0,"startTime":"2026-11-22T19:38:27.7557190Z"},"creationTime":"2026-11-22T19:38:27.7544140Z","eTag":"0x8DF48D02E53D980","lastModified":"2026-11-22T19:38:27.7544320Z","state":"running","stateTransitionTime":"2026-11-22T19:38:27.7557190Z","previousState":"active","previousStateTransitionTime":"2026-11-22T19:38:27.7544140Z","nodeInfo":{"affinityId":"TVM:tvmps_6ec648c144dd0af905de21df2096b1755018f7958657474d493375c7d75049fb_d","poolId":"upgraded","nodeId":"tvmps_6ec648c144dd0af905de21df2096b1755018f7958657474d493375c7d75049fb_d","taskRootDirectory":"workitems/job/job-1/running"}}','{}',0,0,NULL);
INSERT INTO "tasks" VALUES(3,'job','waiting','{"userIdentity":{"autoUser":{"scope":"pool","elevationLevel":"nonadmin"}},"requiredSlots":1,"id":"waiting","commandLine":"/bin/sh -c ''test ! -e \"$AZ_BATCH_NODE_SHARED_DIR/first\" || exec sleep 60''","dependsOn":{"taskIds":["running"]},"constraints":{"maxWallClockTime":"P10675199DT2H48M5.4775807S","retentionTime":"P7D","maxTaskRetryCount":0},"executionInfo":{"retryCount":0,"requeueCount":0},"creationTime":"2026-11-22T19:38:27.7657570Z","eTag":"0x8DF48D02E559478","lastModified":"2026-11-22T19:38:27.7657720Z","state":"active","stateTransitionTime":"2026-11-22T19:38:27.7657570Z"}','{}',1,0,NULL);
CREATE INDEX jobs_of_pool ON jobs (pool, state, priority);
CREATE INDEX jobs_of_schedule ON jobs (schedule) WHERE schedule IS NOT NULL;
CREATE INDEX tasks_to_run ON tasks (job, seq) WHERE json_extract(document, '$.state') = 'active' AND blocked = 0;
CREATE INDEX tasks_of_node ON tasks (json_extract(document, '$.nodeInfo.nodeId'), seq)
    WHERE json_extract(document, '$.nodeInfo.nodeId') IS NOT NULL;
CREATE INDEX tasks_to_clean ON tasks (expires) WHERE expires IS NOT NULL;
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
CREATE INDEX dependencies_of_task ON dependencies (task);
CREATE INDEX dependencies_on_task ON dependencies (job, on_task);
CREATE INDEX attempts_of_node ON attempts (pool, node);
CREATE INDEX attempts_of_job ON attempts (job);
CREATE UNIQUE INDEX attempts_of_task ON attempts (task) WHERE task IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('pools',1);
INSERT INTO "sqlite_sequence" VALUES('nodes',1);
INSERT INTO "sqlite_sequence" VALUES('node_users',1);
INSERT INTO "sqlite_sequence" VALUES('jobs',1);
INSERT INTO "sqlite_sequence" VALUES('tasks',3);
INSERT INTO "sqlite_sequence" VALUES('attempts',2);
COMMIT;
PRAGMA user_version = 1;
