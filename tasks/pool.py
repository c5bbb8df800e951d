"""Steps 3 and 9: the pool of nodes, whose start task puts the node script on every node."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from azure.batch import BatchClient
from azure.batch.models import (
    AutoUserScope,
    AutoUserSpecification,
    BatchMetadataItem,
    BatchNodeState,
    BatchPool,
    BatchPoolCreateOptions,
    BatchPoolEnableAutoScaleOptions,
    BatchPoolState,
    BatchPoolUpdateOptions,
    BatchStartTask,
    ElevationLevel,
    ResourceFile,
    UserIdentity,
)
from azure.batch.models._models import BatchNodeRebootOptions  # 15.1 leaves it out of its public names
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.errors import InputError
from tasks.files import UploadedFile
from tasks.resources.base import Resource, keep, make, remove
from tasks.resources.images import machine
from tasks.run.settings import Disposal, PoolSettings, Run
from tasks.step import RETRIES_OF_DELETES, step

RESIZE_TIMEOUT = timedelta(minutes=15)  # Azure's default; said aloud because a quota problem shows only after it
EVALUATION_INTERVAL = timedelta(minutes=5)  # of the autoscale formula; the service allows no shorter one
LOST_NODES = {BatchNodeState.START_TASK_FAILED, BatchNodeState.UNUSABLE}


@dataclass(frozen=True, kw_only=True)
class UsedPool:
    """The pool that a run's tasks run on."""

    id: str
    slots_per_node: int
    own: bool  # created by this run: its start task has put the node script on the nodes
    vm_size: str = ""
    dedicated_nodes: int = 0
    spot_nodes: int = 0
    added_nodes: int = 0  # dedicated ones, asked for while the run waited for spot nodes
    added_at: datetime | None = None

    @property
    def nodes(self) -> int:
        return self.dedicated_nodes + self.spot_nodes + self.added_nodes


class Pool(Resource):
    """The run's own pool."""

    exists = "PoolExists"
    going = "PoolBeingDeleted"

    def __init__(
        self,
        batch: BatchClient,
        run: Run,
        settings: PoolSettings,
        node_script: UploadedFile | None = None,
        disposal: Disposal = Disposal.DELETE,
    ) -> None:
        self._batch = batch
        self._tags = run.tags_for(disposal)
        self._run = run
        self._settings = settings
        self._script = node_script  # known where the pool may be created
        self.name = f"pool {run.pool_id}"

    def create(self) -> None:
        settings = self._settings
        self._batch.create_pool(
            BatchPoolCreateOptions(
                id=self._run.pool_id,
                vm_size=settings.vm_size,
                virtual_machine_configuration=machine(self._batch, settings.image),
                enable_auto_scale=True,
                auto_scale_formula=self._formula(),
                auto_scale_evaluation_interval=EVALUATION_INTERVAL,
                task_slots_per_node=settings.slots_per_node,
                resize_timeout=RESIZE_TIMEOUT,
                start_task=self._start_task(),
                metadata=metadata(self._tags),
            )
        )

    def tags(self) -> Mapping[str, str] | None:
        pool = self._batch.get_pool(self._run.pool_id)
        return None if pool.state == BatchPoolState.DELETING else tags(pool.metadata)

    def renew(self) -> None:
        """The new deadline, and a start task whose SAS URL lives as long, for nodes that are still to come."""
        self._scale(self._formula())
        self._batch.update_pool(self._run.pool_id, BatchPoolUpdateOptions(start_task=self._start_task()))
        self._reboot_lost_nodes()
        self.mark(self._tags)  # last: the tags say that all of it is done

    def mark(self, tags: Mapping[str, str]) -> None:
        self._batch.update_pool(self._run.pool_id, BatchPoolUpdateOptions(metadata=metadata(tags)))

    def delete(self) -> None:
        self._batch.begin_delete_pool(self._run.pool_id)

    def add_dedicated(self) -> None:
        """Ask for as many dedicated nodes, besides, as there should be spot nodes."""
        settings = self._settings
        self._scale(scale(self._run.expires, settings.dedicated_nodes + settings.spot_nodes, settings.spot_nodes))

    def _scale(self, formula: str) -> None:
        # The service takes a formula at most every 30 seconds, so none is sent twice.
        if self._batch.get_pool(self._run.pool_id).auto_scale_formula != formula:
            options = BatchPoolEnableAutoScaleOptions(
                auto_scale_formula=formula, auto_scale_evaluation_interval=EVALUATION_INTERVAL
            )
            self._batch.enable_pool_auto_scale(self._run.pool_id, options)

    def _reboot_lost_nodes(self) -> None:
        """Give nodes whose start task found its SAS URL dead, say, another try with the new one."""
        for node in self._batch.list_nodes(self._run.pool_id, select=["id", "state"]):
            if node.state in LOST_NODES:
                options = BatchNodeRebootOptions(node_reboot_kind="requeue")
                with suppress(ResourceNotFoundError, ResourceExistsError):  # gone, or rebooting already
                    self._batch.begin_reboot_node(self._run.pool_id, node.id, options)

    def _formula(self) -> str:
        return scale(self._run.expires, self._settings.dedicated_nodes, self._settings.spot_nodes)

    def _start_task(self) -> BatchStartTask | None:
        return _start_task(self._script) if self._script else None


