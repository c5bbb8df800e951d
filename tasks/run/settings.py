"""The flow's typed parameters, and the names and lifetime of one run's resources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tasks.packages.node_python import is_arm
from tasks.run.groups import MOST_FILES_PER_TASK
from tasks.run.vm_sizes import DEFAULT_SIZES, MOST_SLOTS, SLOTS_PER_CORE, cores, most_slots, same_size

_BATCH_ID = r"^[A-Za-z0-9_-]{1,64}$"
_IDENTITY = (
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/[^/]+"
)
_PYTHON = r"^3\.[0-9]{1,2}$"
_CONTAINER_IMAGE = (  # as for `docker pull`: the registry, the path in it, a tag, a digest
    r"^([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)
_IMAGE = r"[^:/\s]+:[^:/\s]+:[^:/\s]+(:[^:/\s]+)?"
_GALLERY_IMAGE = (
    r"/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.Compute/galleries/[^/\s]+/images/[^/\s]+"
    r"(/versions/[^/\s]+)?"
)
_SUBNET = (
    r"/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.Network/virtualNetworks/[^/\s]+"
    r"/subnets/[^/\s]+"
)
_RESOURCE = r"^/.+$"  # for the form, whose patterns know no ids that differ in case alone
_NODE_AGENT = r"^batch\.node\.[A-Za-z0-9. -]+$"
# A field of the form that was filled in and emptied again is not set.
_Text = Annotated[str | None, BeforeValidator(lambda text: None if text == "" else text)]


class PublicIp(str, Enum):
    """Whether the nodes of a run's own pool have public IP addresses."""

    MANAGED = "managed"  # Azure Batch gives them
    NONE = "none"


