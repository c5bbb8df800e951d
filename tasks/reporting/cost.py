"""What the nodes of a run cost: the estimate for people, and the budget of a run with a cost_limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from tasks.errors import InputError
from tasks.reporting.node_time import KindTime, NodeTime
from tasks.reporting.prices import LEFT_OUT, dearest
from tasks.reporting.text import span
from tasks.run.budget import RESERVE, Budget
from tasks.run.price import Price
from tasks.run.settings import PoolSettings

_SURE = 0.01  # a smaller part of the cost that is not certain is not shown


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a run's nodes in US dollars, by its bounds."""

    time: NodeTime
    price: Price
    files: int = 0  # that the nodes processed

    @property
    def most(self) -> float:
        return self.price.of(self.time.dedicated.total, self.time.spot.total)

    @property
    def least(self) -> float:
        return self.price.of(*(kind.total - kind.unsure for kind in (self.time.dedicated, self.time.spot)))

    def __str__(self) -> str:
        """Such as "$0.2400, $0.0800 a file"; between two bounds where nodes were not seen to come or go."""
        sure = self.most - self.least <= _SURE * self.most
        known = f"**{usd(self.most)}**"
        if not sure:
            known = f"between **{usd(self.least)}** and {known}" if self.least > 0 else f"at most {known}"
        each = f", {usd(self.most / self.files)} a file" if self.files else ""
        return f"{known}{each}"

    @property
    def sentences(self) -> str:
        """The estimate with its prices, their source and date, and what it leaves out."""
        rates = rates_of(self.price, dedicated=bool(self.time.dedicated.total), spot=bool(self.time.spot.total))
        return f"Estimated cost: {self} {rates} ({self.price.source}).{self._gap} Compute alone, without {LEFT_OUT}."

    @property
    def _gap(self) -> str:
        if self.most - self.least <= _SURE * self.most:
            return ""
        if not self.time.split:
            return " No node could be looked at: this is as if all had been there as long as the pool."
        return " It is a range because nodes came or went between two looks at the pool."


def rates_of(price: Price, *, dedicated: bool, spot: bool) -> str:
    """Such as "at $0.0960 for a dedicated node and hour and at $0.0192 for a spot node and hour"."""
    rates = [f"at {usd(price.per_hour)} for a dedicated node and hour"] if dedicated or not spot else []
    if spot:
        most = "" if price.spot_per_hour is not None else ", the price of a dedicated one, which it never exceeds"
        rates.append(f"at {usd(price.spot)} for a spot node and hour{most}")
    return " and ".join(rates)


def node_seconds(time: NodeTime) -> str:
    """Such as "7,200 node-seconds: 300 starting, 900 idle, 6,000 running; 1,200 of them of spot nodes"."""
    both = time.both
    most = "at most " if not time.split else ""
    text = f"{most}{both.total:,.0f} node-seconds{_split(both) if time.split else ''}"
    if not time.spot.total:
        return text
    if not time.dedicated.total:
        return f"{text}; all of spot nodes"
    return f"{text}; {time.spot.total:,.0f} of them of spot nodes"


def _split(time: KindTime) -> str:
    return f": {time.starting:,.0f} starting, {time.idle:,.0f} idle, {time.running:,.0f} running"


def usd(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 10 else f"${dollars:.4f}"


def lasting(budget: Budget, pool: PoolSettings, lifetime: timedelta) -> str:
    """How long the nodes of the pool can live of the budget, for the log."""
    hourly = budget.hourly(pool.dedicated_nodes, pool.spot_nodes)
    lasts = budget.lasts(pool.dedicated_nodes, pool.spot_nodes)
    how_long = "longer than run_minutes" if lasts >= lifetime else span(lasts.total_seconds())
    return (
        f"{usd(budget.limit)} lasts {how_long} for all nodes, at {usd(hourly)} an hour at most, and "
        f"{RESERVE.seconds // 60} minutes for their removal ({budget.source})"
    )


def budget_of(
    limit: float | None, pool: PoolSettings, vm_sizes: Sequence[str], prices: Sequence[Price | None]
) -> Budget | None:
    """The budget of a run's own pool; None without a limit. Raises InputError where its nodes cannot keep the limit.

    prices: those of the VM sizes of which the pool may get nodes.
    """
    if limit is None:
        return None
    price = dearest(prices)
    if price is None:
        unknown = ", ".join(size for size, known in zip(vm_sizes, prices, strict=True) if known is None)
        raise InputError(
            f"cost_limit cannot be kept, because no price is known for {unknown}; leave out cost_limit and bound the "
            "cost with run_minutes, use VM sizes that tasks/reporting/prices.csv has, or let this machine reach "
            "https://prices.azure.com"
        )
    budget = Budget(limit=limit, per_hour=price.per_hour, spot_per_hour=price.spot, source=price.source)
    reserve = budget.reserve(pool.dedicated_nodes, pool.spot_nodes)
    if reserve >= limit:
        raise InputError(
            f"cost_limit ({usd(limit)}) is less than what the nodes cost in the {RESERVE.seconds // 60} minutes until "
            f"they are gone at the end ({usd(reserve)}, {price.source}); use fewer or smaller nodes, "
            "or a larger cost_limit"
        )
    return budget
