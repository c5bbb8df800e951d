-- Version 2: what is read of a job does not depend on the number of its tasks.
DROP INDEX tasks_to_run;
CREATE INDEX tasks_to_run ON tasks (job, slots, seq)
    WHERE json_extract(document, '$.state') = 'active' AND blocked = 0;
CREATE INDEX tasks_by_state ON tasks (job, state, id);
CREATE INDEX tasks_by_result ON tasks (job, result, id) WHERE result IS NOT NULL;
