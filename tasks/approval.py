"""Clean-up "ask": a person says what is deleted, in the Prefect UI or in the terminal, and silence means delete."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import TypeVar, cast
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import PrefectException
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.settings import get_current_settings
from prefect.states import Paused
from pydantic import Field, ValidationError, create_model

from tasks.errors.secrets import without_secrets
from tasks.reporting.pages import Page, address
from tasks.reporting.prefect_api import Keyset, pause_keys, prefect_client
from tasks.reporting.text import escape_markdown
from tasks.run.settings import CleanUp, Disposal

_THINGS = ("containers", "job", "pool")  # the fields of CleanUp that may say "ask"
_POLL = 2.0  # seconds between two looks at the flow run
_REQUEST = 10.0  # seconds for one of those requests
_BUSY = 60.0  # seconds for which a server that is busy is asked again, where a request is needed to go on
_LONGEST_DELAY = 8.0  # seconds between two tries
# After its time limit Prefect fails a paused run. Ours carries on by itself before; this is for one whose process died.
_GRACE = timedelta(minutes=5)
_API_TROUBLE = (httpx.HTTPError, PrefectException)
_TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}

T = TypeVar("T")

Answers = dict[str, bool]  # a thing, and whether to delete it


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, what a person should know to answer it, and how long the answer may take."""

    things: tuple[str, ...]
    summary: str
    failure: str = ""  # of a run that fails, the reason
    pool_cost: str | None
    limit: timedelta
    ends: datetime

    @property
    def silence(self) -> Answers:
        return dict.fromkeys(self.things, True)

    def says(self) -> list[str]:
        """The sentences above the questions, the failure first."""
        minutes = self.limit.total_seconds() / 60
        verb = "is" if self.things in (("job",), ("pool",)) else "are"
        silence = f"Without an answer by {self.ends:%H:%M} UTC (after {minutes:g} minutes) the {_listed(self.things)} "
        failed = f"The run failed: {self.failure}" if self.failure else ""
        return [line for line in (failed, self.summary, self.pool_cost, f"{silence}{verb} deleted.") if line]


def ask(
    clean_up: CleanUp,
    *,
    summary: str,
    failure: str = "",
    pool_cost: str | None = None,
    limit: timedelta | None = None,
    poll_seconds: float = _POLL,
) -> CleanUp:
    """The clean-up with every "ask" decided, after at most `limit` (default: its ask_minutes).

    A flow run of a deployment pauses, and the Prefect UI shows the questions as a form; one that was started in a
    terminal asks there. Silence deletes, and so does everything that keeps an answer from coming. Call it in the flow,
    not in a task, and have it in a `try` whose `finally` deletes: a run that is cancelled while it waits leaves here
    with an exception.

    Args:
        summary: One line that says what the run found.
        failure: Why the run fails, if it does. It comes first, because the answer depends on it.
        pool_cost: A sentence with what the pool costs per hour while it waits.
    """
    things = tuple(thing for thing in _THINGS if getattr(clean_up, thing) is Disposal.ASK)
    if not things:
        return clean_up
    limit = limit or timedelta(minutes=clean_up.ask_minutes)
    ends = datetime.now(timezone.utc) + limit
    if failure:
        get_run_logger().error("The run fails once it is decided what to delete: %s", failure)
    question = Question(things=things, summary=summary, failure=failure, pool_cost=pool_cost, limit=limit, ends=ends)
    answers = _answers(question, poll_seconds)
    get_run_logger().info(
        "Clean-up: %s", ", ".join(f"{'delete' if delete else 'keep'} {thing}" for thing, delete in answers.items())
    )
    decided = {thing: Disposal.DELETE if delete else Disposal.KEEP for thing, delete in answers.items()}
    return clean_up.model_copy(update=decided)


def _answers(question: Question, poll_seconds: float) -> Answers:
    if deployment.id is None and _at_a_terminal():
        return ask_in_the_terminal(question)
    if get_current_settings().api.url:
        return ask_in_the_ui(question, poll_seconds)
    get_run_logger().warning(
        "There is nobody to ask what to delete: no terminal, and a temporary Prefect server that ends with this run. "
        "Deleting the %s",
        _listed(question.things),
    )
    return question.silence


def ask_in_the_terminal(question: Question) -> Answers:
    """Ask on standard error and read standard input, as `Delete pool? [Y/n]`; ends at the limit."""
    deadline = time.monotonic() + question.limit.total_seconds()
    termios.tcflush(sys.stdin, termios.TCIFLUSH)  # what was typed before the question is no answer to it
    print("", *question.says(), sep="\n", file=sys.stderr)
    answers = question.silence
    for thing in question.things:
        answer = _yes_or_no(f"Delete {thing}? [Y/n] ", deadline)
        if answer is None:
            print("\nNo answer: deleting", file=sys.stderr)
            break
        answers[thing] = answer
    return answers


