"""What the names of VM sizes say, and which size is tried where another got no nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timezone

import pytest
from azure.batch.models import ResizeError
from pydantic import ValidationError

from tasks.resources.allocation import described
from tasks.run.identity import RefusedSize, UsedPool
from tasks.run.settings import PoolSettings
from tasks.run.vm_sizes import DEFAULT_SIZES, cores, family, most_slots, retirement_warnings
from tasks.watching.sizes import NextSize, next_size, no_size_left

TODAY = date(2026, 11, 28)
NOON = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("vm_size", "found"),
    [
        ("Standard_D2as_v5", 2),
        ("STANDARD_D16S_V5", 16),
        ("Standard_E4-2s_v5", 2),
        ("Standard_HB120-16rs_v3", 16),
        ("Standard_NC24ads_A100_v4", 24),
        ("Standard_NC4as_T4_v3", 4),
        ("Standard_A2m_v2", 2),
        ("Standard_D3_v2", 4),
        ("Standard_DS13-2_v2", 2),
        ("Standard_D14", 16),
        ("Standard_A4", None),
        ("Standard_G2", None),
        ("Standard_D99_v2", None),
        ("large", None),
    ],
)
def test_the_cores_of_a_size_are_in_its_name(vm_size: str, found: int | None) -> None:
    assert cores(vm_size) == found


def test_sizes_of_a_family_differ_in_their_cores_alone() -> None:
    assert family("Standard_D2as_v5") == family("standard_d16as_v5") == "das_v5"
    others = ["Standard_D2s_v5", "Standard_D2ads_v5", "Standard_D2as_v4", "Standard_E2as_v5", "Standard_NC4as_T4_v3"]
    assert len({family(each) for each in [*others, "Standard_D2as_v5", "large"]}) == 7


@pytest.mark.parametrize(("vm_size", "most"), [("Standard_D2as_v5", 8), ("Standard_D96s_v5", 256), ("large", 256)])
def test_a_node_has_four_slots_per_core_and_256_at_most(vm_size: str, most: int) -> None:
    assert most_slots(vm_size) == most


def test_the_default_sizes_are_of_families_that_are_not_retired() -> None:
    assert retirement_warnings(DEFAULT_SIZES, date(2040, 1, 1)) == []
    assert len({family(size) for size in DEFAULT_SIZES}) == len(DEFAULT_SIZES)
    assert PoolSettings().vm_size == DEFAULT_SIZES


@pytest.mark.parametrize(
    ("vm_size", "series", "day"),
    [
        ("Standard_D2", "D", "2028-05-01"),
        ("Standard_DS12-1_v2", "Dsv2", "2028-05-01"),
        ("standard_ds2_v2_promo", "Dsv2", "2028-05-01"),
        ("Standard_L4s", "Ls", "2028-05-01"),
        ("Standard_A1_v2", "Av2", "2028-11-15"),
        ("Standard_F4s_v2", "Fsv2", "2028-11-15"),
        ("Standard_F2s", "Fs", "2028-11-15"),
        ("Standard_GS5-8", "G", "2028-11-15"),
        ("Standard_B2ms", "B", "2028-11-15"),
    ],
)
def test_a_size_that_azure_will_retire_is_warned_of(vm_size: str, series: str, day: str) -> None:
    (warning,) = retirement_warnings([vm_size, "Standard_D2as_v5", "Standard_D2s_v3", "Standard_B2ats_v2"], TODAY)
    assert warning.startswith(f"VM size {vm_size}: Azure retires its series {series} on {day} and limits its quota")


def test_a_size_that_azure_has_retired_is_warned_of() -> None:
    (warning,) = retirement_warnings(["Standard_NV12s_v3"], TODAY)
    assert warning.startswith("VM size Standard_NV12s_v3: Azure has retired its series NVv3 on 2026-09-30")


# The setting.


@pytest.mark.parametrize("given", ["A_1, b_2,a_1", ["A_1", "b_2", "B_2"], [" A_1 ,b_2"], ("A_1", "b_2")])
def test_vm_size_is_a_ranked_list_without_repetitions(given: object) -> None:
    assert PoolSettings.model_validate({"vm_size": given}).vm_size == ("A_1", "b_2")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"vm_size": " ,"}, "no VM size is named; name one or more, such as Standard_D2ads_v5"),
        ({"vm_size": []}, "no VM size is named"),
        ({"vm_size": [2]}, "Input should be a valid string"),
        (
            {"vm_size": ["Standard_D4s_v5", "Standard_D2s_v5"], "slots_per_node": 9},
            "slots_per_node is 9, but a node of Standard_D2s_v5 has 2 cores and can have 8 at most: 4 per core, and no "
            "more than 256; use fewer slots or larger VM sizes",
        ),
        (
            {"vm_size": ["Standard_D2ps_v5", "Standard_D2s_v5"]},
            "vm_size has sizes with ARM processors and others (Standard_D2ps_v5, Standard_D2s_v5); no image runs on "
            "both",
        ),
    ],
)
def test_sizes_that_cannot_work_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError) as error:
        PoolSettings.model_validate(settings)
    assert reason in str(error.value)


def test_the_size_of_an_existing_pool_is_not_checked() -> None:
    assert PoolSettings(existing_pool_id="team", slots_per_node=200).slots_per_node == 200


# Which size is tried next.


def pool(*sizes: str, refused: Sequence[RefusedSize] = ()) -> UsedPool:
    present, *others = sizes or ("Standard_D4as_v5", "Standard_D8as_v5", "Standard_D4s_v5", "Standard_D2as_v5")
    return UsedPool(
        id="pool", slots_per_node=1, own=True, vm_size=present, other_sizes=tuple(others), refused_sizes=refused
    )


def errors(*codes: str) -> list[ResizeError]:
    return [ResizeError({"code": code, "message": "No."}) for code in codes]


def chosen(*codes: str, used: UsedPool | None = None, helped: bool = False) -> tuple[str, bool] | None:
    found = next_size(used or pool(), errors(*codes), helped=helped)
    return (found.size, found.at_once) if found else None


@pytest.mark.parametrize(
    ("codes", "size"),
    [
        (["AccountVMSeriesCoreQuotaReached"], ("Standard_D4s_v5", True)),  # the D8as_v5 has the same quota
        (["AccountCoreQuotaReached"], ("Standard_D2as_v5", True)),  # of all families, so fewer cores
        (["AccountLowPriorityCoreQuotaReached"], ("Standard_D2as_v5", True)),
        (["AccountSpotCoreQuotaReached"], ("Standard_D2as_v5", True)),
        (["UnsupportedVMSize"], ("Standard_D8as_v5", True)),
        (["AllocationTimedout"], ("Standard_D8as_v5", True)),
        (["AllocationTimedOut"], ("Standard_D8as_v5", True)),
        (["AllocationFailed"], ("Standard_D8as_v5", False)),
        (["AllocationFailed", "AccountVMSeriesCoreQuotaReached"], ("Standard_D4s_v5", False)),
        (["AccountCoreQuotaReached", "AccountVMSeriesCoreQuotaReached"], ("Standard_D2as_v5", True)),
        (["ResizeStopped"], None),
        (["ImageNotFound"], None),
        (["AllocationFailed", "ImageNotFound"], None),
        ([], None),
    ],
)
def test_a_code_decides_which_size_can_help(codes: list[str], size: tuple[str, bool] | None) -> None:
    assert chosen(*codes) == size


def test_the_details_of_an_error_are_told_for_they_have_the_reason() -> None:
    values = [{"name": "Reason", "value": "Allocation failed as subnet has delegation to external resources."}]
    error = ResizeError({"code": "AllocationFailed", "message": "No nodes.", "values": values})
    reason = "AllocationFailed: No nodes. (Reason: Allocation failed as subnet has delegation to external resources.)"
    assert described(error) == reason
    values[0]["value"] = "x" * 1000
    assert len(described(ResizeError({**error, "values": values}))) < 400


def test_a_used_up_spot_quota_waits_for_the_dedicated_nodes() -> None:
    assert chosen("AccountLowPriorityCoreQuotaReached", helped=True) is None
    assert chosen("AllocationFailed", helped=True) == ("Standard_D8as_v5", False)


def test_what_an_earlier_size_was_refused_for_counts_for_the_later_ones() -> None:
    quota = RefusedSize(size="Standard_D4as_v5", why="", brief="AccountVMSeriesCoreQuotaReached")
    used = pool("Standard_D4s_v5", "Standard_D8as_v5", "Standard_D2as_v5", refused=[quota])
    assert chosen("AllocationFailed", used=used) == ("Standard_D2as_v5", False)


def test_a_size_of_unknown_cores_is_tried() -> None:
    assert chosen("AccountCoreQuotaReached", used=pool("Standard_D4s_v5", "large")) == ("large", True)


def test_the_sizes_passed_over_are_told_with_the_reason() -> None:
    found = next_size(pool(), errors("AccountVMSeriesCoreQuotaReached"))
    assert isinstance(found, NextSize)
    used = found.applied(pool(), NOON)
    assert (used.vm_size, list(used.other_sizes), used.asked_at) == ("Standard_D4s_v5", ["Standard_D2as_v5"], NOON)
    assert [str(each) for each in used.refused_sizes] == [
        "Standard_D4as_v5: AccountVMSeriesCoreQuotaReached: No.",
        "Standard_D8as_v5: not tried, since it shares the quota of Standard_D4as_v5",
    ]
    assert used.instead_of == "Standard_D4as_v5 (AccountVMSeriesCoreQuotaReached), Standard_D8as_v5 (not tried)"


def test_a_size_that_is_not_offered_is_withdrawn() -> None:
    found = next_size(pool(), errors("UnsupportedVMSize"))
    assert found
    used = found.withdrawn(pool(), "not offered", "InvalidPropertyValue")
    assert (used.vm_size, used.other_sizes) == ("Standard_D4as_v5", ("Standard_D4s_v5", "Standard_D2as_v5"))
    assert used.instead_of == "Standard_D8as_v5 (InvalidPropertyValue)"


def test_without_a_size_left_each_one_has_its_reason() -> None:
    first = RefusedSize(size="Standard_D2s_v5", why="AllocationFailed: Full.", brief="AllocationFailed")
    used = pool("Standard_D2as_v5", "Standard_D4as_v5", refused=[first])
    message = no_size_left(used, errors("AccountVMSeriesCoreQuotaReached"))
    assert message.startswith(
        "pool pool got no nodes of any of its VM sizes: Standard_D2s_v5: AllocationFailed: Full.; "
        "Standard_D2as_v5: AccountVMSeriesCoreQuotaReached: No.; "
        "Standard_D4as_v5: not tried, since it shares the quota of Standard_D2as_v5; ask for a higher quota"
    )
    assert no_size_left(replace(used, refused_sizes=()), errors("ImageNotFound")) == (
        "pool pool got no nodes: ImageNotFound: No."
    )
