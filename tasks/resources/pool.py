"""The pool of a run: create, adopt, tag, scale, delete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from azure.batch import BatchClient
from azure.batch.models import (
    AllocationState,
    AutoUserScope,
    AutoUserSpecification,
    BatchNodeState,
    BatchPool,
    BatchPoolCreateOptions,
    BatchPoolEnableAutoScaleOptions,
    BatchPoolState,
    BatchPoolUpdateOptions,
    BatchStartTask,
    BatchTaskExecutionResult,
    ElevationLevel,
    ResourceFile,
    UserIdentity,
)
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from tasks.errors import InputError
from tasks.errors.codes import Code
from tasks.packages.needed import FILES_TO_INSTALL, SET_UP_NODE
from tasks.resources.container_image import refuse_pool_without_containers, refuse_pool_without_identity
from tasks.resources.images import machine
from tasks.resources.network import network
from tasks.resources.resource import Creatable, Found, Kind, Resource
from tasks.resources.tags import metadata, tags
from tasks.run.identity import Run
from tasks.run.settings import Disposal, PoolSettings
from tasks.run.tags import Tags
from tasks.run.uploads import UploadedFile
from tasks.run.vm_sizes import same_size

RESIZE_TIMEOUT = timedelta(minutes=15)  # Azure's default, explicit because a quota problem shows only after it

EVALUATION_INTERVAL = timedelta(minutes=5)  # of the autoscale formula; the service allows no shorter one

FORMULAS_APART = timedelta(seconds=31)  # the service takes one at most every 30 seconds

# The SDK keeps the model of this body private, and fails without a body.
_REQUEUE: Any = {"nodeRebootOption": "requeue"}
LOST_NODES = {BatchNodeState.START_TASK_FAILED, BatchNodeState.UNUSABLE}


class PoolResource(Resource):
    """A pool by its id."""

    kind = Kind.POOL
    exists = Code.POOL_EXISTS
    being_deleted = Code.POOL_BEING_DELETED

    def __init__(self, batch: BatchClient, id: str) -> None:
        super().__init__(id)
        self._batch = batch

    def read(self) -> Found:
        return _found(self._batch.get_pool(self.id))

    def mark(self, tags: Tags) -> None:
        self._batch.update_pool(self.id, BatchPoolUpdateOptions(metadata=metadata(tags)))

    def delete(self) -> None:
        self._batch.begin_delete_pool(self.id)


class Pool(PoolResource, Creatable):
    """The run's own pool."""

    def __init__(
        self,
        batch: BatchClient,
        run: Run,
        settings: PoolSettings,
        files: Sequence[UploadedFile] = (),
        disposal: Disposal = Disposal.DELETE,
        vm_size: str = "",
    ) -> None:
        """vm_size: the one to create it with, of those in the settings; the first where none is given."""
        super().__init__(batch, run.pool_id)
        self.asked_at = datetime.now(timezone.utc)  # when it was last to be created; from then on its nodes bill
        self._vm_size = vm_size or settings.vm_size[0]
        self._tags = replace(run.tags, kept=disposal is Disposal.KEEP)
        self._run = run
        self._settings = settings
        self._files = files  # for the nodes; known where the pool may be created

    @property
    def nodes_until(self) -> datetime:
        """The deadline in its formula, once it was created or adopted."""
        return self._run.nodes_until(self._settings.dedicated_nodes, self._settings.spot_nodes, self.asked_at)

    def create(self) -> None:
        settings = self._settings
        self.asked_at = datetime.now(timezone.utc)
        self._batch.create_pool(
            BatchPoolCreateOptions(
                id=self.id,
                vm_size=self._vm_size,
                virtual_machine_configuration=machine(self._batch, settings),
                network_configuration=network(settings),
                enable_auto_scale=True,
                auto_scale_formula=self._formula(),
                auto_scale_evaluation_interval=EVALUATION_INTERVAL,
                task_slots_per_node=settings.slots_per_node,
                resize_timeout=RESIZE_TIMEOUT,
                start_task=self._start_task(),
                metadata=metadata(self._tags),
            )
        )

    def renew(self, found: Found) -> None:
        """The new deadline, and a start task whose SAS URL lives as long, for nodes that are still to come."""
        _scale(self._batch, self.id, self._formula())
        self._batch.update_pool(self.id, BatchPoolUpdateOptions(start_task=self._start_task()))
        self._reboot_lost_nodes()
        self.mark(self._tags)  # last: the tags say that all of it is done

    def set_nodes(self, until: datetime, added: int = 0) -> None:
        """Keep the nodes of the settings until then, and `added` dedicated ones besides."""
        set_nodes(self._batch, self.id, self._settings.dedicated_nodes + added, self._settings.spot_nodes, until)

    def use_size(self, vm_size: str, until: datetime, added: int = 0) -> bool:
        """Give the pool, which has no nodes, another VM size and have nodes allocated at once; repeatable.

        until, added: as of set_nodes. False where nodes have come, or are being allocated, of its present size, which
        it then keeps.
        """
        settings = self._settings
        found = self._batch.get_pool(self.id)
        if not same_size(found.vm_size or "", vm_size):
            if (found.current_dedicated_nodes or found.current_low_priority_nodes) or not _is_steady(found):
                return False
            # With its machine, because the service's reference says that this must be specified.
            changes = BatchPoolUpdateOptions(
                vm_size=vm_size, virtual_machine_configuration=machine(self._batch, settings)
            )
            try:
                self._batch.update_pool(self.id, changes)
            except ResourceExistsError:  # they have come just now
                return False
            found = self._batch.get_pool(self.id)
        if found.enable_auto_scale and not _is_steady(found):  # the formula was evaluated just now
            return True
        # Off and on again: Azure evaluates a formula when it is enabled, but may not do so any more after a failed
        # allocation: Microsoft's GA4GH TES resets it so. A pool without nodes gets none while it is off.
        if found.enable_auto_scale:  # else the answer to what follows was lost
            self._batch.disable_pool_auto_scale(self.id)
        self.set_nodes(until, added)
        return True

    def _reboot_lost_nodes(self) -> None:
        """Give nodes whose start task found its SAS URL dead, say, another try with the new one."""
        for node in self._batch.list_nodes(self.id, select=["id", "state"]):
            if node.state in LOST_NODES:
                with suppress(ResourceNotFoundError, ResourceExistsError):  # gone, or rebooting already
                    self._batch.begin_reboot_node(self.id, node.id, _REQUEUE)

    def _formula(self) -> str:
        return scale(self.nodes_until, self._settings.dedicated_nodes, self._settings.spot_nodes)

    def _start_task(self) -> BatchStartTask | None:
        return _start_task(self._files) if self._files else None


