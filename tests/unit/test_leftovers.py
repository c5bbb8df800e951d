"""What a sweep decides about a leftover: whose it is, whether it has expired, whether it is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from uuid import UUID

import pytest

from tasks.errors import InputError
from tasks.reporting.leftovers import Finding, conclusion, findings_table, problems, total
from tasks.resources.clean_up import clean_up_of
from tasks.resources.leftovers import Deletion, Verdict, judge, judge_after, judge_for
from tasks.resources.ownership import Ending
from tasks.resources.resource import Found, Kind
from tasks.run.parameters import flow_run_uuid
from tasks.run.settings import CleanUp, Disposal
from tasks.run.tags import Tags

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
RUN = "0190f3e2-7c5b-7a30-9d1c-2b8f0e6a4d11"
OURS = {
    "project": "prefect-azure-batch",
    "flow_run": RUN,
    "created": "2026-11-22T09:00:00+00:00",
    "expires": "2026-11-22T11:00:00+00:00",
}


def leftover(kind: Kind = Kind.POOL, id: str = "some-pool", nodes: int = 0, **tags: str) -> Found:
    return Found(kind=kind, id=id, tags=Tags.read({**OURS, **tags}), state="active", dedicated_nodes=nodes)


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
def test_expired_job_and_containers_stay_an_hour_for_a_late_download(
    kind: Kind, expires: str, verdict: Verdict
) -> None:
    assert judge(leftover(kind, expires=expires), now=NOW) is verdict


def test_what_has_no_readable_time_never_expires_and_is_reported() -> None:
    found = leftover(expires="soon")
    assert judge(found, now=NOW) is Verdict.UNREADABLE
    assert judge(found, now=NOW, include_kept=True) is Verdict.UNREADABLE


def test_what_is_kept_is_swept_only_when_asked_and_expired() -> None:
    kept = leftover(kept="yes")
    assert judge(kept, now=NOW) is Verdict.KEPT
    assert judge(kept, now=NOW, include_kept=True) is Verdict.EXPIRED
    assert judge(kept, now=NOW - timedelta(hours=1), include_kept=True) is Verdict.CURRENT


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    going = replace(leftover(), state="deleting")
    assert judge(going, now=NOW) is Verdict.BEING_DELETED
    assert judge_after(going, CleanUp()) is Verdict.BEING_DELETED


def test_an_ended_run_s_clean_up_decides_for_each_kind() -> None:
    keep_job = CleanUp(job=Disposal.KEEP, pool=Disposal.ASK)
    verdicts = [judge_after(leftover(kind), keep_job) for kind in Kind]
    assert verdicts == [Verdict.ENDED, Verdict.KEPT, Verdict.ENDED]
    assert judge_after(leftover(Kind.JOB), keep_job, include_kept=True) is Verdict.ENDED
    assert judge_after(leftover(kept="yes"), CleanUp()) is Verdict.KEPT


def test_outputs_that_are_nowhere_else_stay_after_their_run() -> None:
    held = leftover(Kind.CONTAINER, held="yes")
    assert judge_after(held, CleanUp()) is Verdict.HELD
    assert judge_after(held, CleanUp(containers=Disposal.KEEP)) is Verdict.KEPT
    assert judge_after(held, CleanUp(), include_kept=True) is Verdict.ENDED
    assert judge(held, now=NOW) is Verdict.EXPIRED


def test_a_sweep_for_one_run_deletes_nothing_else() -> None:
    mine, other = leftover(), leftover(flow_run="another")
    assert judge_for(mine, RUN, CleanUp(), now=NOW) is Verdict.ENDED
    assert judge_for(leftover(expires="2026-11-22T13:00:00+00:00"), RUN, CleanUp(), now=NOW) is Verdict.ENDED
    assert judge_for(mine, RUN, None, now=NOW) is Verdict.RUNNING
    assert judge_for(other, RUN, CleanUp(), now=NOW) is Verdict.OTHERS
    assert judge_for(other, RUN, None, now=NOW) is Verdict.OTHERS
    assert judge_for(leftover(flow_run="another", kept="yes"), RUN, CleanUp(), now=NOW) is Verdict.KEPT


def test_only_what_has_expired_or_whose_run_has_ended_is_deleted() -> None:
    assert [verdict for verdict in Verdict if verdict.deletes] == [Verdict.EXPIRED, Verdict.ENDED]


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
def test_clean_up_is_read_from_the_parameters_that_a_run_has(parameters: dict[str, object], expected: CleanUp) -> None:
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
        ("2026-11-22T11:58:00+00:00", "just expired: left for a while"),
        ("soon", "no readable `expires`"),
    ],
)
def test_a_finding_says_since_when(expires: str, said: str) -> None:
    found = leftover(expires=expires)
    assert str(Finding(leftover=found, verdict=judge(found, now=NOW), at=NOW)) == said


# What a sweep reports.


def finding(found: Found) -> Finding:
    return Finding(leftover=found, verdict=judge(found, now=NOW), at=NOW)


EXPIRED = finding(leftover(nodes=2))
CURRENT = finding(leftover(Kind.JOB, "b", expires="2026-11-22T13:59:00+00:00"))
BROKEN = finding(leftover(Kind.CONTAINER, "c", expires="next week"))


def test_the_table_has_a_row_for_each_with_what_became_of_it() -> None:
    deleted = Deletion(leftover=EXPIRED.leftover, ending=Ending.DELETED)
    rows = findings_table([EXPIRED, CURRENT, BROKEN], [deleted], None).splitlines()
    assert rows[0] == "Found 3 pools, jobs and containers of ours, 1 of them to be deleted (with 2 nodes, which bill)."
    created, expires = "2026-11-22 09:00 UTC", "2026-11-22 11:00 UTC"
    assert rows[4:] == [
        f"| pool some-pool | {RUN} | active | 2 | {created} | {expires} | expired 1 h ago; deleted |",
        f"| job b | {RUN} | active |  | {created} | 2026-11-22 13:59 UTC | expires in 1 h 59 min |",
        f"| container c | {RUN} | active |  | {created} | ? | no readable &#96;expires&#96; |",
    ]


def test_the_table_of_a_sweep_for_one_run_says_so() -> None:
    text = findings_table([CURRENT], [], UUID(RUN))
    assert text.startswith(
        "Found 1 pool, job or container of ours, 0 of them to be deleted. "
        f"Only what flow run {RUN} created is to be deleted.\n"
    )


def test_a_long_table_is_cut() -> None:
    lines = findings_table([CURRENT] * 502, [], None).splitlines()
    assert (len(lines), lines[-1]) == (4 + 500 + 2, "and 2 more")


def test_a_sweep_s_conclusion_says_what_was_deleted() -> None:
    assert total([]) == "0 pools, jobs and containers of ours, 0 of them to be deleted"
    assert conclusion([CURRENT], [], delete=False).endswith("; a dry run deletes nothing")
    deletions = [Deletion(leftover=EXPIRED.leftover, ending=ending) for ending in (Ending.DELETED, Ending.GONE)]
    assert conclusion([EXPIRED, EXPIRED], deletions, delete=True).endswith("; 1 deleted")


def test_a_sweep_fails_with_what_was_not_deleted_or_not_listed() -> None:
    deleted = Deletion(leftover=CURRENT.leftover, ending=Ending.DELETED)
    failed = Deletion(leftover=EXPIRED.leftover, ending=Ending.FAILED, reason="refused")
    assert problems([deleted], []) == ""
    assert problems([deleted, failed], []) == "1 of 2 were not deleted:\npool some-pool: refused"
    assert problems([failed], ["no list"]) == "no list\npool some-pool: refused"