def _yes_or_no(prompt: str, deadline: float) -> bool | None:
    """The answer; None where there is none by the deadline, or no more input."""
    while True:
        print(prompt, end="", file=sys.stderr, flush=True)
        if not select.select([sys.stdin], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        line = os.read(sys.stdin.fileno(), 1024)  # a terminal hands over a line at a time
        answer = line.decode(errors="replace").strip().lower()
        if not line:
            return None
        if answer in ("", "y", "yes", "n", "no"):
            return not answer.startswith("n")
        print("Please answer y or n", file=sys.stderr)


def _at_a_terminal() -> bool:
    """Whether a person sees standard error and can answer; a job in the background would be stopped by reading."""
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False


def ask_in_the_ui(question: Question, poll_seconds: float = _POLL) -> Answers:
    """Pause the flow run with a form, until somebody resumes it or the limit is reached.

    Not `pause_flow_run`, whose own time limit can end the run as Failed although the flow goes on, which does not see
    that a run was ended while it waited, and which gives up when the server is away.
    """
    deadline = time.monotonic() + question.limit.total_seconds()
    try:
        # Requests to a busy server are retried here, within limits, and not by the client beyond them.
        with prefect_client(seconds=_REQUEST) as client:
            pause = _Pause(question, client)
            asked_again(pause.begin)
            asked_again(pause.show_form)
            get_run_logger().info(
                "Asking what to delete: Resume this run in the Prefect UI (%s) to answer. %s",
                address(Page.RUN, pause.flow_run_id),
                question.says()[-1],
            )
            return pause.wait(deadline, poll_seconds)
    except (*_API_TROUBLE, ValidationError, _Ended) as error:
        # What is to be deleted bills, whether the Prefect server answers or not.
        reason = without_secrets(str(error) or type(error).__name__)
        get_run_logger().warning("No answer can come (%s): deleting the %s", reason, _listed(question.things))
    return question.silence


def asked_again(
    ask: Callable[[], T],
    *,
    seconds: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """What the Prefect server answers, retried for this long (default: a minute) while it is busy or away."""
    deadline = clock() + (_BUSY if seconds is None else seconds)
    delay = 1.0
    while True:
        try:
            return ask()
        except _API_TROUBLE as error:
            if not _may_pass(error) or clock() + delay > deadline:
                raise
        sleep(delay)
        delay = min(2 * delay, _LONGEST_DELAY)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _TRANSIENT or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


class _Ended(Exception):
    """The flow run cannot pause, or was given another state while it was paused."""


class _Pause:
    """One pause of the current flow run."""

    def __init__(self, question: Question, client: SyncPrefectClient) -> None:
        self._question = question
        self._client = client
        self._form = form_of(question)
        self._state: State[None] = Paused(
            timeout_seconds=int((question.limit + _GRACE).total_seconds()),
            pause_key=str(uuid4()),
            message=" ".join(["Asks what to delete.", *question.says()]),
        )
        self._keys: Keyset = pause_keys(self._state)
        self._state.state_details.run_input_keyset = {str(use): key for use, key in self._keys.items()}
        self.flow_run_id = UUID(str(flow_run.id))
        self._sent = False

    def begin(self) -> None:
        """Pause, unless a call of this has, whose answer was lost: by now somebody may have answered the question."""
        if self._sent and self._has_begun():
            return
        self._sent = True
        answer = self._client.set_flow_run_state(self.flow_run_id, self._state)
        if answer.status is not SetStateStatus.ACCEPT:
            raise _Ended(getattr(answer.details, "reason", None) or "the run cannot pause")

    def show_form(self) -> None:
        """Only now: a server that accepts a pause deletes what its keys hold. Nobody can resume without it."""
        self._form.save(self._keys)

    def _has_begun(self) -> bool:
        ours = self._state.state_details.pause_key
        return any(
            state.state_details.pause_key == ours for state in self._client.read_flow_run_states(self.flow_run_id)
        )

    def wait(self, deadline: float, poll_seconds: float) -> Answers:
        while self._is_paused():
            left = deadline - time.monotonic()
            if left <= 0:
                if asked_again(self._resumed_by_us):
                    return self._question.silence
                break
            time.sleep(min(poll_seconds, left))
        return asked_again(self._given)

    def _is_paused(self) -> bool:
        try:
            state = self._client.read_flow_run(self.flow_run_id).state
        except _API_TROUBLE as error:
            if not _may_pass(error):
                raise
            return True  # as far as can be known
        return state is None or state.is_paused()

    def _resumed_by_us(self) -> bool:
        """Answer in the place of the person who did not; False if that person did, just now."""
        run_input = {_field(thing): delete for thing, delete in self._question.silence.items()}
        answer = self._client.resume_flow_run(self.flow_run_id, run_input=run_input)
        accepted = answer.status is SetStateStatus.ACCEPT
        if accepted:
            get_run_logger().info("No answer: deleting the %s", _listed(self._question.things))
        return accepted

    def _given(self) -> Answers:
        state = self._client.read_flow_run(self.flow_run_id).state
        if state is None or not state.is_running():
            raise _Ended(f"the run was set to {state.name if state else 'no state'} while it waited")
        given = cast(RunInput, self._form.load(self._keys)).model_dump()
        return {thing: given[_field(thing)] for thing in self._question.things}


def form_of(question: Question) -> type[RunInput]:
    """The form: one switch for each thing, on to begin with; above them what a person should know, in markdown."""
    switches = {
        _field(thing): (bool, Field(default=True, title=f"Delete {thing}?", description=_MEANS[thing]))
        for thing in question.things
    }
    form = create_model("CleanUpAnswers", __base__=RunInput, **switches)  # type: ignore[call-overload]
    first, *others = question.says()
    if question.failure:
        first = escape_markdown(first)  # it has names of files, and what they made a program write
    return form.with_initial_data(description="\n\n".join([f"**{first}**", *others]))  # type: ignore[no-any-return]


_MEANS: Mapping[str, str] = {thing: str(CleanUp.model_fields[thing].description) for thing in _THINGS}


def _field(thing: str) -> str:
    return f"delete_{thing}"


def _listed(things: tuple[str, ...]) -> str:
    return " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
