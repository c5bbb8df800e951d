"""The tags of what runs create, as Azure Batch and Blob Storage keep them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from tasks.run.identity import Run
from tasks.run.tags import Tags

NOON = datetime(2026, 11, 22, 12, 0, 0, 345, tzinfo=timezone.utc)
RUN = Run(workload="top-words", flow_run_id="019a-1", started=NOON, lifetime=timedelta(hours=2))
METADATA = {
    "project": "prefect-azure-batch",
    "workload": "top-words",
    "flow_run": "019a-1",
    "created": "2026-11-22T12:00:00+00:00",
    "expires": "2026-11-22T14:00:00+00:00",
}


def test_a_run_s_tags_say_whose_it_is_and_when_it_expires() -> None:
    assert RUN.tags.metadata() == METADATA
    assert Tags.read(METADATA) == RUN.tags


@pytest.mark.parametrize("tag", ["kept", "held"])
def test_kept_and_held_are_tags_of_their_own(tag: str) -> None:
    tags = Tags.read({**METADATA, tag: "yes"})
    assert (tags.kept, tags.held) == (tag == "kept", tag == "held")
    assert tags.metadata() == {**METADATA, tag: "yes"}


def test_what_others_have_tagged_is_written_back() -> None:
    metadata = {**METADATA, "cost-center": "4711", "expires": "next week"}
    tags = Tags.read(metadata)
    assert tags.expires is None
    assert replace(tags, kept=True).metadata() == {**metadata, "kept": "yes"}
    assert replace(Tags.read({**metadata, "kept": "yes"}), kept=False).metadata() == metadata


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"project": "prefect-azure-batch"},
        {"flow_run": "019a-1"},
        {"project": "prefect-azure-batch", "flow_run": ""},
        {**METADATA, "project": "prefect-azure-batch-2"},
        {**METADATA, "project": "Prefect-Azure-Batch"},
        {**METADATA, "project": "another"},
    ],
)
def test_without_both_tags_it_is_nobody_s_of_ours(metadata: dict[str, str] | None) -> None:
    tags = Tags.read(metadata)
    assert tags.flow_run == ""
    assert not tags.owned_by("019a-1")
    assert not tags.owned_by("")


def test_a_run_owns_what_carries_its_id_and_nothing_else() -> None:
    assert RUN.tags.owned_by("019a-1")
    assert not RUN.tags.owned_by("019a-2")


@pytest.mark.parametrize(
    ("expires", "expected"),
    [
        ("2026-11-22T14:00:00Z", datetime(2026, 11, 22, 14, tzinfo=timezone.utc)),
        ("2026-11-22T15:00:00+01:00", datetime(2026, 11, 22, 14, tzinfo=timezone.utc)),
        ("", None),
        ("soon", None),
        ("2020-01-01", None),
        ("2020-01-01T00:00:00", None),
        ("0001-01-01T00:00:00+01:00", None),
        ("1577836800", None),
    ],
)
def test_a_time_has_a_time_zone_or_is_none(expires: str, expected: datetime | None) -> None:
    assert Tags.read({**METADATA, "expires": expires}).expires == expected


def test_tags_expire_after_a_grace() -> None:
    grace, expires = timedelta(minutes=5), RUN.tags.expires
    assert expires is not None
    assert not RUN.tags.expired(expires + grace - timedelta(seconds=1), grace)
    assert RUN.tags.expired(expires + grace, grace)
    assert not replace(RUN.tags, expires=None).expired(expires + grace, grace)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"workload": "other"}, True),
        ({"held": "yes"}, True),
        ({"expires": "2999-01-01T00:00:00+00:00"}, False),  # a retry has adopted it
        ({"kept": "yes"}, False),
        ({"flow_run": "another run"}, False),
        ({"project": "another"}, False),
    ],
)
def test_a_claim_is_the_run_the_time_and_whether_it_is_kept(change: dict[str, str], same: bool) -> None:
    assert Tags.read({**METADATA, **change}).same_claim(RUN.tags) is same
