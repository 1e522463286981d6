"""When growth begins, and what it says while it waits."""

import numpy as np
import pytest
import torch

from chiasma.adapt.measure import constant_loss, losses
from chiasma.adapt.recalibrated import part_learned
from chiasma.adapt.waiting import never_began, no_room, too_few_reviews, waits_told
from chiasma.data.signature import Target
from chiasma.train.design import GrowthSpec

CLASSES = Target.from_dict({"task": "classification", "labels": ["no", "yes"]})


def ranked(signal: float, *, count: int = 300) -> tuple[np.ndarray, torch.Tensor]:
    """Return outputs ``[n 2]`` that rank the second class as well as ``signal`` says, and labels."""
    rng = np.random.default_rng(0)
    labels = (rng.random(count) < 0.3).astype(int)
    score = signal * labels + rng.normal(size=count)
    return np.stack([np.zeros(count), score], axis=1), torch.tensor(labels)


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.05, 0.0), (30.0, 0.0), (1.0, 6.0), (30.0, -40.0)])
def test_a_model_that_ranks_has_learned_however_badly_it_is_calibrated(slope: float, shift: float):
    logits, labels = ranked(2.0)
    expected = part_learned(logits, labels, CLASSES)
    assert 0.3 < expected < 0.7
    shown = slope * logits + np.array([0.0, shift])
    assert part_learned(shown, labels, CLASSES) == pytest.approx(expected, abs=2e-3)


def test_the_plain_loss_of_such_a_model_can_be_above_that_of_a_constant():
    logits, labels = ranked(2.0)
    plain = losses(torch.tensor(logits + np.array([0.0, 6.0])), labels, CLASSES).mean()
    assert plain > constant_loss(labels, CLASSES)


def test_a_model_that_knows_nothing_or_the_opposite_has_learned_nothing():
    logits, labels = ranked(0.0)
    assert part_learned(logits, labels, CLASSES) < 0.02
    logits, labels = ranked(2.0)
    assert part_learned(-logits, labels, CLASSES) == 0
    assert part_learned(np.zeros_like(logits), labels, CLASSES) == pytest.approx(0, abs=1e-4)
    assert part_learned(np.full_like(logits, np.nan), labels, CLASSES) == 0
    assert part_learned(logits, torch.zeros(300, dtype=torch.int64), CLASSES) == 0


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_of_other_tasks_the_same_is_asked(task: str):
    target = Target.from_dict({"task": task, "labels": ["a", "b"]})
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(200, 2, generator=generator)
    labels = (truth > 0).float() if task == "multilabel" else truth
    noise = torch.randn(200, 2, generator=generator)
    assert part_learned((7 * (truth + 0.3 * noise) - 9).numpy(), labels, target) > 0.5
    assert part_learned(noise.numpy(), labels, target) < 0.05


def test_a_population_without_room_or_with_too_few_reviews_says_so():
    rules = GrowthSpec(largest=3, probation=2)
    assert no_room(rules, members=2) is None
    assert "3 members and growth.largest=3" in str(no_room(rules, members=3))
    assert no_room(rules.model_copy(update={"births": "random"}), members=3) is None
    assert too_few_reviews(rules, reviews=4) is None
    assert "has 3 reviews" in str(too_few_reviews(rules, reviews=3))
    assert "takes 4; raise train.evaluations" in str(too_few_reviews(rules, reviews=3))


def test_growth_that_began_too_late_or_never_says_so():
    rules = GrowthSpec(last_birth=0.7, learned=0.05)
    assert never_began(rules, learned=1.0, began=0.2) is None
    assert "after 80 % of the training" in str(never_began(rules, learned=1.0, began=0.8))
    words = str(never_began(rules, learned=0.013, began=None))
    assert words.startswith("growth never began: on steer, recalibrated, the loss is 1.3 % below")
    assert "at 5 % (growth.learned)" in words


def test_a_report_tells_why_growth_waited():
    assert waits_told({}) == ()
    assert waits_told({"waits": {"room": "growth waits: here"}}) == ("growth waits: here",)
