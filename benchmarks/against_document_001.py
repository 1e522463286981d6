"""Time to the same hypervolume: Chiasma's search for attention against document 001's own, on its own small task.

    python benchmarks/against_document_001.py --minutes 10 --seeds 21 22 23

Document 001's algorithm (see ``document_001.py``) searches first, then Chiasma's for half of the time, with the same
workers, recipe and data. Chiasma's search is as it comes: it has more operators than document 001, begins with
mechanisms of the literature (``--alone`` has it begin with standard attention only), knows FLOPs before it trains, and
leaves out rungs as short as these trainings are. Every front that each had is trained again on fresh seeds. Compared
are the moments from which on the re-judged front was worth as much as document 001's at its end, or a part of that.
"""

import argparse
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from document_001 import WORST, Document001, Fitness, can_run, is_valid
from mini_vit import (
    SLOT,
    Comparison,
    Found,
    Judge,
    front_at,
    install_plugin,
    make_config,
    prepare_comparison,
    search,
)
from scipy import stats

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import replace_at
from chiasma.evaluate.executor import LocalExecutor
from chiasma.train.design import Design

SHARE = 0.5
LEVEL = 0.95
PARTS = (0.7, 0.8, 0.9, 1.0)


def main() -> None:
    """Print both curves of hypervolume over time, and the ratio of times, for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--alone", action="store_true", help="without mechanisms of the literature")
    parser.add_argument("--judging-seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CHIASMA_TEST_DATA", "data")))
    options = parser.parse_args()
    seconds = 60.0 * options.minutes
    with TemporaryDirectory() as place:
        folder = Path(place)
        install_plugin(folder)
        bench = prepare_comparison(folder, options.data, workers=options.workers, judging_seeds=options.judging_seeds)
        ratios: list[float] = []
        for seed in options.seeds:
            theirs = search_as_document_001(bench, seconds=seconds, seed=seed, workers=options.workers)
            known = f"search.known_mechanisms={str(not options.alone).lower()}"
            config = make_config(bench.manifest, f"run.seed={seed}", f"run.workers={options.workers}", known)
            ours = search(config, seconds=SHARE * seconds)
            print(f"seed {seed}, Chiasma: {len(ours)} trainings of full length", flush=True)
            found = times_to_equal(bench.judge, theirs, ours)
            words = {part: "not reached" if r is None else f"1/{r:.1f} of the time" for part, r in found.items()}
            print(f"seed {seed}: " + ", ".join(f"{part:.0%}: {word}" for part, word in words.items()), flush=True)
            ratios.append(found[1.0] or math.nan)
    reached = [ratio for ratio in ratios if not math.isnan(ratio)]
    print(f"reached on {len(reached)} of {len(ratios)} seeds")
    if len(reached) == len(ratios) > 1:
        logs = np.log(ratios)
        low, high = stats.t.interval(LEVEL, len(logs) - 1, loc=logs.mean(), scale=stats.sem(logs))
        mean, low, high = np.exp([logs.mean(), low, high])
        print(f"geometric mean 1/{mean:.1f} of the time (1/{high:.1f} to 1/{low:.1f})")


def times_to_equal(judge: Judge, theirs: Sequence[Found], ours: Sequence[Found]) -> dict[float, float | None]:
    """Return how many times as long document 001 took to parts of its own last hypervolume; None where not reached.

    A curve is what the front at each moment is worth when it is trained again on fresh seeds. A level counts as
    reached from the moment on after which the curve never falls below it again, so that a lucky front helps nobody.
    """
    curves: list[list[tuple[float, float]]] = []
    for name, found in (("document 001", theirs), ("Chiasma", ours)):
        judge.judge(each.design for item in found for each in front_at(found, item.seconds))
        curve = [(item.seconds, judge.volume(front_at(found, item.seconds))) for item in found]
        turns = [point for before, point in zip([(0.0, 0.0), *curve], curve, strict=False) if point[1] != before[1]]
        print(f"  {name}: " + ", ".join(f"{volume:.4f} at {moment:.0f} s" for moment, volume in turns), flush=True)
        curves.append(curve)
    goal = curves[0][-1][1]
    assert goal > 0
    found: dict[float, float | None] = {}
    for part in PARTS:
        last, first = (_reached_for_good(curve, part * goal) for curve in curves)
        found[part] = None if first is None or last is None else last / first
    return found


def _reached_for_good(curve: Sequence[tuple[float, float]], goal: float) -> float | None:
    """Return from when on a curve is never below a level, or None."""
    found = None
    for moment, volume in curve:
        if volume < goal:
            found = None
        elif found is None:
            found = moment
    return found


def search_as_document_001(bench: Comparison, *, seconds: float, seed: int, workers: int) -> list[Found]:
    """Return what document 001's algorithm trained in its time."""
    search = Document001(np.random.default_rng(seed))
    found: list[Found] = []
    asked = valid = number = 0
    began = time.monotonic()
    with LocalExecutor(workers) as executor:
        while time.monotonic() - began < seconds:
            children = search.ask()
            asked += len(children)
            places: dict[str, int] = {}
            fitness: list[Fitness] = [WORST] * len(children)
            designs: dict[int, Design] = {}
            for place, child in enumerate(children):
                if is_valid(child) and can_run(child):
                    designs[place] = replace_at(bench.standard, SLOT, child.attention)
                    job = bench.task.job(f"{number}", designs[place], seed=derive_seed(seed, "original", number))
                    places[job.key] = place
                    executor.submit(job)
                    number += 1
            valid += len(places)
            for job, outcome, _ in executor.as_completed(began + seconds):
                if isinstance(outcome, Scored):
                    place = places[job.key]
                    fitness[place] = (outcome.objectives["error"], outcome.objectives["flops"])
                    found.append(Found(time.monotonic() - began, designs[place], *fitness[place]))
            search.tell(list(zip(children, fitness, strict=True)))
    different = len({each.design.content_hash() for each in found})
    print(
        f"document 001: {asked} children, {valid / asked:.0%} valid, {len(found)} trainings of {different} designs",
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()
