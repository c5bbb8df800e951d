"""The classic Azure Batch tutorial, step by step: what every workload goes through."""

# No postponed annotations: a flow that is served is pickled, with what it calls.

from collections.abc import Sequence

from tasks.containers import create_containers
from tasks.download import download_output
from tasks.files import upload_files
from tasks.job import add_tasks, create_job, find_done
from tasks.join import join_outputs
from tasks.lifecycle import BatchRun
from tasks.monitor import how_it_ended, monitor_tasks
from tasks.pool import create_pool
from tasks.run.settings import RunSettings
from tasks.run.workload import J, T, Workload
from tasks.watching.watch import Patience


def run_workload(workload: Workload[T, J], inputs: Sequence[str], settings: RunSettings) -> J:
    """Run the workload over the files, inside a Prefect flow; returns what it joins their outputs into.

    With `settings.check` it creates nothing, and returns the Prefect state Completed with the plan, as whose result
    the flow returns the plan. Raises RunError: InputError before anything is created, else what kept the run from
    succeeding.
    """
    with BatchRun(workload, settings) as run:
        files = run.begin(inputs)  # 0: all of them, unless a previous attempt of this run has done some
        if settings.check:
            return run.checked()
        azure, id, clean_up = run.azure, run.id, run.clean_up
        if files:
            create_containers(azure, id, clean_up.containers)  # 1
            uploads = run.note_uploads(upload_files(azure, id, files, run.application, run.at_once, run.work))  # 2
            del files  # there may be very many, and what was uploaded is all that is needed of them
            if not (run.is_retry and run.note_outcomes(find_done(azure, id, uploads))):
                pool = run.note_pool(create_pool(azure, id, run.pool, uploads.application, clean_up.pool))  # 3
                create_job(azure, id, pool, uploads, clean_up.job)  # 4
                batch_tasks = run.note_tasks(add_tasks(azure, id, pool, uploads, run.work))  # 5
                patience = Patience(limits=settings.limits, pool=run.pool)
                watched = monitor_tasks(azure, id, pool, batch_tasks, patience, seen=run.seen, return_state=True)  # 6
                run.note_end(how_it_ended(watched))
            run.note_outcomes(download_output(azure, id, uploads, run.outcomes, run.results, run.seen.board))  # 7
        run.note_joined(join_outputs(azure, workload, run.outcomes, run.results, run.destination))
    # 8, 9: the run has deleted its containers, its job and its pool, unless they are to be kept
    return run.result()