class Disposal(str, Enum):
    """What becomes of a resource when the run ends."""

    DELETE = "delete"
    KEEP = "keep"
    ASK = "ask"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PoolSettings(_Settings):
    """The pool of compute nodes: a new one that lives as long as the run, or an existing one."""

    dedicated_nodes: int = Field(default=2, ge=0, le=1000, description="Dedicated nodes of the new pool.")
    spot_nodes: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Spot nodes of the new pool: far cheaper, but Azure may take them away; their tasks run again.",
    )
    dedicated_after_minutes: int | None = Field(
        default=None,
        ge=1,
        le=7 * 24 * 60,
        description="Add as many dedicated nodes as there should be spot nodes when no task has run or ended for so "
        "many minutes. None: never.",
    )
    vm_size: tuple[str, ...] = Field(
        default=DEFAULT_SIZES,
        title="VM Size",
        description="VM sizes of a node, the preferred one first: where Azure has no quota or capacity for one, the "
        "next is tried. `az batch location list-skus --location <region>` has them.",
        json_schema_extra={"minItems": 1},
    )
    image: _Text = Field(
        default=None,
        description="Linux image: publisher:offer:sku[:version] of `az batch pool supported-images list`, or the id of "
        "an image in an Azure compute gallery. None: the newest verified Ubuntu LTS that the Batch account lists.",
        json_schema_extra={"pattern": f"^({_IMAGE}|/.+)$"},
    )
    node_agent_sku: _Text = Field(
        default=None,
        title="Node Agent SKU",
        description="For an image of a gallery: the node agent of its operating system, such as batch.node.ubuntu "
        "24.04.",
        json_schema_extra={"pattern": _NODE_AGENT},
    )
    node_python: _Text = Field(
        default=None,
        title="Node Python",
        description="Version of the Python of the nodes, such as 3.12, for which packages are resolved. None: as known "
        "of the image.",
        json_schema_extra={"pattern": _PYTHON},
    )
    container_image: _Text = Field(
        default=None,
        description="Container image in which each Batch task runs, such as ghcr.io/team/align:1.2. It needs a python3 "
        "(3.8 or later), and a VM image that runs containers.",
        json_schema_extra={"pattern": _CONTAINER_IMAGE},
    )
    container_registry: _Text = Field(
        default=None,
        description="How nodes sign in to the registry of the container image: name of a Prefect block of the type "
        "Docker Registry Credentials; for an existing pool also the resource id of a managed identity of it.",
    )
    subnet_id: _Text = Field(
        default=None,
        title="Subnet ID",
        description="Subnet that the nodes of the new pool join: "
        "/subscriptions/.../virtualNetworks/NAME/subnets/NAME. Needs sign-in with Entra ID.",
        json_schema_extra={"pattern": _RESOURCE},
    )
    public_ip: PublicIp = Field(
        default=PublicIp.MANAGED,
        title="Public IP",
        description="Public IP addresses of the new pool's nodes: managed by Azure Batch, or none, which needs a "
        "subnet with another way out.",
    )
    slots_per_node: int = Field(default=1, ge=1, le=256, description="Task slots of one node.")
    slots_per_task: int = Field(
        default=1, ge=1, le=256, description="Task slots that one Batch task takes; more for files that need memory."
    )
    existing_pool_id: _Text = Field(
        default=None,
        title="Existing Pool ID",
        description="Use this pool instead of a new one. It is neither changed nor deleted.",
        json_schema_extra={"pattern": _BATCH_ID},
    )
    node_identity: _Text = Field(
        default=None,
        title="Node Identity",
        description="Resource id of a managed identity of the existing pool, with which its nodes read and store "
        "blobs. None: with SAS URLs.",
        json_schema_extra={"pattern": _RESOURCE},
    )

    @model_validator(mode="after")
    def _can_run_a_task(self) -> PoolSettings:
        if self.existing_pool_id:
            return self
        if not self.dedicated_nodes + self.spot_nodes:
            raise ValueError("dedicated_nodes and spot_nodes are both 0; a pool without nodes runs no task")
        if self.slots_per_task > self.slots_per_node:
            raise ValueError(
                f"slots_per_task is {self.slots_per_task}, but a node has {self.slots_per_node} (slots_per_node); "
                "no node could ever run such a task"
            )
        if self.dedicated_after_minutes and not self.spot_nodes:
            raise ValueError("dedicated_after_minutes is for pools with spot_nodes, and there are none")
        return self

    @model_validator(mode="after")
    def _has_an_agent(self) -> PoolSettings:
        if is_gallery_image(self.image) and not self.node_agent_sku:
            raise ValueError(
                "node_agent_sku is not set, and image is of a gallery: Azure Batch cannot see what operating system "
                "that has; set node_agent_sku, such as batch.node.ubuntu 24.04"
            )
        if self.node_agent_sku and not is_gallery_image(self.image):
            raise ValueError("node_agent_sku is for an image of a gallery; that of other images is known")
        return self

    @model_validator(mode="after")
    def _can_reach_azure(self) -> PoolSettings:
        if self.existing_pool_id and self.subnet_id:
            raise ValueError("subnet_id is for a new pool; existing_pool_id names one, whose network stays as it is")
        if self.public_ip is PublicIp.NONE and not (self.subnet_id or self.existing_pool_id):
            raise ValueError(
                "public_ip is none, which Azure Batch permits only in a subnet of your own: nodes would have no way to "
                "Azure Batch and Blob Storage; set subnet_id to a subnet with a NAT gateway or private endpoints"
            )
        return self

    @model_validator(mode="after")
    def _sizes_can_work(self) -> PoolSettings:
        if self.existing_pool_id:
            return self
        if len({is_arm(size) for size in self.vm_size}) > 1:
            raise ValueError(
                f"vm_size has sizes with ARM processors and others ({', '.join(self.vm_size)}); no image runs on both"
            )
        for size in self.vm_size:
            if self.slots_per_node > (most := most_slots(size)):
                known = cores(size)
                has = f"a node of {size} has {known} {'core' if known == 1 else 'cores'} and" if known else "a node"
                raise ValueError(
                    f"slots_per_node is {self.slots_per_node}, but {has} can have {most} at most: "
                    f"{SLOTS_PER_CORE} per core, and no more than {MOST_SLOTS}; use fewer slots or larger VM sizes"
                )
        return self

    @model_validator(mode="after")
    def _can_sign_in(self) -> PoolSettings:
        if self.container_registry and not self.container_image:
            raise ValueError("container_registry is for a container_image, and there is none")
        if is_identity(self.container_registry) and not self.existing_pool_id:
            raise ValueError(
                "container_registry is a managed identity, which Azure Batch gives only to pools that are made in the "
                "Azure portal or with its management API; make such a pool and name it as the existing pool, or name a "
                "Prefect block with user name and password"
            )
        return self

    @model_validator(mode="after")
    def _has_an_identity(self) -> PoolSettings:
        if self.node_identity and not self.existing_pool_id:
            raise ValueError(
                "node_identity is set, and Azure Batch gives managed identities only to pools that are made in the "
                "Azure portal or with its management API; make such a pool and name it as the existing pool"
            )
        return self

    @field_validator("node_identity")
    @classmethod
    def _is_an_identity(cls, identity: str | None) -> str | None:
        if identity and not is_identity(identity):
            raise ValueError(
                f"{identity!r} is not the resource id of a managed identity; it looks like /subscriptions/ID/"
                "resourceGroups/NAME/providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME"
            )
        return identity

    @field_validator("vm_size", mode="before")
    @classmethod
    def _is_a_ranked_list(cls, sizes: Any) -> Any:
        """One text is a list of one, or of several with commas between them; a size counts where it is named first."""
        texts = [sizes] if isinstance(sizes, str) else sizes
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            return sizes  # which pydantic refuses
        ranked: list[str] = []
        for size in (part.strip() for text in texts for part in text.split(",")):
            if size and not any(same_size(size, other) for other in ranked):
                ranked.append(size)
        if not ranked:
            raise ValueError(f"no VM size is named; name one or more, such as {DEFAULT_SIZES[0]}")
        return ranked

    @field_validator("container_image")
    @classmethod
    def _is_a_container_image(cls, image: str | None) -> str | None:
        if image and not re.fullmatch(_CONTAINER_IMAGE, image):
            raise ValueError(
                f"{image!r} is not a container image; write it as for docker pull, without https://, such as "
                "ghcr.io/team/align:1.2"
            )
        return image

    @field_validator("container_registry")
    @classmethod
    def _is_a_sign_in(cls, registry: str | None) -> str | None:
        if registry and "/" in registry and not is_identity(registry):
            raise ValueError(
                f"{registry!r} is neither the name of a Prefect block nor the resource id of a managed identity, "
                "/subscriptions/.../providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME"
            )
        return registry

    @field_validator("image")
    @classmethod
    def _is_an_image(cls, image: str | None) -> str | None:
        if image and "/" in image and not is_gallery_image(image):
            raise ValueError(
                f"{image!r} is not the id of an image in a gallery; it looks like /subscriptions/ID/resourceGroups/"
                "NAME/providers/Microsoft.Compute/galleries/NAME/images/NAME/versions/1.0.0, or without the version "
                "for the newest"
            )
        if image and "/" not in image and not re.fullmatch(_IMAGE, image):
            raise ValueError(
                f"{image!r} is not an image; write publisher:offer:sku, such as canonical:ubuntu-24_04-lts:server"
            )
        return image

    @field_validator("node_agent_sku")
    @classmethod
    def _is_an_agent(cls, agent: str | None) -> str | None:
        if agent and not re.fullmatch(_NODE_AGENT, agent):
            raise ValueError(f"{agent!r} is not a node agent; it looks like batch.node.ubuntu 24.04")
        return agent

    @field_validator("subnet_id")
    @classmethod
    def _is_a_subnet(cls, subnet: str | None) -> str | None:
        if subnet and not re.fullmatch(_SUBNET, subnet, re.IGNORECASE):
            raise ValueError(
                f"{subnet!r} is not the id of a subnet; it looks like /subscriptions/ID/resourceGroups/NAME/providers/"
                "Microsoft.Network/virtualNetworks/NAME/subnets/NAME"
            )
        return subnet

    @field_validator("node_python")
    @classmethod
    def _is_a_python(cls, version: str | None) -> str | None:
        if version and not re.fullmatch(_PYTHON, version):
            raise ValueError(f"{version!r} is not a Python version; write it without the patch, such as 3.12")
        return version

    @field_validator("existing_pool_id")
    @classmethod
    def _is_a_pool_id(cls, pool_id: str | None) -> str | None:
        if pool_id and not re.fullmatch(_BATCH_ID, pool_id):
            raise ValueError(f"{pool_id!r} is not a pool id; an id has 1 to 64 letters, digits, - and _")
        return pool_id


