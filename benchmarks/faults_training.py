"""Break trainings and growing models, and count what is not noticed. Promises 16 to 18.

    python benchmarks/faults_training.py --trials 50

- 16: numbers that are not finite: an input, a weight, a module that breaks after some steps, float16 that overflows,
  rows without anything. How many steps until it is noticed, and whether a checkpoint ever held one.
- 17: two processes that train together while members are born, promoted and pruned at random: whether all weights are
  the same bits after each change, and whether an edit that differs between them is an error in time.
- 18: parameters added, removed, replaced and reordered at random: whether each moment is still its own parameter's.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from chiasma.core.errors import ChiasmaError, NonFiniteError
from chiasma.data.batch import Batch
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from chiasma.model.trunk import Place, Population
from chiasma.model.trunk.members import ConvolutionMemberSpec, PerceptronSpec, TransformerMemberSpec
from chiasma.store.checkpoint import load_newest
from chiasma.store.folders import cache_folder
from chiasma.train.design import SGD, Adam, AdamW, Design, LoopSpec, OptimSpec, TrainingSpec
from chiasma.train.learner import Learner
from chiasma.train.losses import build_loss
from chiasma.train.optim import NamedOptimizer
from chiasma.train.ranks import Ranks, RanksDifferError, joined_ranks
from chiasma.train.steering import part_for
from chiasma.train.trainer import Trainer

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
FAULTS = ("input", "weight", "module", "float16")
STEPS = 12
CHANGES = 30
CPU = torch.device("cpu")


def claims() -> Dataset:
    """Return some hundred claims."""
    return prepare(DataSpec(rows=320), seed=0, cache=cache_folder(), progress=lambda text: None)[0]


def learner_of(data: Dataset, *, precision: str = "float32", ranks: Ranks | None = None) -> Learner:
    """Return a small model that is about to learn."""
    torch.manual_seed(0)
    loss = build_loss(None, data.signature.target)
    training = TrainingSpec(optim=OptimSpec(lr=1e-3), loop=LoopSpec(ema=0.9))
    model = MODEL.build(data.signature)
    together = {} if ranks is None else {"ranks": ranks}
    return Learner(model, loss, training=training, device=CPU, precision=precision, seed=0, **together)


def steps_until_noticed(fault: str, data: Dataset, rng: np.random.Generator) -> int | None:
    """Break something before a random step; return after how many more steps it is an error, None for never."""
    learner = learner_of(data, precision="float16" if fault == "float16" else "float32")
    broken_at = int(rng.integers(1, STEPS - 1))
    rows = data.rows("train")
    for step in range(STEPS):
        batch, labels = part_for(learner.model, data, rng.choice(rows, 16, replace=False), device=CPU)
        if step == broken_at:
            _break(fault, learner.model, rng)
        if fault == "input" and step == broken_at:
            batch = poisoned(batch, rng)
        try:
            learner.learn([(batch, labels)], examples=len(batch), step=step, rate=1e-3)
        except NonFiniteError:
            return step - broken_at
    return None


def poisoned(batch: Batch, rng: np.random.Generator) -> Batch:
    """Return the batch with one pixel that is no number."""
    image = batch.inputs["image"]
    assert isinstance(image, torch.Tensor)
    image = image.clone()
    image[int(rng.integers(len(image))), 0, 0, 0] = float("nan")
    return replace(batch, inputs={**batch.inputs, "image": image})


def _break(fault: str, model: MultimodalModel, rng: np.random.Generator) -> None:
    """Break the model itself, where that is the fault."""
    named = [(name, each) for name, each in model.named_parameters() if each.ndim > 1 and "words" not in name]
    name, parameter = named[int(rng.integers(len(named)))]
    with torch.no_grad():
        if fault == "weight":
            parameter.view(-1)[0] = float("inf")
        elif fault == "float16":
            parameter.fill_(1e30)
    if fault == "module":
        module = model.get_submodule(name.rpartition(".")[0])
        module.register_forward_hook(lambda _module, _inputs, output: output * float("nan"))


def empty_rows(data: Dataset) -> bool:
    """Return whether outputs and gradients are finite where rows have no image, no text, or neither."""
    learner = learner_of(data)
    batch, labels = part_for(learner.model, data, data.rows("train")[:16], device=CPU)
    present = {name: mask.clone() for name, mask in batch.present.items()}
    present["image"][:8] = False
    present["text"][4:12] = False
    done = learner.learn([(replace(batch, present=present), labels)], examples=16, step=0, rate=1e-3)
    return np.isfinite([done.loss, done.gradient_norm]).all()


def checkpoints_hold_nothing_bad(data: Dataset, rng: np.random.Generator) -> bool:
    """Return whether all that a training that breaks has saved is finite."""
    design = Design(model=MODEL, training=TrainingSpec(loop=LoopSpec(epochs=2, batch_size=32, evaluations=4)))
    with tempfile.TemporaryDirectory() as place:
        trainer = Trainer(design, data, device="cpu", checkpoints=Path(place), checkpoint_every_seconds=0.0)
        known, count = data.batch, int(rng.integers(2, 10))
        asked = iter(range(10_000))

        def batch(rows: np.ndarray, **options: object) -> Batch:
            made = known(rows, **options)  # type: ignore[arg-type]
            return poisoned(made, rng) if next(asked) >= count else made

        object.__setattr__(data, "batch", batch)
        try:
            trainer.fit()
        except NonFiniteError:
            pass
        finally:
            object.__setattr__(data, "batch", known)
        found = load_newest(Path(place))
        tensors = [] if found is None else [t for group in found.tensor_names for t in found.tensors(group).values()]
        return all(bool(torch.isfinite(each).all()) for each in tensors if each.is_floating_point())


class Bag(nn.Module):
    """Layers by name, in any order."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(3, 3) for name in names})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts.values():
            x = torch.tanh(part(x))
        return x.square().sum()


