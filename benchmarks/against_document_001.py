"""Time to the same hypervolume: Chiasma's search for attention against document 001's own, on its own small task.

    python benchmarks/against_document_001.py --minutes 15

Document 001's algorithm (see ``document_001.py``) searches first, then Chiasma's for a third of the time, with the
same workers, recipe and data. The fronts that each had at several times are trained again on fresh seeds. The first
time at which Chiasma's re-judged front is worth as much as the other one's last is what is asked for.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from document_001 import WORST, Document001, Fitness, can_run, is_valid
from mini_vit import (
    RUNGS,
    Found,
    Judge,
    front_at,
    install_plugin,
    make_config,
    make_task,
    reference_point,
    search,
    write_images,
)

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.evaluate.executor import LocalExecutor
from chiasma.evaluate.tasks import Task
from chiasma.model.cost import cost
from chiasma.train.design import Design

SLOT = "model.encoders.image.attention"
PARTS = 20


def main() -> None:
    """Print both curves of hypervolume over time, and the ratio of times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judging-seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CHIASMA_TEST_DATA", "data")))
    options = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = Path(place)
        install_plugin(folder)
        config = make_config(
            write_images(folder, options.data),
            f"run.seed={options.seed}",
            f"run.workers={options.workers}",
            *RUNGS,
        )
        task, standard = make_task(config)
        signature = Dataset.open(Path(task.dataset)).signature
        reference = reference_point(cost(standard.model, signature).flops)
        print(f"reference point: error {reference[0]:.2f}, FLOPs {reference[1]:.4g}", flush=True)
        seconds = 60.0 * options.minutes
        theirs = search_as_document_001(task, standard, seconds=seconds, seed=options.seed, workers=options.workers)
        ours = search(config, seconds=seconds / 3)
        print(f"Chiasma: {len(ours)} trainings of full length", flush=True)
        judge = Judge(task, reference=reference, workers=options.workers, seeds=options.judging_seeds)
        times = [seconds * part / PARTS for part in range(1, PARTS + 1)]
        for found in (theirs, ours):
            judge.judge(each.design for moment in times for each in front_at(found, moment))
        goal = judge.volume(front_at(theirs, seconds))
        print(f"hypervolume of the fronts, judged on {options.judging_seeds} fresh seeds")
        print(f"{'time':>6} {'document 001':>13} {'Chiasma':>9}")
        for moment in times:
            mine = f"{judge.volume(front_at(ours, moment)):.4f}" if moment <= seconds / 3 else ""
            print(f"{moment:5.0f}s {judge.volume(front_at(theirs, moment)):>13.4f} {mine:>9}")
        judge.judge(each.design for item in ours for each in front_at(ours, item.seconds))
        reached = next((each.seconds for each in ours if judge.volume(front_at(ours, each.seconds)) >= goal), None)
        if reached is None:
            print(f"Chiasma did not reach {goal:.4f} in a third of the time")
        else:
            print(f"Chiasma reached {goal:.4f} after {reached:.0f} s: 1/{seconds / reached:.1f} of the time")


def search_as_document_001(task: Task, standard: Design, *, seconds: float, seed: int, workers: int) -> list[Found]:
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
                    designs[place] = replace_at(standard, SLOT, child.attention)
                    job = task.job(f"{number}", designs[place], seed=derive_seed(seed, "original", number))
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