def _is_steady(pool: BatchPool) -> bool:
    return pool.allocation_state == AllocationState.STEADY


def scale(deadline: datetime, dedicated: int, spot: int) -> str:
    """The autoscale formula: this many nodes until the deadline and none after it, even if nobody watches the run.

    It reads no samples: a formula that cannot be computed leaves the pool as it is, and billing.
    """
    return (
        f'over = time() >= time("{deadline.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}");\n'
        f"$TargetDedicatedNodes = over ? 0 : {dedicated};\n"
        f"$TargetLowPriorityNodes = over ? 0 : {spot};\n"
        "$NodeDeallocationOption = requeue;"
    )


def _scale(batch: BatchClient, pool_id: str, formula: str) -> None:
    # The service takes a formula at most every 30 seconds, so none is sent twice.
    if batch.get_pool(pool_id).auto_scale_formula != formula:
        options = BatchPoolEnableAutoScaleOptions(
            auto_scale_formula=formula, auto_scale_evaluation_interval=EVALUATION_INTERVAL
        )
        batch.enable_pool_auto_scale(pool_id, options)


def set_nodes(batch: BatchClient, pool_id: str, dedicated: int, spot: int, until: datetime) -> None:
    """Have a run's own pool keep this number of nodes until then; none, for example, while the run cannot use them."""
    _scale(batch, pool_id, scale(until, dedicated, spot))


