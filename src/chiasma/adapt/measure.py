"""What each member of a population is worth: how much the loss on ``steer`` rises when it is left out."""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from chiasma.data.batch import TokenBatch, Tokens
from chiasma.data.dataset import Dataset
from chiasma.data.signature import Target
from chiasma.model.multimodal import MultimodalModel
from chiasma.model.trunk import Population
from chiasma.train.devices import Precision, autocast
from chiasma.train.predicting import dataset_batches, evaluating, modalities_of

BATCH = 256
HALVINGS = 20
FARTHEST_PRIOR = 12.0
SMALL = 1e-6

Seen = tuple[Tokens, TokenBatch, Tensor]


@dataclass(frozen=True)
class Measured:
    """A population on one split.

    Attributes:
        loss: Mean loss with everybody there.
        shares: Routing weight of each member in parts of an even share; 0 for newcomers.
        gains: By how much the loss rises without a member, in parts of the loss.
        errors: Standard error of that, over examples.
        routed: Names of the members that are weighed.
        edges: How much each of them (row) heard of each (column); empty without edges.
        states: What each example is to the router ``[n D]``.
        shared: Loss of each example ``[n]`` that remains whoever is left out: no single member is to blame for it.
        logits: The model's outputs ``[n C]``.
        tokens: Most that an example hands to the trunk.
    """

    loss: float
    shares: Mapping[str, float]
    gains: Mapping[str, float]
    errors: Mapping[str, float]
    routed: tuple[str, ...]
    edges: tuple[tuple[float, ...], ...]
    states: np.ndarray
    shared: np.ndarray
    logits: np.ndarray
    tokens: int


@dataclass(frozen=True)
class Folding:
    """How a newcomer is best taken among the members that are weighed.

    Attributes:
        prior: Gives it an even share.
        gain: Gives its change the size that it had.
        difference: By how much the trunk's output changes, in parts of its size (root mean squares).
    """

    prior: float
    gain: float
    difference: float


class Measuring:
    """Measures a model's population on some rows of a dataset, in evaluation mode.

    Encoders, fusion and members run once for each batch; leaving a member out repeats only the router and the head.

    Args:
        data: The dataset.
        rows: Which rows.
        precision: Of matrix products.
    """

    def __init__(self, data: Dataset, rows: np.ndarray, *, precision: Precision) -> None:
        self.data = data
        self.rows = rows
        self.precision: Precision = precision
        self.labels = data.labels(rows)
        self.target = data.signature.target

    def members(self, model: MultimodalModel) -> Measured:
        """Return what each member is worth."""
        trunk = population_of(model)
        names = sorted(trunk.spec.members)
        found: dict[str, list[np.ndarray]] = defaultdict(list)
        without: dict[str, list[np.ndarray]] = {name: [] for name in names}
        with evaluating(model), torch.inference_mode(), self._precise(model):
            for fused, tokens, labels in self._batches(model):
                changes = trunk.propose(fused)
                done = trunk.join(fused, changes)
                logits = model.answer(done.tokens, tokens).logits
                found["losses"].append(_numpy(losses(logits, labels, self.target)))
                found["logits"].append(_numpy(logits))
                found["weights"].append(_numpy(done.routing.weights.mean(1)))
                found["states"].append(_numpy(fused.mean()))
                found["tokens"].append(_numpy(fused.mask.sum(1)))
                if done.routing.edges is not None:
                    found["edges"].append(_numpy(done.routing.edges))
                for name in names:
                    left = trunk.join(fused, changes, without=name).tokens
                    without[name].append(self._losses(model, left, tokens, labels))
        joined = {name: np.concatenate(parts) for name, parts in found.items()}
        return _measured(joined, {name: np.concatenate(parts) for name, parts in without.items()}, trunk.routed)

    def routing(self, model: MultimodalModel) -> tuple[dict[str, float], list[list[float]]]:
        """Return the weight of each member in parts of an even share, and how much each (row) heard of each (column).

        There are no edges where members do not hear of each other.
        """
        trunk = population_of(model)
        weights: list[np.ndarray] = []
        edges: list[np.ndarray] = []
        with evaluating(model), torch.inference_mode(), self._precise(model):
            for fused, _, _ in self._batches(model):
                routing = trunk(fused).routing
                weights.append(_numpy(routing.weights.mean(1)))
                edges += [] if routing.edges is None else [_numpy(routing.edges)]
        shares = np.concatenate(weights).mean(0) * len(trunk.routed)
        heard = np.concatenate(edges).mean(0).tolist() if edges else []
        return dict(zip(trunk.routed, map(float, shares), strict=True)), heard

    def folding(self, model: MultimodalModel, name: str) -> Folding:
        """Return how to promote a newcomer so that the output changes little, by the first rows."""
        with evaluating(model), torch.inference_mode(), self._precise(model):
            fused, _, _ = next(self._batches(model))
            trunk = population_of(model)
            changes = trunk.propose(fused)
            before = trunk.join(fused, changes)
            opening = float(torch.sigmoid(trunk.openings[name]))
            open_part = float((1 - before.routing.gate).mean())
            trial = copy.deepcopy(trunk)
            even = 1 / (len(trunk.routed) + 1)
            trial.promote(name, prior=0.0, gain=opening / max(open_part * even, SMALL))
            place = trial.routed.index(name)
            low, high = -FARTHEST_PRIOR, FARTHEST_PRIOR
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                trial.priors[name].fill_(middle)
                weight = float(trial.join(fused, changes).routing.weights[..., place].mean())
                low, high = (middle, high) if weight < even else (low, middle)
            after = trial.join(fused, changes)
            size = before.tokens.x.float().square().mean().sqrt().clamp(min=SMALL)
            difference = (after.tokens.x - before.tokens.x).float().square().mean().sqrt() / size
            return Folding((low + high) / 2, float(trial.gains[name]), float(difference))

    def _batches(self, model: MultimodalModel) -> Iterator[Seen]:
        device = next(model.parameters()).device
        batches = dataset_batches(self.data, self.rows, batch_size=BATCH, modalities=modalities_of(model))
        for start, batch in zip(range(0, len(self.rows), BATCH), batches, strict=True):
            tokens = model.encode(batch.to(device))
            labels = self.data.labels(self.rows[start : start + BATCH])
            yield model.fuse(tokens), tokens, labels.to(device)

    def _losses(self, model: MultimodalModel, trunked: Tokens, tokens: TokenBatch, labels: Tensor) -> np.ndarray:
        return _numpy(losses(model.answer(trunked, tokens).logits, labels, self.target))

    def _precise(self, model: MultimodalModel):
        return autocast(next(model.parameters()).device, self.precision)


