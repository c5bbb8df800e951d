"""The documentation against the code: what it names is there, and called so."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
import yaml  # type: ignore[import-untyped]
from prefect.events.schemas.automations import AutomationCore
from pydantic import BaseModel

import examples.log_levels.command_line
import flows.cli
import flows.credentials
import local_azure.__main__
from examples.log_levels.flow import log_levels
from flows.top_words import top_words
from node_scripts import top_words as node_script
from tasks.accounts.environment import BATCH_SETTINGS, STORAGE_SETTINGS
from tasks.reporting import events
from tasks.reporting.artifacts import Key
from tasks.run.outcomes import Cause
from tasks.run.settings import CleanUp, PoolSettings, TimeLimits

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FOLDERS = ("flows", "tasks", "node_scripts", "local_azure")
GROUPS: dict[str, type[BaseModel]] = {"pool": PoolSettings, "limits": TimeLimits, "clean_up": CleanUp}
PAYLOADS = [getattr(events, name) for name in ("PoolReady", "BatchTaskFailed", "Preempted", "Stalled", "CleanedUp")]

each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def test_the_documentation_is_found() -> None:
    assert len(PAGES) >= 10


# What a page refers to.


@each_page
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in re.findall(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(file), f"{target} is no heading"


@each_page
def test_pictures_are_there_or_taken_by_the_script_that_takes_them(page: Path) -> None:
    script = (ROOT / "docs" / "screenshots.py").read_text()
    for target in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", prose(page)):
        picture = (page.parent / target).resolve()
        assert picture.exists() or (picture.parent == ROOT / "docs" / "images" and picture.name in script), target


@each_page
def test_modules_entrypoints_and_make_targets_are_there(page: Path) -> None:
    text = page.read_text()
    for module in set(re.findall(r"python -m ([a-z_.]+[a-z_])", text)):
        assert importlib.util.find_spec(module), f"python -m {module}"
    for path, name in set(re.findall(r"([a-z_/]+\.py):(\w+)", text)):
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M), f"{path}:{name}"
    targets = set(re.findall(r"^(\w+(?: \w+)*):", (ROOT / "Makefile").read_text(), re.M))
    known = {target for line in targets for target in line.split()}
    assert set(re.findall(r"(?:^ {4}|`)make ([a-z]+)\b", text, re.M)) <= known


def test_the_table_of_the_readme_names_files_that_are_there_and_none_is_left_out() -> None:
    table = README.read_text().split("## Where things are")[1].split("\n## ")[0]
    named = set()
    for row in re.findall(r"^\| (`[^|]+`) \|", table, re.M):
        first, *others = re.findall(r"`([^`]+)`", row)
        named |= {first.rstrip("/"), *(str(Path(first).parent / other) for other in others)}
    assert [name for name in named if not (ROOT / name).exists()] == []
    modules = {str(path.relative_to(ROOT)) for path in (*ROOT.glob("flows/*.py"), *ROOT.glob("tasks/*.py"))}
    assert {module for module in modules if not module.endswith("__init__.py")} <= named


# Commands and their options.


def options_of(typer_app: typer.Typer) -> set[str]:
    command = typer.main.get_command(typer_app)
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def options_in(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


OPTIONS = {
    "flows.top_words": options_of(flows.cli.app),
    "flows.sweep": options_of(flows.cli.sweep_app),
    "tasks.accounts.block": options_of(flows.credentials.app),
    "local_azure": options_in(local_azure.__main__.arguments()),
    "local_azure.faults": {"--help"},
    "examples.log_levels.flow": options_of(examples.log_levels.command_line.app),
}
NODE_SCRIPT = set(re.findall(r'"(--[a-z]+)"', inspect.getsource(node_script.parse)))


@each_page
def test_commands_have_the_options_with_which_they_are_shown(page: Path) -> None:
    for module, arguments in commands(page):
        if module in OPTIONS:
            shown = {word.partition("=")[0] for word in arguments if word.startswith("--")} - {"--help"}
            assert shown <= OPTIONS[module], f"python -m {module}"


@each_page
def test_options_in_the_text_are_options_of_a_command(page: Path) -> None:
    shown = {option for span in spans(page) for option in re.findall(r"^--[a-z][a-z-]*", span)}
    assert shown <= set.union(*OPTIONS.values()) | NODE_SCRIPT


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The modules that a page runs, each with its arguments."""
    text = page.read_text().replace("\\\n", " ")
    for module, rest in re.findall(r"^ {4}.*python -m ([a-z_.]+)(.*)$", text, re.M):
        yield module, shlex.split(re.sub(r"<[a-z ]+>", "X", rest), comments=True)


