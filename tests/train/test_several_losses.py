"""The losses and metrics of several tasks."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from chiasma.core.errors import ConfigError
from chiasma.core.rng import seed_torch
from chiasma.data.signature import NamedTask, Target
from chiasma.experiment.statistics import Bootstrap
from chiasma.model.heads import Multitask
from chiasma.train.design import CrossEntropy, Focal, OptimSpec, SquaredError
from chiasma.train.losses import build_loss
from chiasma.train.metrics import higher_is_better, measure, metrics_of, primary_metric
from chiasma.train.optim import NamedOptimizer

TARGET = Target(
    task="multitask",
    labels=("kind=a", "kind=b", "size"),
    tasks=(
        NamedTask(name="kind", target=Target(task="classification", labels=("a", "b"))),
        NamedTask(name="size", target=Target(task="regression", labels=("size",))),
    ),
)
NAN = float("nan")
LABELS = torch.tensor([[0, 0.5], [1, NAN], [NAN, -1.0], [1, 2.0]])
LOGITS = torch.tensor([[1.0, 0.0, 0.2], [0.0, 2.0, 9.0], [5.0, -5.0, -0.5], [0.3, 0.1, 1.0]])


def own_classes() -> torch.Tensor:
    """Return the usual loss of the class alone."""
    smoothing = CrossEntropy().smoothing
    return functional.cross_entropy(LOGITS[[0, 1, 3], :2], torch.tensor([0, 1, 1]), label_smoothing=smoothing)


def test_each_loss_counts_by_what_the_model_is_unsure_of():
    loss = build_loss(None, TARGET, examples=8, labelled=(6, 6))
    uncertainty = torch.tensor([0.5, -1.0])
    kind = own_classes() * 3 / 4 * 8 / 6
    size = functional.mse_loss(LOGITS[[0, 2, 3], 2], torch.tensor([0.5, -1.0, 2.0])) * 3 / 4 * 8 / 6
    expected = torch.exp(torch.tensor(-0.5)) * kind + torch.exp(torch.tensor(1.0)) * size - 0.5
    assert loss(LOGITS, LABELS, uncertainty) == pytest.approx(float(expected))
    assert loss(LOGITS, LABELS) == pytest.approx(float(kind + size))


def test_losses_of_micro_batches_add_up_whatever_labels_they_lack():
    loss = build_loss(None, TARGET, examples=4, labelled=(3, 3))
    parts = [loss(LOGITS[rows], LABELS[rows]) * len(rows) / 4 for rows in ([0], [1, 2], [3])]
    assert float(sum(parts)) == pytest.approx(float(loss(LOGITS, LABELS)))


def test_a_named_loss_is_for_the_tasks_that_it_fits():
    kind = build_loss(Focal(gamma=2.0), TARGET, examples=4, labelled=(3, 3))
    assert [type(each).__name__ for each in kind.losses] == ["FocalLoss", "SquaredErrorLoss"]
    classes = TARGET.model_copy(update={"tasks": TARGET.tasks[:1], "labels": TARGET.labels[:2]})
    with pytest.raises(ConfigError, match="'squared_error' is for regression, but none of the tasks is one: kind"):
        build_loss(SquaredError(), classes, examples=4)


def test_uncertainties_are_learned_without_weight_decay():
    seed_torch(0)
    head = Multitask().build(4, TARGET)
    optimizer = NamedOptimizer(head, OptimSpec(weight_decay=0.5))
    assert "log_variances" in optimizer.parameters
    assert "log_variances" not in optimizer.decayed
    assert "log_variances" not in Multitask(weighting="equal").build(4, TARGET).state_dict()


def test_metrics_are_of_the_rows_with_a_label_and_named_by_task():
    found = measure(LOGITS.numpy(), LABELS.numpy(), TARGET)
    assert found["kind/accuracy"] == pytest.approx(2 / 3)
    assert found["size/mae"] == pytest.approx((0.3 + 0.5 + 1.0) / 3)
    assert found["mean_score"] == pytest.approx((found["kind/accuracy"] + found["size/r2"]) / 2)
    assert next(iter(found)) == primary_metric(TARGET) == "mean_score"
    assert set(found) <= set(metrics_of(TARGET))
    assert not higher_is_better("size/mae")


def test_a_quantity_worse_than_its_mean_counts_as_nothing_in_the_mean_score():
    found = measure(LOGITS.numpy() * 100, LABELS.numpy(), TARGET)
    assert found["size/r2"] < -100
    assert found["mean_score"] == pytest.approx(found["kind/accuracy"] / 2)


def test_a_task_without_labels_has_no_metrics_and_leaves_no_mean_score():
    labels = LABELS.numpy().copy()
    labels[:, 1] = NAN
    found = measure(LOGITS.numpy(), labels, TARGET)
    assert "kind/accuracy" in found
    assert not [name for name in found if name.startswith(("size", "mean"))]


def test_the_bootstrap_of_every_metric_has_the_same_value():
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, 2, 60), rng.normal(size=60)], axis=1).astype(np.float32)
    labels[rng.random(60) < 0.3, 0] = NAN
    labels[rng.random(60) < 0.3, 1] = NAN
    logits = rng.normal(size=(60, 3)) + np.nan_to_num(labels[:, [0, 0, 1]])
    bootstrap = Bootstrap(labels, np.arange(60) // 2, TARGET, resamples=100)
    intervals = bootstrap.intervals(logits[None])
    found = measure(logits, labels, TARGET)
    assert set(intervals) == set(found)
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(found[name])
        assert interval.low <= interval.value <= interval.high
