"""Losses: the paper's formulas, torch's where they agree, and micro-batches that add up."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from chiasma.core.errors import ConfigError
from chiasma.data.signature import Target
from chiasma.train.design import BinaryCrossEntropy, CrossEntropy, Focal, Huber, LoopSpec, SquaredError
from chiasma.train.losses import build_loss

TWO = Target(task="classification", labels=("no", "yes"))
THREE = Target(task="classification", labels=("a", "b", "c"))
TAGS = Target(task="multilabel", labels=("a", "b", "c"))
PRICE = Target(task="regression", labels=("price",))


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(1)) * 3


@pytest.fixture
def classes() -> torch.Tensor:
    return torch.arange(12) % 3


@pytest.fixture
def tags() -> torch.Tensor:
    return (torch.arange(36).reshape(12, 3) % 5 < 2).float()


@pytest.mark.parametrize(("target", "expected"), [(TWO, "Cross"), (TAGS, "Multilabel"), (PRICE, "Squared")])
def test_without_a_spec_the_target_chooses_the_loss(target: Target, expected: str):
    assert type(build_loss(None, target)).__name__.startswith(expected)


def test_cross_entropy_with_smoothing_is_torchs(logits: torch.Tensor, classes: torch.Tensor):
    loss = build_loss(CrossEntropy(smoothing=0.1), THREE)
    torch.testing.assert_close(loss(logits, classes), functional.cross_entropy(logits, classes, label_smoothing=0.1))


def test_balanced_classes_contribute_equally_however_rare():
    loss = build_loss(CrossEntropy(balanced=True), TWO, class_counts=[90, 10])
    undecided = torch.zeros(100, 2)
    labels = torch.tensor([0] * 90 + [1] * 10)
    common = loss(undecided[:90], labels[:90]) * 90
    rare = loss(undecided[90:], labels[90:]) * 10
    torch.testing.assert_close(common, rare)
    torch.testing.assert_close(loss(undecided, labels), torch.tensor(float(np.log(2))))


def test_a_class_that_train_lacks_does_not_make_weights_infinite():
    loss = build_loss(CrossEntropy(balanced=True), THREE, class_counts=[5, 5, 0])
    assert torch.isfinite(loss(torch.zeros(1, 3), torch.tensor([2])))


def test_focal_loss_without_gamma_and_alpha_is_cross_entropy(logits: torch.Tensor, classes: torch.Tensor):
    torch.testing.assert_close(
        build_loss(Focal(gamma=0), THREE)(logits, classes), functional.cross_entropy(logits, classes)
    )


def test_focal_alpha_weighs_the_second_class_and_its_complement_the_first():
    loss = build_loss(Focal(gamma=2, alpha=0.25), TWO)
    logits = torch.tensor([[0.3, -0.4]])
    p = torch.softmax(logits, -1)[0]
    for label, alpha in ((0, 0.75), (1, 0.25)):
        expected = -alpha * (1 - p[label]) ** 2 * torch.log(p[label])
        torch.testing.assert_close(loss(logits, torch.tensor([label])), expected)


def test_focal_loss_of_labels_is_the_papers_formula(logits: torch.Tensor, tags: torch.Tensor):
    p = torch.sigmoid(logits.double())
    p_t = torch.where(tags > 0, p, 1 - p)
    alpha_t = torch.where(tags > 0, 0.25, 0.75)
    expected = (-alpha_t * (1 - p_t) ** 2 * p_t.log()).mean().float()
    torch.testing.assert_close(build_loss(Focal(gamma=2, alpha=0.25), TAGS)(logits, tags), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_gradients_stay_finite_when_the_model_is_certain(gamma: float):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    build_loss(Focal(gamma=gamma), TWO)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_focal_alpha_is_refused_for_three_classes():
    with pytest.raises(ConfigError, match=r"alpha=0.25 and there are 3 classes"):
        build_loss(Focal(alpha=0.25), THREE)


def test_balanced_labels_weigh_positives_by_negatives_to_positives(logits: torch.Tensor, tags: torch.Tensor):
    positives = tags.sum(0)
    loss = build_loss(BinaryCrossEntropy(balanced=True), TAGS, class_counts=positives.numpy(), examples=12)
    expected = functional.binary_cross_entropy_with_logits(logits, tags, pos_weight=(12 - positives) / positives)
    torch.testing.assert_close(loss(logits, tags), expected)


def test_huber_is_linear_beyond_delta():
    loss = build_loss(Huber(delta=0.5), PRICE)
    zero = torch.zeros(1, 1)
    torch.testing.assert_close(loss(torch.tensor([[3.0]]), zero) - loss(torch.tensor([[2.0]]), zero), torch.tensor(0.5))


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        (CrossEntropy(smoothing=0.1, balanced=True), THREE),
        (Focal(), THREE),
        (Focal(alpha=0.3), TAGS),
        (BinaryCrossEntropy(balanced=True), TAGS),
    ],
)
def test_micro_batches_weighted_by_size_add_up_to_the_big_batch(
    spec, target: Target, logits: torch.Tensor, classes: torch.Tensor, tags: torch.Tensor
):
    labels = classes if target.task == "classification" else tags
    loss = build_loss(spec, target, class_counts=[7, 3, 2], examples=12)
    parts = sum(loss(logits[part], labels[part]) * len(part) / 12 for part in torch.arange(12).split([5, 4, 3]))
    torch.testing.assert_close(parts, loss(logits, labels))


@pytest.mark.parametrize(
    ("spec", "target"), [(SquaredError(), TWO), (CrossEntropy(), TAGS), (BinaryCrossEntropy(), TWO)]
)
def test_a_loss_of_another_task_is_refused_by_name(spec, target: Target):
    with pytest.raises(ConfigError, match=rf"'{spec.kind}' is for .* but the target's task is '{target.task}'"):
        build_loss(spec, target)


def test_a_balanced_loss_without_counts_is_refused():
    with pytest.raises(ConfigError, match="train counts of all 2 classes, but got none"):
        build_loss(CrossEntropy(balanced=True), TWO)


def test_losses_are_computed_in_float32_under_half_precision():
    assert build_loss(None, TWO)(torch.zeros(2, 2, dtype=torch.bfloat16), torch.tensor([0, 1])).dtype == torch.float32


def test_smoothed_focal_loss_is_the_smoothed_mean_of_the_focal_terms(logits: torch.Tensor, classes: torch.Tensor):
    log_p = torch.log_softmax(logits.double(), -1)
    smooth = torch.full((12, 3), 0.2 / 3, dtype=torch.float64)
    smooth[torch.arange(12), classes] += 0.8
    expected = (smooth * -((1 - log_p.exp()) ** 2) * log_p).sum(1).mean().float()
    torch.testing.assert_close(build_loss(Focal(smoothing=0.2), THREE)(logits, classes), expected)


def test_smoothed_focal_loss_without_gamma_is_smoothed_cross_entropy(logits: torch.Tensor, classes: torch.Tensor):
    loss = build_loss(Focal(gamma=0, smoothing=0.1), THREE)
    torch.testing.assert_close(loss(logits, classes), functional.cross_entropy(logits, classes, label_smoothing=0.1))


def test_a_little_smoothing_changes_a_focal_loss_a_little(logits: torch.Tensor, classes: torch.Tensor):
    pairs = [(TWO, logits[:, :2], classes % 2), (TAGS, logits, (torch.arange(36).reshape(12, 3) % 5 < 2).float())]
    for target, outputs, labels in pairs:
        plain, barely, more = (
            build_loss(Focal(alpha=0.3, smoothing=smoothing), target)(outputs, labels) for smoothing in (0, 1e-6, 0.2)
        )
        torch.testing.assert_close(plain, barely, rtol=1e-4, atol=1e-5)
        assert not torch.isclose(plain, more, rtol=1e-3)


def test_smoothing_keeps_the_weights_of_the_classes():
    loss = build_loss(Focal(gamma=2, alpha=0.25, smoothing=0.1), TWO)
    logits = torch.tensor([[0.3, -0.4]])
    p = torch.softmax(logits, -1)[0]
    first, second = (a * (1 - p[k]) ** 2 * -torch.log(p[k]) for k, a in ((0, 0.75), (1, 0.25)))
    torch.testing.assert_close(loss(logits, torch.tensor([0])), 0.95 * first + 0.05 * second)


def test_label_smoothing_is_not_ignored(logits: torch.Tensor, classes: torch.Tensor):
    plain, smooth = (build_loss(CrossEntropy(smoothing=s), THREE)(logits, classes) for s in (0.0, 0.1))
    torch.testing.assert_close(plain, functional.cross_entropy(logits, classes))
    uniform = -torch.log_softmax(logits, -1).mean(1).mean()
    torch.testing.assert_close(smooth, 0.9 * plain + 0.1 * uniform)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("ce", CrossEntropy(smoothing=0.0)),
        ("label_smoothing", CrossEntropy(smoothing=0.1)),
        ("focal", Focal()),
        ("focal_smoothing", Focal(smoothing=0.1)),
    ],
)
def test_a_loss_can_be_named_in_one_word(word, expected):
    assert LoopSpec.from_dict({"loss": word}).loss == expected


def test_an_unknown_word_for_a_loss_is_refused():
    with pytest.raises(ConfigError, match=r"one of ce, label_smoothing, focal, focal_smoothing, but got 'focl'"):
        LoopSpec.from_dict({"loss": "focl"})