def list_pools(batch: BatchClient) -> Iterator[Found]:
    fields = ["id", "state", "metadata", "currentDedicatedNodes", "currentLowPriorityNodes"]
    return map(_found, batch.list_pools(select=fields))


def _found(pool: BatchPool) -> Found:
    return Found(
        kind=Kind.POOL,
        id=pool.id or "",
        tags=Tags.read(tags(pool.metadata)),
        state=str(getattr(pool.state, "value", pool.state) or ""),
        dedicated_nodes=pool.current_dedicated_nodes or 0,
        spot_nodes=pool.current_low_priority_nodes or 0,
    )


def existing_pool(batch: BatchClient, settings: PoolSettings) -> BatchPool:
    """The existing pool that the settings name; InputError where there is none that could take the tasks."""
    pool_id = settings.existing_pool_id or ""
    try:
        pool = batch.get_pool(pool_id)
    except ResourceNotFoundError:
        raise InputError(
            f"pool {pool_id!r} does not exist in this Batch account; `az batch pool list` shows those that do"
        ) from None
    if pool.state == BatchPoolState.DELETING:
        raise InputError(f"pool {pool_id!r} is being deleted; name another, or none to have one made")
    if settings.slots_per_task > (slots := pool.task_slots_per_node or 1):
        raise InputError(
            f"slots_per_task is {settings.slots_per_task}, but a node of pool {pool_id!r} has {slots}; "
            "no node could ever run such a task"
        )
    refuse_pool_without_containers(pool, settings)
    refuse_pool_without_identity(pool, settings.node_identity)
    return pool


def nodes_of(pool: BatchPool) -> tuple[int, int]:
    """The dedicated and spot nodes that the pool has or is to have; one, if it has none and scales by itself."""
    current = pool.current_dedicated_nodes or 0, pool.current_low_priority_nodes or 0
    target = pool.target_dedicated_nodes or 0, pool.target_low_priority_nodes or 0
    return max((1, 0), current, target, key=sum)


def _start_task(files: Sequence[UploadedFile]) -> BatchStartTask:
    """Copies scripts to the directory that all tasks of a node share, and installs there what is in archives."""
    names = [file.name for file in files]
    # The start task's user is not the tasks' user: the copy keeps a mode under which anyone may read it.
    copied = " ".join(name for name in names if name not in FILES_TO_INSTALL)
    commands = [f'cp -p {copied} "$AZ_BATCH_NODE_SHARED_DIR"/'] if copied else []
    commands += [f"python3 {SET_UP_NODE}"] if SET_UP_NODE in names else []
    return BatchStartTask(
        command_line=f"/bin/sh -c '{' && '.join(commands)}'",
        resource_files=[ResourceFile(http_url=file.sas_url, file_path=file.name, file_mode="0755") for file in files],
        user_identity=UserIdentity(
            auto_user=AutoUserSpecification(scope=AutoUserScope.POOL, elevation_level=ElevationLevel.ADMIN)
        ),
        wait_for_success=True,
        max_task_retry_count=2,
    )


def set_up_seconds(batch: BatchClient, pool_id: str) -> list[float]:
    """How long the start task took on each node where it succeeded, with the download of its files."""
    nodes = batch.list_nodes(pool_id, select=["id", "startTaskInfo"])
    infos = [node.start_task_info for node in nodes if node.start_task_info]
    return [
        (info.end_time - info.start_time).total_seconds()
        for info in infos
        if info.end_time and info.start_time and info.result == BatchTaskExecutionResult.SUCCESS
    ]


def node_count(dedicated: int, spot: int) -> str:
    """Such as "2 dedicated and 1 spot nodes"."""
    kinds = [f"{count} {kind}" for count, kind in ((dedicated, "dedicated"), (spot, "spot")) if count]
    return (" and ".join(kinds) or "0") + (" node" if dedicated + spot == 1 else " nodes")


def is_spot(node_id: str) -> bool:
    """Whether the id is that of a spot node, by the ending that the service gives it."""
    return node_id.endswith("_p")
