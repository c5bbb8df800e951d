"""Which VM image the nodes of a run's own pool are made of: a pure choice among those that the Batch account lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from azure.batch.models import BatchSupportedImage, BatchVmImageReference, ImageVerificationType, OSType

from tasks.errors import InputError
from tasks.packages.node_python import is_arm
from tasks.run.plan import Image
from tasks.run.settings import PoolSettings, is_gallery_image

NEAR = timedelta(days=90)  # an image whose support ends sooner is not chosen, only used where a setting names it
DOCKER = "dockercompatible"  # the capability of images that run containers, in lower case
_GENERATION_2 = "generation2vmimage"
_RDMA = "supportsrdmaonly"
# Releases of April in even years have long-term support. The agent's id is that of the release, whoever publishes it.
_LTS = re.compile(r"batch\.node\.ubuntu (\d[02468]\.04)(-arm64)?", re.IGNORECASE)
_ARM = {"arm", "arm64"}  # words in the names of images for ARM processors, and of their node agents
_SPECIAL = {"pro", "minimal", "cvm", "fips", "daily", "confidential"}  # words in the names of Canonical's variants
# https://learn.microsoft.com/azure/virtual-machines/generation-2: Av2, Dv2 and Dv3 boot Generation 1 only. From v6 on
# sizes boot Generation 2 only (actions/runner-images#13709).
_GENERATION_1_SIZES = re.compile(r"standard_(a\d+m?_v2|d\d+_v[23])(_promo)?", re.IGNORECASE)
_VERSION = re.compile(r"_v(\d+)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The image of a run's own pool, and why it is this one.

    warnings: what a person should know of its end of support.
    """

    image: BatchSupportedImage
    version: str = "latest"
    why: str
    warnings: Sequence[str] = ()

    @property
    def name(self) -> str:
        """As the setting `image` names it."""
        reference = self.image.image_reference
        return reference.virtual_machine_image_id or f"{name_of(self.image)}:{self.version}"

    @property
    def reason(self) -> str:
        """Why it is this one, and until when Azure Batch supports it."""
        return f"{self.why}; {self.planned.support}"

    @property
    def planned(self) -> Image:
        """What the run's plan shows of it."""
        end = self.image.batch_support_end_of_life
        verified = self.image.verification_type == ImageVerificationType.VERIFIED
        return Image(name=self.name, verified=verified, supported_until=end.date() if end else None)


def choose(images: Sequence[BatchSupportedImage], settings: PoolSettings, now: datetime) -> Chosen:
    """The image that the settings name, or the newest Ubuntu LTS. Raises InputError, with the choice there is."""
    linux = [each for each in images if each.os_type == OSType.LINUX and _is_complete(each)]
    if not linux:
        raise InputError("this Batch account lists no Linux image; use an existing pool (existing_pool_id)")
    _refuse_both_generations(settings.vm_size)
    if settings.image is None:
        return _newest_ubuntu(linux, settings, now)
    if is_gallery_image(settings.image):
        return _of_gallery(linux, settings.image, settings.node_agent_sku or "", now)
    return _named(linux, settings.image, settings, now)


def _is_complete(image: BatchSupportedImage) -> bool:
    """Whether it has all that a pool must name."""
    reference = image.image_reference
    return bool(reference and reference.publisher and reference.offer and reference.sku and image.node_agent_sku_id)


def name_of(image: BatchSupportedImage) -> str:
    return ":".join(_parts(image))


def _parts(image: BatchSupportedImage) -> list[str]:
    reference = image.image_reference
    return [reference.publisher or "", reference.offer or "", reference.sku or ""]


# The default


