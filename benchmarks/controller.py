"""Whether a controller pays: against plain cosine, plateau and the hypergradient alone, with good and bad rates.

    python benchmarks/controller.py --out FOLDER            # the whole table
    python benchmarks/controller.py --out FOLDER --quick    # two seeds, short trainings: does everything run?

Every arm trains the same small model on digit_claims for the same number of steps, on each seed and with each of three
learning rates: a tenth of a good one, a good one, ten times it. ``fresh`` is the double loop without any experience;
``learned`` begins with a controller that ``meta-train`` has learned before, on another split, with other seeds and
designs; ``every control`` is fresh and sets everything that a controller can. Decisions are made on ``steer``,
everything is measured on ``select``, which decides nothing here. What was trained is kept in FOLDER and not trained
again; the arm ``learned`` is kept apart for each number of lessons. Times are of one thread each, with several
trainings at a time.
"""

import argparse
import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.adapt.callbacks import callbacks_of
from chiasma.core.errors import NonFiniteError
from chiasma.core.files import read_json, write_json
from chiasma.core.rng import derive_seed
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.experiment.compose import load_config
from chiasma.experiment.meta_train import meta_train
from chiasma.experiment.statistics import Bootstrap
from chiasma.store.folders import cache_folder
from chiasma.train.predicting import predict_logits
from chiasma.train.trainer import Trainer

SOURCE = "digit_claims"
GOOD_RATE = 1e-3
"""Of 5e-4, 1e-3, 2e-3, 4e-3 and 8e-3 the best for plain cosine on two other seeds."""
RATES = {"tenth": 0.1, "good": 1.0, "tenfold": 10.0}
PLATEAU = {"kind": "plateau", "patience": 2}
EVERYTHING = ["rate", "rates", "dropout", "decay", "gates"]
ARMS: Mapping[str, Mapping[str, Any]] = {
    "cosine": {},
    "plateau": {"optim.schedule": PLATEAU},
    "hypergradient": {"controller": {"kind": "hypergradient"}},
    "fresh": {"controller": {"kind": "lstm"}},
    "every control": {"controller": {"kind": "lstm", "controls": EVERYTHING}},
    "learned": {"controller": {"kind": "lstm"}},
}
LESSONS = 40
EPOCHS = 15.0
META_SEED = 7
SHORT = 1500


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        arm: Name in :data:`ARMS`.
        rate: Name in :data:`RATES`.
        seed: Of the training.
        epochs: Of the training.
        rows: Of the data; None for all.
        out: Where what was trained is kept.
        start: Folder of the learned controller.
        lessons: Trainings that it has learned from.
    """

    arm: str
    rate: str
    seed: int
    epochs: float
    rows: int | None
    out: str
    start: str
    lessons: int = LESSONS

    @property
    def place(self) -> Path:
        """Return the file of its figures; its outputs lie beside it."""
        name = f"{self.arm.replace(' ', '_')}-{self.rate}-{self.seed}-{self.epochs:g}-{self.rows or 'all'}"
        # Figures of another controller are other figures; the other arms have none.
        learned = f"-lessons{self.lessons}" if self.arm == "learned" and self.lessons != LESSONS else ""
        return Path(self.out) / f"{name}{learned}.json"


def main() -> None:
    """Learn a controller, train every arm, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[51, 52, 53, 54, 55])
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--lessons", type=int, default=LESSONS)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs, options.lessons = options.seeds[:2], 4.0, 2
    rows = SHORT if options.quick else None
    options.out.mkdir(parents=True, exist_ok=True)
    start = learned_folder(options.out, lessons=options.lessons, rows=rows, epochs=options.epochs)
    if "learned" in options.arms:
        learn(start, lessons=options.lessons, rows=rows, epochs=options.epochs, out=options.out)
    jobs = [
        Job(arm, rate, seed, options.epochs, rows, str(options.out), str(start), options.lessons)
        for seed in options.seeds
        for rate in RATES
        for arm in options.arms
    ]
    waiting = [job for job in jobs if not job.place.exists()]
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for line in pool.map(train, waiting):
            print(line, flush=True)
    report(jobs, options.arms, options.seeds)


def learned_folder(out: Path, *, lessons: int, rows: int | None, epochs: float) -> Path:
    """Return where a controller lies; one for every length of the trainings that it has learned from."""
    longer = "" if epochs == EPOCHS else f"-{epochs:g}"
    return out / f"controller-{lessons}-{rows or 'all'}{longer}"


def settings(rows: int | None, epochs: float) -> dict[str, Any]:
    """Return what all arms have in common, by path."""
    return {
        "data.source": SOURCE,
        "data.rows": rows,
        "model.dim": 32,
        "optim.lr": GOOD_RATE,
        "train.epochs": epochs,
        "train.evaluations": 12,
        "run.device": "cpu",
    }


def data_of(rows: int | None) -> Dataset:
    """Return the data, prepared once."""
    return prepare(DataSpec(source=SOURCE, rows=rows), seed=0, cache=cache_folder(), progress=lambda text: None)[0]


