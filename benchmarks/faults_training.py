"""Break trainings and growing models, and count what is not noticed. Promises 16 to 18.

    python benchmarks/faults_training.py --trials 50

- 16: numbers that are not finite: an input, a weight, a module that breaks after some steps, float16 that overflows,
  rows without anything. How many steps until it is noticed, and whether a checkpoint ever held one.
- 17: two processes that train together while the model changes: see ``faults_ranks.py``.
- 18: parameters added, removed, replaced under their own name (with the same shape and with another) and reordered at
  random: whether each moment is still its own parameter's, also once saved and loaded.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from faults_ranks import CPU, MODEL, claims, learner_of, print_differences
from torch import nn

from chiasma.core.errors import NonFiniteError
from chiasma.data.batch import Batch
from chiasma.data.dataset import Dataset
from chiasma.model.multimodal import MultimodalModel
from chiasma.store.checkpoint import load_newest
from chiasma.train.design import SGD, Adam, AdamW, Design, LoopSpec, OptimSpec, TrainingSpec
from chiasma.train.optim import NamedOptimizer
from chiasma.train.steering import part_for
from chiasma.train.trainer import Trainer

FAULTS = ("input", "weight", "module", "float16")
STEPS = 12


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
    """Pairs of layers by name, in any order, each as wide inside as is said."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3)) for name, width in widths.items()}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts.values():
            x = torch.tanh(part(x))
        return x.square().sum()


Rekey = Callable[[NamedOptimizer, nn.Module], NamedOptimizer]


def moments_mismatched(rng: np.random.Generator, rekeyed: Rekey = NamedOptimizer.rekeyed) -> tuple[int, int]:
    """Edit a model at random a few times.

    Returns:
        How many moments are not their parameter's own, and how many layers were replaced by one of another shape.
    """
    algorithm = [AdamW(), Adam(), SGD()][int(rng.integers(3))]
    widths = {"a": 2, "b": 3, "c": 4}
    model = Bag(widths)
    optimizer = NamedOptimizer(model, OptimSpec(algorithm=algorithm, lr=1e-2))
    wrong = reshaped = 0
    for _ in range(6):
        _train(model, optimizer)
        before = _moments(optimizer)
        following = _edited(widths, rng)
        reshaped += sum(widths.get(name, width) != width for name, width in following.items())
        model, widths = _inheriting(following, model), following
        optimizer = rekeyed(optimizer, model)
        again = NamedOptimizer(model, optimizer.spec)
        again.load_state(optimizer.state())
        wrong += _mismatched(before, _moments(optimizer)) + _mismatched(before, _moments(again))
    _train(model, optimizer)
    return wrong, reshaped


def _edited(widths: Mapping[str, int], rng: np.random.Generator) -> dict[str, int]:
    """Return layers of which some are gone, some as wide as before, some replaced by wider ones, and new ones."""
    kept = [name for name in rng.permutation(list(widths)) if rng.random() < 0.7] or list(widths)[:1]
    edited = {str(name): widths[name] + int(rng.random() < 0.3) for name in kept}
    return edited | {f"n{int(rng.integers(1_000_000))}": 2 for _ in range(int(rng.integers(0, 3)))}


def _inheriting(widths: Mapping[str, int], model: nn.Module) -> Bag:
    """Return a new model with the old one's weights wherever name and shape agree."""
    edited, known = Bag(widths), model.state_dict()
    own = edited.state_dict()
    same = {name: value for name, value in known.items() if name in own and own[name].shape == value.shape}
    edited.load_state_dict({**own, **same})
    return edited


Moments = Mapping[str, tuple[torch.Size, Mapping[str, torch.Tensor]]]


def _moments(optimizer: NamedOptimizer) -> Moments:
    """Return the shape and the moments of each parameter, by its name."""
    state = optimizer.state()
    return {
        name: (
            parameter.shape,
            {entry: value.clone() for entry, value in state.items() if entry.rpartition("/")[0] == name},
        )
        for name, parameter in optimizer.parameters.items()
    }


def _mismatched(before: Moments, after: Moments) -> int:
    """Count moments that a parameter of the same name and shape has lost or got wrong, or a new one has not fresh."""
    wrong = 0
    for name, (shape, found) in after.items():
        old, known = before.get(name, (shape, {}))
        expected = known if old == shape else {}
        wrong += len(expected.keys() - found.keys())
        wrong += sum(not torch.equal(value, expected.get(key, torch.zeros_like(value))) for key, value in found.items())
    return wrong


def _train(model: nn.Module, optimizer: NamedOptimizer) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 6).reshape(2, 3)).backward()
        optimizer.step()


def main() -> None:
    """Print one line a promise and kind of fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    options = parser.parse_args()
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
    print_differences()
    edited = [moments_mismatched(np.random.default_rng([trial, 18])) for trial in range(4 * options.trials)]
    wrong, reshaped = (sum(each) for each in zip(*edited, strict=True))
    print(
        f"18: moments that are not their parameter's after {len(edited)} models were edited six times, which replaced "
        f"{reshaped} layers by others of the same name and another shape: {wrong}"
    )


if __name__ == "__main__":
    main()