def is_gallery_image(image: str | None) -> bool:
    """Whether it is the resource id of an image in an Azure compute gallery, and not publisher:offer:sku."""
    return bool(image and re.fullmatch(_GALLERY_IMAGE, image, re.IGNORECASE))


def is_identity(text: str | None) -> bool:
    """Whether it is the resource id of a user-assigned managed identity."""
    return bool(text and re.fullmatch(_IDENTITY, text, re.IGNORECASE))


class TimeLimits(_Settings):
    """How long things may take. Azure Batch itself enforces those of the run and the task, also without the flow."""

    run_minutes: int = Field(
        default=120,
        ge=5,
        le=7 * 24 * 60,
        description="The whole run: the job ends, SAS URLs expire, and the pool gives up its nodes after this.",
    )
    task_minutes: int = Field(
        default=60, ge=1, le=7 * 24 * 60, description="One Batch task, or one file of a group, its retries apart."
    )
    task_retries: int = Field(
        default=1, ge=0, le=100, description="Times a Batch task that exits non-zero is run again."
    )
    stall_minutes: int = Field(
        default=30,
        ge=1,
        le=7 * 24 * 60,
        description="The run fails as stalled after this many minutes without progress of any Batch task.",
    )


class CleanUp(_Settings):
    """What the run deletes when it ends, well or badly.

    What is kept stays for good, but for a kept pool's nodes: they go when the run's time limit is reached. A run
    that is to ask and does not get that far deletes.
    """

    containers: Disposal = Field(
        default=Disposal.DELETE, title="Containers", description="The application, input and output containers."
    )
    job: Disposal = Field(default=Disposal.DELETE, title="Job", description="The Batch job with its tasks.")
    pool: Disposal = Field(
        default=Disposal.DELETE, title="Pool", description="The pool with its nodes; an existing pool always stays."
    )
    ask_minutes: int = Field(
        default=30, ge=1, le=24 * 60, description="Where to ask: after so long without an answer, delete."
    )

    def of_pool(self, pool: PoolSettings) -> CleanUp:
        """The same, but an existing pool stays, so that nobody is asked about it."""
        return self.model_copy(update={"pool": Disposal.KEEP}) if pool.existing_pool_id else self


