"""Autoscale formulas: the parser of the language that sets the size of a pool."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from local_azure.batch.engine.formula_values import (
    ELEMENT_WISE,
    FUNCTIONS,
    INTERVALS,
    OPTIONS,
    TIME_PARTS,
    FormulaError,
    Samples,
    Stopped,
    apply,
    flat,
    moment,
    number,
    text_of,
)

MAXIMUM_LENGTH = 8192  # characters
MAXIMUM_STATEMENTS = 100
MAXIMUM_SAMPLES = 1000  # more would not help: all samples are equal

_BLANKS = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)  # and comments
_TOKEN = re.compile(
    r"""(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<text>"[^"]*"|'[^']*')|(?P<name>\$?[A-Za-z_]\w*)
        |(?P<operator>\|\||&&|[<>=!]=|[-+*/<>!?:;=().,\[\]])""",
    re.VERBOSE,
)
# Older names of variables, which the documentation keeps.
_ALIASES = {
    "$TargetDedicated": "$TargetDedicatedNodes",
    "$TargetLowPriority": "$TargetLowPriorityNodes",
    "$CurrentDedicated": "$CurrentDedicatedNodes",
    "$CurrentLowPriority": "$CurrentLowPriorityNodes",
}
_LEVELS = (("||",), ("&&",), ("==", "!=", "<", ">", "<=", ">="), ("+", "-"), ("*", "/"))


Expression = Callable[["dict[str, Any]"], Any]


@dataclass(frozen=True)
class Formula:
    """A parsed formula."""

    statements: tuple[tuple[str, Expression], ...]  # without a name those that assign nothing

    def evaluate(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The assigned variables, in the order of assignment. Raises FormulaError."""
        scope = dict(variables)
        assigned: dict[str, Any] = {}
        for name, expression in self.statements:
            try:
                value = expression(scope)
                if name:
                    scope[name] = assigned[name] = value
            except Stopped:
                break
            except RecursionError as error:
                raise FormulaError(f"{name or 'a statement'} cannot be computed: its expression is too long") from error
            except (TypeError, ValueError, ZeroDivisionError, OverflowError, AttributeError, IndexError) as error:
                raise FormulaError(f"{name or 'a statement'} cannot be computed: {error}") from error
        return assigned


def parse(text: str) -> Formula:
    """Parse a formula. Raises FormulaError with line and column, both from 1."""
    if len(text) > MAXIMUM_LENGTH:
        raise FormulaError(f"the formula is longer than {MAXIMUM_LENGTH} characters")
    tokens = list(_tokens(text))
    parser = _Parser([(kind, token) for kind, token, _ in tokens])
    try:
        statements = parser.statements()
    except FormulaError as error:
        at = [*(at for _, _, at in tokens), len(text)][len(tokens) - parser.left - parser.taken]
        raise FormulaError(f"{error} ({_place(text, at)})") from error
    except RecursionError as error:
        raise FormulaError("the formula is nested too deeply") from error
    if len(statements) > MAXIMUM_STATEMENTS:
        raise FormulaError(f"the formula has more than {MAXIMUM_STATEMENTS} statements")
    return Formula(tuple(statements))


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """The kind, text and position of each token. Raises FormulaError."""
    at = _after_blanks(text, 0)
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise FormulaError(f"unexpected {text[at : at + 10]!r} ({_place(text, at)})")
        yield str(match.lastgroup), match[0], at
        at = _after_blanks(text, match.end())


def _after_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def _place(text: str, at: int) -> str:
    before = text[:at]
    return f"line {before.count(chr(10)) + 1}, column {at - before.rfind(chr(10))}"


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens[::-1]  # the next is the last
        self._depth = 0
        self.taken = True  # the token that an error is about

    @property
    def left(self) -> int:
        """The number of tokens that are not taken yet."""
        return len(self._tokens)

    def _next(self) -> str:
        return self._tokens[-1][1] if self._tokens else ""

    def _take(self, expected: str = "") -> tuple[str, str]:
        if not self._tokens or (expected and self._next() != expected):
            self.taken = False
            raise FormulaError(f"expected {expected or 'more'} but found {self._next() or 'the end'!r}")
        return self._tokens.pop()

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
            name = ""
            if len(self._tokens) > 1 and (self._tokens[-1][0], self._tokens[-2][1]) == ("name", "="):
                _, name = self._take()
                self._take("=")
            found.append((_ALIASES.get(name, name), self._ternary()))
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
    name = _ALIASES.get(name, name)
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
            raise FormulaError(f"there is no {name} of {text_of(moment)}")
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
            return [samples.value] * min(count, MAXIMUM_SAMPLES) if samples.known else []
        if name == "GetSamplePercent":
            return 100.0 if samples.known else 0.0
        if name == "GetSamplePeriod":
            return timedelta(seconds=30)
        if name == "Count":
            return float(samples.known)
        if name == "HistoryBeginTime":
            return scope["time"]
        raise FormulaError(f"there is no method {name}({'' if given else 'no arguments'})")

    return call


_OF_NOTHING = {"len", "rand", "sum"}  # have a result without values


def _call(name: str, arguments: list[Expression]) -> Expression:
    if name not in ("time", "val", *FUNCTIONS):
        raise FormulaError(f"there is no function {name}")

    def call(scope: dict[str, Any]) -> Any:
        given = [argument(scope) for argument in arguments]
        if name == "time":
            return moment(given[0]) if given else scope["time"]
        if name == "val":
            return given[0][int(given[1])]
        if name == "stop":
            raise Stopped
        if name in ELEMENT_WISE and isinstance(given[0], list):
            return [float(FUNCTIONS[name]([value])) for value in flat(given)]
        values = flat(given)
        if not values and name not in _OF_NOTHING:
            raise ValueError(f"{name} has no values")
        return float(FUNCTIONS[name](values))

    return call
