"""The state machines of the Batch service: states and allowed transitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from local_azure.batch.state.wire import timestamp


@dataclass(frozen=True, kw_only=True)
class Machine:
    """States and transitions of one kind of resource, kept in the document's property `name`."""

    name: str = "state"
    remembers: bool = False  # whether the document has the previous state, too
    transitions: Mapping[str, str]  # from a state to its allowed successors, separated by spaces

    def may_enter(self, document: Mapping[str, Any], state: str) -> bool:
        before = document.get(self.name)
        return before in (None, state) or state in self.transitions[before].split()

    def enter(self, document: dict[str, Any], state: str, now: datetime) -> None:
        """Move the document to the state; nothing changes if it is in that state already."""
        before = document.get(self.name)
        if before == state:
            return
        assert self.may_enter(document, state), f"{before} -> {state}"
        if before is not None and self.remembers:
            document["previousState"] = before
            document["previousStateTransitionTime"] = document["stateTransitionTime"]
        document[self.name] = state
        document[f"{self.name}TransitionTime"] = timestamp(now)


POOL = Machine(transitions={"active": "deleting", "deleting": ""})

ALLOCATION = Machine(
    name="allocationState",
    transitions={"steady": "resizing", "resizing": "steady stopping", "stopping": "steady resizing"},
)

# The states that a node may enter from any other.
_LOST = " leavingpool preempted unusable rebooting reimaging deallocating"
NODE = Machine(
    transitions={
        "creating": "starting" + _LOST,
        "starting": "waitingforstarttask idle offline" + _LOST,
        "waitingforstarttask": "idle offline starttaskfailed" + _LOST,
        "starttaskfailed": "" + _LOST,
        "idle": "running offline" + _LOST,
        "running": "idle offline" + _LOST,
        "offline": "idle running" + _LOST,
        "rebooting": "starting" + _LOST,
        "reimaging": "starting" + _LOST,
        "deallocating": "deallocated" + _LOST,
        "deallocated": "starting" + _LOST,
        "preempted": "creating leavingpool",
        "unusable": "leavingpool rebooting reimaging",
        "leavingpool": "",
    },
)

JOB = Machine(
    remembers=True,
    transitions={
        "active": "disabling terminating deleting completed",  # completed at once where its auto pool is refused
        "disabling": "disabled terminating deleting",
        "disabled": "enabling disabling terminating deleting",
        "enabling": "active disabling terminating deleting",
        "terminating": "completed deleting",
        "completed": "deleting",
        "deleting": "",
    },
)

SCHEDULE = Machine(
    remembers=True,
    transitions={
        "active": "disabled terminating deleting completed",
        "disabled": "active terminating deleting completed",
        "terminating": "completed deleting",
        "completed": "deleting",
        "deleting": "",
    },
)

SUBTASK = Machine(
    remembers=True, transitions={"preparing": "running completed", "running": "completed", "completed": ""}
)

TASK = Machine(
    remembers=True,
    transitions={
        "active": "preparing running completed",
        "preparing": "running active completed",
        "running": "completed active",
        "completed": "active",
    },
)
