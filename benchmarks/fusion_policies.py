"""The grammar of fusions with a controller against the grammar with even chances, at equal evaluations.

    python benchmarks/fusion_policies.py --tasks easy_vqa daquar --trials 20 --seeds 61 62 63 64 65

For each seed and task, two searches train equally many fusions to the same length, without a control and without short
rungs: in one the policy learns, in the other it draws evenly. The best of each is trained again on fresh seeds; printed
are these scores on ``select``, and their paired difference with a t interval over the seeds. ``test`` stays sealed.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy import stats

from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.fusion_search import search_fusion

LEVEL = 0.95
LEARNING, EVEN = "actor_critic", "uniform"


@dataclass(frozen=True)
class Task:
    """What is searched on.

    Attributes:
        source: Below the folder of test data; None for the built-in data.
        values: Settings.
    """

    source: str | None
    values: Mapping[str, Any]


TASKS = {
    "digit_claims": Task(None, {"train.epochs": 6, "model.dim": 32}),
    "easy_vqa": Task("easy_vqa/manifest.jsonl", {"data.rows": 3000, "data.image_size": 16, "train.epochs": 6}),
    "daquar": Task("daquar/manifest.jsonl", {"data.rows": 4000, "train.epochs": 4}),
}


def main() -> None:
    """Print both scores of each seed, and the difference of each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["easy_vqa", "daquar"])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[61, 62, 63, 64, 65])
    parser.add_argument("--policy", choices=(LEARNING, "bandit"), default=LEARNING)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CHIASMA_TEST_DATA", "data")))
    options = parser.parse_args()
    for name in options.tasks:
        found: list[tuple[float, float]] = []
        for seed in options.seeds:
            pair = [best_of(TASKS[name], options, policy=each, seed=seed) for each in (options.policy, EVEN)]
            print(f"{name}, seed {seed}: {options.policy} {pair[0]:.4f}, {EVEN} {pair[1]:.4f}", flush=True)
            found.append((pair[0], pair[1]))
        print(f"{name}: {options.policy} over {EVEN} {difference(np.array(found))}")


def best_of(task: Task, options: argparse.Namespace, *, policy: str, seed: int) -> float:
    """Search once, and return the score on fresh seeds of the fusion that the search found best."""
    source = None if task.source is None else str(options.data / task.source)
    values: dict[str, Any] = {
        **task.values,
        "run.seed": seed,
        "run.budget": str(options.trials),
        "search.policy": policy,
        "search.proposers": ["fusion"],
        "evaluate.rungs": [1.0],
        "evaluate.objectives": ["error"],
        "evaluate.finalists": 1,
        "evaluate.seeds": 2,
    }
    if task.source is not None and task.source.startswith("daquar"):
        values["data.features"] = {"image": str(options.data / "daquar" / "mobilenet_v2_tokens.npz")}
    with TemporaryDirectory() as place:
        config = load_config(data=source, values={**values, "run.folder": place})
        result = search_fusion(config, console=SilentConsole())
    assert result.front.best is not None, "every fusion of the grammar can be trained"
    return result.front.best.score.value


def difference(pairs: np.ndarray) -> str:
    """Return the mean paired difference ``[seeds 2]`` with its interval."""
    gains = pairs[:, 0] - pairs[:, 1]
    if len(gains) < 2:
        return f"{gains.mean():+.4f}, of one seed"
    low, high = stats.t.interval(LEVEL, len(gains) - 1, loc=gains.mean(), scale=stats.sem(gains))
    return f"{gains.mean():+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    main()