# Names of the flow's own.


def test_parameters_in_commands_of_prefect_are_accepted_by_the_flow() -> None:
    given = re.findall(r"-p (?:'([^']+)'|(\S+))", (ROOT / "docs" / "schedule.md").read_text())
    values = dict((quoted or bare).split("=", 1) for quoted, bare in given)
    assert values
    assert top_words.validate_parameters({name: json.loads(value) for name, value in values.items()})


@each_page
def test_python_in_the_pages_calls_the_flows_with_parameters_of_theirs(page: Path) -> None:
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "top_words":
                assert {keyword.arg for keyword in node.keywords} <= set(top_words.parameters.properties)


@each_page
def test_fields_said_to_be_in_a_group_of_parameters_are_in_it(page: Path) -> None:
    text = re.sub(r"\s+", " ", page.read_text())
    for names, group in re.findall(r"((?:`\w+`(?:, | and )?)+) in `(pool|limits|clean_up)`", text):
        assert set(re.findall(r"`(\w+)`", names)) <= set(GROUPS[group].model_fields)


@each_page
def test_settings_of_the_environment_are_called_so(page: Path) -> None:
    known = {*BATCH_SETTINGS, *STORAGE_SETTINGS, "AZURE_BATCH_", "AZURE_STORAGE_", "AZURE_"}
    assert set(re.findall(r"\bAZURE_[A-Z_]*", page.read_text())) <= known


def test_the_page_on_inspecting_lists_every_artifact_cause_and_event() -> None:
    text = (ROOT / "docs" / "inspect.md").read_text()
    keys = first_cells(section(text, "Artifacts"))
    assert set(keys) == {key.value for key in Key}
    causes = re.findall(r"^\| ([a-z][^|`]+?) \|", section(text, "Why did a file fail?"), re.M)
    assert set(causes) - {"cause"} == {cause.value for cause in Cause} - {Cause.OTHER.value}
    rows = re.findall(r"^\| `([a-z.-]+)` \|[^|]+\| ([^|]+) \|$", section(text, "Events"), re.M)
    fields = {each.event.value: [field.name for field in dataclasses.fields(each)] for each in PAYLOADS}
    assert {event: sorted(payload.split(", ")) for event, payload in rows} == {
        event: sorted(names) for event, names in fields.items()
    }


def test_the_example_automations_are_what_prefect_accepts_and_wait_for_events_of_ours() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "schedule.md").read_text(), re.M | re.S)
    payloads = {each.event.value: {field.name for field in dataclasses.fields(each)} for each in PAYLOADS}
    for given in yaml.safe_load(text.replace("<id of the block>", str(uuid4())))["automations"]:
        AutomationCore.model_validate(given)
        (event,) = given["trigger"]["expect"]
        assert set(re.findall(r"event\.payload\.(\w+)", str(given["actions"]))) <= payloads[event]
        resource = f"{event.rsplit('.', 1)[0]}.*"
        assert given["trigger"]["match"] == {"prefect.resource.id": resource}


def test_the_flow_of_the_example_has_the_parameters_of_the_flow_where_both_have_one() -> None:
    both = set(top_words.parameters.properties) & set(log_levels.parameters.properties)
    assert both == {"inputs", "pool", "limits", "output_folder", "clean_up", "allow_failures", "accounts"}

    def default(flow: Any, name: str) -> object:
        return flow.parameters.properties[name].get("default")

    assert all(default(top_words, name) == default(log_levels, name) for name in both)


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """The code in the first cell of each row of a table."""
    rows = re.findall(r"^\| (`[^|]+`) \|", text, re.M)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^(```.*?^```| {4}.*?)$", "", page.read_text(), flags=re.M | re.S)


def spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """The headings as links name them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