def scale(deadline: datetime, dedicated: int, spot: int) -> str:
    """The autoscale formula for so many nodes until the deadline, and none after it, whether or not anybody still asks.

    It reads no samples: a formula that cannot be computed leaves the pool as it is, and billing.
    """
    return (
        f'over = time() >= time("{deadline.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}");\n'
        f"$TargetDedicatedNodes = over ? 0 : {dedicated};\n"
        f"$TargetLowPriorityNodes = over ? 0 : {spot};\n"
        "$NodeDeallocationOption = requeue;"
    )


@step("3 create pool")
def create_pool(
    azure: Azure,
    run: Run,
    settings: PoolSettings,
    node_script: UploadedFile,
    disposal: Disposal = Disposal.DELETE,
) -> UsedPool:
    """Create the run's pool, adopt the one that an earlier try created, or look up the existing one that was asked for.

    Does not wait for the nodes: tasks queue until the first node is ready, and monitoring says what they wait for.
    """
    logger = get_run_logger()
    with azure.batch() as batch:
        if settings.existing_pool_id:
            pool = existing_pool(batch, settings)
            logger.info("Pool %s used as it is: %s of %s", pool.id, _nodes_of(pool), pool.vm_size)
            return UsedPool(
                id=pool.id,
                slots_per_node=pool.task_slots_per_node or 1,
                own=False,
                vm_size=pool.vm_size,
                dedicated_nodes=pool.current_dedicated_nodes or 0,
                spot_nodes=pool.current_low_priority_nodes or 0,
            )
        created = make(run, Pool(batch, run, settings, node_script, disposal))
    logger.info(
        "Pool %s %s: %s of %s with %d task slots each, until %s at the latest; the start task copies %s to every node",
        run.pool_id,
        "created" if created else "is there already",
        node_count(settings.dedicated_nodes, settings.spot_nodes),
        settings.vm_size,
        settings.slots_per_node,
        run.until,
        node_script.blob_name,
    )
    return UsedPool(
        id=run.pool_id,
        slots_per_node=settings.slots_per_node,
        own=True,
        vm_size=settings.vm_size,
        dedicated_nodes=settings.dedicated_nodes,
        spot_nodes=settings.spot_nodes,
    )


@step("9 delete pool", retries=RETRIES_OF_DELETES)
def delete_pool(azure: Azure, run: Run, settings: PoolSettings, disposal: Disposal) -> None:
    """Send the delete of the run's pool; it vanishes with its nodes soon after. Nobody else's pool is touched."""
    logger = get_run_logger()
    if settings.existing_pool_id:
        logger.info("Pool %s stays: this run did not create it", settings.existing_pool_id)
        return
    with azure.batch() as batch:
        pool = Pool(batch, run, settings)
        if disposal is not Disposal.KEEP:
            logger.info("Pool %s %s", run.pool_id, "is being deleted" if remove(run, pool) else "is not there")
        elif keep(run, pool):
            logger.warning(
                "Pool %s kept: its nodes go on billing until %s, when its autoscale formula gives them up",
                run.pool_id,
                run.until,
            )
        else:
            logger.info("Pool %s is not there", run.pool_id)


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
    return pool


def _start_task(node_script: UploadedFile) -> BatchStartTask:
    """Copies the node script to the directory that all tasks of a node share; nothing is installed."""
    name = node_script.blob_name
    return BatchStartTask(
        # The start task's user is not the tasks' user: the copy keeps a mode under which anyone may read it.
        command_line=f"/bin/sh -c 'cp -p {name} \"$AZ_BATCH_NODE_SHARED_DIR\"/'",
        resource_files=[ResourceFile(http_url=node_script.sas_url, file_path=name, file_mode="0755")],
        user_identity=UserIdentity(
            auto_user=AutoUserSpecification(scope=AutoUserScope.POOL, elevation_level=ElevationLevel.ADMIN)
        ),
        wait_for_success=True,
        max_task_retry_count=2,
    )


def _nodes_of(pool: BatchPool) -> str:
    return node_count(pool.current_dedicated_nodes or 0, pool.current_low_priority_nodes or 0)


def node_count(dedicated: int, spot: int) -> str:
    """Such as "2 dedicated and 1 spot nodes"."""
    kinds = [f"{count} {kind}" for count, kind in ((dedicated, "dedicated"), (spot, "spot")) if count]
    return (" and ".join(kinds) or "0") + (" node" if dedicated + spot == 1 else " nodes")


def is_spot(node_id: str) -> bool:
    """Whether the id is that of a spot node, by the ending that the service gives it."""
    return node_id.endswith("_p")


def metadata(tags: Mapping[str, str]) -> list[BatchMetadataItem]:
    """Tags in the form in which Batch keeps them."""
    return [BatchMetadataItem(name=name, value=value) for name, value in tags.items()]


def tags(items: list[BatchMetadataItem] | None) -> dict[str, str]:
    return {item.name: item.value for item in items or ()}
