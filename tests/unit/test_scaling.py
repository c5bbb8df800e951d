"""The formula of docs/scaling.md: the figures of the page, and the limits in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scaling import Files, scaled
from tasks.run.estimate import AZURE, Load, estimate

SMALL = Files(files=1_000_000, size=10_000, nodes=100, node_seconds=0.005)
LARGE = Files(files=1_000_000, size=10_000_000, nodes=100, slots_per_node=8, node_seconds=0.33)

LOAD = Load(files=1_000, batch_tasks=1_000, alone=1_000, largest=1, size=10**10, nodes=10, slots=20, cores=20)


@pytest.mark.parametrize(
    ("given", "batch_tasks", "minutes", "costs"),
    [(SMALL, 15_880, [50, 0, 1, 4, 13], [8.6, 0.7]), (LARGE, 1_000_000, [50, 0, 50, 49, 13], [15.8, 20.8])],
)
def test_the_formula_gives_what_the_page_shows(
    given: Files, batch_tasks: int, minutes: list[int], costs: list[float]
) -> None:
    found = scaled(given, AZURE)
    assert (found.runs, found.batch_tasks) == (10, batch_tasks)
    assert [round(seconds / 60) for seconds in found.seconds.values()] == minutes
    assert [round(found.cost_of_nodes, 1), round(found.cost_of_requests, 1)] == costs


def test_a_storage_account_limits_what_any_number_of_nodes_can_read() -> None:
    found = scaled(Files(files=100_000, size=10_000_000, nodes=1_000, slots_per_node=8), AZURE)
    assert found.one.work == 100_000 * 10_000_000 / AZURE.storage


def test_files_of_this_machine_take_as_long_as_the_line_does() -> None:
    assert scaled(Files(files=1_000, size=10_000_000, nodes=10, line=125e6), AZURE).one.upload == 80
    assert estimate(replace(LOAD, uploaded=10**10), AZURE).upload == 10**10 / AZURE.line


def test_the_least_is_what_the_script_takes_in_all_slots() -> None:
    assert estimate(replace(LOAD, node_seconds=60), AZURE).least == 1_000 * 60 / 20


def test_without_a_time_of_the_script_the_least_is_adding_batch_tasks() -> None:
    assert estimate(LOAD, AZURE).least == 1_000 * 60 / 20_000
    assert estimate(replace(LOAD, batch_tasks=10, alone=0, largest=100), AZURE).least == 10 * 60 / 20_000


def test_no_more_slots_are_counted_than_there_are_batch_tasks() -> None:
    few = replace(LOAD, files=2, batch_tasks=2, alone=2, node_seconds=60)
    assert estimate(few, AZURE).least == 60
