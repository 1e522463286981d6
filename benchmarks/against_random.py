"""What a search for attention gains over random search with the same ladder, at equal time, over paired seeds.

    python benchmarks/against_random.py --seconds 240 --seeds 11 12 13 14 15

Each seed searches on document 001's small task: Chiasma's search as it is (which also begins with mechanisms of the
literature), the same bred from standard attention alone, and random edits of standard attention alone. What breeding
gains is the difference of the last two; both breeders prefer what is known to be cheap. The fronts that they had when
the time was up are trained again on fresh seeds; printed are their hypervolumes, and the mean difference of each from
random search with its interval over the seeds.
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mini_vit import RUNGS, front_at, make_config, prepare_comparison, search
from scipy import stats

ARMS = {
    "search": ("search.proposers=[attention, random]",),
    "alone": ("search.proposers=[attention, random]", "search.known_mechanisms=false"),
    "random": ("search.proposers=[random]",),
}
"""The settings of each."""
LEVEL = 0.95


def main() -> None:
    """Print both hypervolumes for each seed, and the mean difference with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--arms", nargs="+", choices=["search", "alone"], default=["search", "alone"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--judging-seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CHIASMA_TEST_DATA", "data")))
    options = parser.parse_args()
    with TemporaryDirectory() as place:
        bench = prepare_comparison(
            Path(place), options.data, workers=options.workers, judging_seeds=options.judging_seeds
        )
        differences: dict[str, list[float]] = {arm: [] for arm in options.arms}
        for number, seed in enumerate(options.seeds):
            volumes: dict[str, float] = {}
            # Who goes first alternates, so that a machine that slows down favours nobody.
            for arm in sorted({*options.arms, "random"}, reverse=number % 2 == 0):
                settings = (f"run.seed={seed}", f"run.workers={options.workers}", *ARMS[arm])
                found = search(make_config(bench.manifest, *settings, *RUNGS), seconds=options.seconds)
                front = front_at(found, options.seconds)
                bench.judge.judge(each.design for each in front)
                volumes[arm] = bench.judge.volume(front)
                print(f"seed {seed}, {arm}: {len(found)} of full length, hypervolume {volumes[arm]:.4f}", flush=True)
            for arm, found in differences.items():
                found.append(volumes[arm] - volumes["random"])
    for arm, found in differences.items():
        low, high = stats.t.interval(LEVEL, len(found) - 1, loc=np.mean(found), scale=stats.sem(found))
        print(f"{arm} less random: {np.mean(found):+.4f} ({low:+.4f} to {high:+.4f}) over {len(found)} seeds")


if __name__ == "__main__":
    main()
