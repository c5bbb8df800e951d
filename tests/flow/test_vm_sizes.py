"""A run whose first VM size gets no nodes uses the next one; the account's quotas of pools and jobs are waited for.

Which code leads to which size, `tests/unit/test_vm_sizes.py` has; when, `tests/unit/test_decide.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from azure.batch.models import BatchJobCreateOptions, BatchPoolInfo
from prefect import get_client
from prefect.runtime import flow_run
from prefect.states import Cancelling

from flows.top_words import top_words
from local_azure import faults
from tasks.accounts.clients import Azure
from tasks.check import check_accounts
from tasks.errors import Cancelled, InputError, RunTimeout, TasksFailed
from tasks.errors.service import ServiceError
from tasks.job import create_job
from tasks.pool import create_pool
from tasks.reporting.events import Payload, PoolReady, RunEvents
from tasks.resources.pool import Pool, set_nodes
from tasks.resources.tags import metadata
from tasks.run.identity import Run, UsedPool
from tasks.run.polling import Polling
from tasks.run.results import Results
from tasks.run.settings import PoolSettings
from tasks.run.uploads import Uploads
from tests.support.accounts import accounts_of, add_pool, azure_with_faults, clear
from tests.support.flow_runs import artifact, write_texts
from tests.support.monitoring import monitor_at, pace
from tests.support.polling import wait_until
from tests.support.runs import SCRIPT, in_flow, new_run

pytestmark = pytest.mark.usefixtures("prefect_server")

AMD, INTEL, PLAIN = "Standard_D2ads_v5", "Standard_D2ds_v5", "Standard_D2s_v5"
QUOTA = "AccountVMSeriesCoreQuotaReached"
RANKED = PoolSettings(dedicated_nodes=1, vm_size=(AMD, INTEL, PLAIN))


def no_quota(family: str) -> None:
    faults.ask("resizeerror", {"code": QUOTA, "message": "No cores.", "family": family, "times": 1000})


def is_gone(azure: Azure, name: str) -> bool:
    with azure.batch() as batch:
        return name not in {pool.id for pool in batch.list_pools()} | {job.id for job in batch.list_jobs()}


# Whole runs.


def test_without_quota_for_the_first_size_the_run_uses_the_next(
    troubled: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Payload] = []
    monkeypatch.setattr(RunEvents, "emit", lambda self, payload: sent.append(payload))
    no_quota("dadsv5")
    monitor_at(monkeypatch, pace())
    texts = write_texts(tmp_path / "texts", ["a"])
    state = top_words(inputs=texts, pool=RANKED, output_folder=str(tmp_path / "results"), return_state=True)
    assert state.is_completed(), state.message
    name = state.result().folder.name
    (ready,) = [each for each in sent if isinstance(each, PoolReady)]
    assert ready.vm_size == INTEL
    warned = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warned == [
        f"Pool {name}: no nodes of VM size {AMD}: {QUOTA}: No cores.",
        f"Pool {name}: now of VM size {INTEL}, asking for nodes again",
    ]
    report = artifact(state, "run-report").replace("\\", "")
    assert f"| nodes | 1 dedicated, of {INTEL} |" in report
    assert f"| no nodes of | {AMD}: {QUOTA}: No cores. |" in report
    wait_until(lambda: is_gone(troubled, name))


def test_with_all_sizes_refused_the_run_names_each_reason(
    troubled: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_quota("dadsv5")
    no_quota("dsv5")
    faults.ask("vmsizes", {"unavailable": INTEL})  # at the change of the pool: the first is offered
    monitor_at(monkeypatch, pace())
    texts = write_texts(tmp_path / "texts", ["a"])
    state = top_words(inputs=texts, pool=RANKED, output_folder=str(tmp_path / "results"), return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, TasksFailed), error
    reason = str(error).partition("\n")[0]
    assert "got no nodes of any of its VM sizes: " in reason
    for each in (
        f"{INTEL}: Batch does not offer it in this region; ",
        f"{AMD}, {PLAIN}: {QUOTA}: No cores.; ask for a higher quota of the family",
    ):
        assert each in reason, reason
    name = reason.split()[1]
    wait_until(lambda: is_gone(troubled, name))


# The step that creates the pool, and the change of its size.


def created(azure: Azure, run: Run, settings: PoolSettings = RANKED) -> UsedPool:
    return in_flow(lambda: create_pool(azure, run, settings, [SCRIPT]))


def test_a_size_that_batch_does_not_offer_is_passed_over(troubled: Azure, troubled_run: Run) -> None:
    faults.ask("vmsizes", {"unavailable": f"{AMD},{PLAIN}"})
    pool = created(troubled, troubled_run)
    assert (pool.vm_size, pool.other_sizes) == (INTEL, (PLAIN,))
    assert pool.instead_of == f"{AMD} (InvalidPropertyValue)"
    with pytest.raises(InputError, match=rf"^Batch offers none of the VM sizes {AMD}, {PLAIN} in this region; name "):
        created(troubled, new_run(), RANKED.model_copy(update={"vm_size": (AMD, PLAIN)}))


def test_a_retry_adopts_the_pool_with_the_size_it_has_reached(troubled: Azure, troubled_run: Run) -> None:
    no_quota("dadsv5")
    created(troubled, troubled_run)
    with troubled.batch() as batch:
        wait_until(lambda: bool(batch.get_pool(troubled_run.pool_id).resize_errors))
        assert Pool(batch, troubled_run, RANKED).use_size(INTEL.upper(), troubled_run.expires)
        wait_until(lambda: batch.get_pool(troubled_run.pool_id).current_dedicated_nodes == 1)
        formula = batch.get_pool(troubled_run.pool_id).auto_scale_formula or ""
    assert "$TargetDedicatedNodes = over ? 0 : 1;" in formula
    pool = created(troubled, troubled_run)
    assert (pool.vm_size, pool.other_sizes, pool.refused_sizes) == (INTEL, (PLAIN,), [])


def test_a_pool_that_has_nodes_keeps_its_size(troubled: Azure, troubled_run: Run) -> None:
    created(troubled, troubled_run)
    with troubled.batch() as batch:
        wait_until(lambda: batch.get_pool(troubled_run.pool_id).current_dedicated_nodes == 1)
        assert not Pool(batch, troubled_run, RANKED).use_size(INTEL, troubled_run.expires)
        found = batch.get_pool(troubled_run.pool_id)
    assert (found.vm_size, found.enable_auto_scale) == (AMD.lower(), True)


def test_step_0_warns_of_an_old_image_and_of_unknown_and_retiring_sizes(troubled: Azure, tmp_path: Path) -> None:
    image = "canonical:0001-com-ubuntu-server-focal:20_04-lts"
    settings = PoolSettings(vm_size=(AMD, "Standard_F2s_v2", "Standard_Foo"), image=image)
    old, unknown, retires = in_flow(
        lambda: check_accounts(troubled, settings, Results(folder=tmp_path / "results"))
    ).warnings
    assert old.startswith(f"image {image}:latest: Azure Batch has not supported {image} since 2025-04-23: a pool of it")
    assert unknown.startswith("VM size Standard_Foo: its name does not show its cores, so that slots and quota are not")
    assert retires.startswith("VM size Standard_F2s_v2: Azure retires its series Fsv2 on 2028-11-15 and limits")


# Quotas of pools and jobs.


def acting(act: Callable[[], object]) -> Polling:
    """Does something while the wait lasts, once."""
    done: list[object] = []

    def sleep(seconds: float) -> None:
        done.append(done or act())

    return Polling(sleep=sleep)


def test_the_pool_quota_is_waited_for_while_another_run_holds_it(
    troubled: Azure, troubled_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    other = new_run()
    add_pool(troubled, other.pool_id, other.tags.metadata(), target_dedicated_nodes=0)
    faults.ask("quota", {"pools": 1})
    polling = acting(lambda: clear(troubled, other.pool_id))
    pool = in_flow(lambda: create_pool(troubled, troubled_run, RANKED, [SCRIPT], polling=polling))
    assert pool.vm_size == AMD
    waiting = f"Pool {troubled_run.pool_id}: waiting, the account's quota of pools is used up; other runs hold "
    assert [message for message in caplog.messages if message.startswith(waiting)] == [f"{waiting}{other.pool_id}"]


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "of nobody's run"])
def test_a_pool_quota_that_no_run_will_free_is_named(kept: bool, troubled: Azure, troubled_run: Run) -> None:
    tags = {**new_run().tags.metadata(), "kept": "yes"} if kept else {}
    add_pool(troubled, "theirs", tags, target_dedicated_nodes=0)
    faults.ask("quota", {"pools": 1})
    try:
        with pytest.raises(ServiceError, match=r"`az batch account list .*poolQuota") as error:
            created(troubled, troubled_run)
    finally:
        clear(troubled, "theirs")
    assert (error.value.code, error.value.transient) == ("PoolQuotaReached", False)
    counted = (
        "1 are of ended or kept runs of this project, 0" if kept else "0 are of ended or kept runs of this project, 1"
    )
    assert f"({error.value.code}), and no other run will make room: {counted} of others; delete " in str(error.value)


def test_the_job_quota_is_waited_for_no_longer_than_the_run(troubled: Azure, troubled_run: Run) -> None:
    other = replace(new_run(), lifetime=timedelta(hours=3))
    with troubled.batch() as batch:
        pool_info = BatchPoolInfo(pool_id=other.pool_id)
        batch.create_job(BatchJobCreateOptions(id=other.job_id, pool_info=pool_info, metadata=metadata(other.tags)))
    faults.ask("quota", {"jobs": 1})
    pool = UsedPool(id=troubled_run.pool_id, slots_per_node=1, own=True)
    late: list[timedelta] = []

    def now() -> datetime:
        return troubled_run.started + sum(late, timedelta())

    polling = Polling(sleep=lambda seconds: late.append(timedelta(minutes=25)), now=now)

    def wait() -> str:
        return create_job(troubled, troubled_run, pool, Uploads(application=(), inputs=()), polling=polling)

    try:
        with pytest.raises(RunTimeout, match=rf"quota of jobs, of which other runs hold {other.job_id}$"):
            in_flow(wait)
    finally:
        clear(troubled, other.job_id)
    assert in_flow(wait) == troubled_run.job_id


def cancelled_while_waiting() -> Polling:
    """Each wait is a minute, and in the first the flow run is cancelled in the Prefect UI."""
    waits: list[float] = []
    began = datetime.now(timezone.utc)

    def sleep(seconds: float) -> None:
        assert len(waits) < 2, "the wait goes on"
        if not waits:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(flow_run.id, Cancelling())
        waits.append(seconds)

    return Polling(sleep=sleep, now=lambda: began + timedelta(minutes=len(waits)))


@pytest.mark.parametrize("kind", ["pools", "jobs"])
def test_a_run_that_is_cancelled_waits_for_no_quota_any_more(kind: str, troubled: Azure, troubled_run: Run) -> None:
    other = replace(new_run(), lifetime=timedelta(hours=3))
    pool = UsedPool(id=troubled_run.pool_id, slots_per_node=1, own=True)
    uploads, polling = Uploads(application=(), inputs=()), cancelled_while_waiting()
    with troubled.batch() as batch:
        if kind == "pools":
            add_pool(troubled, other.pool_id, other.tags.metadata(), target_dedicated_nodes=0)
        else:
            options = BatchJobCreateOptions(
                id=other.job_id, pool_info=BatchPoolInfo(pool_id=other.pool_id), metadata=metadata(other.tags)
            )
            batch.create_job(options)
    faults.ask("quota", {kind: 1})

    def create() -> object:
        if kind == "pools":
            return create_pool(troubled, troubled_run, RANKED, [SCRIPT], polling=polling)
        return create_job(troubled, troubled_run, pool, uploads, polling=polling)

    try:
        with pytest.raises(Cancelled):
            in_flow(create)
    finally:
        clear(troubled, other.pool_id if kind == "pools" else other.job_id)
    assert is_gone(troubled, troubled_run.pool_id)


@pytest.fixture
def alone(no_azure: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """An Azure of the test's own, since its clock is moved."""
    with azure_with_faults(tmp_path) as settings:
        yield accounts_of(settings, monkeypatch)


