"""What breeding gains over random search with the same ladder, at equal time, over paired seeds.

    python benchmarks/against_random.py --seconds 240 --seeds 11 12 13 14 15

Each seed searches twice on document 001's small task: Chiasma's search as it is, and the same with random mechanisms
alone. The fronts that both had when the time was up are trained again on fresh seeds; printed are their hypervolumes
and the mean difference with its interval over the seeds.
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mini_vit import RUNGS, front_at, make_config, prepare_comparison, search
from scipy import stats

ARMS = {"bred": "[attention, random]", "random": "[random]"}
LEVEL = 0.95


def main() -> None:
    """Print both hypervolumes for each seed, and the mean difference with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--judging-seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CHIASMA_TEST_DATA", "data")))
    options = parser.parse_args()
    with TemporaryDirectory() as place:
        bench = prepare_comparison(
            Path(place), options.data, workers=options.workers, judging_seeds=options.judging_seeds
        )
        differences: list[float] = []
        for seed in options.seeds:
            volumes: dict[str, float] = {}
            # Who goes first alternates, so that a machine that slows down favours neither.
            order = list(ARMS) if len(differences) % 2 == 0 else list(ARMS)[::-1]
            for arm in order:
                settings = (f"run.seed={seed}", f"run.workers={options.workers}", f"search.proposers={ARMS[arm]}")
                found = search(make_config(bench.manifest, *settings, *RUNGS), seconds=options.seconds)
                front = front_at(found, options.seconds)
                bench.judge.judge(each.design for each in front)
                volumes[arm] = bench.judge.volume(front)
                print(f"seed {seed}, {arm}: {len(found)} of full length, hypervolume {volumes[arm]:.4f}", flush=True)
            differences.append(volumes["bred"] - volumes["random"])
    low, high = stats.t.interval(LEVEL, len(differences) - 1, loc=np.mean(differences), scale=stats.sem(differences))
    print(f"bred less random: {np.mean(differences):+.4f} ({low:+.4f} to {high:+.4f}) over {len(differences)} seeds")


if __name__ == "__main__":
    main()