def _newest_ubuntu(images: Sequence[BatchSupportedImage], settings: PoolSettings, now: datetime) -> Chosen:
    wanted = _runs_containers if settings.container_image else _is_server
    kind = "verified Ubuntu LTS" + (" that runs containers" if settings.container_image else "")
    found = sorted((each for each in images if _is_lts(each) and wanted(each)), key=_rank, reverse=True)
    fitting = [each for each in found if not _misfits(each, settings, images)]
    chosen = next((each for each in fitting if not _ends_soon(each, now)), None)
    passed_over = fitting[: fitting.index(chosen)] if chosen else fitting
    ending = ", ".join(f"{name_of(each)} (until {each.batch_support_end_of_life:%Y-%m-%d})" for each in passed_over)
    if chosen is None:
        reasons = _misfits(found[0], settings, images) if found and not fitting else ending
        usable = [each for each in images if not settings.container_image or _runs_containers(each)]
        able = _choice([each for each in usable if not _misfits(each, settings, images)], now)
        raise InputError(
            f"this Batch account lists no image that is a {kind} and fits the run"
            + (f": {reasons}; " if reasons else "; ")
            + (f"name one as image: {able}" if able else "name another vm_size, or use an existing pool")
        )
    warnings = [f"Azure Batch supports {ending} no longer, or not for long; the next is used"] if ending else []
    return Chosen(image=chosen, why=f"the newest {kind} that the Batch account lists", warnings=warnings)


def _is_lts(image: BatchSupportedImage) -> bool:
    verified = image.verification_type == ImageVerificationType.VERIFIED
    return verified and bool(_LTS.fullmatch(image.node_agent_sku_id))


def _is_server(image: BatchSupportedImage) -> bool:
    """Whether it is Canonical's plain server: others bring software of their own, or need a plan."""
    publisher, offer, sku = (part.lower() for part in _parts(image))
    return publisher == "canonical" and not _SPECIAL & set(re.split(r"[-_]", f"{offer}-{sku}"))


def _runs_containers(image: BatchSupportedImage) -> bool:
    return DOCKER in _capabilities(image)


def _rank(image: BatchSupportedImage) -> tuple[str, bool, bool, int]:
    """The newest release first; of one release Generation 2, then no special network, then the plain name."""
    found = _LTS.fullmatch(image.node_agent_sku_id)
    capabilities = _capabilities(image)
    return (
        found[1] if found else "",
        _GENERATION_2 in capabilities,
        _RDMA not in capabilities,
        -len(name_of(image)),
    )


# An image that the settings name


def _named(images: Sequence[BatchSupportedImage], image: str, settings: PoolSettings, now: datetime) -> Chosen:
    publisher, offer, sku, *version = image.lower().split(":")
    named = [publisher, offer, sku]
    found = next((each for each in images if named == [part.lower() for part in _parts(each)]), None)
    if found is None:
        raise InputError(
            f"image {image!r} is not supported by this Batch account; verified Linux images are: {_choice(images, now)}"
        )
    if settings.container_image and not _runs_containers(found):
        able = _choice([each for each in images if _runs_containers(each)], now)
        raise InputError(
            f"image {image!r} cannot run containers, and container_image is {settings.container_image!r}; "
            + (
                f"use another image: {able}"
                if able
                else "this Batch account has no image that can: use an existing pool of an image of your own"
            )
        )
    if reason := _misfits(found, settings, images):
        able = _choice([each for each in images if not _misfits(each, settings, images)], now)
        raise InputError(f"{reason}; use another size, or another image: {able}")
    verified = found.verification_type == ImageVerificationType.VERIFIED
    return Chosen(
        image=found,
        version=version[0] if version else "latest",
        why="which image names" + ("" if verified else "; Azure Batch has not verified it"),
        warnings=_end_of_support(image, found.batch_support_end_of_life, now),
    )


def _of_gallery(images: Sequence[BatchSupportedImage], image: str, agent: str, now: datetime) -> Chosen:
    agents = sorted({each.node_agent_sku_id for each in images})
    if agent.lower() not in [each.lower() for each in agents]:
        raise InputError(
            f"node_agent_sku {agent!r} is none of this Batch account; name that of the image's operating system: "
            + ", ".join(agents)
        )
    alike = [each for each in images if each.node_agent_sku_id.lower() == agent.lower()]
    # Batch supports an image of one's own for as long as those that it is like, says Azure's guide to images.
    ends = [each.batch_support_end_of_life for each in alike]
    known = [each for each in ends if each]
    end = max(known) if len(known) == len(ends) else None
    found = BatchSupportedImage(
        node_agent_sku_id=agent,
        image_reference=BatchVmImageReference(virtual_machine_image_id=image),
        os_type=OSType.LINUX,
        verification_type=ImageVerificationType.UNVERIFIED,
        batch_support_end_of_life=end,
    )
    return Chosen(image=found, why="the gallery image that image names", warnings=_end_of_support(agent, end, now))


