"""What each of two processes does in the tests of training together; writes what it saw into files."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiasma.adapt.callbacks import callbacks_of
from chiasma.adapt.growth import Growth
from chiasma.core.errors import ChiasmaError
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.model.multimodal import ModelSpec
from chiasma.train.callbacks import Action, EditModel, Moment, Stop
from chiasma.train.design import Design, GrowthSpec, LoopSpec, OptimSpec, TrainingSpec
from chiasma.train.fit import Fit
from chiasma.train.ranks import Ranks, joined_ranks
from chiasma.train.steering import Steering
from chiasma.train.trainer import Trainer
from tests.train.toys import At, StopAfter

MEMBERS = {
    "perceptron_1": {"member": {"kind": "perceptron", "dropout": 0.0}},
    "transformer_1": {"member": {"kind": "transformer", "heads": 2, "dropout": 0.0}},
}
MODEL = {
    "dim": 8,
    "encoders": {
        "image": {"kind": "convolution", "widths": (4, 8), "grid": 2},
        "text": {"kind": "bert", "depth": 1, "heads": 2, "dropout": 0.0},
    },
    "fusion": {"kind": "early", "depth": 1, "heads": 2, "dropout": 0.0},
    "trunk": {"kind": "population", "heads": 2, "members": MEMBERS},
}
RULES = {"probation": 1, "longevity": 1, "learned": 0.0, "worth": 0.5, "smallest": 1, "last_birth": 1.0}
PLACE = {"member": {"kind": "perceptron", "dropout": 0.0}, "role": "newcomer", "parent": "perceptron_1"}


class Written(Growth):
    """Growth whose events are written beforehand; another member on each rank where ``differs``."""

    differs = False

    def review(self, moment: Moment) -> list[Action]:
        if moment.step == 2:
            return [
                EditModel({"event": "birth", "name": "perceptron_9", "place": PLACE, "centre": None, "radius": 1.0})
            ]
        if moment.step == 5:
            return [EditModel({"event": "promotion", "name": "perceptron_9", "prior": 0.1, "gain": 2.0}, reason="said")]
        return [EditModel({"event": "pruning", "name": "perceptron_1"}, reason="said")] if moment.step == 8 else []

    def edit_model(self, model: Any, edit: Mapping[str, Any]) -> None:
        if self.differs and edit["event"] == "birth":
            edit = {**edit, "place": {**PLACE, "member": {"kind": "transformer", "heads": 2}, "parent": None}}
        super().edit_model(model, edit)


class Hashes(StopAfter):
    """Remembers the hash of all weights after each edit."""

    def __init__(self, step: int = -1) -> None:
        super().__init__(step)
        self.seen: list[str] = []

    def edited(self, reason: str, *, step: int) -> None:
        self.seen.append(hash_of(self.trainer._learner.model))


def hash_of(model: torch.nn.Module) -> str:
    """Return a hash of names and bits of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def design(*, accumulation: int, births: str = "guided", **loop: Any) -> Design:
    """Return a small design that grows, without dropout."""
    settings = {
        "epochs": 2,
        "batch_size": 32,
        "accumulation": accumulation,
        "evaluations": 6,
        "ema": 0.9,
        **loop,
        "restore_best": False,
    }
    return Design(
        model=ModelSpec.from_dict(MODEL),
        training=TrainingSpec(
            optim=OptimSpec.from_dict({"algorithm": {"kind": "sgd"}, "lr": 0.02}),
            loop=LoopSpec.from_dict({**settings, "augment": {"flip": True, "word_dropout": 0.2}}),
            growth=GrowthSpec.from_dict({**RULES, "births": births}),
        ),
    )


def claims(folder: Path, ranks: Ranks) -> Dataset:
    """Return some hundred claims, an odd number of them in steer."""
    with ranks.leader_first():
        data, _ = prepare(DataSpec(rows=401), seed=0, cache=folder / "cache")
    return data