def population_of(model: MultimodalModel) -> Population:
    """Return a model's population."""
    assert isinstance(model.trunk, Population)
    return model.trunk


def losses(logits: Tensor, labels: Tensor, target: Target) -> Tensor:
    """Return the loss of each example ``[B]``: minus the log-probability of its labels, or the squared error."""
    logits = logits.float()
    if target.task == "classification":
        return functional.cross_entropy(logits, labels, reduction="none")
    if target.task == "multilabel":
        return functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
    return (logits - labels.float()).square().mean(-1)


def constant_loss(labels: Tensor, target: Target) -> float:
    """Return the mean loss of the best answer that is the same for all examples, measured as in :func:`losses`."""
    if target.task == "regression":
        return float((labels - labels.mean(0)).square().mean())
    if target.task == "classification":
        part = torch.bincount(labels, minlength=target.outputs).double() / len(labels)
        return float(-torch.special.xlogy(part, part).sum())
    part = labels.double().mean(0)
    return float(-(torch.special.xlogy(part, part) + torch.special.xlogy(1 - part, 1 - part)).mean())


def _measured(found: Mapping[str, np.ndarray], without: Mapping[str, np.ndarray], routed: list[str]) -> Measured:
    whole = found["losses"]
    mean = max(float(whole.mean()), SMALL)
    rises = {name: (values - whole) / mean for name, values in without.items()}
    shares = found["weights"].mean(0) * len(routed)
    return Measured(
        loss=float(whole.mean()),
        shares={**dict.fromkeys(without, 0.0), **dict(zip(routed, map(float, shares), strict=True))},
        gains={name: float(each.mean()) for name, each in rises.items()},
        errors={name: float(each.std() / np.sqrt(len(each))) for name, each in rises.items()},
        routed=tuple(routed),
        edges=tuple(tuple(map(float, row)) for row in found["edges"].mean(0)) if "edges" in found else (),
        states=found["states"],
        shared=np.min([whole, *without.values()], axis=0),
        logits=found["logits"],
        tokens=int(found["tokens"].max()),
    )


def _numpy(value: Tensor) -> np.ndarray:
    return value.float().cpu().numpy().astype(np.float64)
