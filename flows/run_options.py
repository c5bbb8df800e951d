"""The options that the command of every workload has; the command itself receives them as one RunSettings."""

# No postponed annotations: typer reads them from the signature.

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any

import typer

from flows.commands import checked
from tasks.run.settings import CleanUp, Disposal, PoolSettings, PublicIp, RunSettings, TimeLimits

_POOL = PoolSettings()
_LIMITS = TimeLimits()
_RUN = RunSettings()


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options as they were typed, in the order of --help."""

    dedicated_nodes: Annotated[
        int, typer.Option("--dedicated-nodes", "--nodes", help="Dedicated nodes of the pool.")
    ] = _POOL.dedicated_nodes
    spot_nodes: Annotated[int, typer.Option(help="Spot nodes of the pool: cheaper, but Azure may take them away.")] = (
        _POOL.spot_nodes
    )
    dedicated_after_minutes: Annotated[
        int | None, typer.Option(help="Minutes without progress on spot nodes before dedicated nodes are added.")
    ] = _POOL.dedicated_after_minutes
    vm_size: Annotated[
        list[str] | None,
        typer.Option(
            help="VM size of a node; several, with commas or repeated, are tried in their order where Azure has no "
            f"quota or capacity. [default: {','.join(_POOL.vm_size)}]",
        ),
    ] = None
    image: Annotated[
        str | None,
        typer.Option(help="Linux image: publisher:offer:sku[:version], or an id; without it, the newest Ubuntu LTS."),
    ] = _POOL.image
    node_agent_sku: Annotated[
        str | None, typer.Option(help="Node agent of an image of a gallery, such as 'batch.node.ubuntu 24.04'.")
    ] = _POOL.node_agent_sku
    subnet_id: Annotated[str | None, typer.Option(help="Subnet that the nodes join; needs sign-in with Entra ID.")] = (
        _POOL.subnet_id
    )
    public_ip: Annotated[
        PublicIp, typer.Option(help="Public IP addresses of the nodes; none needs a subnet with a way out.")
    ] = _POOL.public_ip
    container_image: Annotated[
        str | None, typer.Option(help="Container image in which each Batch task runs, with python3 in it.")
    ] = _POOL.container_image
    container_registry: Annotated[
        str | None,
        typer.Option(help="Sign in to its registry: a Prefect block, or a managed identity of an existing pool."),
    ] = _POOL.container_registry
    slots_per_node: Annotated[int, typer.Option(help="Task slots of a node.")] = _POOL.slots_per_node
    slots_per_task: Annotated[int, typer.Option(help="Task slots that a Batch task takes.")] = _POOL.slots_per_task
    node_python: Annotated[
        str | None, typer.Option(help="Python version of the nodes, such as 3.12, where the image does not show it.")
    ] = _POOL.node_python
    pool_id: Annotated[str | None, typer.Option(help="Use this existing pool; it is neither changed nor deleted.")] = (
        _POOL.existing_pool_id
    )
    node_identity: Annotated[
        str | None, typer.Option(help="Managed identity of that pool for reading and storing blobs, in place of SAS.")
    ] = _POOL.node_identity
    run_minutes: Annotated[int, typer.Option(help="Limit of the whole run; SAS URLs expire with it.")] = (
        _LIMITS.run_minutes
    )
    task_minutes: Annotated[int, typer.Option(help="Limit of one Batch task, or one file of a group.")] = (
        _LIMITS.task_minutes
    )
    task_retries: Annotated[int, typer.Option(help="Times a failed Batch task is run again.")] = _LIMITS.task_retries
    stall_minutes: Annotated[int, typer.Option(help="Fail after this many minutes without progress.")] = (
        _LIMITS.stall_minutes
    )
    allow_failures: Annotated[int, typer.Option(help="Files that may fail in a run that completes.")] = (
        _RUN.allow_failures
    )
    files_per_task: Annotated[
        int | None, typer.Option(help="The most small files in a Batch task; without it, chosen from their sizes.")
    ] = _RUN.files_per_task
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Run each file of a script with process_file in its own process.")
    ] = _RUN.isolate
    output: Annotated[
        str,
        typer.Option(
            help="Folder for the results of all runs; or az://ACCOUNT/CONTAINER/PREFIX, where outputs then stay."
        ),
    ] = _RUN.output_folder
    skip_done: Annotated[
        bool, typer.Option("--skip-done", help="Process only inputs that are new or changed since their outputs.")
    ] = _RUN.skip_done
    keep_containers: Annotated[bool, typer.Option("--keep-containers", help="Do not delete the containers.")] = False
    keep_job: Annotated[bool, typer.Option("--keep-job", help="Do not delete the job.")] = False
    keep_pool: Annotated[
        bool, typer.Option("--keep-pool", help="Do not delete the pool. It bills until the run's limit.")
    ] = False
    ask: Annotated[bool, typer.Option("--ask", help="Ask whether to delete the job and the pool.")] = False
    cost_limit: Annotated[
        float | None,
        typer.Option(help="The most that the nodes may cost, in US dollars, by estimate."),
    ] = _RUN.cost_limit
    accounts: Annotated[str | None, typer.Option(help="Prefect block with the accounts.")] = _RUN.accounts
    check: Annotated[
        bool,
        typer.Option("--check", help="Create nothing in Azure: print the plan of the run, and whether it can work."),
    ] = _RUN.check

    def settings(self) -> RunSettings:
        """Raises RunError with each wrong option named."""
        return RunSettings(
            pool=self._pool(),
            limits=self._limits(),
            output_folder=self.output,
            clean_up=self._clean_up(),
            allow_failures=self.allow_failures,
            files_per_task=self.files_per_task,
            isolate=self.isolate,
            skip_done=self.skip_done,
            cost_limit=self.cost_limit,
            accounts=self.accounts,
            check=self.check,
        )

    def _pool(self) -> PoolSettings:
        return checked(
            PoolSettings,
            dedicated_nodes=self.dedicated_nodes,
            spot_nodes=self.spot_nodes,
            dedicated_after_minutes=self.dedicated_after_minutes,
            vm_size=self.vm_size or _POOL.vm_size,
            image=self.image,
            node_agent_sku=self.node_agent_sku,
            subnet_id=self.subnet_id,
            public_ip=self.public_ip,
            container_image=self.container_image,
            container_registry=self.container_registry,
            slots_per_node=self.slots_per_node,
            slots_per_task=self.slots_per_task,
            existing_pool_id=self.pool_id,
            node_python=self.node_python,
            node_identity=self.node_identity,
        )

    def _limits(self) -> TimeLimits:
        return checked(
            TimeLimits,
            run_minutes=self.run_minutes,
            task_minutes=self.task_minutes,
            task_retries=self.task_retries,
            stall_minutes=self.stall_minutes,
        )

    def _clean_up(self) -> CleanUp:
        otherwise = Disposal.ASK if self.ask else Disposal.DELETE
        return CleanUp(
            containers=Disposal.KEEP if self.keep_containers else Disposal.DELETE,
            job=Disposal.KEEP if self.keep_job else otherwise,
            pool=Disposal.KEEP if self.keep_pool else otherwise,
        )


def takes_run_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `settings` in the signature of a typer command by the options of RunOptions."""
    own = inspect.signature(command, eval_str=True)
    shared = inspect.signature(RunOptions).parameters.values()

    @wraps(command)
    def with_settings(**typed: Any) -> None:
        options = RunOptions(**{option.name: typed.pop(option.name) for option in fields(RunOptions)})
        command(settings=options.settings(), **typed)

    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        each = shared if parameter.name == "settings" else [parameter]
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in each]
    with_settings.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_settings