def _end_of_support(what: str, end: datetime | None, now: datetime) -> list[str]:
    if end is None:
        return []
    if end <= now:
        return [
            f"Azure Batch has not supported {what} since {end:%Y-%m-%d}: a pool of it may get no nodes; name another "
            "image, or none for the newest Ubuntu LTS"
        ]
    return [
        f"Azure Batch supports {what} until {end:%Y-%m-%d}; name another image before that, or none for the newest "
        "Ubuntu LTS"
    ]


# Which sizes boot an image


def _misfits(image: BatchSupportedImage, settings: PoolSettings, images: Sequence[BatchSupportedImage]) -> str:
    """Why one of the VM sizes cannot boot the image; empty where all can, or where it is not known."""
    reasons = (_misfit(image, size, images) for size in settings.vm_size)
    return next(filter(None, reasons), "")


def _refuse_both_generations(sizes: Sequence[str]) -> None:
    only = {_generation_of_size(size): size for size in sizes}
    if 1 in only and 2 in only:
        raise InputError(
            f"vm_size has {only[1]}, which boots Generation 1 images only, and {only[2]}, which boots Generation 2 "
            "images only; no image boots on both: leave one of them out"
        )


def _misfit(image: BatchSupportedImage, vm_size: str, images: Sequence[BatchSupportedImage]) -> str:
    name = name_of(image)
    processors = {True: "an ARM", False: "an x86-64"}
    for_arm = bool(_ARM & set(re.split(r"[-_: ]", f"{name} {image.node_agent_sku_id}".lower())))
    if is_arm(vm_size) != for_arm:
        return f"vm_size {vm_size} has {processors[not for_arm]} processor, and {name} is for {processors[for_arm]} one"
    only, generation = _generation_of_size(vm_size), _generation(image, images)
    if only and generation and only != generation:
        return f"vm_size {vm_size} boots Generation {only} images only, and {name} is Generation {generation}"
    return ""


def _generation_of_size(vm_size: str) -> int | None:
    """The one VM generation that the size boots; None where it boots both, or where it is not known."""
    if _GENERATION_1_SIZES.fullmatch(vm_size):
        return 1
    version = _VERSION.search(vm_size)
    return 2 if version and int(version[1]) >= 6 else None


def _generation(image: BatchSupportedImage, images: Sequence[BatchSupportedImage]) -> int | None:
    """The image's VM generation as far as it is listed: 2 by its capability, 1 where it has a twin that is 2."""
    sku = (image.image_reference.sku or "").lower()
    if _GENERATION_2 in _capabilities(image) or "gen2" in sku:
        return 2
    publisher, offer, _ = _parts(image)
    twins = {_parts(each)[2].lower() for each in images if _parts(each)[:2] == [publisher, offer]}
    return 1 if "gen1" in sku or f"{sku}-gen2" in twins else None


def _capabilities(image: BatchSupportedImage) -> set[str]:
    return {each.lower() for each in image.capabilities or ()}


def _choice(images: Sequence[BatchSupportedImage], now: datetime) -> str:
    """The names of those that are verified and still supported; of the others where there are none."""
    verified = [each for each in images if each.verification_type == ImageVerificationType.VERIFIED] or images
    current = [each for each in verified if (each.batch_support_end_of_life or now) >= now] or verified
    return ", ".join(sorted({name_of(each) for each in current}))


def _ends_soon(image: BatchSupportedImage, now: datetime) -> bool:
    return image.batch_support_end_of_life is not None and image.batch_support_end_of_life < now + NEAR
