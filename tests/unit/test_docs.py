"""Checks the documentation against the code: what it names exists, under that name."""

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
from uuid import uuid4

import pytest
import typer
import yaml  # type: ignore[import-untyped]
from prefect.events.schemas.automations import AutomationCore
from pydantic import BaseModel

import benchmarks.flow
import benchmarks.scaling
import flows.cli
import flows.credentials
import local_azure.__main__
import tasks.summary
import top_words as node_script
from flows.run_script import run_script
from flows.top_words import top_words
from tasks.accounts.environment import BATCH_SETTINGS, BLOB_ENDPOINT, STORAGE_SETTINGS
from tasks.reporting import events
from tasks.reporting.artifacts import Key
from tasks.run.outcomes import Cause
from tasks.run.settings import CleanUp, PoolSettings, RunSettings, TimeLimits

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
WHERE = ("*.md", "docs/*.md", "examples/**/*.md", "local_azure/*.md")
PAGES = sorted(page for pattern in WHERE for page in ROOT.glob(pattern))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
GROUPS: dict[str, type[BaseModel]] = {"pool": PoolSettings, "limits": TimeLimits, "clean_up": CleanUp}
OF_AZURE_IDENTITY = {
    f"AZURE_{name}"
    for name in (
        "AUTHORITY_HOST",
        "CLIENT_CERTIFICATE_PATH",
        "CLIENT_ID",
        "CLIENT_SECRET",
        "TENANT_ID",
        "TOKEN_CREDENTIALS",
    )
}
PAYLOADS = [getattr(events, name) for name in ("PoolReady", "BatchTaskFailed", "Preempted", "JobStalled", "CleanedUp")]

each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def test_the_documentation_is_found() -> None:
    assert len(PAGES) >= 10


# What a page refers to.


@each_page
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    for target in re.findall(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(file), f"{target} is no heading"


@each_page
def test_pictures_exist_or_are_taken_by_the_script(page: Path) -> None:
    script = (ROOT / "docs" / "screenshots.py").read_text()
    for target in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", prose(page)):
        picture = (page.parent / target).resolve()
        assert picture.exists() or (picture.parent == ROOT / "docs" / "images" and picture.name in script), target


@each_page
def test_modules_entrypoints_and_make_targets_exist(page: Path) -> None:
    text = page.read_text()
    for module in set(re.findall(r"python -m ([a-z_.]+[a-z_])", text)):
        assert importlib.util.find_spec(module), f"python -m {module}"
    for path, name in set(re.findall(r"([a-z_/]+\.py):(\w+)", text)):
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M), f"{path}:{name}"
    targets = set(re.findall(r"^(\w+(?: \w+)*):", (ROOT / "Makefile").read_text(), re.M))
    known = {target for line in targets for target in line.split()}
    assert set(re.findall(r"(?:^ {4}|`)make ([a-z]+)\b", text, re.M)) <= known


def test_readme_describes_every_folder() -> None:
    described = first_cells(section(README.read_text(), "Where things are"))
    assert [name for name in described if not (ROOT / name).is_dir()] == []
    assert python_folders("*", "tasks/*", "local_azure/*") <= set(described)


def test_architecture_describes_every_folder_and_top_module() -> None:
    described = first_cells((ROOT / "docs" / "architecture.md").read_text())
    assert [name for name in described if "/" in name and not (ROOT / name).exists()] == []
    assert python_folders("flows", "tasks", "tasks/*", "node_scripts", "local_azure/batch/*") <= set(described)
    modules = {str(path.relative_to(ROOT)) for path in (*ROOT.glob("flows/*.py"), *ROOT.glob("tasks/*.py"))}
    assert {module for module in modules if not module.endswith("__init__.py")} <= set(described)


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths from the root, from the page's folder, or from local_azure/batch in the pages about it."""
    for name in {span for span in spans(page) if re.fullmatch(r"[\w./-]+/[\w-]+\.(py|md|yaml|toml|txt)", span)}:
        homes = (ROOT, page.parent, ROOT / "local_azure" / "batch")
        assert any((home / name).exists() for home in homes), name


def python_folders(*patterns: str) -> set[str]:
    """The folders that match and hold Python modules, each as a table names it."""
    modules = [module for pattern in patterns for module in ROOT.glob(f"{pattern}/*.py")]
    folders = {str(module.parent.relative_to(ROOT)) for module in modules}
    return {f"{folder}/" for folder in folders if not folder.startswith(".")}


# Commands and their options.


