"""Examples of the specification of the Batch REST API: requests with their answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from local_azure.batch.http.routes import Router
from tests.support.recording import Exchange
from tests.support.replay import Answer, shape


@dataclass(frozen=True, kw_only=True)
class Example:
    """One request and its answer."""

    name: str  # of its file
    operation: str  # the SDK's method
    method: str
    template: str  # of its path
    ids: Mapping[str, str]  # the parameters in the path; an example may lack some
    query: Mapping[str, str]
    body: Any  # JSON, or None
    status: int
    response: Any  # JSON, or None: also for the content of a file

    def exchange(self, ids: Mapping[str, str], body: Any) -> Exchange:
        """The request with these ids and this body, and the answer."""
        path = self.template.format(**{name: quote(value, safe="") for name, value in ids.items()})
        query = "&".join(f"{name}={quote(value)}" for name, value in self.query.items())
        return Exchange(
            method=self.method,
            path=path,
            query=query,
            request=body,
            status=self.status,
            headers={},
            response=self.response,
        )


def read(folder: Path) -> Iterator[Example]:
    """The examples of a version's folder, which has BatchService.json and the files that it names."""
    specification = json.loads((folder / "BatchService.json").read_text(encoding="utf-8"))
    for template, methods in specification["paths"].items():
        for method, operation in methods.items():
            for reference in operation.get("x-ms-examples", {}).values():
                yield _example(folder / reference["$ref"], method.upper(), template, operation["parameters"])


def _example(path: Path, method: str, template: str, declared: Sequence[Mapping[str, Any]]) -> Example:
    found = json.loads(path.read_text(encoding="utf-8"))
    given = found["parameters"]
    places = {each["name"]: each["in"] for each in declared if each.get("name") in given}
    ids = {name: str(given[name]) for name, place in places.items() if place == "path"}
    query = {name: _text(given[name]) for name, place in places.items() if place == "query"}
    bodies = [given[name] for name, place in places.items() if place == "body"]
    status, answer = next(iter(found["responses"].items()))
    response = answer.get("body")
    return Example(
        name=path.stem,
        operation=Router().find(method, template.replace("{", "").replace("}", ""))[0].name,
        method=method,
        template=template,
        ids=ids,
        query={**query, "api-version": given["api-version"]},
        body=bodies[0] if bodies else None,
        status=int(status),
        response=response if isinstance(response, dict) else None,
    )


def missing_ids(example: Example) -> list[str]:
    """The parameters of the path that the example lacks."""
    return [name for name in re.findall(r"{(\w+)}", example.template) if name not in example.ids]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def described(error: Mapping[str, Any]) -> str:
    """The code of an error, and what it is about."""
    about = [each["value"] for each in error.get("values", ()) if each["key"] in ("PropertyName", "What")]
    return " ".join([error["code"], *about])


def differences(example: Example, answer: Answer) -> list[str]:
    """Where the answer is not as the example's: another status, a property less, or one of another type.

    Examples are shortened, so more properties are no difference; nor is a page that is the last one.
    """
    if answer.status != example.status:
        refusal = f" ({described(answer.body)})" if isinstance(answer.body, dict) and "code" in answer.body else ""
        return [f"status {answer.status}, example {example.status}{refusal}"]
    if example.response is None:
        return []
    there, here = shape(example.response), shape(answer.body)
    there.pop("odata.nextLink", None)
    missing = [f"without {name} ({kind})" for name, kind in sorted(there.items()) if name not in here]
    both = sorted(there.keys() & here.keys())
    return missing + [f"{name} is {here[name]}, example {there[name]}" for name in both if here[name] != there[name]]