def seen(fit: Fit) -> dict[str, Any]:
    """Return what a training came to."""
    return {
        "weights": {name: value.tolist() for name, value in fit.model.state_dict().items()},
        "hash": hash_of(fit.model),
        "history": fit.history,
        "stopped": fit.stopped,
        "steps": fit.steps,
        "members": sorted(fit.model.spec.trunk.members),
        "events": fit.callbacks["growth"]["events"],
    }


def grown(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Train with growth; alone, with as many micro-batches as there would be ranks.

    Members that are born freely have dropout, which differs between ranks; those that are written have none.
    """
    data = claims(folder, ranks)
    found = {}
    for births in ("guided", "written"):
        made = design(accumulation=2 if ranks.alone else 1, births="none" if births == "written" else births)
        written = [Written(made.training.growth, data, seed=0)]
        callbacks = written if births == "written" else callbacks_of(made, data, seed=0)
        hashes = Hashes()
        trainer = Trainer(made, data, device="cpu", ranks=ranks, callbacks=callbacks, progress=hashes)
        hashes.trainer = trainer
        found[births] = {**seen(trainer.fit()), "hashes": hashes.seen}
    steering = Steering(data, metric="accuracy", precision="float32", ranks=ranks)
    # An odd number cannot be shared evenly.
    steering.rows = steering.rows[:-1]
    model = made.model.build(data.signature)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.02)
    found["logits"] = np.round(steering.logits(model), 4).tolist()
    found["rows"] = len(steering.rows)
    return found


def stopped(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Stop on the second rank only, and go on; compare with a training that nobody stopped."""
    data, made = claims(folder, ranks), design(accumulation=2)
    found: dict[str, Any] = {}

    def fit(name: str, *, stop: int) -> Fit:
        watched = Hashes(stop if ranks.rank == 1 else -1)
        watched.trainer = Trainer(
            made,
            data,
            device="cpu",
            ranks=ranks,
            callbacks=[Written(made.training.growth, data, seed=0)],
            checkpoints=folder / name,
            progress=watched,
        )
        return watched.trainer.fit()

    first = fit("parts", stop=6)
    found["first"] = {"stopped": first.stopped, "steps": first.steps}
    found["parts"], found["whole"] = seen(fit("parts", stop=-1)), seen(fit("whole", stop=-1))
    fit("left", stop=4)
    return found


def differing(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Do on each rank something else, one thing after the other, and return the errors."""
    data, made = claims(folder, ranks), replace_at(design(accumulation=1), "training.loop.evaluations", 1)
    growth = Written(made.training.growth, data, seed=0)
    growth.differs = ranks.rank == 1
    found = {"edit": error_of(lambda: Trainer(made, data, device="cpu", ranks=ranks, callbacks=[growth]).fit())}
    calm = replace_at(made, "training.growth", None)
    trainer = Trainer(calm, data, device="cpu", ranks=ranks, callbacks=[At({3: Stop("enough")})])
    found["told"] = trainer.fit().stopped
    if ranks.rank == 1:
        poison(data)
    found["nan"] = error_of(lambda: Trainer(calm, data, device="cpu", ranks=ranks).fit())
    return found


def poison(data: Dataset) -> None:
    """Make one train row's label meaningless on this rank."""
    known = data.batch

    def batch(rows: np.ndarray, **options: Any):
        made = known(rows, **options)
        made.inputs["image"][0] = torch.nan
        return made

    object.__setattr__(data, "batch", batch)


def error_of(work: Callable[[], object]) -> str:
    """Return an error's class and text."""
    try:
        work()
    except ChiasmaError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def thread_names() -> list[str]:
    """Return the names of this process's threads, those that Python does not know as well; none but on Linux."""
    return sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))


TASKS = {"grown": grown, "stopped": stopped, "differing": differing}


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    with joined_ranks("cpu") as (joined, _):
        assert not joined.alone
        for name, task in TASKS.items():
            (where / name).mkdir(exist_ok=True)
            result = task(where / name, joined)
            (where / name / f"{joined.rank}.json").write_text(json.dumps(result))
    (where / f"threads-{joined.rank}.json").write_text(json.dumps(thread_names()))
