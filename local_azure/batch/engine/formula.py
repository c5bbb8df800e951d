"""Autoscale formulas: parser and evaluator of the language that sets the size of a pool."""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from local_azure.batch.state.wire import parse_timestamp, timestamp

MAXIMUM_LENGTH = 8192  # characters
MAXIMUM_STATEMENTS = 100
MAXIMUM_SAMPLES = 1000  # more would not help: all samples are equal

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<text>"[^"]*"|'[^']*')|(?P<name>\$?[A-Za-z_]\w*)
        |(?P<operator>\|\||&&|[<>=!]=|[-+*/<>!?:;=().,\[\]]))""",
    re.VERBOSE,
)
_INTERVALS = {
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
_LEVELS = (("||",), ("&&",), ("==", "!=", "<", ">", "<=", ">="), ("+", "-"), ("*", "/"))


class FormulaError(Exception):
    """The formula cannot be parsed or evaluated."""


@dataclass(frozen=True)
class Samples:
    """A service-defined variable. There is no history: every sample is the current value."""

    value: float


Expression = Callable[["dict[str, Any]"], Any]


@dataclass(frozen=True)
class Formula:
    """A parsed formula."""

    statements: tuple[tuple[str, Expression], ...]

    def evaluate(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The assigned variables, in the order of assignment. Raises FormulaError."""
        scope = dict(variables)
        assigned: dict[str, Any] = {}
        for name, expression in self.statements:
            try:
                scope[name] = assigned[name] = expression(scope)
            except RecursionError as error:
                raise FormulaError(f"{name} cannot be computed: its expression is too long") from error
            except (TypeError, ValueError, ZeroDivisionError, OverflowError, AttributeError, IndexError) as error:
                raise FormulaError(f"{name} cannot be computed: {error}") from error
        return assigned


def parse(text: str) -> Formula:
    """Parse a formula. Raises FormulaError with the position."""
    if len(text) > MAXIMUM_LENGTH:
        raise FormulaError(f"the formula is longer than {MAXIMUM_LENGTH} characters")
    tokens, at, text = [], 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise FormulaError(f"unexpected {text[at : at + 10]!r} at position {at}")
        tokens.append((str(match.lastgroup), match.group(str(match.lastgroup))))
        at = match.end()
    try:
        statements = _Parser(tokens).statements()
    except RecursionError as error:
        raise FormulaError("the formula is nested too deeply") from error
    if len(statements) > MAXIMUM_STATEMENTS:
        raise FormulaError(f"the formula has more than {MAXIMUM_STATEMENTS} statements")
    return Formula(tuple(statements))


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._depth = 0

    def _next(self) -> str:
        return self._tokens[0][1] if self._tokens else ""

    def _take(self, expected: str = "") -> tuple[str, str]:
        if not self._tokens or (expected and self._next() != expected):
            raise FormulaError(f"expected {expected or 'more'} but found {self._next() or 'the end'!r}")
        return self._tokens.pop(0)

    def _accept(self, operator: str) -> bool:
        if self._next() != operator:
            return False
        self._take()
        return True

    def statements(self) -> list[tuple[str, Expression]]:
        found = []
        while self._tokens:
            if self._accept(";"):
                continue
            kind, name = self._take()
            if kind != "name":
                raise FormulaError(f"expected a variable but found {name!r}")
            self._take("=")
            found.append((name, self._ternary()))
            if self._tokens:
                self._take(";")
        if not found:
            raise FormulaError("the formula is empty")
        return found

    def _ternary(self) -> Expression:
        self._depth += 1
        if self._depth > 50:
            raise FormulaError("the formula is nested too deeply")
        condition = self._binary(0)
        if self._accept("?"):
            first = self._ternary()
            self._take(":")
            second = self._ternary()
            self._depth -= 1
            return lambda scope: first(scope) if _number(condition(scope)) else second(scope)
        self._depth -= 1
        return condition

    def _binary(self, level: int) -> Expression:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while self._next() in _LEVELS[level]:
            _, operator = self._take()
            left = _operation(operator, left, self._binary(level + 1))
        return left

    def _unary(self) -> Expression:
        if self._accept("-"):
            operand = self._unary()
            return lambda scope: _apply("*", operand(scope), -1.0)
        if self._accept("!"):
            negated = self._unary()
            return lambda scope: float(not _number(negated(scope)))
        return self._postfix()

    def _postfix(self) -> Expression:
        value = self._primary()
        while self._next() in (".", "["):
            if self._accept("["):
                value = _item(value, self._ternary())
                self._take("]")
                continue
            self._take(".")
            _, name = self._take()
            value = _method(value, name, self._arguments()) if self._next() == "(" else _attribute(value, name)
        return value

    def _arguments(self) -> list[Expression]:
        self._take("(")
        found: list[Expression] = []
        while self._next() != ")":
            found.append(self._ternary())
            if self._next() != ")":
                self._take(",")
        self._take(")")
        return found

    def _primary(self) -> Expression:
        kind, text = self._take()
        if kind == "number":
            number = float(text)
            return lambda scope: number
        if kind == "text":
            return lambda scope: text[1:-1]
        if text == "(":
            inner = self._ternary()
            self._take(")")
            return inner
        if kind != "name":
            raise FormulaError(f"unexpected {text!r}")
        if self._next() == "(":
            return _call(text, self._arguments())
        return _variable(text)