def learn(place: Path, *, lessons: int, rows: int | None, epochs: float, out: Path) -> None:
    """Learn a controller on another split, with other seeds, unless that was done before."""
    import torch

    if any(place.glob("step-*")):
        return
    torch.set_num_threads(1)
    values = {**settings(rows, epochs), "run.seed": META_SEED, "run.folder": str(out / "runs")}
    meta_train(load_config(values=values), runs=lessons, to=place, console=Lines())


class Lines:
    """Prints what meta-training says."""

    interrupted = False

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, flush=True)

    def status(self, text: str) -> None:
        """Drop what is only for watching."""


def train(job: Job) -> str:
    """Train once, keep what came of it, and return a line."""
    import torch

    torch.set_num_threads(1)
    dataset = data_of(job.rows)
    arm = dict(ARMS[job.arm])
    if job.arm == "learned":
        arm = {"controller": {**arm["controller"], "start": job.start}}
    chosen = load_config(values={**settings(job.rows, job.epochs), **arm, "optim.lr": GOOD_RATE * RATES[job.rate]})
    design = chosen.design(dataset.signature)
    seed = derive_seed(job.seed, "controller-benchmark")
    callbacks = callbacks_of(design, dataset, seed=seed)
    try:
        fit = Trainer(design, dataset, seed=seed, device="cpu", callbacks=callbacks).fit()
    except NonFiniteError as error:
        write_json(job.place, {**asdict(job), "failed": str(error)})
        return f"{job.place.stem}: {error}"
    rows = dataset.rows("select")
    logits = predict_logits(fit.model, dataset, rows)
    right = float((logits.argmax(1) == dataset.labels(rows).numpy()).mean())
    state = fit.callbacks.get("controller", {})
    figures = {
        "accuracy": right,
        "seconds": fit.seconds,
        "steps": fit.steps,
        "parts": state.get("seconds", {}),
        "roll_backs": len(state.get("returns", [])),
        "last": (state.get("trace") or [{}])[-1],
    }
    np.save(job.place.with_suffix(".npy"), logits)
    write_json(job.place, {**asdict(job), **figures})
    return f"{job.place.stem}: {right:.4f} on select, {fit.seconds:.0f} s, {fit.steps} steps"


def report(jobs: list[Job], arms: list[str], seeds: list[int]) -> None:
    """Print every arm's accuracy, its gain over plain cosine and over the hypergradient, and what it cost."""
    dataset = data_of(jobs[0].rows)
    bootstrap = Bootstrap.over(dataset, dataset.rows("select"))
    for rate in RATES:
        print(f"\nlearning rate {rate} ({GOOD_RATE * RATES[rate]:g}), seeds {seeds}, {jobs[0].epochs:g} epochs")
        outputs = {arm: found for arm in arms if (found := _outputs(jobs, arm, rate)) is not None}
        for arm, logits in outputs.items():
            score = bootstrap.interval(logits, "accuracy")
            gains = ", ".join(_gains(bootstrap, outputs, arm))
            print(f"  {arm:14} {score.value:.4f} ({score.low:.4f} to {score.high:.4f}){gains and ', '}{gains}")
    print("\ncost in parts of the steps' time: computing, measuring; seconds a training; roll-backs")
    for arm in arms:
        kept = [read_json(job.place) for job in jobs if job.arm == arm and job.place.exists()]
        print(f"  {arm:14} {_cost([each for each in kept if 'failed' not in each])}")
        for each in kept:
            if "failed" in each:
                print(f"    failed with rate {each['rate']}, seed {each['seed']}: {each['failed']}")


def _outputs(jobs: list[Job], arm: str, rate: str) -> np.ndarray | None:
    files = [job.place.with_suffix(".npy") for job in jobs if (job.arm, job.rate) == (arm, rate)]
    return np.stack([np.load(file) for file in files]) if all(file.exists() for file in files) else None


def _gains(bootstrap: Bootstrap, outputs: Mapping[str, np.ndarray], arm: str) -> Iterator[str]:
    for other in ("cosine", "hypergradient"):
        if other in outputs and other != arm:
            found = bootstrap.gain_against(other, outputs[arm], outputs[other], metric="accuracy")
            gain = found.gain
            yield f"over {other} {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}) {found.verdict}"


def _cost(kept: list[Mapping[str, Any]]) -> str:
    seconds = np.mean([each["seconds"] for each in kept]) if kept else float("nan")
    steps = sum(each["parts"].get("steps", 0.0) for each in kept)
    if not steps:
        return f"none; {seconds:.1f} s"
    parts = (sum(each["parts"][name] for each in kept) / steps for name in ("computing", "measuring"))
    computing, measuring = parts
    rolled = sum(each["roll_backs"] for each in kept)
    return f"{100 * computing:.1f} %, {100 * measuring:.1f} %; {seconds:.1f} s; {rolled} in {len(kept)} trainings"


if __name__ == "__main__":
    main()
