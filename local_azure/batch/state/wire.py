"""The wire format of values: timestamps, durations, ETags, ids, URLs."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from urllib.parse import quote

from local_azure.batch.state.errors import invalid_property

# The maximum duration of .NET, which means "no limit" in Batch.
UNLIMITED = timedelta(days=10675199, hours=2, minutes=48, seconds=5, microseconds=477580)
UNLIMITED_TEXT = "P10675199DT2H48M5.4775807S"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?:[Zz]|([+-])(\d\d):(\d\d))?)?\Z"
)
_DURATION = re.compile(
    r"(-)?P(?=[\dT])(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d{1,9}))?S)?)?\Z"
)
_EPOCH = datetime(1, 1, 1, tzinfo=timezone.utc)
LAST = datetime.max.replace(tzinfo=timezone.utc)  # the latest time that can be written


@lru_cache(maxsize=4)  # what happens to a resource at once has one time
def timestamp(moment: datetime) -> str:
    """RFC 3339 with seven digits, which sort as text as they do in time: 2026-03-06T18:29:52.3306670Z."""
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds").removesuffix("+00:00") + "0Z"


def parse_timestamp(text: str) -> datetime:
    """Parse a timestamp; without an offset it is UTC. Raises ValueError."""
    match = _TIMESTAMP.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a timestamp such as 2026-03-06T18:29:52Z")
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
    micros = int((fraction or "0").ljust(6, "0")[:6])
    zone = timezone(offset)
    moment = datetime(
        int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), micros, tzinfo=zone
    )
    try:
        return moment.astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError(f"{text!r} is outside of the years 1 to 9999") from error


def after(moment: datetime, length: timedelta) -> datetime:
    """`moment + length`, but at most LAST."""
    return moment + length if length < LAST - moment else LAST


def http_date(moment: datetime) -> str:
    # strftime's %a and %b depend on the process's locale.
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment.weekday()]
    names = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    return f"{day}, {moment.day:02} {names[moment.month - 1]} {moment.year:04} {moment:%H:%M:%S} GMT"


def parse_duration(text: str) -> timedelta:
    """Parse an ISO 8601 duration. Raises ValueError.

    A year is 365 days and a month 30, as in .NET: Azure reads P3Y6M4D back as P1279D.
    """
    match = _DURATION.match(text)
    if not match:
        raise ValueError(f"{text!r} is not an ISO 8601 duration such as PT15M")
    sign, years, months, weeks, days, hours, minutes, seconds, fraction = match.groups()
    micros = int((fraction or "0").ljust(6, "0")[:6])
    try:
        length = timedelta(
            weeks=int(weeks or 0),
            days=int(years or 0) * 365 + int(months or 0) * 30 + int(days or 0),
            hours=int(hours or 0),
            minutes=int(minutes or 0),
            seconds=int(seconds or 0),
            microseconds=micros,
        )
    except OverflowError as error:
        raise ValueError(f"{text!r} is longer than the maximum duration") from error
    return -length if sign else length


def duration(length: timedelta) -> str:
    """The canonical form of .NET: PT6M for PT06M00S, P7D for PT168H."""
    if length >= UNLIMITED:
        return UNLIMITED_TEXT
    sign, length = ("-", -length) if length < timedelta() else ("", length)
    minutes, seconds = divmod(length.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{length.microseconds:06}".rstrip("0") if length.microseconds else ""
    days = f"{length.days}D" if length.days else ""
    clock = "".join(f"{count}{unit}" for count, unit in ((hours, "H"), (minutes, "M")) if count)
    clock += f"{seconds}{fraction}S" if seconds or fraction else ""
    return f"{sign}P{days}{'T' + clock if clock else ''}" if days or clock else "PT0S"


def next_etag(previous: str | None, now: datetime) -> str:
    """`now` in .NET ticks, but always later than `previous`: an ETag is never repeated, even if the clock goes back."""
    since = now - _EPOCH
    ticks = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 10
    if previous is not None:
        ticks = max(ticks, int(previous, 16) + 1)
    return f"0x{ticks:X}"


def is_id(text: str) -> bool:
    return bool(_ID.match(text))


def check_id(name: str, text: str) -> None:
    """Raises BatchError where the property of that name is no id for something new."""
    if not is_id(text):
        raise invalid_property(name, text, "1 to 64 letters, digits, hyphens and underscores are allowed")


def segment(text: str) -> str:
    """`text` as one segment of a URL path."""
    return text if _ID.match(text) else quote(text, safe="")
