"""Create, adopt, keep, hold and delete, each of which can be repeated, on a resource that answers as it is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

import tasks.resources.ownership
from tasks.errors import ConflictError
from tasks.errors.service import EmbeddedAzureEnded, ServiceError
from tasks.resources.ownership import Ending, create_or_adopt, delete_if_unchanged, dispose, find, hold
from tasks.resources.resource import Creatable, Found, Kind
from tasks.run.identity import Run
from tasks.run.polling import Polling
from tasks.run.settings import Disposal
from tasks.run.tags import Tags

START = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
RUN = Run(workload="top-words", flow_run_id="run", started=START, lifetime=timedelta(hours=1))
OTHERS = replace(RUN.tags, flow_run="another run")
NAME = "container c"


def conflict(code: str) -> ResourceExistsError:
    error = ResourceExistsError(message=code)
    error.error_code = code  # type: ignore[attr-defined]
    return error


class Fake(Creatable):
    """A container in an account that does as it is told: an error is raised once, before anything is done."""

    kind, exists, being_deleted = Kind.CONTAINER, "ContainerAlreadyExists", "ContainerBeingDeleted"

    def __init__(self, tags: Tags | None = RUN.tags, state: str = "available", **errors: Exception) -> None:
        super().__init__("c")
        self.tags = tags
        self.state = state
        self.errors = errors
        self.done: list[str] = []

    def _do(self, what: str) -> None:
        if error := self.errors.pop(what, None):
            raise error
        self.done.append(what)

    def create(self) -> None:
        if self.tags is not None:
            raise conflict(self.being_deleted if self.state == "being deleted" else self.exists)
        self._do("create")
        self.tags = RUN.tags

    def read(self) -> Found:
        self._do("read")
        if self.tags is None:
            raise ResourceNotFoundError()
        return Found(kind=self.kind, id=self.id, tags=self.tags, state=self.state)

    def renew(self, found: Found) -> None:
        self._do("renew")
        self.tags = RUN.tags

    def mark(self, tags: Tags) -> None:
        self._do("mark")
        self.tags = tags

    def delete(self) -> None:
        self._do("delete")
        self.tags = None


class Undeletable(Fake):
    def delete(self) -> None:
        self._do("delete")


@pytest.fixture(autouse=True)
def logger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.resources.ownership, "get_run_logger", lambda: logging.getLogger("tests.ownership"))


def pace(after: Callable[[], object] = lambda: None, clock: Callable[[], float] = lambda: 0.0) -> Polling:
    """Looks again at once, after having done something."""

    def sleep(seconds: float) -> None:
        after()

    return Polling(sleep=sleep, clock=clock)


# Create or adopt.


def test_what_does_not_exist_is_created() -> None:
    resource = Fake(None)
    assert create_or_adopt(RUN, resource)
    assert resource.done == ["create"]


def test_what_this_attempt_created_is_reused_as_it_is() -> None:
    resource = Fake()
    assert not create_or_adopt(RUN, resource)
    assert resource.done == ["read"]


def test_what_a_previous_attempt_created_is_renewed() -> None:
    resource = Fake(replace(RUN.tags, expires=START))
    assert not create_or_adopt(RUN, resource)
    assert resource.done == ["read", "renew"]


def test_what_another_run_created_is_a_conflict() -> None:
    resource = Fake(OTHERS)
    with pytest.raises(ConflictError) as raised:
        create_or_adopt(RUN, resource)
    assert str(raised.value) == f"{NAME} exists and was not created by this run; delete it or run again"
    assert resource.done == ["read", "read"]  # twice, for one answer may be damaged


@pytest.mark.parametrize("state", ["deleting", "being deleted"])
def test_what_is_being_deleted_is_waited_for(state: str, caplog: pytest.LogCaptureFixture) -> None:
    resource = Fake(OTHERS, state)
    looks: list[int] = []

    def after_three_looks() -> None:
        looks.append(1)
        if len(looks) == 3:
            resource.tags = None

    with caplog.at_level(logging.INFO):
        assert create_or_adopt(RUN, resource, pace(after_three_looks))
    assert caplog.messages == ["Container c: waiting until that of a previous attempt is deleted"]


def test_what_is_deleted_while_it_is_adopted_is_created() -> None:
    resource = Fake(replace(RUN.tags, expires=START), renew=conflict(Fake.being_deleted))
    assert create_or_adopt(RUN, resource, pace(lambda: setattr(resource, "tags", None)))


def test_waiting_for_a_deletion_has_a_limit() -> None:
    seconds = iter((0.0, 0.0, 601.0))
    with pytest.raises(ServiceError) as raised:
        create_or_adopt(RUN, Fake(state="being deleted"), pace(clock=lambda: next(seconds)))
    assert str(raised.value) == f"timed out after 601 s waiting for {NAME} to be deleted; retry the run later"
    assert (raised.value.code, raised.value.transient) == ("ContainerBeingDeleted", False)


def test_any_other_conflict_is_an_error() -> None:
    with pytest.raises(ResourceExistsError):
        create_or_adopt(RUN, Fake(None, create=conflict("AccountIsDisabled")))


# Keep, hold or delete.

DELETE, KEEP, ASK = Disposal.DELETE, Disposal.KEEP, Disposal.ASK


@pytest.mark.parametrize("disposal", [DELETE, ASK])
def test_what_is_not_kept_is_deleted_and_looked_for_once_more(disposal: Disposal) -> None:
    resource = Fake()
    assert dispose(RUN, resource, disposal) is Ending.DELETED
    assert resource.done == ["read", "delete", "read"]


def test_a_delete_without_effect_is_retried() -> None:
    with pytest.raises(ServiceError) as raised:
        dispose(RUN, Undeletable(), DELETE)
    assert (str(raised.value), raised.value.code) == (f"{NAME} still exists after its delete", "NotDeleted")
    assert raised.value.transient


@pytest.mark.parametrize("disposal", Disposal)
@pytest.mark.parametrize(
    "resource",
    [
        lambda: Fake(None),
        lambda: Fake(OTHERS),
        lambda: Fake(Tags.read({"project": "another"})),
        lambda: Fake(state="deleting"),
        lambda: Fake(read=conflict(Fake.being_deleted)),
        lambda: Fake(read=EmbeddedAzureEnded("ended")),
    ],
    ids=["gone", "of another run", "of another project", "being deleted", "no longer readable", "embedded"],
)
def test_what_is_gone_or_another_s_is_left_alone(resource: Callable[[], Fake], disposal: Disposal) -> None:
    each = resource()
    before = each.tags
    assert dispose(RUN, each, disposal, held=True) is Ending.NOT_FOUND
    assert each.tags == before


@pytest.mark.parametrize("error", [ResourceNotFoundError(), conflict(Fake.being_deleted), EmbeddedAzureEnded("ended")])
def test_what_goes_meanwhile_is_gone(error: Exception) -> None:
    assert dispose(RUN, Fake(delete=error), DELETE) is Ending.GONE
    assert delete_if_unchanged(Fake(delete=error), found(RUN.tags)) is Ending.GONE
    assert delete_if_unchanged(Fake(read=error), found(RUN.tags)) is Ending.GONE
    assert dispose(RUN, Fake(mark=error), DELETE, held=True) is Ending.GONE
    assert dispose(RUN, Fake(mark=error), KEEP) is Ending.GONE


def test_another_error_of_a_delete_is_raised() -> None:
    with pytest.raises(HttpResponseError):
        dispose(RUN, Fake(delete=conflict("LeaseIdMissing")), DELETE)


def test_what_is_kept_is_tagged_so_once() -> None:
    resource = Fake(replace(RUN.tags, others={"team": "words"}))
    assert dispose(RUN, resource, KEEP) is dispose(RUN, resource, KEEP) is Ending.KEPT
    assert resource.done == ["read", "mark", "read"]
    assert resource.tags is not None
    assert resource.tags.metadata() == {"team": "words", **RUN.tags.metadata(), "kept": "yes"}


def test_a_job_that_has_ended_is_kept_but_not_tagged() -> None:
    assert dispose(RUN, Fake(mark=conflict("JobCompleted")), KEEP) is Ending.NOT_MARKED


@pytest.mark.parametrize(("held", "tagged", "ending"), [
    (True, False, Ending.HELD),
    (True, True, Ending.HELD),
    (None, True, Ending.HELD),
    (None, False, Ending.DELETED),
    (False, True, Ending.DELETED),
])  # fmt: skip
def test_outputs_that_are_nowhere_else_stay(held: bool | None, tagged: bool, ending: Ending) -> None:
    resource = Fake(replace(RUN.tags, held=tagged))
    assert dispose(RUN, resource, DELETE, held=held) is ending
    assert resource.tags == (replace(RUN.tags, held=True) if ending is Ending.HELD else None)


def test_only_what_is_the_run_s_is_held() -> None:
    mine, other = Fake(), Fake(OTHERS)
    assert hold(RUN, mine)
    assert not hold(RUN, other)
    assert (find(RUN, mine) is None, other.tags) == (False, OTHERS)
    assert mine.tags == replace(RUN.tags, held=True)


# What a sweep has listed.


def found(tags: Tags) -> Found:
    return Found(kind=Kind.CONTAINER, id="c", tags=tags, state="available")


@pytest.mark.parametrize(
    "now",
    [replace(RUN.tags, expires=datetime(2999, 1, 1, tzinfo=timezone.utc)), replace(RUN.tags, kept=True), OTHERS],
    ids=["adopted by a retry", "kept", "of another run"],
)
def test_what_is_tagged_otherwise_since_it_was_listed_is_left(now: Tags) -> None:
    resource = Fake(now)
    assert delete_if_unchanged(resource, found(RUN.tags)) is Ending.CHANGED
    assert resource.done == ["read"]


def test_what_is_tagged_as_before_is_deleted() -> None:
    resource = Fake()
    assert delete_if_unchanged(resource, found(RUN.tags)) is Ending.DELETED
    assert resource.done == ["read", "delete"]