def test_a_pool_that_a_failed_try_has_paused_gets_its_nodes_back(alone: Azure) -> None:
    run = new_run()
    pool = created(alone, run)
    with alone.batch() as batch:
        faults.ask("clock", {"advance": "PT31S"})
        set_nodes(batch, pool.id, 0, 0, run.expires)  # and then, say, the service does not respond
        faults.ask("clock", {"advance": "PT31S"})
        in_flow(lambda: create_job(alone, run, pool, Uploads(application=(), inputs=())))
        assert "over ? 0 : 1;" in (batch.get_pool(pool.id).auto_scale_formula or "")


def test_while_the_job_quota_is_waited_for_the_pool_has_no_nodes(alone: Azure) -> None:
    run, other = new_run(), replace(new_run(), lifetime=timedelta(hours=3))
    pool = created(alone, run)
    nodes: list[int | None] = []
    with alone.batch() as batch:
        pool_info = BatchPoolInfo(pool_id=other.pool_id)
        batch.create_job(BatchJobCreateOptions(id=other.job_id, pool_info=pool_info, metadata=metadata(other.tags)))

        def current() -> int | None:
            found = batch.get_pool(pool.id)
            return found.current_dedicated_nodes if found.allocation_state == "steady" else None

        def sleep(seconds: float) -> None:
            if nodes:  # the wait between two formulas
                faults.ask("clock", {"advance": "PT31S"})
            else:
                wait_until(lambda: current() == 0)
                nodes.append(current())
                clear(alone, other.job_id)

        wait_until(lambda: current() == 1)
        faults.ask("quota", {"jobs": 1})
        uploads = Uploads(application=(), inputs=())
        in_flow(lambda: create_job(alone, run, pool, uploads, polling=Polling(sleep=sleep)))
        assert nodes == [0]
        wait_until(lambda: current() == 1)
