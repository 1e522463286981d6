"""Have two processes train a model together while it changes, and count where they differ. Promise 17.

    python benchmarks/faults_ranks.py

Members of the trunk are born, promoted and pruned at random. Counted is whether weights, moments and averages are the
same bits on both after each step and each change, before the model is wrapped anew (which gives all the leader's
weights and would hide a difference) and afterwards; how many pairs of processes hang; and whether an edit that differs
between the two is an error in time.
"""

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiasma.core.errors import ChiasmaError
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.model.multimodal import ModelSpec
from chiasma.model.trunk import Place, Population
from chiasma.model.trunk.members import ConvolutionMemberSpec, PerceptronSpec, TransformerMemberSpec
from chiasma.store.folders import cache_folder
from chiasma.train.design import LoopSpec, OptimSpec, TrainingSpec
from chiasma.train.devices import Precision
from chiasma.train.learner import Learner
from chiasma.train.losses import build_loss
from chiasma.train.ranks import Ranks, RanksDifferError, joined_ranks
from chiasma.train.steering import part_for

MODEL = ModelSpec.from_dict(
    {
        "dim": 16,
        "encoders": {
            "image": {"kind": "convolution", "widths": (4, 8), "grid": 2},
            "text": {"kind": "bert", "depth": 1, "heads": 2},
        },
        "fusion": {"kind": "cross_attention", "depth": 1, "heads": 2, "pool": "none"},
        "trunk": {
            "kind": "population",
            "members": {"perceptron_1": {"member": {"kind": "perceptron"}}},
        },
    }
)
CHANGES = 30
PAIRS = 3
HANGS_AFTER_SECONDS = 300.0
CPU = torch.device("cpu")


def claims() -> Dataset:
    """Return some hundred claims."""
    return prepare(DataSpec(rows=320), seed=0, cache=cache_folder(), progress=lambda text: None)[0]


def learner_of(data: Dataset, *, precision: Precision = "float32", ranks: Ranks | None = None) -> Learner:
    """Return a small model that is about to learn."""
    torch.manual_seed(0)
    loss = build_loss(None, data.signature.target)
    training = TrainingSpec(optim=OptimSpec(lr=1e-3), loop=LoopSpec(ema=0.9))
    model = MODEL.build(data.signature)
    together = {} if ranks is None else {"ranks": ranks}
    return Learner(model, loss, training=training, device=CPU, precision=precision, seed=0, **together)


def change_at_random(trunk: Population, rng: np.random.Generator, number: int) -> None:
    """Have a member born, promoted or pruned."""
    if trunk.newcomers and rng.random() < 0.6:
        trunk.promote(trunk.newcomers[0], prior=0.1, gain=1.0)
    elif len(trunk.spec.members) > 2 and rng.random() < 0.5:
        gone = [name for name in sorted(trunk.spec.members) if trunk.routed != [name]]
        trunk.prune(str(rng.choice(gone)))
    else:
        kinds = [PerceptronSpec(), TransformerMemberSpec(), ConvolutionMemberSpec()]
        place = Place(member=kinds[int(rng.integers(3))], role="newcomer")
        trunk.add(f"{place.member.kind}_{number + 10}", place)


def fingerprints(learner: Learner) -> dict[str, str]:
    """Return a hash of every bit of the weights, of the optimiser's moments and of the averages."""
    assert learner.average is not None
    return {
        "weights": _hash({name: value.detach() for name, value in learner.model.named_parameters()}),
        "moments": _hash(learner.optimizer.state()),
        "averages": _hash(learner.average.average),
    }


