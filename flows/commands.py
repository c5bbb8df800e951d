"""Shared by all commands: an error is printed once, as one message, with the options as they were typed."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from typer.core import TyperCommand

from tasks.errors import InputError, RunError
from tasks.terminal import exit_on_termination, outlive_console, terminate_on_hangup

M = TypeVar("M", bound=BaseModel)

# Parameters of the flows that have another name than their option.
_RENAMED = {
    "delay_seconds": "delay",
    "output_folder": "output",
    "existing_pool_id": "pool_id",
    "flow_run_id": "flow_run",
}


class Command(TyperCommand):
    """Prints a RunError as a message, with the options of the command in place of the flow's parameters."""

    _typed: Sequence[str] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        self._typed = [arg.partition("=")[0] for arg in args]
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if error.param and error.param.name and error.param.param_type_name == "option":
                error.param_hint = f"'{self._options()[error.param.name]}'"
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RunError as error:
            message = with_options(str(error), self._options())
            if isinstance(error, InputError):
                message = _beginning_with_option(message, self._options())
            print(f"\nError: {message}", file=sys.stderr)
            if error.report_url:  # last, so that it is found
                print(f"Report: {error.report_url}", file=sys.stderr)
            raise typer.Exit(1) from None

    def _options(self) -> dict[str, str]:
        """The option of each parameter: the spelling that was typed, where there are several."""
        options = {}
        for parameter in self.params:
            if parameter.name and parameter.param_type_name == "option":
                typed = [option for option in parameter.opts if option in self._typed]
                options[parameter.name] = (typed or parameter.opts)[0]
        return options


class ScriptCommand(Command):
    """A command of which everything after `--` is left to a script: it finds that in the context's `obj`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.obj = args[at + 1 :]
        try:
            return super().parse_args(ctx, args[:at])
        except Exception as error:
            if type(error).__name__ == "NoSuchOption" and at == len(args):  # typer does not export that class
                error.message += "; what the script is given comes after --"  # type: ignore[attr-defined]
            raise


def with_options(message: str, options: Mapping[str, str]) -> str:
    """The message with each option in place of the parameter of that name, but for parts of a path or a quotation."""
    names = {**{name: name for name in options}, **_RENAMED}
    known = {name: options[parameter] for name, parameter in names.items() if parameter in options and "_" in name}
    if not known:
        return message
    return re.sub(rf"(?<![\w./'\"-])({'|'.join(known)})(?![\w/'\"-])", lambda found: known[found[1]], message)


def _beginning_with_option(message: str, options: Mapping[str, str]) -> str:
    """The message about a parameter whose name it begins with, such as "output az://...: ...", about the option."""
    name, space, rest = message.partition(" ")
    return f"{options.get(name, name)}{space}{rest}"


def checked(model: type[M], **values: Any) -> M:
    """The settings. Raises RunError with each wrong one named."""
    try:
        return model(**values)
    except ValidationError as error:
        reasons = [_named(each["loc"]) + each["msg"].removeprefix("Value error, ") for each in error.errors()]
        raise RunError("\n".join(reasons)) from None


def _named(location: tuple[int | str, ...]) -> str:
    """The parameter at fault, to begin a message with; nothing where several are, which the message names itself."""
    name = str(location[0]) if location else ""
    return f"{name if '_' in name else f'--{name}'}: " if name else ""


def make_app() -> typer.Typer:
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run(app: typer.Typer, name: str) -> None:
    """Run the command in this process, which is its own; never returns."""
    outlive_console()
    exit_on_termination()
    terminate_on_hangup()
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")  # ensure_prefect_server says it
    app(prog_name=f"python -m {name}")
