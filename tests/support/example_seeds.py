"""Creates what an example of the specification presupposes, by the API: its pool with nodes, its job, its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from local_azure.batch.rest import shapes
from tests.support.batch_service import wait_for
from tests.support.examples import Example, described, missing_ids
from tests.support.raw_requests import Raw

Body = dict[str, Any]
MACHINE = {
    "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"},
    "nodeAgentSKUId": "batch.node.ubuntu 24.04",
}
POOL: Body = {"vmSize": "standard_d4s_v3", "virtualMachineConfiguration": MACHINE}
TRUE = "/bin/true"
WRITES = "/bin/sh -c 'echo written | tee testFile.txt > $AZ_BATCH_NODE_ROOT_DIR/testFile.txt'"
SCALED = {"enableAutoScale": True, "autoScaleFormula": "$TargetDedicatedNodes=0"}
LATER = "2999-01-01T00:00:00Z"
UNTIL = {"doNotRunAfter", "expiryTime"}  # times that have passed since the examples were written
SECRETS = {"password": "secret"}
IPV6 = {"networkConfiguration": {"publicIPAddressConfiguration": {"ipFamilies": ["IPv4", "IPv6"]}}}


class Refused(Exception):
    """The service does not create what the example presupposes."""


class Seeds:
    """Prepares a service for one example."""

    def __init__(self, raw: Raw, example: Example) -> None:
        self._raw = raw
        self._example = example
        self._version = example.query["api-version"]
        # The nodes here run Linux.
        self.ids = {name: value.replace("\\", "/") for name, value in example.ids.items()}
        self.body = _later(example.body)

    def plant(self) -> None:
        """Create it all. Raises Refused where the service does not."""
        operation = self._example.operation
        if missing := missing_ids(self._example):
            raise Refused(f"the example has no {', '.join(missing)}")
        if "certificate" in self._example.template:
            return
        for part, of_part in (
            ("poolId", self._pool_of),
            ("jobScheduleId", self._schedule_of),
            ("jobId", self._job_of),
        ):
            if part in self.ids:
                of_part(self.ids[part])
        if plant := _LISTS.get(operation):
            plant(self)

    # Pools and nodes

    def _pool_of(self, pool: str) -> None:
        operation = self._example.operation
        if operation == "get_pool":
            shown = self._example.response
            self.add_pool({**self.settable(shown, "BatchPoolCreateOptions"), "id": pool})
            for identity in shown.get("identity", {}).get("userAssignedIdentities", ()):
                self.send("POST", "/$local/identity", {"poolId": pool, "resourceId": identity["resourceId"]})
            return
        nodes = {"list_nodes": 1, "remove_nodes": 2}.get(operation, int("nodeId" in self.ids))
        scaled = SCALED if operation in ("disable_pool_auto_scale", "evaluate_pool_auto_scale") else {}
        families = IPV6 if "ipv6" in str(self._example.response) else {}
        self.add_pool({**POOL, **scaled, **families, "id": pool}, nodes)
        if operation == "stop_pool_resize":
            self.send("POST", f"/pools/{pool}/resize", {"targetDedicatedNodes": 1})
        if nodes:
            self._nodes_of(pool)

    def _nodes_of(self, pool: str) -> None:
        nodes = [node["id"] for node in self.get(f"/pools/{pool}/nodes")["value"]]
        if self._example.operation == "remove_nodes":
            self.body = {**self._example.body, "nodeList": nodes}
            return
        if "nodeId" not in self.ids:
            self.run_task(pool, "jobId", "task1")
            return
        self.ids["nodeId"] = nodes[0]
        path = f"/pools/{pool}/nodes/{nodes[0]}"
        if self._example.operation in ("delete_node_user", "replace_node_user"):
            self.send("POST", f"{path}/users", {"name": self.ids["userName"], **SECRETS})
        elif self._example.operation == "enable_node_scheduling":
            self.send("POST", f"{path}/disablescheduling")
        elif self._example.operation == "start_node":
            self.send("POST", f"{path}/deallocate")
            wait_for(lambda: self.get(path)["state"] == "deallocated")
        elif self._example.operation in ("get_node", "list_node_files") or "filePath" in self.ids:
            self.run_task(pool, "jobId", "task1")

    def add_pool(self, body: Body, nodes: int = 0) -> None:
        """A pool that is steady, with that many idle nodes after their start task."""
        if body.get("enableAutoScale"):
            body = {name: value for name, value in body.items() if not name.startswith("target") or "Node" not in name}
        elif nodes:
            start = {"commandLine": TRUE, "waitForSuccess": True}
            body = {**body, "targetDedicatedNodes": nodes, "startTask": start}
        self.send("POST", "/pools", body)
        path = f"/pools/{body['id']}"
        wait_for(lambda: self.get(path)["allocationState"] == "steady")
        wait_for(
            lambda: [node["state"] for node in self.get(f"{path}/nodes")["value"]] == ["idle"] * nodes or not nodes
        )

    # Jobs and job schedules

    def _job_of(self, job: str) -> None:
        operation, response = self._example.operation, self._example.response
        if "taskId" in self.ids or "task" in operation.removesuffix("_task_counts").removesuffix("_task_status"):
            self._tasks_of(job)
        elif operation == "get_job":
            self.add_job({**self.settable(response, "BatchJobCreateOptions"), "id": job}, response)
        elif operation == "list_job_preparation_and_release_task_status":
            task = {"commandLine": TRUE}
            self.add_pool({**POOL, "id": "pool"}, 1)
            self.run_task("pool", job, "task", jobPreparationTask=task, jobReleaseTask=task)
            self.lead(f"/jobs/{job}", {"state": "completed"})
        else:
            self.add_job({"id": job, "poolInfo": {"poolId": "poolId"}}, {})
            if operation == "enable_job":
                self.disable(f"/jobs/{job}")

    def add_job(self, body: Body, shown: Mapping[str, Any]) -> None:
        """A job in the state in which the example shows it."""
        self.send("POST", "/jobs", body)
        self.lead(f"/jobs/{body['id']}", shown)

    def lead(self, path: str, shown: Mapping[str, Any]) -> None:
        """Bring a job or job schedule to its state in the example, by way of the one before."""
        if shown.get("state") == "completed":
            self.send("POST", f"{path}/terminate")
            wait_for(lambda: self.get(path)["state"] == "completed")
        elif shown.get("previousState") == "disabled":
            self.disable(path)
            self.send("POST", f"{path}/enable")
            wait_for(lambda: self.get(path)["state"] == "active")

    def disable(self, path: str) -> None:
        self.send("POST", f"{path}/disable", {"disableTasks": "requeue"} if path.startswith("/jobs/") else None)
        wait_for(lambda: self.get(path)["state"] == "disabled")

    def _schedule_of(self, schedule: str) -> None:
        operation, response = self._example.operation, self._example.response
        body: Body = {"jobSpecification": {"poolInfo": {"poolId": "poolId"}}}
        if operation == "list_jobs_from_schedule":
            (job, *_) = response["value"]
            body["jobSpecification"] = self.settable(job, "BatchJobSpecification")
        elif operation == "get_job_schedule":
            body = self.settable(response, "BatchJobScheduleCreateOptions")
        self.add_schedule({**body, "id": schedule}, response if operation == "get_job_schedule" else {})
        if operation == "enable_job_schedule":
            self.disable(f"/jobschedules/{schedule}")
        elif operation == "list_jobs_from_schedule":
            (made,) = wait_for(lambda: self.get(f"/jobschedules/{schedule}/jobs")["value"])
            self.lead(f"/jobs/{made['id']}", job)

    def add_schedule(self, body: Body, shown: Mapping[str, Any]) -> None:
        """A job schedule in the state in which the example shows it, once it has its first job."""
        self.send("POST", "/jobschedules", {"schedule": {}, **_later(body)})
        path = f"/jobschedules/{body['id']}"
        wait_for(lambda: self.get(path)["executionInfo"].get("recentJob"))
        self.lead(path, shown)

    # Tasks

    def _tasks_of(self, job: str) -> None:
        operation = self._example.operation
        if "taskId" not in self.ids:
            self.add_job_for_tasks(job)
            return
        task, response = self.ids["taskId"], self._example.response
        if "filePath" in self.ids or operation in ("list_task_files", "reactivate_task"):
            self.add_pool({**POOL, "id": "pool"}, 1)
            command = "/bin/false" if operation == "reactivate_task" else WRITES
            self.run_task("pool", job, task, command)
            return
        self.add_job_for_tasks(job)
        body: Body = {"commandLine": TRUE}
        if operation == "get_task":
            body = self.settable(response, "BatchTaskCreateOptions")
        self.add_task(job, {**body, "id": task}, response or {})

    def add_job_for_tasks(self, job: str) -> None:
        """A job whose tasks may depend on each other, and decide what becomes of it."""
        rules = {"onTaskFailure": "performexitoptionsjobaction", "usesTaskDependencies": True}
        self.send("POST", "/jobs", {"id": job, "poolInfo": {"poolId": "pool"}, **rules})

    def add_task(self, job: str, body: Body, shown: Mapping[str, Any]) -> None:
        """A task in the state in which the example shows it; one that has run does so with the exit code shown."""
        if shown.get("state") == "completed":
            code = shown.get("executionInfo", {}).get("exitCode", 0)
            body = {**body, "commandLine": f"/bin/sh -c 'exit {code}'"}
            if self._raw("GET", "/pools/pool").status_code == 404:
                self.add_pool({**POOL, "id": "pool"}, 1)
        self.send("POST", f"/jobs/{job}/tasks", body)
        if shown.get("state") == "completed":
            wait_for(lambda: self.get(f"/jobs/{job}/tasks/{body['id']}")["state"] == "completed")

    def run_task(self, pool: str, job: str, task: str, command: str = WRITES, **of_job: Any) -> None:
        self.send("POST", "/jobs", {"id": job, "poolInfo": {"poolId": pool}, **of_job})
        self.send("POST", f"/jobs/{job}/tasks", {"id": task, "commandLine": command})
        wait_for(lambda: self.get(f"/jobs/{job}/tasks/{task}")["state"] == "completed")

    # Requests

    def settable(self, shown: Mapping[str, Any], model: str) -> Body:
        """What a client can set of a resource that an example shows."""
        known = shapes.fields(model, self._version)
        body: Body = {}
        for name, value in shown.items():
            if name in known:
                body[name] = self._settable(value, known[name].type)
        missing = [name for name, field in known.items() if field.required and name not in body and name in SECRETS]
        return {**body, **{name: SECRETS[name] for name in missing}}

    def _settable(self, value: Any, model: str) -> Any:
        if isinstance(value, list):
            return [self._settable(each, model) for each in value]
        return self.settable(value, model) if isinstance(value, dict) and shapes.is_model(model) else value

    def send(self, method: str, path: str, body: Any = None) -> None:
        answer = self._raw(method, path, body=body, version=self._version)
        if answer.status_code >= 400:
            raise Refused(f"{method} {path}: {answer.status_code} {described(answer.json())}")

    def get(self, path: str) -> Body:
        found: Body = self._raw("GET", path, version=self._version).json()
        return found

    # Lists

    def each(self, add: Callable[[Seeds, Body], None]) -> None:
        for shown in self._example.response.get("value", ()):
            add(self, shown)

    def pool_shown(self, shown: Body) -> None:
        self.add_pool(self.settable(shown, "BatchPoolCreateOptions"))

    def job_shown(self, shown: Body) -> None:
        self.add_job(self.settable({**shown, "id": shown["id"].replace(":", "-")}, "BatchJobCreateOptions"), shown)

    def schedule_shown(self, shown: Body) -> None:
        self.add_schedule(self.settable(shown, "BatchJobScheduleCreateOptions"), shown)

    def task_shown(self, shown: Body) -> None:
        self.add_task(self.ids["jobId"], self.settable(shown, "BatchTaskCreateOptions"), shown)


def _later(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: LATER if name in UNTIL else _later(each) for name, each in value.items()}
    return [_later(each) for each in value] if isinstance(value, list) else value


_LISTS: Mapping[str, Callable[[Seeds], None]] = {
    "list_job_schedules": lambda seeds: seeds.each(Seeds.schedule_shown),
    "list_jobs": lambda seeds: seeds.each(Seeds.job_shown),
    "list_pool_node_counts": lambda seeds: seeds.add_pool({**POOL, "id": "pool"}),
    "list_pools": lambda seeds: seeds.each(Seeds.pool_shown),
    "list_tasks": lambda seeds: seeds.each(Seeds.task_shown),
}
