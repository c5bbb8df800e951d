from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_azure.batch.state.wire import (
    UNLIMITED,
    UNLIMITED_TEXT,
    duration,
    http_date,
    is_id,
    next_etag,
    parse_duration,
    parse_timestamp,
    timestamp,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("PT06M00S", "PT6M"),
        ("PT168H", "P7D"),
        ("PT90M", "PT1H30M"),
        ("P1W", "P7D"),
        ("P3Y6M4DT12H30M5S", "P1279DT12H30M5S"),  # as in a recorded answer of Azure
        ("PT0S", "PT0S"),
        ("PT0.5S", "PT0.5S"),
        ("-PT1M", "-PT1M"),
        (UNLIMITED_TEXT, UNLIMITED_TEXT),
    ],
)
def test_durations_are_written_in_canonical_form(text, canonical):
    assert duration(parse_duration(text)) == canonical


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "1H", "PT1H2", "P1M1", "P1D1Y", "PTS", "PT1.S", "P99999999999999999999D", "pt1h"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="dura"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(), max_value=UNLIMITED - timedelta(microseconds=1)))
def test_durations_survive_the_wire(length):
    assert parse_duration(duration(length)) == length


@given(st.datetimes(min_value=datetime(1900, 1, 1)))
def test_timestamps_survive_the_wire_and_have_seven_digits(moment):
    moment = moment.replace(tzinfo=timezone.utc)
    text = timestamp(moment)
    assert len(text) == len("2026-03-06T18:29:52.3306670Z")
    assert parse_timestamp(text) == moment


@given(st.datetimes(min_value=datetime(1900, 1, 1)), st.datetimes(min_value=datetime(1900, 1, 1)))
def test_timestamps_sort_as_text_like_in_time(one, other):
    first, second = (timestamp(moment.replace(tzinfo=timezone.utc)) for moment in (one, other))
    assert (first < second) == (one < other)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2026-03-06T18:29:52Z", "2026-03-06T18:29:52.0000000Z"),
        ("2026-03-06T18:29:52.3306671Z", "2026-03-06T18:29:52.3306670Z"),
        ("2026-03-06T20:29:52+02:00", "2026-03-06T18:29:52.0000000Z"),
        ("2026-03-06", "2026-03-06T00:00:00.0000000Z"),
    ],
)
def test_timestamps_are_read_in_the_forms_that_clients_write(text, canonical):
    assert timestamp(parse_timestamp(text)) == canonical


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-03-06T25:00:00Z", "06.03.2026"])
def test_what_is_no_timestamp_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_timestamp(text)


def test_etags_rise_even_if_the_clock_goes_back():
    now = datetime(2026, 3, 6, tzinfo=timezone.utc)
    first = next_etag(None, now)
    second = next_etag(first, now - timedelta(days=1))
    third = next_etag(second, now - timedelta(days=1))
    assert int(first, 16) < int(second, 16) < int(third, 16)


def test_http_dates_are_english_whatever_the_locale():
    assert http_date(datetime(2026, 3, 6, 18, 29, 52, tzinfo=timezone.utc)) == "Fri, 06 Mar 2026 18:29:52 GMT"


@pytest.mark.parametrize(("text", "good"), [("a-Z_9", True), ("x" * 64, True), ("x" * 65, False), ("", False)])
def test_ids(text, good):
    assert is_id(text) is good


@pytest.mark.parametrize("text", ["a b", "a/b", "..", "a\n", "ä", "a:b", "a\0"])
def test_what_could_leave_a_directory_is_no_id(text):
    assert not is_id(text)
