"""The loss of texts, and how good written ones are."""

import math

import numpy as np
import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.data.signature import Target
from chiasma.data.written import decode_written, encode_written, written_target
from chiasma.experiment.statistics import Bootstrap
from chiasma.train.design import CrossEntropy
from chiasma.train.losses import build_loss
from chiasma.train.metrics import higher_is_better, measure, metrics_of, primary_metric
from tests.contracts.heads import RIGHT
from tests.contracts.inputs import target_of

TEXTS = ["the cat sat on a mat", "a dog ran", "the mat sat on the dog"]


@pytest.fixture(scope="module")
def target() -> Target:
    return written_target([*TEXTS, "the cat sat on the mat"], vocabulary=200, lowercase=True)


def answers(texts: list[str], target: Target, losses: list[float]) -> np.ndarray:
    ids = encode_written(texts, target, lowercase=True)
    return np.concatenate([ids, np.array(losses)[:, None]], axis=1)


def test_texts_come_back_as_they_were(target):
    ids = encode_written(["The cat sat on a mat", "a dog"], target, lowercase=True)
    assert decode_written(ids, target) == ["the cat sat on a mat", "a dog"]
    assert (ids[:, 0] == 2).all()
    assert ids.shape == (2, target.length)


def test_losses_of_micro_batches_add_up_whatever_lengths_they_have():
    loss = build_loss(None, target_of("generation"), examples=5, labelled=(int((RIGHT[:, 1:] != 0).sum()),))
    torch.manual_seed(0)
    logits = torch.randn(5, 5, 9)
    log_p = logits.log_softmax(-1).gather(2, RIGHT[:, 1:, None])[..., 0]
    counted = RIGHT[:, 1:] != 0
    # The whole train split at once: the mean over its ids.
    assert float(loss(logits, RIGHT)) == pytest.approx(float(-log_p[counted].mean()))
    parts = [loss(logits[rows], RIGHT[rows]) * len(rows) / 5 for rows in ([0, 3], [1], [2, 4])]
    assert float(sum(parts)) == pytest.approx(float(loss(logits, RIGHT)))


def test_a_loss_of_classes_is_not_for_texts():
    with pytest.raises(ConfigError, match="'cross_entropy' is for classification, but the target's task is"):
        build_loss(CrossEntropy(), target_of("generation"))


def test_bleu_is_that_of_the_paper(target):
    labels = encode_written(TEXTS[:1], target, lowercase=True)
    found = measure(answers(["the cat sat on the mat"], target, [7.0]), labels, target)
    assert found["bleu_4"] == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # Short answers are punished: all four phrases of four words are right, but two words are missing.
    found = measure(answers(["the cat sat on"], target, [7.0]), labels, target)
    assert found["bleu_4"] == pytest.approx(math.exp(1 - 6 / 4))
    # No word counts more often than in the right text: one of four, and none of longer phrases.
    assert measure(answers(["a a a a"], target, [7.0]), labels, target)["bleu_4"] == 0


def test_losses_are_a_token_and_matches_are_whole(target):
    labels = encode_written(TEXTS, target, lowercase=True)
    found = measure(answers([TEXTS[0], "a cat ran", TEXTS[2]], target, [7.0, 4.0, 14.0]), labels, target)
    assert found["token_log_loss"] == pytest.approx(25 / (7 + 4 + 7))
    assert found["perplexity"] == pytest.approx(math.exp(25 / 18))
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert set(found) == set(metrics_of(target))
    assert primary_metric(target) == "token_log_loss"
    assert not higher_is_better("perplexity")
    assert higher_is_better("bleu_4")


def test_texts_of_three_words_have_no_bleu(target):
    labels = encode_written(["a dog ran"], target, lowercase=True)
    assert "bleu_4" not in measure(answers(["a dog ran"], target, [1.0]), labels, target)


def test_the_bootstrap_of_every_metric_has_the_same_value(target):
    rng = np.random.default_rng(0)
    labels = encode_written([TEXTS[k % 3] for k in range(30)], target, lowercase=True)
    said = answers([TEXTS[k % 3 if rng.random() < 0.6 else 0] for k in range(30)], target, rng.random(30) * 9)
    intervals = Bootstrap(labels, np.arange(30), target, resamples=100).intervals(said[None])
    found = measure(said, labels, target)
    assert set(intervals) == set(found)
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(found[name])
        assert interval.low < interval.value < interval.high
