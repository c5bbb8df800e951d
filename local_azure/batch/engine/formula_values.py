"""The values of autoscale formulas: operators, functions, constants."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from local_azure.batch.state.wire import parse_timestamp, timestamp

INTERVALS = {
    "TimeInterval_Zero": timedelta(),
    "TimeInterval_100ns": timedelta(microseconds=0.1),
    "TimeInterval_Microsecond": timedelta(microseconds=1),
    "TimeInterval_Millisecond": timedelta(milliseconds=1),
    "TimeInterval_Second": timedelta(seconds=1),
    "TimeInterval_Minute": timedelta(minutes=1),
    "TimeInterval_Hour": timedelta(hours=1),
    "TimeInterval_Day": timedelta(days=1),
    "TimeInterval_Week": timedelta(weeks=1),
    "TimeInterval_Year": timedelta(days=365),
}
OPTIONS = {"requeue", "terminate", "taskcompletion", "retaineddata"}


class FormulaError(Exception):
    """The formula cannot be parsed or evaluated."""


class Stopped(Exception):
    """The formula has called stop(): the statements before it count."""


@dataclass(frozen=True)
class Samples:
    """A service-defined variable. There is no history: every sample is the current value."""

    value: float
    known: bool = True  # else nothing is measured, and there are no samples


def apply(operator: str, left: Any, right: Any) -> Any:
    """Apply an operator to numbers, times and intervals; to vectors element by element."""
    left, right = (side.value if isinstance(side, Samples) else side for side in (left, right))
    if isinstance(left, list) or isinstance(right, list):
        count = len(left if isinstance(left, list) else right)
        lefts, rights = (side if isinstance(side, list) else [side] * count for side in (left, right))
        return [apply(operator, one, other) for one, other in zip(lefts, rights, strict=True)]
    if isinstance(left, str) and operator not in ("==", "!="):
        raise TypeError(f"a text has no operator {operator}")  # and so cannot grow without limit
    try:
        value = _OPERATORS[operator](left, right)
    except TypeError:
        raise TypeError(f"{text_of(left)} {operator} {text_of(right)} is not defined") from None
    except ZeroDivisionError:
        raise ZeroDivisionError(f"{text_of(left)} {operator} {text_of(right)} is a division by zero") from None
    return float(value) if isinstance(value, bool | int) else value


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "||": lambda left, right: bool(left) or bool(right),
    "&&": lambda left, right: bool(left) and bool(right),
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "<=": lambda left, right: left <= right,
    ">=": lambda left, right: left >= right,
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
}


def number(value: Any) -> float:
    if isinstance(value, Samples):
        return value.value
    if not isinstance(value, float):
        raise TypeError(f"{text_of(value)} is not a number")
    return value


TIME_PARTS: dict[str, Callable[[datetime], int]] = {
    "year": lambda moment: moment.year,
    "month": lambda moment: moment.month,
    "day": lambda moment: moment.day,
    "hour": lambda moment: moment.hour,
    "minute": lambda moment: moment.minute,
    "second": lambda moment: moment.second,
    "weekday": lambda moment: moment.isoweekday() % 7,  # Sunday is 0
    "yearday": lambda moment: moment.timetuple().tm_yday,
}


def flat(values: list[Any]) -> list[float]:
    found: list[float] = []
    for value in values:
        found += flat(value) if isinstance(value, list) else [number(value)]
    return found


def _percentile(values: list[float]) -> float:
    *samples, percent = values
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * percent / 100))]


FUNCTIONS: dict[str, Callable[[list[float]], float]] = {
    "abs": lambda values: abs(values[0]),
    "avg": lambda values: statistics.fmean(values),
    "ceil": lambda values: math.ceil(values[0]),
    "floor": lambda values: math.floor(values[0]),
    "len": len,
    "lg": lambda values: math.log2(values[0]),
    "ln": lambda values: math.log(values[0]),
    "log": lambda values: math.log10(values[0]),
    "max": max,
    "min": min,
    "norm": lambda values: math.hypot(*values),
    "percentile": _percentile,
    "rand": lambda values: random.random(),
    "range": lambda values: max(values) - min(values),
    "round": lambda values: math.floor(values[0] + 0.5),
    "std": lambda values: statistics.stdev(values) if len(values) > 1 else 0.0,  # that of a sample
    "stop": lambda values: 0.0,
    "sum": math.fsum,
}


ELEMENT_WISE = {"lg", "ln", "log"}  # of a vector: a vector


def moment(text: Any) -> datetime:
    """A time as a formula writes it: ISO 8601, or RFC 1123 such as "Sun, 06 Nov 1994 08:49:37 GMT"."""
    if not isinstance(text, str):
        raise TypeError(f"{text_of(text)} is not a text")
    try:
        return parse_timestamp(text)
    except ValueError:
        found = parsedate_to_datetime(text)
        return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def text_of(value: Any) -> str:
    """A value in the format of autoScaleRun.results."""
    if isinstance(value, Samples):
        value = value.value
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, datetime):
        return timestamp(value.astimezone(timezone.utc))
    if isinstance(value, list):
        return "[" + ",".join(map(text_of, value)) + "]"
    return str(value)
