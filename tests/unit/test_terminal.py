"""A command goes on without its console, and a terminal that is closed ends it as SIGTERM does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local_azure.loopback import bypass_proxies, past_proxies
from tests.support.paths import DATA

LINES = 20_000  # more than a pipe holds
CHATTY = f"""
import logging, sys
from tasks.terminal import outlive_console
outlive_console()
logging.basicConfig(stream=sys.stderr)
for number in range({LINES}):
    print(f"größe {{number}}")
    logging.warning("größe %d", number)
sys.exit(7)
"""


def run(script: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script], cwd=DATA.parent, **options)


def test_a_reader_that_leaves_changes_nothing_but_what_is_read() -> None:
    with run(CHATTY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as command:
        assert command.stdout
        assert command.stdout.readline() == "größe 0\n".encode()
        command.stdout.close()
        assert command.wait() == 7


def test_a_full_disk_behind_the_console_does_not_end_a_command() -> None:
    with Path("/dev/full").open("wb") as full:
        assert run(CHATTY, stdout=full, stderr=full).wait() == 7


def test_a_terminal_that_is_not_utf8_gets_escapes() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with run(CHATTY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as command:
        output, errors = command.communicate()
    assert (command.returncode, output.splitlines()[0]) == (7, rb"gr\xf6\xdfe 0")
    assert errors.splitlines()[0] == rb"WARNING:root:gr\xf6\xdfe 0"


def test_a_file_does_not_take_the_place_of_a_closed_console(tmp_path: Path) -> None:
    script = """
import subprocess, sys
from tasks.terminal import outlive_console
outlive_console()
with open(sys.argv[1], "w") as file:
    print("to nobody", flush=True)
    subprocess.run(["sh", "-c", "echo to nobody; echo to nobody >&2"], check=True)
    file.write(str(file.fileno() > 2))
"""
    shell = f"exec {sys.executable} -c '{script}' {tmp_path / 'file'} <&- >&- 2>&-"
    assert subprocess.run(shell, shell=True, cwd=DATA.parent, check=False).returncode == 0
    assert (tmp_path / "file").read_text() == "True"


WAITING = """
import signal
from tasks.terminal import exit_on_termination, terminate_on_hangup
exit_on_termination()
terminate_on_hangup()
try:
    print("ready", flush=True)
    signal.pause()
finally:
    signal.raise_signal(signal.SIGHUP)  # the second of a terminal and its shell
    print("cleaned up", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_hangup_and_termination_let_a_command_clean_up(number: signal.Signals) -> None:
    script = WAITING if number is signal.SIGHUP else WAITING.replace("    signal.raise_signal", "    #")
    with run(script, stdout=subprocess.PIPE) as command:
        assert command.stdout
        assert command.stdout.readline() == b"ready\n"
        command.send_signal(number)
        assert command.stdout.read() == b"cleaned up\n"
    assert command.returncode == 128 + signal.SIGTERM


IN_A_LOOP = """
import asyncio, signal
from tasks.terminal import interrupt_at_once
async def run():
    interrupt_at_once()
    try:
        signal.raise_signal(signal.SIGINT)
        print("went on")
    except KeyboardInterrupt:
        print("interrupted")
signal.signal(signal.SIGINT, signal.{before})
asyncio.run(run())
"""


@pytest.mark.parametrize(("before", "seen"), [("default_int_handler", "interrupted"), ("SIG_IGN", "went on")])
def test_an_interrupt_ends_at_once_what_blocks_an_event_loop(before: str, seen: str) -> None:
    script = IN_A_LOOP.replace("{before}", before)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=DATA.parent, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"{seen}\n"


def test_under_nohup_a_hangup_stays_ignored() -> None:
    script = 'trap \'\' HUP; exec "$0" -c "$1"'
    ask = (
        "import signal; from tasks import terminal; terminal.terminate_on_hangup(); signal.raise_signal(signal.SIGHUP)"
    )
    assert subprocess.run(["sh", "-c", script, sys.executable, ask], cwd=DATA.parent, check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "internal.example, localhost"}, "internal.example,localhost,127.0.0.1,::1"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a,b,127.0.0.1,localhost,::1"),
    ],
)
def test_loopback_is_added_to_what_is_asked_without_a_proxy(given: dict[str, str], expected: str) -> None:
    environment = dict(given)
    bypass_proxies(environment)
    bypass_proxies(environment)
    assert environment == {"no_proxy": expected, "NO_PROXY": expected}


def test_where_nothing_goes_through_a_proxy_that_stays_so() -> None:
    environment = {"NO_PROXY": "*"}
    bypass_proxies(environment)
    assert environment == {"NO_PROXY": "*"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {}),
        ({"HTTP_PROXY": "http://p"}, "127.0.0.1,localhost,::1"),
        ({"https_proxy": "http://p", "NO_PROXY": "*.corp, $(x),host"}, "*.corp,host,127.0.0.1,localhost,::1"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "*"}, {}),
        ({"NO_PROXY": "host"}, {}),
    ],
)
def test_clients_behind_a_proxy_are_told_to_go_past_it(
    environment: dict[str, str], expected: dict[str, str] | str
) -> None:
    bypass_proxies(environment)
    hosts = dict.fromkeys(("no_proxy", "NO_PROXY"), expected) if isinstance(expected, str) else expected
    assert past_proxies(environment) == hosts
