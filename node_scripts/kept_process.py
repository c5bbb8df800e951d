"""A process that has imported the script, and calls its function for one file after the other."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

WORKER = "--worker"  # the first argument of run_file.py in this process
STREAMS = ("stdout", "stderr")


def serve(script: str, isolate: bool, requests: int, answers: int) -> None:
    """What a worker does."""
    for each in (requests, answers):
        os.set_inheritable(each, False)
    pipes = [requests, answers]

    def leave_pipes() -> None:
        while pipes:
            os.close(pipes.pop())

    adopt_orphans()
    process = os.getpid()
    os.register_at_fork(after_in_child=leave_pipes)  # where this process dies, no child of it is to be waited for
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path.insert(0, os.path.dirname(script))
    streams = os.dup(1), os.dup(2)
    files = {name: getattr(sys, name) for name in STREAMS}
    env = dict(os.environ)
    functions: list[Callable[[list[str]], object]] = []
    for line in os.fdopen(requests, "rb", closefd=False):
        request = json.loads(line)
        arguments = request["arguments"]
        os.environ.clear()
        os.environ.update(env, **request["environment"])
        sys.argv = [script, *arguments]
        os.chdir(request["folder"])
        for number, name in enumerate(STREAMS, 1):  # the script may have closed or replaced them
            os.dup2(streams[number - 1], number)
            setattr(sys, name, files[name])  # another one that was there may close this one as it goes
            if files[name].closed:
                files[name] = os.fdopen(number, "w", errors="backslashreplace", closefd=False)
                setattr(sys, name, files[name])
        status = 0
        if not functions:
            status = call(lambda: functions.append(load(script)))
            files = {name: getattr(sys, name) for name in STREAMS}
        if functions:
            (function,) = functions
            run = in_fork if isolate else call
            status = run(lambda: function(arguments))  # noqa: B023  # called before the next file
        if os.getpid() != process:  # the function has forked, and the child has returned too
            os._exit(status & 255)
        try:
            os.write(answers, b"%d %d\n" % (status, has_left()))
        except OSError:  # the function has closed what it has not opened
            os._exit(status & 255)


def load(script: str) -> Callable[[list[str]], object]:
    """The script's function; the script is imported as a module, and not run."""
    name = os.path.splitext(os.path.basename(script))[0]
    module: Any = type(sys)(f"script_{name}" if name in sys.modules else name)
    module.__file__ = script
    sys.modules[module.__name__] = module
    try:
        with open(script, "rb") as file:
            exec(compile(file.read(), script, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    found: Callable[[list[str]], object] = module.process_file
    return found


def call(function: Callable[[], object]) -> int:
    """The exit code that the interpreter would have."""
    try:
        code = function()
    except SystemExit as ended:
        code = ended.code
    except BaseException as error:
        import traceback

        code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1

        frames = error.__traceback__
        while frames and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames)
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()  # type: ignore[union-attr]  # else what was printed would go with the next file
    return int(code or 0) & 255


def adopt_orphans() -> None:
    """Be the parent of each process that a child of this one leaves behind, so that it is known of."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def has_left() -> bool:
    """Whether threads, or processes, go on."""
    with suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises it where there is no child
        return True
    return "threading" in sys.modules and sys.modules["threading"].active_count() > 1


def in_fork(function: Callable[[], object]) -> int:
    """As call, in a process of its own; negative for the signal that has ended it."""
    import atexit

    child = os.fork()
    if not child:
        code = 1
        try:
            atexit._clear()  # what was registered before is the other process's
            code = call(function)
            atexit._run_exitfuncs()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