def _variable(name: str) -> Expression:
    if name in _INTERVALS:
        return lambda scope: _INTERVALS[name]
    if name.lower() in OPTIONS:
        return lambda scope: name.lower()

    def read(scope: dict[str, Any]) -> Any:
        if name not in scope:
            raise FormulaError(f"the variable {name} is not defined")
        return scope[name]

    return read


def _operation(operator: str, left: Expression, right: Expression) -> Expression:
    return lambda scope: _apply(operator, left(scope), right(scope))


def _apply(operator: str, left: Any, right: Any) -> Any:
    """Apply an operator to numbers, times and intervals; to vectors element by element."""
    left, right = (side.value if isinstance(side, Samples) else side for side in (left, right))
    if isinstance(left, list) or isinstance(right, list):
        count = len(left if isinstance(left, list) else right)
        lefts, rights = (side if isinstance(side, list) else [side] * count for side in (left, right))
        return [_apply(operator, one, other) for one, other in zip(lefts, rights, strict=True)]
    if isinstance(left, str) and operator not in ("==", "!="):
        raise TypeError(f"a text has no operator {operator}")  # and so cannot grow without limit
    value = _OPERATORS[operator](left, right)
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


def _number(value: Any) -> float:
    if isinstance(value, Samples):
        return value.value
    if not isinstance(value, float):
        raise TypeError(f"{value!r} is not a number")
    return value


def _item(value: Expression, index: Expression) -> Expression:
    return lambda scope: value(scope)[int(_number(index(scope)))]


def _attribute(value: Expression, name: str) -> Expression:
    def read(scope: dict[str, Any]) -> float:
        moment = value(scope)
        if not isinstance(moment, datetime) or name not in _TIME_PARTS:
            raise FormulaError(f"there is no {name} of {moment!r}")
        return float(_TIME_PARTS[name](moment))

    return read


_TIME_PARTS: dict[str, Callable[[datetime], int]] = {
    "year": lambda moment: moment.year,
    "month": lambda moment: moment.month,
    "day": lambda moment: moment.day,
    "hour": lambda moment: moment.hour,
    "minute": lambda moment: moment.minute,
    "second": lambda moment: moment.second,
    "weekday": lambda moment: moment.isoweekday() % 7,  # Sunday is 0
    "yearday": lambda moment: moment.timetuple().tm_yday,
}


def _method(value: Expression, name: str, arguments: list[Expression]) -> Expression:
    def call(scope: dict[str, Any]) -> Any:
        samples = value(scope)
        if not isinstance(samples, Samples):
            raise FormulaError(f"{name} is for the variables of the service only")
        given = [argument(scope) for argument in arguments]
        if name == "GetSample" and given:
            count = max(1, int(given[0])) if isinstance(given[0], float) else 1
            return [samples.value] * min(count, MAXIMUM_SAMPLES)
        if name == "GetSamplePercent":
            return 100.0
        if name == "GetSamplePeriod":
            return timedelta(seconds=30)
        if name == "Count":
            return 1.0
        if name == "HistoryBeginTime":
            return scope["time"]
        raise FormulaError(f"there is no method {name}({'' if given else 'no arguments'})")

    return call


def _call(name: str, arguments: list[Expression]) -> Expression:
    if name not in ("time", "val", *_FUNCTIONS):
        raise FormulaError(f"there is no function {name}")

    def call(scope: dict[str, Any]) -> Any:
        given = [argument(scope) for argument in arguments]
        if name == "time":
            return parse_timestamp(given[0]) if given else scope["time"]
        if name == "val":
            return given[0][int(given[1])]
        return float(_FUNCTIONS[name](_flat(given)))

    return call


def _flat(values: list[Any]) -> list[float]:
    found: list[float] = []
    for value in values:
        found += _flat(value) if isinstance(value, list) else [_number(value)]
    return found


def _percentile(values: list[float]) -> float:
    *samples, percent = values
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * percent / 100))]


_FUNCTIONS: dict[str, Callable[[list[float]], float]] = {
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
    "std": statistics.pstdev,
    "stop": lambda values: 0.0,
    "sum": math.fsum,
}


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
