"""Autoscale formulas: the parser of the language that sets the size of a pool."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from local_azure.batch.engine.formula_values import (
    FUNCTIONS,
    INTERVALS,
    OPTIONS,
    TIME_PARTS,
    FormulaError,
    Samples,
    apply,
    flat,
    number,
)
from local_azure.batch.state.wire import parse_timestamp

MAXIMUM_LENGTH = 8192  # characters
MAXIMUM_STATEMENTS = 100
MAXIMUM_SAMPLES = 1000  # more would not help: all samples are equal

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<text>"[^"]*"|'[^']*')|(?P<name>\$?[A-Za-z_]\w*)
        |(?P<operator>\|\||&&|[<>=!]=|[-+*/<>!?:;=().,\[\]]))""",
    re.VERBOSE,
)
_LEVELS = (("||",), ("&&",), ("==", "!=", "<", ">", "<=", ">="), ("+", "-"), ("*", "/"))


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
            return lambda scope: first(scope) if number(condition(scope)) else second(scope)
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
            return lambda scope: apply("*", operand(scope), -1.0)
        if self._accept("!"):
            negated = self._unary()
            return lambda scope: float(not number(negated(scope)))
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
            literal = float(text)
            return lambda scope: literal
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
    if name in INTERVALS:
        return lambda scope: INTERVALS[name]
    if name.lower() in OPTIONS:
        return lambda scope: name.lower()

    def read(scope: dict[str, Any]) -> Any:
        if name not in scope:
            raise FormulaError(f"the variable {name} is not defined")
        return scope[name]

    return read


def _operation(operator: str, left: Expression, right: Expression) -> Expression:
    return lambda scope: apply(operator, left(scope), right(scope))


def _item(value: Expression, index: Expression) -> Expression:
    return lambda scope: value(scope)[int(number(index(scope)))]


def _attribute(value: Expression, name: str) -> Expression:
    def read(scope: dict[str, Any]) -> float:
        moment = value(scope)
        if not isinstance(moment, datetime) or name not in TIME_PARTS:
            raise FormulaError(f"there is no {name} of {moment!r}")
        return float(TIME_PARTS[name](moment))

    return read


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
    if name not in ("time", "val", *FUNCTIONS):
        raise FormulaError(f"there is no function {name}")

    def call(scope: dict[str, Any]) -> Any:
        given = [argument(scope) for argument in arguments]
        if name == "time":
            return parse_timestamp(given[0]) if given else scope["time"]
        if name == "val":
            return given[0][int(given[1])]
        return float(FUNCTIONS[name](flat(given)))

    return call
