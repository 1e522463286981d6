"""Pairs: the loss by which they find each other, and how early they do."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from chiasma.core.errors import ConfigError
from chiasma.data.signature import Target
from chiasma.experiment.statistics import Bootstrap
from chiasma.model.contrastive import Contrastive
from chiasma.train.losses import build_loss, check_whole_batches
from chiasma.train.metrics import higher_is_better, measure, metrics_of
from chiasma.train.retrieval import nearest
from tests.contracts.heads import both, scores
from tests.contracts.inputs import DIM

TARGET = Target(task="contrastive", labels=("image", "text"))
APART = torch.tensor([[0, 0], [1, 1], [2, 2], [3, 3]])


def outputs(*similar: list[float]) -> np.ndarray:
    """Return directions of so many images and texts with these cosines: images are the axes, texts rows of cosines."""
    cosines = np.array(similar)
    rest = np.sqrt(np.maximum(1 - (cosines**2).sum(0), 0))
    texts = np.concatenate([cosines, rest[None]]).T
    images = np.eye(len(cosines), len(cosines) + 1)
    return np.concatenate([images, texts], axis=1)


def test_the_loss_is_the_symmetric_cross_entropy_over_the_batch():
    torch.manual_seed(0)
    sides = [functional.normalize(torch.randn(4, 5), dim=1) * 2 for _ in range(2)]
    similar, own = sides[0] @ sides[1].T, torch.arange(4)
    expected = (functional.cross_entropy(similar, own) + functional.cross_entropy(similar.T, own)) / 2
    loss = build_loss(None, TARGET)(torch.cat(sides, dim=1), APART)
    assert float(loss) == pytest.approx(float(expected))


def test_another_caption_of_the_same_image_is_not_held_against_a_row():
    torch.manual_seed(0)
    logits = torch.randn(4, 6)
    loss = build_loss(None, TARGET)
    twins = torch.tensor([[0, 0], [0, 1], [2, 2], [3, 2]])
    moved = logits.clone().requires_grad_()
    loss(moved, twins).backward()
    similar = (logits[:, :3] @ logits[:, 3:].T).masked_fill(
        torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]).bool(), -math.inf
    )
    own = torch.arange(4)
    expected = (functional.cross_entropy(similar, own) + functional.cross_entropy(similar.T, own)) / 2
    assert float(loss(logits, twins)) == pytest.approx(float(expected))
    assert moved.grad.isfinite().all()


def test_the_scale_begins_at_one_over_the_temperature_and_ends_at_a_hundred():
    head = Contrastive(projection=8, temperature=0.07).build(DIM, TARGET).requires_grad_(False)
    image, text = scores(head, both()).logits.chunk(2, dim=1)
    assert float((image * image).sum(1)[0]) == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        head.log_scale.fill_(50.0)
    image, text = scores(head, both()).logits.chunk(2, dim=1)
    assert float((text * text).sum(1)[0]) == pytest.approx(100, rel=1e-5)


def test_each_side_is_seen_alone():
    head = Contrastive().build(DIM, TARGET).eval()
    (image, text), (_, other) = both(), both(seed=9)
    first, second = (scores(head, (image, side)).logits.chunk(2, dim=1) for side in (text, other))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_recall_counts_how_early_the_right_answer_comes():
    # Text 0 is nearest to image 0; texts 1 and 2 have each other's image first and their own second.
    logits = outputs([0.9, 0.1, 0.1], [0.1, 0.5, 0.6], [0.1, 0.6, 0.5])
    found = measure(logits, np.array([[0, 0], [1, 1], [2, 2]]), TARGET)
    assert found["recall_at_1"] == pytest.approx(1 / 3)
    assert found["recall_at_5"] == 1
    assert found["image_to_text_median_rank"] == 2
    assert set(found) == set(metrics_of(TARGET))
    assert not higher_is_better("text_to_image_median_rank")


def test_every_caption_of_an_image_is_a_hit_and_the_image_asks_once():
    # Two captions of image 0 of which only the second is near, and one of image 1 that is nearest to image 0.
    cosines = np.array([[0.1, 0.9, 0.8], [0.2, 0.1, 0.3]])
    texts = np.concatenate([cosines, np.sqrt(1 - (cosines**2).sum(0))[None]]).T
    logits = np.concatenate([np.eye(2, 3)[[0, 0, 1]], texts], axis=1)
    found = measure(logits, np.array([[0, 0], [0, 1], [1, 2]]), TARGET)
    assert found["image_to_text_recall_at_1"] == 1
    assert found["text_to_image_recall_at_1"] == pytest.approx(1 / 3)


def test_equal_similarities_are_no_hits():
    found = measure(np.ones((40, 6)), np.stack([np.arange(40)] * 2, axis=1), TARGET)
    assert found["recall_at_10"] == 0
    assert found["text_to_image_median_rank"] == pytest.approx(20.5)


def test_the_bootstrap_of_every_metric_has_the_same_value():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(20), 3)
    sides = rng.normal(size=(20, 4))[images], rng.normal(size=(60, 4)) * 0.8
    logits = np.concatenate([sides[0], sides[0] + sides[1]], axis=1)
    labels = np.stack([images, np.arange(60)], axis=1)
    intervals = Bootstrap(labels, images, TARGET, resamples=100).intervals(logits[None])
    found = measure(logits, labels, TARGET)
    assert set(intervals) == set(found)
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(found[name])
    assert intervals["recall_at_1"].low < found["recall_at_1"] < intervals["recall_at_1"].high


def test_the_nearest_come_first():
    places, similar = nearest(np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]), count=2)
    assert places.tolist() == [[1, 2], [0, 2]]
    assert similar.tolist() == [[1.0, 0.6], [1.0, 0.8]]


@pytest.mark.parametrize(("accumulation", "ranks", "named"), [(2, 1, "train.accumulation"), (1, 3, "torchrun")])
def test_a_batch_of_pairs_is_not_divided(accumulation, ranks, named):
    with pytest.raises(ConfigError, match=f"^{named}: pairs are compared within a whole batch, which cannot be"):
        check_whole_batches(TARGET, accumulation=accumulation, ranks=ranks)
