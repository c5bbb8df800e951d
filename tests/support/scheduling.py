"""Which of the two workers of `make test` runs which test, and when: by file, the longest files first."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

# Files that share one Prefect server with a worker and our deployments: on one worker, it starts once.
WITH_DEPLOYMENTS = (
    "tests/ui/test_prefect_ui.py",
    "tests/flow/test_deployments.py",
    "tests/flow/test_lost_machine.py",
    "tests/flow/test_resume_processes.py",
    "tests/flow/test_approval.py",
)
# What takes longest begins first, so that no worker is left alone with it at the end.
FIRST = (
    "tests/flow/test_endings.py",
    *WITH_DEPLOYMENTS,
    "tests/flow/test_resume.py",
    "tests/flow/test_command_line.py",
    "tests/flow/test_truth.py",
    "tests/flow/test_waiting.py",
    "tests/flow/test_spot.py",
    "tests/flow/test_secrets.py",
    "tests/flow/test_lost_answers.py",
    "tests/flow/test_progress.py",
    "tests/flow/test_sweep.py",
    "tests/flow/test_local_azure.py",
    "tests/service/test_crash_points.py",
    "tests/unit/test_node_script.py",
)


def rank(nodeid: str) -> int:
    file = file_of(nodeid)
    return FIRST.index(file) if file in FIRST else len(FIRST)


def file_of(nodeid: str) -> str:
    return nodeid.split("::", 1)[0]


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests run on one worker, and so do those of all files with deployments."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False  # by the number of tests; ours are in their order already
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        return "with deployments" if file in WITH_DEPLOYMENTS else file
