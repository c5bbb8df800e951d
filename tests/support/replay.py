"""Sends recorded requests to a Batch service, and says where its answers differ from the recorded ones."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

from tests.support.raw_requests import Raw, Service
from tests.support.recording import Exchange

# Properties whose values are compared; of others only whether they are there, and their type.
_COMPARED = {"state", "allocationState", "result", "category", "code", "terminationReason", "status"}
# States that end by themselves.
_PASSING = {"deleting", "terminating", "disabling", "enabling", "resizing", "stopping", "creating", "starting"}
_PASSING |= {"waitingforstarttask", "rebooting", "reimaging", "leavingpool", "preparing"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_DURATION = re.compile(r"P[\dYMWDTHS.]+")
_INTERVAL = 0.02  # seconds between two looks at what is to change its state


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the service has answered; the body is None where it is no JSON."""

    status: int
    body: Any


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where an answer differs from the recorded one."""

    request: str  # such as "GET /pools/pool"
    what: str

    def __str__(self) -> str:
        return f"{self.request}: {self.what}"


Send = Callable[[Exchange], Answer]


def sender(service: Service) -> Send:
    """Sends exchanges to the service, signed with its key."""
    raw = Raw(service)

    def send(exchange: Exchange) -> Answer:
        answer = raw(exchange.method, f"{exchange.path}?{exchange.query}", body=exchange.request, version="")
        is_json = "json" in answer.headers.get("content-type", "") and answer.content
        return Answer(status=answer.status_code, body=answer.json() if is_json else None)

    return send


def replay(exchanges: Iterable[Exchange], send: Send, *, patience: float) -> list[Difference]:
    """Send the requests in order, with the service's own node ids, and compare each answer with the recorded one.

    States on the way may pass faster here: of a GET that was repeated between two changes only the last answer counts,
    and one with such a state only where this service is in that state.

    patience: seconds for which a GET is repeated until the states in its answer are the recorded ones.
    """
    return [each for _, found in replayed(exchanges, send, patience=patience) for each in found]


def replayed(
    exchanges: Iterable[Exchange], send: Send, *, patience: float
) -> Iterator[tuple[Exchange, list[Difference]]]:
    """The same, exchange by exchange: those that were compared, with their differences."""
    nodes: dict[str, str] = {}  # recorded ids, and those of this service
    for recorded in _without_polls(exchanges):
        request = _with_ids(recorded, nodes)
        answer = _answer(request, recorded, send, patience)
        nodes.update(_pairs_of_nodes(recorded.response, answer.body))
        if _on_the_way(recorded) and not _same_states(recorded, answer):
            continue
        name = f"{recorded.method} {recorded.path}"
        yield recorded, [Difference(request=name, what=what) for what in compare(recorded, answer)]


def _without_polls(exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
    for reads, some in groupby(exchanges, lambda each: each.method == "GET"):
        together = list(some)
        last = {(each.path, each.query): each for each in together}
        yield from last.values() if reads else together


def _answer(request: Exchange, recorded: Exchange, send: Send, patience: float) -> Answer:
    """The first answer with the recorded states, else the last within the time."""
    end = time.monotonic() + patience
    answer = send(request)
    while request.method == "GET" and not _same_states(recorded, answer) and time.monotonic() < end:
        time.sleep(_INTERVAL)
        answer = send(request)
    return answer


def _same_states(recorded: Exchange, answer: Answer) -> bool:
    same = recorded.status == answer.status and values(recorded.response) == values(answer.body)
    return same and len(_items(recorded.response)) == len(_items(answer.body))


def _on_the_way(recorded: Exchange) -> bool:
    states = chain.from_iterable(values(recorded.response).values())
    return recorded.method == "GET" and not _PASSING.isdisjoint(states)


def compare(recorded: Exchange, answer: Answer) -> Iterator[str]:
    """What differs: the status, the error code, which properties there are, their types, and states."""
    if recorded.status != answer.status:
        yield f"status {answer.status}, recorded {recorded.status}{_code(answer.body)}"
        return
    if recorded.response is None or answer.body is None:
        if recorded.response is not None:
            yield "no body, recorded one"
        return
    there, here = shape(recorded.response), shape(answer.body)
    if recorded.status < 400:
        yield from (f"without {name} ({kind})" for name, kind in sorted(there.items()) if name not in here)
        yield from (f"{name} ({kind}) was not recorded" for name, kind in sorted(here.items()) if name not in there)
    types = ((name, there[name], here[name]) for name in sorted(there.keys() & here.keys()))
    yield from (f"{name} is {mine}, recorded {kind}" for name, kind, mine in types if mine != kind)
    states, own = values(recorded.response), values(answer.body)
    for name in sorted(states.keys() & own.keys()):
        if states[name] != own[name]:
            yield f"{name} is {own[name]}, recorded {states[name]}"


def shape(value: Any, path: str = "") -> dict[str, str]:
    """The kind of each property by its path; the items of a list count as one."""
    if isinstance(value, dict):
        found = {path: "object"} if path else {}
        for name, each in value.items():
            found |= shape(each, f"{path}.{name}" if path else name)
        return found
    if isinstance(value, list):
        found = {path: "list"}
        for each in value:
            found |= shape(each, f"{path}[]")
        return found
    return {path: _kind(value)}


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "time" if _TIME.fullmatch(value) else "duration" if _DURATION.fullmatch(value) else "text"
    return {bool: "flag", int: "number", float: "number", type(None): "null"}[type(value)]


def values(body: Any, path: str = "") -> dict[str, list[Any]]:
    """The values of the properties that are compared, by their paths, each list sorted."""
    found: dict[str, list[Any]] = {}
    if isinstance(body, dict):
        for name, each in body.items():
            if name in _COMPARED and isinstance(each, str):
                found[f"{path}{name}"] = [each]
            else:
                _merge(found, values(each, f"{path}{name}."))
    elif isinstance(body, list):
        for each in body:
            _merge(found, values(each, f"{path[:-1]}[]."))
    return found


def _merge(found: dict[str, list[Any]], more: dict[str, list[Any]]) -> None:
    for name, some in more.items():
        found[name] = sorted([*found.get(name, ()), *some])


def _code(body: Any) -> str:
    return f" ({body['code']})" if isinstance(body, dict) and "code" in body else ""


def _items(body: Any) -> Sequence[Any]:
    return body["value"] if isinstance(body, dict) and isinstance(body.get("value"), list) else []


def _with_ids(exchange: Exchange, nodes: dict[str, str]) -> Exchange:
    path = exchange.path
    for recorded, own in nodes.items():
        path = path.replace(recorded, own)
    return replace(exchange, path=path)


def _pairs_of_nodes(recorded: Any, own: Any) -> Iterator[tuple[str, str]]:
    """The ids of nodes that stand at the same place in both bodies."""
    if isinstance(recorded, dict) and isinstance(own, dict):
        for name in recorded.keys() & own.keys():
            yield from _pairs_of_nodes(recorded[name], own[name])
    elif isinstance(recorded, list) and isinstance(own, list):
        for first, second in zip(recorded, own, strict=False):
            yield from _pairs_of_nodes(first, second)
    elif isinstance(recorded, str) and isinstance(own, str) and recorded.startswith("tvmps_"):
        yield recorded, own
