"""The hooks on_crashed and on_cancellation: clean up after a flow run whose process may be gone.

Usually the run itself has done it already, and a hook finds nothing. When the run's process was killed, the hook runs
in the worker or in `serve`, where nothing of the run is left but its id and its parameters.
"""

from __future__ import annotations

from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger

from tasks.accounts.choose import accounts_in_use
from tasks.accounts.parallel import within
from tasks.errors.secrets import without_secrets
from tasks.resources.clean_up import clean_up_after, clean_up_of
from tasks.resources.finished import Log, Saving
from tasks.run.identity import Run
from tasks.run.settings import TimeLimits, output_folder_of, settings_in

PATIENCE = 60.0  # seconds; the SDKs retry for minutes where Azure does not answer, and the worker has other runs
_SAVE_SECONDS = 35.0  # of these, to download what the run has finished


def clean_up_dead_run(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Delete what the flow run created, as its clean_up parameter says, once its finished outputs are downloaded.

    Never raises, whatever Azure answers.
    """
    logger = flow_run_logger(flow_run, flow)
    if not within(PATIENCE, lambda: _clean_up(flow.name, flow_run, logger)):
        logger.warning(
            "Flow run %s: not cleaned up within %d s, because Azure has not answered; "
            "the sweep flow deletes what is left once it has expired",
            flow_run.id,
            PATIENCE,
        )


def _clean_up(workload: str, flow_run: FlowRun, logger: Log) -> None:
    try:
        parameters = settings_in(flow_run.parameters or {})
        azure = accounts_in_use(parameters.get("accounts"))
        if azure is None:
            logger.info(
                "No account configured here; nothing to clean up for a local run. "
                "What a run on other accounts has left there, the sweep flow deletes once it has expired"
            )
            return
        run = Run.start(str(flow_run.id), workload, TimeLimits())
        saving = Saving(output_folder=output_folder_of(parameters), seconds=_SAVE_SECONDS, logger=logger)
        clean_up_after(azure, run, clean_up_of(parameters), logger, saving=saving)
    except Exception as error:
        reason = without_secrets(str(error))
        logger.warning(
            "Flow run %s: not cleaned up, the sweep flow deletes what is left once it has expired: %s: %s",
            flow_run.id,
            type(error).__name__,
            reason,
        )
