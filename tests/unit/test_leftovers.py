"""What a sweep makes of a leftover: whose it is, whether it has expired, whether it is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from flows.sweep import Finding
from tasks.errors import InputError
from tasks.resources.leftovers import Kind, Leftover, Verdict, _leftover, clean_up_of, judge, judge_after
from tasks.run.parameters import flow_run_uuid
from tasks.run.settings import CleanUp, Disposal

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
RUN = "0190f3e2-7c5b-7a30-9d1c-2b8f0e6a4d11"
OURS = {"project": "prefect-azure-batch", "flow_run": RUN, "expires": "2026-11-22T11:00:00+00:00"}


def leftover(**tags: str) -> Leftover:
    found = _leftover(Kind.POOL, "some-pool", {**OURS, **tags}, "active", dedicated_nodes=2, spot_nodes=1)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"project": "prefect-azure-batch"},
        {"flow_run": RUN},
        {"project": "prefect-azure-batch", "flow_run": ""},
        {"project": "prefect-azure-batch-2", "flow_run": RUN},
        {"project": "Prefect-Azure-Batch", "flow_run": RUN},
    ],
)
def test_a_thing_without_both_tags_is_a_stranger_s_whatever_its_name(tags: dict[str, str]) -> None:
    assert _leftover(Kind.POOL, f"top-words-{RUN[-12:]}", tags, "active") is None


def test_a_leftover_says_what_its_tags_say() -> None:
    assert leftover(created="2026-11-22T09:00:00+00:00", kept="yes") == Leftover(
        kind=Kind.POOL,
        id="some-pool",
        flow_run=RUN,
        created=datetime(2026, 11, 22, 9, tzinfo=timezone.utc),
        expires=datetime(2026, 11, 22, 11, tzinfo=timezone.utc),
        kept=True,
        state="active",
        dedicated_nodes=2,
        spot_nodes=1,
    )


@pytest.mark.parametrize(
    ("expires", "verdict"),
    [
        ("2026-11-22T11:54:59+00:00", Verdict.EXPIRED),
        ("2026-11-22T11:55:00+00:00", Verdict.EXPIRED),
        ("2026-11-22T11:55:01+00:00", Verdict.CURRENT),  # not yet for a clock that is five minutes slow
        ("2026-11-22T13:00:00+00:00", Verdict.CURRENT),
        ("2026-11-22T12:30:00+01:00", Verdict.EXPIRED),
        ("2026-11-22T11:54:59Z", Verdict.EXPIRED),
        ("0001-01-01T00:00:00+00:00", Verdict.EXPIRED),
        ("9999-12-31T23:59:59+00:00", Verdict.CURRENT),
    ],
)
def test_a_leftover_has_expired_some_minutes_after_its_time(expires: str, verdict: Verdict) -> None:
    assert judge(leftover(expires=expires), now=NOW) is verdict


@pytest.mark.parametrize("kind", [Kind.JOB, Kind.CONTAINER])
@pytest.mark.parametrize(
    ("expires", "verdict"),
    [("2026-11-22T11:00:00+00:00", Verdict.EXPIRED), ("2026-11-22T11:00:01+00:00", Verdict.CURRENT)],
)
def test_what_has_no_nodes_is_left_for_an_hour_to_a_run_that_may_still_download_from_it(
    kind: Kind, expires: str, verdict: Verdict
) -> None:
    assert judge(replace(leftover(expires=expires), kind=kind), now=NOW) is verdict


@pytest.mark.parametrize(
    "expires", ["", "soon", "2020-01-01", "2020-01-01T00:00:00", "0001-01-01T00:00:00+01:00", "1577836800"]
)
def test_what_says_no_time_never_expires_and_is_reported(expires: str) -> None:
    found = leftover(expires=expires)
    assert (found.expires, judge(found, now=NOW)) == (None, Verdict.UNREADABLE)
    assert judge(found, now=NOW, include_kept=True) is Verdict.UNREADABLE


def test_what_is_kept_is_swept_only_when_asked_and_expired() -> None:
    kept = leftover(kept="yes")
    assert judge(kept, now=NOW) is Verdict.KEPT
    assert judge(kept, now=NOW, include_kept=True) is Verdict.EXPIRED
    assert judge(kept, now=NOW - timedelta(hours=1), include_kept=True) is Verdict.CURRENT


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    going = replace(leftover(), state="deleting")
    assert judge(going, now=NOW) is Verdict.GOING
    assert judge_after(going, CleanUp()) is Verdict.GOING


def test_an_ended_run_s_clean_up_decides_for_each_kind() -> None:
    keep_job = CleanUp(job=Disposal.KEEP, pool=Disposal.ASK)
    verdicts = [judge_after(replace(leftover(), kind=kind), keep_job) for kind in Kind]
    assert verdicts == [Verdict.ENDED, Verdict.KEPT, Verdict.ENDED]
    assert judge_after(replace(leftover(), kind=Kind.JOB), keep_job, include_kept=True) is Verdict.ENDED
    assert judge_after(leftover(kept="yes"), CleanUp()) is Verdict.KEPT


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, CleanUp()),
        ({"clean_up": None}, CleanUp()),
        ({"clean_up": {}}, CleanUp()),
        ({"clean_up": {"pool": "keep"}}, CleanUp(pool=Disposal.KEEP)),
        ({"clean_up": {"job": "ask", "containers": "delete", "unknown": 1}}, CleanUp(job=Disposal.ASK)),
        ({"clean_up": {"pool": "sell"}}, CleanUp(pool=Disposal.KEEP)),  # left for the sweep
        ({"clean_up": CleanUp(job=Disposal.KEEP)}, CleanUp(job=Disposal.KEEP)),
        ({"clean_up": {"job": Disposal.KEEP}}, CleanUp(job=Disposal.KEEP)),
    ],
)
def test_clean_up_is_read_from_a_run_s_parameters_as_far_as_they_have_it(
    parameters: dict[str, object], expected: CleanUp
) -> None:
    assert clean_up_of(parameters) == expected


@pytest.mark.parametrize("given", [RUN, f"prefect.flow-run.{RUN}", f" {RUN} ", RUN.upper()])
def test_a_flow_run_s_id_comes_bare_or_as_an_event_names_it(given: str) -> None:
    assert str(flow_run_uuid(given)) == RUN


def test_no_flow_run_s_id_is_none() -> None:
    assert (flow_run_uuid(None), flow_run_uuid("")) == (None, None)


@pytest.mark.parametrize(
    "given", ["prefect.flow-run.", "latest", "prefect.deployment." + RUN, "{{ event.resource.id }}"]
)
def test_a_wrong_id_is_refused_by_name(given: str) -> None:
    with pytest.raises(InputError, match=r"^flow_run_id is .*, which is no id of a flow run; it looks like 0190f3e2-"):
        flow_run_uuid(given)


@pytest.mark.parametrize(
    ("expires", "said"),
    [
        ("2026-11-22T09:54:59+00:00", "expired 2 h 5 min ago"),
        ("2026-11-22T11:20:00+00:00", "expired 40 min ago"),
        ("2026-11-19T08:00:00+00:00", "expired 3 d 4 h ago"),
        ("2026-11-22T12:41:00+00:00", "expires in 41 min"),
        ("2026-11-22T11:58:00+00:00", "just expired: left a while"),
        ("soon", "no readable `expires`"),
    ],
)
def test_a_finding_says_since_when(expires: str, said: str) -> None:
    found = leftover(expires=expires)
    assert str(Finding(leftover=found, verdict=judge(found, now=NOW), at=NOW)) == said
