from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_azure.batch.rest.odata import Kind, parse_filter, parse_select, select
from local_azure.batch.state.errors import BatchError, Code

PROPERTIES = {
    "id": Kind.TEXT,
    "state": Kind.STATE,
    "priority": Kind.NUMBER,
    "done": Kind.FLAG,
    "creationTime": Kind.TIME,
    "info/code": Kind.NUMBER,
}
DOCUMENT = {
    "id": "It's one",
    "state": "active",
    "priority": 3,
    "done": True,
    "creationTime": "2026-03-06T18:29:52.3306670Z",
    "info": {"code": 0},
}


@pytest.mark.parametrize(
    "condition",
    [
        "id eq 'it''s ONE'",
        "startswith(id, 'IT')",
        "state eq 'Active'",
        "state ne 'completed'",
        "priority ge 3 and priority le 3",
        "priority gt -1",
        "done eq true",
        "info/code eq 0",
        "creationTime gt DateTime'2026-03-06T18:29:52Z'",
        "creationTime lt datetime'2026-03-06T18:29:53Z'",
        "not (state eq 'completed')",
        "state eq 'completed' or priority eq 3",
        "state eq 'completed' and priority eq 9 or done eq true",
        "(state eq 'completed' or done eq true) and priority eq 3",
        "priority ne null",
    ],
)
def test_condition_holds(condition):
    assert parse_filter(condition, PROPERTIES)(DOCUMENT)
    assert not parse_filter(f"not ({condition})", PROPERTIES)(DOCUMENT)


@pytest.mark.parametrize(
    ("condition", "permitted"),
    [
        ("state eq 'Active'", {"state": {"active"}}),
        ("state eq 'active' or state eq 'running'", {"state": {"active", "running"}}),
        ("state eq 'active' or priority eq 3", {}),
        ("state eq 'active' and (state eq 'running' or id eq 'A')", {"state": {"active"}}),
        ("state eq 'active' and state eq 'running' and id eq 'A'", {"state": set(), "id": {"a"}}),
        ("state ne 'active' and priority eq 3", {}),
        ("not (state eq 'active')", {}),
        ("state eq null or state eq 'active'", {}),
    ],
)
def test_filter_knows_which_values_it_permits(condition, permitted):
    assert parse_filter(condition, PROPERTIES).permitted == permitted


@pytest.mark.parametrize("condition", ["info/code eq 0", "info/code lt 5", "creationTime gt DateTime'2020-01-01'"])
def test_absent_property_is_in_no_order(condition):
    assert not parse_filter(condition, PROPERTIES)({})


@pytest.mark.parametrize(
    ("condition", "named"),
    [
        ("colour eq 'red'", "colour"),
        ("Id eq 'x'", "Id"),
        ("state gt 'a'", "gt"),
        ("priority eq 'three'", "priority"),
        ("creationTime eq '2026-03-06'", "DateTime"),
        ("creationTime eq DateTime'soon'", "soon"),
        ("startswith(priority, '1')", "priority"),
        ("state eq 'a' or", "the end"),
        ("state eq 'a' state", "state"),
        ("(state eq 'a'", "the end"),
        ("state eq 'a", "position"),
        ("state", "the end"),
    ],
)
def test_bad_conditions_are_refused_naming_what_is_wrong(condition, named):
    with pytest.raises(BatchError) as refusal:
        parse_filter(condition, PROPERTIES)
    assert refusal.value.code is Code.InvalidQueryParameterValue
    assert named in refusal.value.detail


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_and_nothing_else(text):
    with contextlib.suppress(BatchError):
        parse_filter(text, PROPERTIES)(DOCUMENT)


def test_deep_nesting_is_refused():
    with pytest.raises(BatchError, match=r".*") as refusal:
        parse_filter("(" * 5000 + "done eq true" + ")" * 5000, PROPERTIES)
    assert "nested" in refusal.value.detail


def test_selection_keeps_what_is_named_and_there():
    assert select(DOCUMENT, parse_select("id, state,info/code", {*DOCUMENT, "url"})) == {
        "id": "It's one",
        "state": "active",
        "info": {"code": 0},
    }
    with pytest.raises(BatchError) as refusal:
        parse_select("id,colour", DOCUMENT)
    assert "colour" in refusal.value.detail
