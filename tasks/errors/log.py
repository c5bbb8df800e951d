"""Makes Prefect's log records of our errors readable."""

from __future__ import annotations

import logging

from tasks.errors import RunError
from tasks.errors.text import visible

# Most of what Prefect calls a crash is intended: Cancel in the UI, a stopped worker, Ctrl-C.
_STOPPED = {
    "Crash detected! Execution was aborted by a termination signal.": "Stopped: the run was cancelled or terminated",
    "Crash detected! Execution was aborted by an interrupt signal.": "Stopped: interrupted from the keyboard",
}


class _ReadableErrors(logging.Filter):
    """Makes Prefect's own log records readable.

    Drops the traceback of a RunError, whose message is already in them, and says in plain words that a run was
    stopped.

    Replaces control characters, which names and words can contain, in every record.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], RunError):
            record.exc_info = None
        if stopped := _STOPPED.get(str(record.msg)):
            record.msg, record.levelno, record.levelname = stopped, logging.WARNING, "WARNING"
        message = record.getMessage()
        if (shown := visible(message)) != message:
            record.msg, record.args = shown, None
        return True


def log_errors_without_traceback() -> None:
    """Make Prefect log a RunError as its message alone; safe to call more than once.

    The SDKs' own warnings, some with a traceback, say nothing that the errors do not.
    """
    if (sdks := logging.getLogger("azure")).level == logging.NOTSET:
        sdks.setLevel(logging.ERROR)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(present, _ReadableErrors) for present in logger.filters):
            logger.addFilter(_ReadableErrors())
