"""The formula of docs/scaling.md."""

from __future__ import annotations

import pytest

from benchmarks.scaling import AZURE, Estimate, Load, estimate

SMALL = Load(files=1_000_000, size=10_000, nodes=100, node_seconds=0.005)
LARGE = Load(files=1_000_000, size=10_000_000, nodes=100, slots_per_node=8, node_seconds=0.33)


def minutes(found: Estimate) -> list[int]:
    return [round(part / 60) for part in (found.start, found.upload, found.add, found.work, found.download)]


@pytest.mark.parametrize(
    ("load", "batch_tasks", "parts", "costs"),
    [(SMALL, 15_880, [50, 0, 1, 4, 13], [8.6, 0.7]), (LARGE, 1_000_000, [50, 0, 50, 49, 13], [15.8, 20.8])],
)
def test_the_formula_gives_what_the_page_shows(
    load: Load, batch_tasks: int, parts: list[int], costs: list[float]
) -> None:
    found = estimate(load, AZURE)
    assert (found.runs, found.batch_tasks, minutes(found)) == (10, batch_tasks, parts)
    assert [round(found.cost_of_nodes, 1), round(found.cost_of_requests, 1)] == costs


def test_a_storage_account_limits_what_any_number_of_nodes_can_read() -> None:
    load = Load(files=100_000, size=10_000_000, nodes=1_000, slots_per_node=8)
    assert estimate(load, AZURE).work == load.files * load.size / AZURE.storage


def test_files_of_this_machine_take_as_long_as_the_line_does() -> None:
    load = Load(files=1_000, size=10_000_000, nodes=10, line=125e6)
    assert estimate(load, AZURE).upload == 80
