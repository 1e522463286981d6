"""Only fusion solves digit_claims: single modalities and a linear sum are at chance, concatenation is behind.

    python benchmarks/digit_claims.py --seeds 3

Trains each arm on one thread, opens the test split once for all of them (and says so), and prints accuracy with its
interval, seconds of training, and the gain of the best fusion over concatenation, paired by example and seed.
"""

import argparse
import time

import numpy as np
import torch

from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.experiment.config import RunConfig
from chiasma.experiment.sealed import open_test, opening_words
from chiasma.experiment.statistics import Bootstrap
from chiasma.model.fusion import CrossAttention, Multiplicative
from chiasma.search.design_space import DesignSpace
from chiasma.search.floors import floor_designs
from chiasma.store.folders import cache_folder, ledger_folder
from chiasma.train.design import Design
from chiasma.train.predicting import predict_logits
from chiasma.train.trainer import Trainer


def arms(dataset: Dataset, epochs: float) -> dict[str, Design]:
    """Return the floors and two fusions, all trained equally long."""
    space = DesignSpace(dataset.signature, train_rows=len(dataset.rows("train")))
    found = {floor.name: floor.design for floor in floor_designs(dataset.signature, space)}
    settings = RunConfig().design(dataset.signature)
    found["multiplicative"] = replace_at(settings, "model.fusion", Multiplicative())
    found["cross_attention"] = replace_at(settings, "model.fusion", CrossAttention())
    return {name: replace_at(design, "training.loop.epochs", epochs) for name, design in found.items()}


def main() -> None:
    """Train, open the test split, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=20.0)
    parser.add_argument("--source", default="digit_claims")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset, _ = prepare(DataSpec(source=options.source), seed=0, cache=cache_folder(), progress=lambda text: None)
    trained = {}
    for name, design in arms(dataset, options.epochs).items():
        started = time.perf_counter()
        fits = [Trainer(design, dataset, seed=seed).fit().model for seed in range(options.seeds)]
        trained[name] = (fits, (time.perf_counter() - started) / options.seeds)
    rows, before = open_test(dataset, ledger_folder=ledger_folder(), run="digit_claims", verb="benchmark")
    print(opening_words(before))
    bootstrap = Bootstrap(
        labels=dataset.labels(rows).numpy(), groups=dataset.groups(rows), target=dataset.signature.target
    )
    outputs = {name: np.stack([predict_logits(m, dataset, rows) for m in fits]) for name, (fits, _) in trained.items()}
    scores = {name: bootstrap.interval(logits, "accuracy") for name, logits in outputs.items()}
    for name, score in scores.items():
        seconds = trained[name][1]
        print(f"{name:16} accuracy {score.value:.4f} ({score.low:.4f} to {score.high:.4f}), {seconds:.0f} s a training")
    best = max(("multiplicative", "cross_attention"), key=lambda name: scores[name].value)
    gain = bootstrap.gain_against("concat", outputs[best], outputs["concat"], metric="accuracy")
    print(
        f"{best} over concat: {gain.gain.value:+.4f} ({gain.gain.low:+.4f} to {gain.gain.high:+.4f}), {gain.verdict}; "
        f"detectable {gain.detectable:.4f}"
    )


if __name__ == "__main__":
    main()
