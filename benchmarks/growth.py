"""What growth gains at equal time, on digit_claims, whose claims are of seven kinds.

    python benchmarks/growth.py --seeds 41 42 43 44 45 --epochs 30

For each seed, a trunk grows over the given epochs. The others get as much time as that took, each in epochs of its
own speed: document 000's initial population, left as it is; the trunk that growth began with, left as it is; a trunk
of the members that growth ended with, trained from scratch; a trunk whose newcomers are of random kinds and bred from
nobody; and one whose births, promotions and deaths are all at random. Decisions are made on ``steer``, everything is
measured on ``select``, which decides nothing here. Trainings run on one thread, arm by arm, and time is that thread's
processor time, so that other work on the machine does not count. The preset's fusion, ``film``, hands on every token
of the image; a multiplicative one hands on one token, and learns in fewer epochs.
"""

import argparse
import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from chiasma.adapt.callbacks import callbacks_of
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.experiment.compose import load_config
from chiasma.experiment.statistics import Bootstrap
from chiasma.model.multimodal import ModelSpec
from chiasma.model.trunk import PopulationSpec
from chiasma.store.folders import cache_folder
from chiasma.train.design import Design
from chiasma.train.fit import Fit
from chiasma.train.predicting import predict_logits
from chiasma.train.trainer import Trainer

SOURCE = "digit_claims"
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "multiplicative": {"model.dim": 32, "optim.lr": 2e-3, "model.fusion": {"kind": "multiplicative"}},
    "film": {},
}
"""What is set apart from the preset ``growth``, by fusion; chosen for trunks that stay as they are, on other seeds."""

SPEED = 0.1
"""Part of the epochs from which an arm's speed is measured."""

WARM_UP = 0.5
"""Epochs that each process trains before any time is taken."""


@dataclass(frozen=True)
class Trained:
    """One training of one arm."""

    fit: Fit
    seconds: float
    logits: np.ndarray


def main() -> None:
    """Train every arm on every seed and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[41, 42, 43, 44, 45])
    parser.add_argument("--epochs", type=float, default=30.0)
    parser.add_argument("--fusion", choices=list(SETTINGS), default="film")
    parser.add_argument("--workers", type=int, default=2, help="seeds that are trained at a time")
    options = parser.parse_args()
    outputs: dict[str, list[np.ndarray]] = {}
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(partial(train_seed, fusion=options.fusion, epochs=options.epochs), options.seeds):
            for name, logits in found.items():
                outputs.setdefault(name, []).append(logits)
    dataset = data()
    bootstrap = Bootstrap.over(dataset, dataset.rows("select"))
    for name, logits in outputs.items():
        score = bootstrap.interval(np.stack(logits), "accuracy")
        print(f"{name:12} accuracy {score.value:.4f} ({score.low:.4f} to {score.high:.4f})")
    for name in [each for each in outputs if each != "growth"]:
        gain = bootstrap.gain_against(name, np.stack(outputs["growth"]), np.stack(outputs[name]), metric="accuracy")
        found = gain.gain
        print(f"growth over {name}: {found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f}), {gain.verdict}")


def data() -> Dataset:
    """Return the data, prepared once."""
    return prepare(DataSpec(source=SOURCE), seed=0, cache=cache_folder(), progress=lambda text: None)[0]


def train_seed(seed: int, *, fusion: str, epochs: float) -> dict[str, np.ndarray]:
    """Train the arms of one seed, print a line for each, and return what they say on select."""
    torch.set_num_threads(1)
    dataset = data()
    values = {**SETTINGS[fusion], "train.epochs": epochs}
    design = load_config("growth", data=SOURCE, values=values).design(dataset.signature)
    # What is imported and translated once would otherwise count as growth's time, which all others are given.
    train(warming_up(design), dataset, seed=seed)
    labels = dataset.labels(dataset.rows("select")).numpy()
    found = dict[str, np.ndarray]()
    for name, trained in train_all(design, dataset, seed=seed).items():
        found[name] = trained.logits
        right = (trained.logits.argmax(1) == labels).mean()
        members = ", ".join(sorted(members_of(trained.fit.model.spec).members))
        words = f"{right:.4f} on select, {trained.seconds:.0f} s, {trained.fit.steps} steps, {members}"
        print(f"seed {seed}, {name:12} {words}", flush=True)
    return found


def warming_up(design: Design) -> Design:
    """Return a short training in which everything happens that ever does: somebody is bred from a cluster of errors."""
    for path, value in (("growth.learned", 0.0), ("growth.exploit", 1.0), ("loop.epochs", WARM_UP)):
        design = replace_at(design, f"training.{path}", value)
    return design


def train_all(design: Design, dataset: Dataset, *, seed: int) -> dict[str, Trained]:
    """Return the arms of one seed, all trained for about as long as growth took."""
    grown = train(design, dataset, seed=seed)
    still = replace_at(design, "training.growth", None)
    settled = replace_at(still, "model.trunk", as_members(members_of(grown.fit.model.spec)))
    others = {
        "document 000": replace_at(still, "model.trunk", first_of_document_000()),
        "beginning": still,
        "final": settled,
        "random kinds": replace_at(design, "training.growth.exploit", 0.0),
        "random": replace_at(design, "training.growth.births", "random"),
    }
    return {"growth": grown, **{name: train_as_long(each, dataset, grown, seed) for name, each in others.items()}}


def train_as_long(design: Design, dataset: Dataset, goal: Trained, seed: int) -> Trained:
    """Train a design for the epochs that fit into the time of another training."""
    loop = design.training.loop
    epochs, reviews = SPEED * loop.epochs, round(SPEED * design.training.evaluations_in(1.0))
    # As a training of its own: a part of a growing one would have as many reviews as the whole.
    part = replace_at(replace_at(design, "training.loop.epochs", epochs), "training.loop.evaluations", reviews)
    short = train(part, dataset, seed=seed)
    fitting = epochs * goal.seconds / short.seconds
    return train(replace_at(design, "training.loop.epochs", fitting), dataset, seed=seed)


def train(design: Design, dataset: Dataset, *, seed: int) -> Trained:
    """Train once, and return what the model says on select."""
    callbacks = callbacks_of(design, dataset, seed=seed)
    started = time.process_time()
    fit = Trainer(design, dataset, seed=seed, device="cpu", callbacks=callbacks).fit()
    seconds = time.process_time() - started
    return Trained(fit, seconds, predict_logits(fit.model, dataset, dataset.rows("select")))


def first_of_document_000() -> PopulationSpec:
    """Return the population with which document 000 begins: a perceptron and a transformer."""
    trunk = load_config("hateful_memes").model.trunk
    assert isinstance(trunk, PopulationSpec)
    return trunk


def members_of(model: ModelSpec) -> PopulationSpec:
    """Return a model's trunk."""
    assert model.trunk is not None
    return model.trunk


def as_members(trunk: PopulationSpec) -> PopulationSpec:
    """Return a trunk in which everybody is weighed from the start, with weights of their own."""
    places = {
        name: place.model_copy(update={"role": "member", "parent": None, "emphasis": 0.0})
        for name, place in trunk.members.items()
    }
    return trunk.model_copy(update={"members": places})


if __name__ == "__main__":
    main()
