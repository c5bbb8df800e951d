-- Version 3: tasks that wait for more nodes than are free hide no others, however many they are.
DROP INDEX tasks_to_run;
ALTER TABLE tasks ADD COLUMN instances INTEGER GENERATED ALWAYS AS
    (ifnull(json_extract(document, '$.multiInstanceSettings.numberOfInstances'), 0)) VIRTUAL;
CREATE INDEX tasks_to_run ON tasks (job, slots, instances, seq)
    WHERE json_extract(document, '$.state') = 'active' AND blocked = 0;