def options_of(typer_app: typer.Typer) -> set[str]:
    command = typer.main.get_command(typer_app)
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def options_in(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


OPTIONS = {
    "flows.top_words": options_of(flows.cli.app),
    "flows.sweep": options_of(flows.cli.sweep_app),
    "flows.credentials": options_of(flows.credentials.app),
    "benchmarks.flow": options_in(benchmarks.flow.arguments()),
    "benchmarks.scaling": options_in(benchmarks.scaling.arguments()),
    "local_azure": options_in(local_azure.__main__.arguments()),
    "local_azure.faults": {"--help"},
    "flows.run_script": options_of(flows.cli.script_app),
}
NODE_SCRIPT = set(re.findall(r'"(--[a-z]+)"', inspect.getsource(node_script.parse)))


@each_page
def test_commands_are_shown_with_options_that_they_have(page: Path) -> None:
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
        arguments = shlex.split(re.sub(r"<[a-z ]+>", "X", rest), comments=True)
        yield module, arguments[: arguments.index("--")] if "--" in arguments else arguments


def test_account_page_gives_the_bicep_file_its_parameters() -> None:
    page, template = ((ROOT / "docs" / f"azure-account.{kind}").read_text() for kind in ("md", "bicep"))
    command = page.split("--template-file docs/azure-account.bicep --parameters")[1].split("\n\n")[0]
    required = re.findall(r"^param (\w+) \w+$", template, re.M)
    assert sorted(re.findall(r"(\w+)=", command)) == sorted(required)
    names = re.findall(r"^  name: '(\$\{name\}\w+)'$", template, re.M)
    assert names == re.findall(r"\$\{name\}\w+", page)[::-1] == ["${name}data", "${name}jobs"]


# Names of the flow's own.


def test_prefect_commands_pass_valid_parameters() -> None:
    given = re.findall(r"-p (?:'([^']+)'|(\S+))", (ROOT / "docs" / "schedule.md").read_text())
    values = dict((quoted or bare).split("=", 1) for quoted, bare in given)
    assert values
    assert top_words.validate_parameters({name: json.loads(value) for name, value in values.items()})


@each_page
def test_python_in_the_pages_passes_known_parameters(page: Path) -> None:
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "top_words":
                assert {keyword.arg for keyword in node.keywords} <= set(top_words.parameters.properties)


@each_page
def test_fields_are_in_the_parameter_group_that_is_named(page: Path) -> None:
    text = re.sub(r"\s+", " ", page.read_text())
    for names, group in re.findall(r"((?:`\w+`(?:, | and )?)+) in `(pool|limits|clean_up)`", text):
        assert set(re.findall(r"`(\w+)`", names)) <= set(GROUPS[group].model_fields)


@each_page
def test_environment_settings_exist(page: Path) -> None:
    prefixes = {"AZURE_BATCH_", "AZURE_STORAGE_", "AZURE_"}
    known = {*BATCH_SETTINGS, *STORAGE_SETTINGS, BLOB_ENDPOINT, *OF_AZURE_IDENTITY, *prefixes}
    assert set(re.findall(r"\bAZURE_[A-Z_]*", page.read_text())) <= known


def test_inspect_page_lists_every_artifact_cause_and_event() -> None:
    text = (ROOT / "docs" / "inspect.md").read_text()
    keys = first_cells(section(text, "Artifacts"))
    assert set(keys) == {key.value for key in (*Key, *tasks.summary.Key)}
    causes = re.findall(r"^\| ([a-z][^|`]+?) \|", section(text, "Why did a file fail?"), re.M)
    assert set(causes) - {"cause"} == {cause.value for cause in Cause} - {Cause.OTHER.value}
    rows = re.findall(r"^\| `([a-z.-]+)` \|[^|]+\| ([^|]+) \|$", section(text, "Events"), re.M)
    fields = {each.event.value: [field.name for field in dataclasses.fields(each)] for each in PAYLOADS}
    assert {event: sorted(payload.split(", ")) for event, payload in rows} == {
        event: sorted(names) for event, names in fields.items()
    }


def test_example_automations_are_valid_and_expect_our_events() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "schedule.md").read_text(), re.M | re.S)
    payloads = {each.event.value: {field.name for field in dataclasses.fields(each)} for each in PAYLOADS}
    for given in yaml.safe_load(text.replace("<id of the block>", str(uuid4())))["automations"]:
        AutomationCore.model_validate(given)
        (event,) = given["trigger"]["expect"]
        assert set(re.findall(r"event\.payload\.(\w+)", str(given["actions"]))) <= payloads[event]
        resource = f"{event.rsplit('.', 1)[0]}.*"
        assert given["trigger"]["match"] == {"prefect.resource.id": resource}


def test_settings_have_the_same_defaults_in_both_flows() -> None:
    both = set(RunSettings.model_fields) & set(top_words.parameters.properties)
    settings = RunSettings().model_dump(mode="json")
    assert both == set(settings)
    for flow in (top_words, run_script):
        assert {name: flow.parameters.properties[name].get("default") for name in both} == settings


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
