"""Kill trainings with SIGKILL at random moments and compare what they end in with an uninterrupted one.

    python benchmarks/resume_after_kill.py --repeats 100

Each repeat trains a model with everything that has state (dropout, accumulation, averaged weights, a plateau schedule,
a checkpoint after every step), kills the process ``--kills`` times at random moments, while stepping, saving or
evaluating alike, lets the last one finish, and compares every tensor and every number of the final checkpoint.
"""

import argparse
import multiprocessing
import random
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.store.checkpoint import load_newest
from chiasma.train.design import Design
from chiasma.train.trainer import Trainer

DESIGN = {
    "model": {
        "dim": 8,
        "encoders": {
            "image": {"kind": "convolution", "widths": [4, 8], "grid": 4, "pool": "flatten"},
            "text": {"kind": "bert", "depth": 1, "heads": 2, "dropout": 0.2},
        },
        "fusion": {"kind": "multiplicative"},
    },
    "training": {
        "optim": {"lr": 5e-3, "schedule": {"kind": "plateau", "patience": 1}},
        "loop": {"epochs": 3, "batch_size": 32, "accumulation": 2, "ema": 0.9, "evaluations": 8},
    },
}


def train(data: str, checkpoints: str) -> None:
    """Train to the end, or until killed."""
    torch.set_num_threads(1)
    design = Design.from_dict(DESIGN)
    Trainer(design, Path(data), device="cpu", checkpoints=Path(checkpoints), checkpoint_every_seconds=0).fit()


def content(checkpoints: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the bits of every tensor and every document but durations."""
    found = load_newest(checkpoints)
    assert found is not None
    tensors = {
        f"{group}/{name}": value.numpy().tobytes()
        for group in found.tensor_names
        for name, value in found.tensors(group).items()
    }
    documents = dict(found.documents)
    del documents["state"]["training"]["seconds"]
    return tensors, documents


def run(context: ForkServerContext, data: Dataset, checkpoints: Path, *, kill_after: float | None) -> bool:
    """Train in a process of its own and return whether it was killed before it finished."""
    child = context.Process(target=train, args=(str(data.folder), str(checkpoints)))
    child.start()
    child.join(kill_after)
    killed = child.is_alive()
    if killed:
        child.kill()
    child.join()
    if not killed and child.exitcode:
        raise SystemExit(f"The training itself failed with exit code {child.exitcode}.")
    return killed


def main() -> None:
    """Print how many repeats ended in identical bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--kills", type=int, default=3, help="kills in each repeat")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chiasma.train.trainer"])
    identical = kills = 0
    with TemporaryDirectory() as place:
        root = Path(place)
        data, _ = prepare(DataSpec(rows=400), seed=0, cache=root / "cache")
        run(context, data, root / "warm", kill_after=None)
        started = time.monotonic()
        run(context, data, root / "whole", kill_after=None)
        seconds = time.monotonic() - started
        expected = content(root / "whole")
        for repeat in range(options.repeats):
            folder = root / f"repeat-{repeat}"
            for _ in range(options.kills):
                kills += run(context, data, folder, kill_after=moments.uniform(0.1, 1.1) * seconds / options.kills)
            run(context, data, folder, kill_after=None)
            identical += content(folder) == expected
    print(f"identical {identical}/{options.repeats} after {kills} kills")
    raise SystemExit(0 if identical == options.repeats else 1)


if __name__ == "__main__":
    main()
