"""OData in the dialect of the Batch service: `$filter` and `$select`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from local_azure.batch.state.errors import BatchError, Code
from local_azure.batch.state.wire import parse_timestamp, timestamp

Predicate = Callable[[Mapping[str, Any]], bool]
Permitted = Mapping[str, frozenset[str]]
Values = frozenset[str]  # of an enumeration, in lower case


class Kind(Enum):
    """The type of a filterable property, which decides its operators and literals; of an enumeration use `one_of`."""

    TEXT = "string"
    STATE = "enumeration"
    TIME = "datetime"
    NUMBER = "number"
    FLAG = "boolean"


Properties = Mapping[str, Kind | Values]  # those that can be filtered by


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A predicate over documents, and which values it permits for some properties, so that an index can be used."""

    holds: Predicate
    permitted: Permitted = field(default_factory=dict)  # in lower case; a document with another value does not match

    def __call__(self, document: Mapping[str, Any]) -> bool:
        return self.holds(document)


def _all(terms: list[Filter]) -> Filter:
    if len(terms) == 1:
        return terms[0]
    permitted: dict[str, frozenset[str]] = {}
    for term in terms:
        for name, values in term.permitted.items():
            permitted[name] = permitted.get(name, values) & values
    return Filter(holds=lambda document: all(term.holds(document) for term in terms), permitted=permitted)


def _any(terms: list[Filter]) -> Filter:
    if len(terms) == 1:
        return terms[0]
    named = set.intersection(*(set(term.permitted) for term in terms))
    permitted = {name: frozenset[str]().union(*(term.permitted[name] for term in terms)) for name in named}
    return Filter(holds=lambda document: any(term.holds(document) for term in terms), permitted=permitted)


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": eq,
    "ne": ne,
    "gt": gt,
    "ge": ge,
    "lt": lt,
    "le": le,
}
_OPERATORS = {Kind.STATE: {"eq", "ne"}, Kind.FLAG: {"eq", "ne"}}
_TOKEN = re.compile(
    r"""\s*(?:(?P<punctuation>[(),])
        |(?P<time>(?i:datetime)'[^']*')
        |(?P<text>'(?:[^']|'')*')
        |(?P<number>-?\d+(?:\.\d+)?)(?![\w.])
        |(?P<word>[A-Za-z_][\w/]*))""",
    re.VERBOSE,
)


def _invalid(reason: str) -> BatchError:
    return BatchError(Code.InvalidQueryParameterValue, reason, QueryParameterName="$filter", Reason=reason)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise _invalid(f"the filter expression cannot be parsed at position {at}: {text[at : at + 20]!r}.")
        found.append((str(match.lastgroup), match.group(str(match.lastgroup))))
        at = match.end()
    return found


def one_of(*values: str) -> Values:
    """The type of a filterable enumeration."""
    return frozenset(value.lower() for value in values)


