"""Before step 1: refuse what cannot work while nothing exists yet that could bill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from azure.batch import BatchClient
from azure.batch.models import BatchPool
from azure.core.exceptions import ServiceRequestError, ServiceResponseTimeoutError
from prefect.logging import get_run_logger

from tasks.accounts.access import ask_batch, ask_storage, explained
from tasks.accounts.clients import Azure
from tasks.accounts.clouds import is_loopback, takes_tokens
from tasks.accounts.identity import described, signer
from tasks.errors import InputError
from tasks.errors.advice import filled
from tasks.errors.code_table import SIZES
from tasks.errors.codes import Service
from tasks.errors.local_files import refuse_unwritable
from tasks.errors.responses import UnusableResponse
from tasks.errors.secrets import without_secrets
from tasks.errors.service import ServiceError
from tasks.errors.text import numbered
from tasks.inputs.addresses import SourceBlob
from tasks.inputs.blobs import all_inputs
from tasks.inputs.files import InputFile
from tasks.kept import check_destination
from tasks.packages.needed import Packages, refuse_container_image, refuse_existing_pool
from tasks.packages.wheels import Wheelhouse, resolve
from tasks.resources.container_image import registries
from tasks.resources.image_choice import Chosen
from tasks.resources.images import image_of, image_of_pool, python_of_nodes, with_image
from tasks.resources.network import refuse_account_key
from tasks.resources.pool import existing_pool, nodes_of
from tasks.run.destination import Destination
from tasks.run.identity import Run
from tasks.run.parameters import refuse_bad_input
from tasks.run.plan import Accounts, Checked, PlannedPool, planned_pool
from tasks.run.results import Results
from tasks.run.settings import PoolSettings
from tasks.run.vm_sizes import cores, retirement_warnings
from tasks.step import step


@step("0 check input")
def check_input(
    azure: Azure,
    run: Run,
    inputs: Sequence[str],
    allow_failures: int = 0,
    output: str = "",
    files_per_task: int | None = None,
) -> list[InputFile]:
    """The files and blobs that the parameters name; see refuse_bad_input and all_inputs."""
    found = refuse_bad_input(inputs, allow_failures, output, files_per_task)
    files = all_inputs(azure, found, run.expires)
    _refuse_for_identity(azure, files)
    size = sum(file.size for file in files)
    blobs = len(files) - len(found.files)
    in_place = f", {blobs:,} of them blobs that are read where they are" if blobs else ""
    get_run_logger().info("%d input files, %s bytes%s", len(files), f"{size:,}", in_place)
    return files


def _refuse_for_identity(azure: Azure, files: Sequence[InputFile]) -> None:
    """Raise InputError for inputs that nodes cannot, or must not, read with their managed identity."""
    if not azure.node_identity:
        return
    for container in dict.fromkeys(file.source.container for file in files if isinstance(file.source, SourceBlob)):
        if container.sas:
            raise InputError(
                f"inputs in {container.endpoint}/{container.name} have a SAS in their address, and with node_identity "
                "no SAS reaches a node; leave the SAS out, and give the identity the role Storage Blob Data Reader "
                "there"
            )
        if not takes_tokens(container.endpoint, azure.storage_account.endpoint):
            raise InputError(
                f"inputs in {container.endpoint}/{container.name} are on a host that is none of Azure's, and no token "
                "of node_identity is sent there; copy them to a storage account, or leave node_identity out"
            )


@step("0 check accounts")
def check_accounts(
    azure: Azure,
    pool: PoolSettings,
    results: Results,
    destination: Destination | None = None,
    previous_pool: str = "",
    *,
    only: bool = False,
) -> Checked:
    """Ask both accounts something that needs their credentials, and whether the pool's settings can work.

    Returns what the run's plan says of them, and the settings with the image of a new pool named, so that no later step
    chooses another. Raises InputError with all that is refused.

    previous_pool: the id of the pool that a previous attempt may have left, whose image then is kept.

    only: make no folder for the results; what was found nevertheless is the summary of the error.
    """
    refused: list[InputError] = []
    with _collected(refused):
        refuse_unwritable(results.folder, make=not only)
    found = Checked(
        accounts=_accounts(azure), settings=pool, pool=None if pool.existing_pool_id else planned_pool(pool, None)
    )
    with _collected(refused):
        found = _ask_batch(azure, found, previous_pool)
    with _collected(refused):
        _ask_storage(azure, destination)
    if refused:
        problems = [str(error) for error in refused]
        error = refused[0].with_message(numbered(problems))
        raise error.with_result(replace(found, problems=problems), ()) if only else error
    get_run_logger().info("The Batch account and the storage account answer, and the pool's settings can work")
    return found


@contextmanager
def _collected(refused: list[InputError]) -> Iterator[None]:
    """Go on after what is refused, so that a person learns of all of it at once."""
    try:
        yield
    except InputError as error:
        refused.append(error)


def _ask_batch(azure: Azure, found: Checked, previous_pool: str) -> Checked:
    pool = found.settings
    with (
        _answering("the Batch account", azure.batch_account.endpoint, "AZURE_BATCH_ENDPOINT"),
        explained(azure, Service.BATCH),
        azure.batch() as batch,
    ):
        ask_batch(batch)
        registries(pool.container_image, pool.container_registry)  # a block that is wrong is refused here
        if pool.existing_pool_id:
            return replace(found, pool=_existing(existing_pool(batch, pool), pool))
        refuse_account_key(azure.batch_account, pool)
        chosen = _choose_image(batch, pool, previous_pool)
    return replace(
        found,
        settings=with_image(pool, chosen),
        pool=planned_pool(pool, chosen.planned),
        warnings=_warnings(pool, chosen, azure.names),
    )


def _ask_storage(azure: Azure, destination: Destination | None) -> None:
    with (
        _answering("the storage account", azure.storage_account.endpoint, "the AZURE_STORAGE_* settings"),
        explained(azure, Service.STORAGE),
        azure.blobs() as blobs,
    ):
        ask_storage(azure, blobs)
        if destination:
            check_destination(azure, destination)


def _choose_image(batch: BatchClient, pool: PoolSettings, previous_pool: str) -> Chosen:
    there = image_of_pool(batch, pool, previous_pool) if previous_pool else None
    chosen = there or image_of(batch, pool)
    get_run_logger().info("Image %s: %s", chosen.name, chosen.reason)
    return chosen


def _warnings(pool: PoolSettings, chosen: Chosen, names: Mapping[str, str]) -> list[str]:
    """What may keep a new pool from having nodes, now or later."""
    unknown = [
        f"VM size {vm_size}: its name does not show its cores, so that slots and quota are not compared with them, and "
        "whether the region has it is seen only when the pool is created; "
        f"`{filled(SIZES, names)}` lists those that it has"
        for vm_size in pool.vm_size
        if cores(vm_size) is None
    ]
    image = [f"image {chosen.name}: {warning}" for warning in chosen.warnings]
    return [*image, *unknown, *retirement_warnings(pool.vm_size, datetime.now(timezone.utc).date())]


def _accounts(azure: Azure) -> Accounts:
    batch, storage = azure.batch_account, azure.storage_account
    return Accounts(
        where=azure.describe(),
        batch_signer=described(signer(azure, batch)),
        storage_signer=described(signer(azure, storage)),
        storage_has_key=storage.key is not None,
        names=azure.names,
        is_local=is_loopback(batch.endpoint),
    )


def _existing(pool: BatchPool, settings: PoolSettings) -> PlannedPool:
    dedicated, spot = nodes_of(pool)
    return PlannedPool(
        vm_sizes=(pool.vm_size or "",),
        dedicated_nodes=dedicated,
        spot_nodes=spot,
        slots_per_node=pool.task_slots_per_node or 1,
        slots_per_task=settings.slots_per_task,
        existing=pool.id or "",
    )


@step("0 resolve packages")
def resolve_packages(azure: Azure, pool: PoolSettings, packages: Packages, folder: Path) -> Wheelhouse | None:
    """Resolve the packages for the nodes' Python, download them into the folder, and pack them with the modules.

    None where there is nothing to install. Raises InputError where that is impossible.
    """
    refuse_existing_pool(packages, pool.existing_pool_id)
    refuse_container_image(packages, pool.container_image)
    if pool.existing_pool_id:  # whose Python is not known
        return None
    if pool.container_image:  # whose Python is not the node's
        packages = replace(packages, requires_python="")
    if not packages:
        return None
    with azure.batch() as batch:
        target = python_of_nodes(batch, pool)
    found = resolve(packages, target, folder)
    get_run_logger().info("To install on the nodes: %s", found or f"nothing, for {target}")
    return found


@contextmanager
def _answering(account: str, endpoint: str, setting: str) -> Iterator[None]:
    """Name the setting where nothing answers: at the start a wrong address is likelier than a lost answer.

    What answers, but not as Azure does, may be a gateway in between: that is asked again.
    """
    advice = f"check {setting} and the network"
    try:
        yield
    except UnusableResponse as error:
        failure = ServiceError.of(error)
        raise failure.with_message(f"{failure}; {advice}") from None
    except (ServiceRequestError, ServiceResponseTimeoutError) as error:
        reason = without_secrets(str(error.message))
        if "CERTIFICATE_VERIFY_FAILED" in reason:  # of a proxy that opens connections, say
            advice = "set SSL_CERT_FILE and REQUESTS_CA_BUNDLE to a file that has the certificate of who signed it"
        raise InputError(f"{account} at {endpoint} does not answer; {advice} ({reason})") from None