def _hash(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def differing_between(learner: Learner, ranks: Ranks) -> set[str]:
    """Return what of weights, moments and averages is not the same on all ranks."""
    first, *others = ranks.hear(fingerprints(learner))
    return {what for what, value in first.items() if any(other[what] != value for other in others)}


def _plant(what: str, learner: Learner) -> None:
    """Spoil one number, as a rank that has gone its own way would have it; or never answer again."""
    if what == "hang":
        time.sleep(10 * HANGS_AFTER_SECONDS)
    assert learner.average is not None
    groups = {
        "weights": dict(learner.model.named_parameters()),
        "moments": learner.optimizer.state(),
        "averages": learner.average.average,
    }
    found = next((value for value in groups.get(what, {}).values() if value.ndim), None)
    if found is not None:
        with torch.no_grad():
            found.view(-1)[0] += 1e-3


def one_of_two(folder: Path, *, seed: int, changes: int, plants: Sequence[str] = ()) -> None:
    """Train as one of two processes while the trunk changes; write what was seen.

    Args:
        folder: Where to write.
        seed: What happens follows from it.
        changes: How many.
        plants: What is spoilt on one rank before each change, for those who doubt that it would be noticed.
    """
    torch.set_num_threads(1)
    with joined_ranks("cpu") as (ranks, _):
        with ranks.leader_first():
            data = claims()
        learner = learner_of(data, ranks=ranks)
        trunk = learner.model.trunk
        assert isinstance(trunk, Population)
        rng, differing = np.random.default_rng([5, seed]), []
        for number in range(changes):
            _learn_apart(learner, data, ranks, seed=seed, number=number)
            if ranks.rank and plants[number : number + 1]:
                _plant(plants[number], learner)
            found = differing_between(learner, ranks)
            torch.manual_seed(number)
            change_at_random(trunk, rng, number)
            found |= differing_between(learner, ranks)
            learner.rekey()
            found |= differing_between(learner, ranks)
            differing.append(found)
        _learn_apart(learner, data, ranks, seed=seed, number=changes)
        differing[-1] |= differing_between(learner, ranks)
        told = {"differing": [sorted(found) for found in differing], **_edited_apart(learner, trunk, ranks)}
        (folder / f"{ranks.rank}.json").write_text(json.dumps(told))


def _learn_apart(learner: Learner, data: Dataset, ranks: Ranks, *, seed: int, number: int) -> None:
    """Take a step on each rank's own rows, on one of them sometimes without a text: other parts are idle there."""
    chosen = np.random.default_rng([seed, number, ranks.rank]).choice(data.rows("train"), 16, replace=False)
    batch, labels = part_for(learner.model, data, chosen, device=CPU)
    if ranks.rank and number % 3 == 0:
        batch = replace(batch, present={**batch.present, "text": torch.zeros_like(batch.present["text"])})
    learner.learn([(batch, labels)], examples=32, step=number, rate=1e-3)


def _edited_apart(learner: Learner, trunk: Population, ranks: Ranks) -> dict[str, float]:
    """Edit each rank's model differently, and return whether and when that was an error."""
    started, noticed = time.monotonic(), False
    trunk.add(f"other_{ranks.rank}", Place(member=PerceptronSpec(), role="newcomer"))
    try:
        learner.rekey()
    except RanksDifferError:
        noticed = True
    return {"noticed": noticed, "seconds": time.monotonic() - started}


def two_together(
    *, seed: int = 0, changes: int = CHANGES, plants: Sequence[str] = (), patience: float = HANGS_AFTER_SECONDS
) -> list[dict[str, Any]] | None:
    """Run two processes to the end.

    Args:
        seed: What happens follows from it.
        changes: How often the trunk changes.
        plants: What is spoilt on one of them before each change.
        patience: Seconds after which they are taken to hang, and killed.

    Returns:
        What each saw, or None where they hung.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        asked = ["--rank-of-two", place, "--seed", str(seed), "--changes", str(changes), "--plants", *plants]
        started = [
            subprocess.Popen(
                [sys.executable, __file__, *asked],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]
        deadline = time.monotonic() + patience
        try:
            codes = [process.wait(max(0.0, deadline - time.monotonic())) for process in started]
        except subprocess.TimeoutExpired:
            return None
        finally:
            for process in started:
                process.kill()
                process.wait()
        if any(codes):
            raise ChiasmaError(f"the processes ended with {codes}")
        return [json.loads((Path(place) / f"{rank}.json").read_text()) for rank in range(2)]


def print_differences() -> None:
    """Print what some pairs of processes saw."""
    pairs = [two_together(seed=seed) for seed in range(PAIRS)]
    seen = [each for pair in pairs if pair is not None for each in pair]
    for what in ("weights", "moments", "averages"):
        same = sum(what not in found for each in seen[::2] for found in each["differing"])
        print(f"17: {what} are the same bits on both ranks: {same}/{CHANGES * PAIRS} changes")
    print(f"17: pairs of ranks that hung: {pairs.count(None)}/{PAIRS}")
    slowest = max((each["seconds"] for each in seen), default=-1)
    noticed = sum(each["noticed"] for each in seen)
    print(f"17: an edit that differs is an error: {noticed}/{2 * PAIRS} ranks, within {slowest:.1f} s", flush=True)


def main() -> None:
    """Print one line for each thing that is compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank-of-two", type=Path, help=argparse.SUPPRESS)
    for hidden in ("--seed", "--changes"):
        parser.add_argument(hidden, type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--plants", nargs="*", default=(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of_two:
        one_of_two(options.rank_of_two, seed=options.seed, changes=options.changes, plants=options.plants)
    else:
        print_differences()


if __name__ == "__main__":
    main()
