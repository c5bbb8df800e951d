"""What a run may spend: prices are looked up while it begins, and its names then carry its budget."""

from __future__ import annotations

from dataclasses import replace

from prefect.logging import get_run_logger

from tasks.accounts.clients import Azure
from tasks.accounts.clouds import is_loopback
from tasks.reporting.cost import budget_of, lasting
from tasks.reporting.retail_prices import PriceLookup
from tasks.run.identity import Run
from tasks.run.parameters import refuse_bad_limit
from tasks.run.settings import PoolSettings


def begin_lookup(azure: Azure, pool: PoolSettings) -> PriceLookup:
    """Begin to look up what a node costs, in the background."""
    prices = PriceLookup(azure.batch_account.endpoint)
    if not pool.existing_pool_id:
        prices.start(pool.vm_size)
    return prices


def with_budget(azure: Azure, run: Run, limit: float | None, pool: PoolSettings, prices: PriceLookup) -> Run:
    """The run's names with what it may spend, from which the pool's deadline follows.

    Raises InputError where the limit cannot be kept.
    """
    if limit is None:
        return run
    refuse_bad_limit(limit, pool)
    if is_loopback(azure.batch_account.endpoint):
        get_run_logger().info("cost_limit: nothing to bound, the embedded local Azure costs nothing")
        return run
    budget = budget_of(limit, pool, pool.vm_size, [prices.of(vm_size) for vm_size in pool.vm_size])
    get_run_logger().info("cost_limit: %s", lasting(budget, pool, run.lifetime) if budget else "none")
    return replace(run, budget=budget)