class RunSettings(_Settings):
    """What a run needs to know besides its workload and its inputs."""

    pool: PoolSettings = PoolSettings()
    limits: TimeLimits = TimeLimits()
    output_folder: str = Field(default="results", description="The folder in which the run makes one for its results.")
    clean_up: CleanUp = CleanUp()
    allow_failures: int = Field(
        default=0,
        description="How many files may be without output in a run that completes.",
        json_schema_extra={"minimum": 0},
    )
    files_per_task: int | None = Field(
        default=None,
        description="The most small files that one Batch task processes, 1 to 1,000. None: chosen from their sizes.",
        json_schema_extra={"minimum": 1, "maximum": MOST_FILES_PER_TASK},
    )
    isolate: bool = Field(
        default=False,
        description="Run each file in a process of its own, also where the script offers process_file.",
    )
    skip_done: bool = Field(
        default=False,
        description="Process only inputs that are new or changed since outputs of the same script and arguments.",
    )
    cost_limit: float | None = Field(
        default=None,
        description="The most that the nodes may cost in US dollars, by estimate; the run ends before they cost more, "
        "and keeps what is done. None: no limit but run_minutes.",
        json_schema_extra={"exclusiveMinimum": 0},
    )
    accounts: str | None = Field(
        default=None, description="Name of a Prefect block with the accounts; without one, the environment's."
    )
    check: bool = Field(default=False, description="Only check whether the run could work; create nothing in Azure.")


def settings_in(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The run's settings among the parameters of a flow run: a flow has them as its own, or in one called settings."""
    nested = parameters.get("settings")
    if isinstance(nested, RunSettings):
        return dict(nested)
    return nested if isinstance(nested, Mapping) else parameters


def output_folder_of(settings: Mapping[str, Any]) -> str:
    """The output folder among a run's settings, which may be absent."""
    return str(settings.get("output_folder") or RunSettings.model_fields["output_folder"].default)