def moments_mismatched(rng: np.random.Generator) -> int:
    """Edit a model at random a few times, and return how many moments are not their parameter's own."""
    algorithm = [AdamW(), Adam(), SGD()][int(rng.integers(3))]
    names = ["a", "b", "c"]
    model = Bag(names)
    optimizer = NamedOptimizer(model, OptimSpec(algorithm=algorithm, lr=1e-2))
    wrong = 0
    for _ in range(6):
        _train(model, optimizer)
        before = {name: value.clone() for name, value in optimizer.state().items()}
        names = [name for name in rng.permutation(names) if rng.random() < 0.7] or names[:1]
        names += [f"n{int(rng.integers(1_000_000))}" for _ in range(int(rng.integers(0, 3)))]
        edited = Bag(names)
        edited.load_state_dict(model.state_dict(), strict=False)
        model = edited
        optimizer = optimizer.rekeyed(model)
        for entry, value in optimizer.state().items():
            expected = before.get(entry, torch.zeros_like(value))
            wrong += int(not torch.equal(value, expected))
        kept = {entry for entry in before if entry.split("/")[0] in dict(model.named_parameters())}
        wrong += len(kept - optimizer.state().keys())
    _train(model, optimizer)
    return wrong


def _train(model: nn.Module, optimizer: NamedOptimizer) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 6).reshape(2, 3)).backward()
        optimizer.step()


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


def one_of_two(folder: Path) -> None:
    """Train as one of two processes while the trunk changes; write what was seen."""
    torch.set_num_threads(1)
    with joined_ranks("cpu") as (ranks, _):
        with ranks.leader_first():
            data = claims()
        learner = learner_of(data, ranks=ranks)
        trunk = learner.model.trunk
        assert isinstance(trunk, Population)
        rng, rows = np.random.default_rng(5), data.rows("train")
        differing = 0
        for number in range(CHANGES):
            # Each rank's own rows, and on one of them sometimes rows without a text: other parts are idle there.
            chosen = np.random.default_rng([number, ranks.rank]).choice(rows, 16, replace=False)
            batch, labels = part_for(learner.model, data, chosen, device=CPU)
            if ranks.rank and number % 3 == 0:
                batch = replace(batch, present={**batch.present, "text": torch.zeros_like(batch.present["text"])})
            learner.learn([(batch, labels)], examples=32, step=number, rate=1e-3)
            torch.manual_seed(number)
            change_at_random(trunk, rng, number)
            learner.rekey()
            sums = [float(value.double().sum()) for value in learner.model.state_dict().values()]
            heard = ranks.hear(sums)
            differing += int(heard[0] != heard[1])
        started, noticed = time.monotonic(), False
        trunk.add(f"other_{ranks.rank}", Place(member=PerceptronSpec(), role="newcomer"))
        try:
            learner.rekey()
        except RanksDifferError:
            noticed = True
        found = {"differing": differing, "noticed": noticed, "seconds": time.monotonic() - started}
        (folder / f"{ranks.rank}.json").write_text(json.dumps(found))


def two_together() -> list[dict[str, float]]:
    """Run two processes to the end, and return what each saw; one that hangs is an error."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank-of-two", place],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]
        for process in started:
            if process.wait(timeout=300):
                raise ChiasmaError(f"a process ended with {process.returncode}")
        return [json.loads((Path(place) / f"{rank}.json").read_text()) for rank in range(2)]


def main() -> None:
    """Print one line a promise and kind of fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rank-of-two", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of_two:
        one_of_two(options.rank_of_two)
        return
    torch.set_num_threads(1)
    data = claims()
    for fault in FAULTS:
        found = [
            steps_until_noticed(fault, data, np.random.default_rng([trial, 16])) for trial in range(options.trials)
        ]
        missed = found.count(None)
        latest = max((each for each in found if each is not None), default=-1)
        print(f"16: {fault}: noticed {len(found) - missed}/{len(found)}, at most {latest} steps later", flush=True)
    print(f"16: rows without image, text or both stay finite: {empty_rows(data)}")
    saved = [checkpoints_hold_nothing_bad(data, np.random.default_rng(trial)) for trial in range(options.trials // 5)]
    print(f"16: checkpoints of broken trainings that hold only finite numbers: {sum(saved)}/{len(saved)}", flush=True)
    seen = two_together()
    same = CHANGES - int(max(each["differing"] for each in seen))
    print(f"17: two ranks with the same weights after a change: {same}/{CHANGES}, hangs 0")
    slowest = max(each["seconds"] for each in seen)
    print(f"17: an edit that differs is an error on both: {all(e['noticed'] for e in seen)}, within {slowest:.1f} s")
    wrong = sum(moments_mismatched(np.random.default_rng([trial, 18])) for trial in range(4 * options.trials))
    print(
        f"18: moments that are not their parameter's after {4 * options.trials} models were edited six times: {wrong}"
    )


if __name__ == "__main__":
    main()