def parse_filter(text: str, properties: Properties) -> Filter:
    """The filter that the text describes. Raises InvalidQueryParameterValue, naming the property, operator or value.

    Property names are case-sensitive and text values are not, as in Azure.
    """
    parser = _Parser(_tokens(text), properties)
    found = parser.either()
    parser.expect_end()
    return found


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]], properties: Properties) -> None:
        self._tokens = tokens
        self._properties = properties
        self._depth = 0

    def _peek(self) -> tuple[str, str]:
        return self._tokens[0] if self._tokens else ("end", "")

    def _take(self, kind: str = "", value: str = "") -> str:
        found_kind, found = self._peek()
        if not self._tokens or (kind and found_kind != kind) or (value and found.lower() != value):
            raise _invalid(f"expected {value or kind or 'more'} but found {found or 'the end'}.")
        self._tokens.pop(0)
        return found

    def _is_word(self, word: str) -> bool:
        kind, value = self._peek()
        return kind == "word" and value.lower() == word

    def expect_end(self) -> None:
        if self._tokens:
            raise _invalid(f"unexpected {self._peek()[1]!r}.")

    def either(self) -> Filter:
        terms = [self._both()]
        while self._is_word("or"):
            self._take()
            terms.append(self._both())
        return _any(terms)

    def _both(self) -> Filter:
        terms = [self._term()]
        while self._is_word("and"):
            self._take()
            terms.append(self._term())
        return _all(terms)

    def _term(self) -> Filter:
        self._depth += 1
        if self._depth > 100:
            raise _invalid("the filter expression is nested too deeply.")
        try:
            if self._is_word("not"):
                self._take()
                negated = self._term()
                return Filter(holds=lambda document: not negated.holds(document))
            if self._peek() == ("punctuation", "("):
                self._take()
                inner = self.either()
                self._take("punctuation", ")")
                return inner
            return self._startswith() if self._is_word("startswith") else self._comparison()
        finally:
            self._depth -= 1

    def _property(self) -> tuple[str, Kind, Values]:
        name = self._take("word")
        if name not in self._properties:
            known = ", ".join(sorted(self._properties))
            raise _invalid(f"the property {name!r} is not filterable; filterable are: {known}.")
        found = self._properties[name]
        return (name, found, one_of()) if isinstance(found, Kind) else (name, Kind.STATE, found)

    def _startswith(self) -> Filter:
        self._take()
        self._take("punctuation", "(")
        name, kind, _ = self._property()
        if kind is not Kind.TEXT:
            raise _invalid(f"startswith needs a string, and {name} is a {kind.value}.")
        self._take("punctuation", ",")
        prefix = _text(self._take("text"))
        self._take("punctuation", ")")
        return Filter(holds=lambda document: str(_find(document, name) or "").lower().startswith(prefix))

    def _comparison(self) -> Filter:
        name, kind, values = self._property()
        operator = self._take("word").lower()
        if operator not in _COMPARISONS or operator not in _OPERATORS.get(kind, _COMPARISONS):
            raise _invalid(f"the operator {operator!r} is not supported for the property {name}.")
        literal_kind, literal = self._peek()
        self._take()
        expected = _literal(literal_kind, literal, name, kind)
        if values and expected is not None and expected not in values:
            raise _invalid(f"the value {expected!r} is not one of {', '.join(sorted(values))}, which {name} can have.")
        compare = _COMPARISONS[operator]

        def holds(document: Mapping[str, Any]) -> bool:
            actual = _find(document, name)
            if actual is None or expected is None:
                # An absent property equals only null, and is neither less nor greater than anything.
                return (actual is expected) if operator == "eq" else operator == "ne" and actual is not expected
            return compare(actual.lower() if isinstance(actual, str) and kind is not Kind.TIME else actual, expected)

        if kind in (Kind.STATE, Kind.TEXT) and operator == "eq" and expected is not None:
            return Filter(holds=holds, permitted={name: frozenset([expected])})
        return Filter(holds=holds)


def _literal(found: str, text: str, name: str, kind: Kind) -> Any:
    if found == "word" and text == "null":
        return None
    try:
        if kind is Kind.TIME and found == "time":
            return timestamp(parse_timestamp(text[len("datetime") :].strip("'")))
        if kind in (Kind.TEXT, Kind.STATE) and found == "text":
            return _text(text)
        if kind is Kind.NUMBER and found == "number":
            return float(text)
        if kind is Kind.FLAG and found == "word" and text.lower() in ("true", "false"):
            return text.lower() == "true"
    except ValueError as error:
        raise _invalid(f"{error}.") from error
    hint = " (written DateTime'2026-03-06T18:29:52Z')" if kind is Kind.TIME else ""
    raise _invalid(f"the property {name} is a {kind.value}{hint}, which {text or 'nothing'} is not.")


def _text(literal: str) -> str:
    return literal[1:-1].replace("''", "'").lower()


def _find(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for name in path.split("/"):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def parse_select(text: str, known: Iterable[str]) -> list[str]:
    """The property names of a `$select`. Raises InvalidQueryParameterValue for one that the resource does not have."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name.split("/")[0] not in known:
            reason = f"the property {name!r} does not exist."
            raise BatchError(
                Code.InvalidQueryParameterValue,
                reason,
                QueryParameterName="$select",
                QueryParameterValue=name,
            )
    return names


def select(document: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: document[name] for name in (part.split("/")[0] for part in names) if name in document}
