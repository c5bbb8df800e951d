"""How a run begins: step 0 looks at all that the run needs while nothing exists, and plans it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.budget import begin_lookup, with_budget
from tasks.check import check_accounts, check_input, resolve_packages
from tasks.errors import InputError
from tasks.inputs.files import InputFile
from tasks.kept import skip_done
from tasks.reporting.plan import price_for
from tasks.reporting.retail_prices import PriceLookup
from tasks.run.destination import Destination
from tasks.run.folder_lock import working_in
from tasks.run.identity import Run
from tasks.run.outcomes import TaskOutcome
from tasks.run.plan import Checked, RunPlan, make_plan
from tasks.run.results import Results
from tasks.run.settings import RunSettings
from tasks.run.speed import known_speed
from tasks.run.workload import Workload

_FOLDER_SECONDS = 300.0  # more than a sweep takes for one run


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What step 0 has found.

    run: with its budget. done: what became of files that a previous attempt, or an earlier run, has processed.
    """

    run: Run
    checked: Checked
    files: Sequence[InputFile]
    done: Sequence[TaskOutcome]
    to_process: list[InputFile]
    results: Results
    destination: Destination
    prices: PriceLookup


class Beginning:
    """Step 0 of one run. Of a run that is only to be checked it goes on after a problem, to find the others, too."""

    def __init__(
        self, azure: Azure, run: Run, workload: Workload[Any, Any], settings: RunSettings, *, is_retry: bool
    ) -> None:
        self._azure = azure
        self._run = run
        self._workload = workload
        self._settings = settings
        self._is_retry = is_retry
        self._problems: list[str] = []

    def look(self, inputs: Sequence[str], contexts: ExitStack) -> Begun:
        """Raises InputError where the run cannot work, unless it is only to be checked.

        Until the contexts end, no clean-up changes the results folder.
        """
        settings, run = self._settings, self._run
        prices = begin_lookup(self._azure, settings.pool)
        files = self._files(inputs)
        results = self._results(files)
        destination = Destination.of(self._azure, run, settings.output_folder)
        checked = self._checked(results, destination)
        if not settings.check:
            self._enter(results, contexts)
        with self._noted():
            run = with_budget(self._azure, run, settings.cost_limit, settings.pool, prices)
        if settings.skip_done and not (self._problems or checked.problems):
            why = skip_done(self._azure, files, results, destination, only_look=settings.check)
            results = replace(results, why=why)
        done, to_process = self._sorted(files, results)
        return Begun(
            run=run,
            checked=checked,
            files=files,
            done=done,
            to_process=to_process,
            results=results,
            destination=destination,
            prices=prices,
        )

    def packages(self, found: Begun, contexts: ExitStack) -> Sequence[Path]:
        """The files in which the nodes get what the script imports, in a folder that ends with the contexts."""
        if not (found.to_process and self._workload.packages) or found.checked.problems:
            return ()
        folder = Path(contexts.enter_context(TemporaryDirectory(prefix="packages-")))
        installed = None
        with self._noted():
            installed = resolve_packages(self._azure, found.checked.settings, self._workload.packages, folder)
        return installed.files if installed else ()

    def plan(self, found: Begun) -> RunPlan:
        results = found.results
        return make_plan(
            run=found.run,
            settings=self._settings,
            checked=found.checked,
            inputs=len(found.files),
            to_process=found.to_process,
            speed=known_speed(results, [file.name for file in found.to_process]),
            price=price_for(found.checked.accounts, found.checked.pool, found.prices),
            results=str(found.destination) if results.kept else str(results.folder),
            is_retry=self._is_retry,
            problems=self._problems,
        )

    def _files(self, inputs: Sequence[str]) -> list[InputFile]:
        settings = self._settings
        with self._noted():
            return check_input(
                self._azure, self._run, inputs, settings.allow_failures, settings.output_folder, settings.files_per_task
            )
        return []

    def _results(self, files: Sequence[InputFile]) -> Results:
        workload, settings = self._workload, self._settings
        program = workload.program.in_container(settings.pool.container_image)
        return Results.of(settings.output_folder, self._run.name, files, workload.read, workload.tables, program)

    def _checked(self, results: Results, destination: Destination) -> Checked:
        previous_pool = self._run.pool_id if self._is_retry else ""
        only = self._settings.check
        try:
            return check_accounts(self._azure, self._settings.pool, results, destination, previous_pool, only=only)
        except InputError as error:
            if not (only and isinstance(error.summary, Checked)):
                raise
            return error.summary

    def _enter(self, results: Results, contexts: ExitStack) -> None:
        """Wait for a clean-up that still saves there what the previous attempt has finished."""
        if contexts.enter_context(working_in(results.folder)):
            return
        logger = get_run_logger()
        logger.info("Results %s: waiting for the process that works there", results.folder)
        if not contexts.enter_context(working_in(results.folder, _FOLDER_SECONDS)):
            logger.warning("Results %s: continuing, though another process still works there", results.folder)

    def _sorted(self, files: Sequence[InputFile], results: Results) -> tuple[Sequence[TaskOutcome], list[InputFile]]:
        if not self._settings.check:
            return results.sort(files)
        return [], [file for file in files if results.why is None or file.name in results.why]

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            if not self._settings.check:
                raise
            self._problems.append(str(error))
