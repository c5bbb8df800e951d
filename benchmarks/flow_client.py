"""The flow of this project as a client that can be measured: top_words, called as a function."""

from __future__ import annotations

from benchmarks.turn import NUM_WORDS, Done, Work, take_turn
from flows.top_words import top_words
from tasks.run.settings import CleanUp, Disposal, PoolSettings, TimeLimits


def run(work: Work) -> Done:
    summary = top_words(
        [str(work.inputs)],
        top_n=NUM_WORDS,
        pool=PoolSettings(dedicated_nodes=work.nodes, slots_per_node=work.slots),
        limits=TimeLimits(run_minutes=24 * 60),
        output_folder=str(work.results),
        clean_up=CleanUp(job=Disposal.KEEP if work.keep_job else Disposal.DELETE),
    )
    by_file = summary.by_file
    return Done(lists=by_file["file"].nunique(), words=int(by_file["count"].sum()), flow_run_id=summary.flow_run_id)


if __name__ == "__main__":
    take_turn(run)
