"""Jobs and tasks under any sequence of requests: states and refusals are those of the contract."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from azure.batch import models as m
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from local_azure.batch.state.states import JOB, TASK
from tests.support.batch_service import QUICK, RunningService, create_job, create_pool, shell, task

REASON: Any = {"terminateReason": "Enough"}
TASKS = st.sampled_from(["one", "two", "three"])
COMMANDS = st.sampled_from(
    ["/bin/true", "/bin/false", "/bin/sleep 0.05", shell("exit 3"), "no-such-program", "/bin/sleep 30"]
)
COORDINATIONS = st.sampled_from([None, None, None, "/bin/true", shell("/bin/sleep 30 & exit 0"), shell("exit 2")])


class JobsAndTasks(RuleBasedStateMachine):
    """`tasks` are the ids that must exist, `states` the state in which each was seen last; the job's id is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.service = RunningService(Path(self.directory.name) / "batch", QUICK)
        self.service.start()
        self.client = self.service.client()
        create_pool(self.client, target_dedicated_nodes=2, enable_inter_node_communication=True)
        create_job(self.client)
        self.tasks: set[str] = set()
        self.over = False
        self.states: dict[str, str] = {}

    def teardown(self) -> None:
        self.service.stop()
        self.directory.cleanup()

    def _refused(self, action, *codes: str) -> bool:
        refusal = None
        try:
            action()
        except (ResourceExistsError, ResourceNotFoundError) as error:
            refusal = error.error.code
        assert refusal in (None, *codes)
        return refusal is not None

    @rule(name=TASKS, command=COMMANDS, retries=st.integers(0, 2), coordination=COORDINATIONS)
    def add(self, name, command, retries, coordination):
        options = task(name, command, constraints=m.BatchTaskConstraints(max_task_retry_count=retries))
        if coordination:
            options.multi_instance_settings = m.MultiInstanceSettings(
                coordination_command_line=coordination, number_of_instances=2
            )
        ended = ("JobCompleted", "JobBeingTerminated")
        refused = self._refused(lambda: self.client.create_task("job", options), "TaskExists", *ended)
        assert refused == (name in self.tasks or self.over)
        if not refused:
            self.tasks.add(name)
            self.states.pop(name, None)

    @rule(name=TASKS)
    def terminate(self, name):
        refused = self._refused(lambda: self.client.terminate_task("job", name), "TaskCompleted", "TaskNotFound")
        assert refused or name in self.tasks

    @rule(name=TASKS)
    def reactivate(self, name):
        codes = ("TaskNotCompleted", "TaskSucceeded", "TaskNotFound", "JobCompleted")
        refused = self._refused(lambda: self.client.reactivate_task("job", name), *codes)
        assert refused or (name in self.tasks and not self.over)

    @rule(name=TASKS)
    def delete(self, name):
        refused = self._refused(lambda: self.client.delete_task("job", name), "TaskNotFound")
        assert refused == (name not in self.tasks)
        self.tasks.discard(name)
        self.states.pop(name, None)

    @precondition(lambda self: not self.over)
    @rule(option=st.sampled_from(["requeue", "terminate", "wait"]))
    def disable(self, option):
        options = m.BatchJobDisableOptions(disable_tasks=option)
        self._refused(lambda: self.client.begin_disable_job("job", options), "OperationInvalidForCurrentState")

    @precondition(lambda self: not self.over)
    @rule()
    def enable(self):
        self._refused(lambda: self.client.begin_enable_job("job"), "OperationInvalidForCurrentState")

    @precondition(lambda self: not self.over)
    @rule()
    def terminate_job(self):
        self.client.begin_terminate_job("job", REASON)
        self.over = True
        assert self.client.get_job("job").state in ("terminating", "completed")

    @invariant()
    def what_exists_is_what_was_added_and_moves_as_it_may(self):
        found = {item.id: item for item in self.client.list_tasks("job")}
        assert found.keys() == self.tasks
        for name, item in found.items():
            before = self.states.get(name, "active")
            assert item.state in _reachable(TASK.transitions, before), f"{before} -> {item.state}"
            self.states[name] = item.state
            info = item.execution_info
            assert (item.state == "completed") == (info.result is not None)
            assert (info.result == "failure") == (info.failure_info is not None)
            assert item.state != "running" or item.node_info is not None
            if item.state == "completed":
                assert {each.state for each in self.client.list_subtasks("job", name)} <= {"completed"}

    @invariant()
    def job_is_in_a_state_that_it_may_be_in(self):
        job = self.client.get_job("job")
        before = self.states.get("", "active")
        assert job.state in _reachable(JOB.transitions, before)
        self.states[""] = job.state

    @invariant()
    def nodes_run_no_more_than_they_have_slots_for(self):
        nodes = list(self.client.list_nodes("pool"))
        assert len(nodes) == 2
        for node in nodes:
            assert node.running_task_slots_count <= 1
            assert node.state in ("idle", "running")


def _reachable(transitions, state: str) -> set[str]:
    """The states that may come after a state, at once or later."""
    found, new = {state}, [state]
    while new:
        following = set(transitions[new.pop()].split()) - found
        found |= following
        new += following
    return found


TestJobsAndTasks = JobsAndTasks.TestCase
TestJobsAndTasks.settings = settings(
    max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
