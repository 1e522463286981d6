"""The linear floors are linear: their output is an affine function of fixed features, whatever the weights."""

import numpy as np
import pytest
import torch

from chiasma.data.batch import Batch
from chiasma.data.signature import ImageInput, Signature, Target, TextInput
from chiasma.model.encoders import NGram
from chiasma.model.multimodal import ModelSpec

ROWS = 60
FLOORS = [{"kind": "concat"}, {"kind": "late", "method": "add"}, {"kind": "late", "method": "concat"}]


@pytest.fixture
def signature() -> Signature:
    inputs = {"image": ImageInput(channels=1, height=3, width=3), "text": TextInput(vocabulary=9, length=4)}
    return Signature(inputs=inputs, target=Target(task="classification", labels=("a", "b", "c")))


def random_batch(rng: np.random.Generator, **parts: torch.Tensor) -> Batch:
    images = torch.from_numpy(rng.random((ROWS, 1, 3, 3), dtype=np.float32))
    texts = torch.from_numpy(rng.integers(4, 9, (ROWS, 4)))
    inputs = {"image": images, "text": texts} | parts
    present = dict.fromkeys(inputs, torch.ones(ROWS, dtype=torch.bool))
    return Batch(inputs, present, tuple(map(str, range(ROWS))))


def features(batch: Batch) -> np.ndarray:
    """Return a column of ones, the pixels, and the unit-length term frequencies of single tokens."""
    counts = np.stack([np.bincount(row, minlength=9) for row in batch.inputs["text"].numpy()])
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    weights = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    return np.concatenate([np.ones((ROWS, 1)), batch.inputs["image"].flatten(1).numpy(), weights], axis=1)


def residual(signature: Signature, fusion: dict[str, object], head: dict[str, object] | None = None) -> float:
    """Return how far a random model is from the best affine function of the features."""
    torch.manual_seed(0)
    parts = {"dim": 12, "encoders": {"image": {"kind": "pixels"}, "text": {"kind": "ngram", "orders": 1}}}
    design = ModelSpec.from_dict({**parts, "fusion": fusion, "head": {"kind": "classification", **(head or {})}})
    model = design.build(signature).eval()
    # Larger weights than the initial ones, so that a nonlinearity would show.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    batch = random_batch(np.random.default_rng(0))
    with torch.no_grad():
        logits = model(batch).logits.numpy()
    known = features(batch)
    solution = np.linalg.lstsq(known, logits, rcond=None)[0]
    return float(np.abs(known @ solution - logits).max() / np.abs(logits).max())


@pytest.mark.parametrize("fusion", FLOORS, ids=str)
def test_a_linear_floor_is_an_affine_function_of_pixels_and_term_frequencies(signature, fusion):
    assert residual(signature, fusion) < 1e-5


def test_a_hidden_layer_makes_it_nonlinear(signature):
    assert residual(signature, {"kind": "concat", "hidden": 8}) > 1e-3
    assert residual(signature, {"kind": "late", "hidden": 8}) > 1e-3
    assert residual(signature, {"kind": "late"}, {"hidden": 8}) > 1e-3
    assert residual(signature, {"kind": "multiplicative"}) > 1e-3


def test_late_addition_has_no_interaction_between_image_and_text(signature):
    torch.manual_seed(0)
    encoders = {"image": {"kind": "convolution"}, "text": {"kind": "bert", "depth": 1}}
    design = ModelSpec.from_dict({"dim": 8, "encoders": encoders, "fusion": {"kind": "late", "hidden": 8}})
    model = design.build(signature).eval()
    one, two = random_batch(np.random.default_rng(1)), random_batch(np.random.default_rng(2))
    mixed = [
        Batch({"image": a.inputs["image"], "text": b.inputs["text"]}, a.present, a.ids)
        for a, b in ((one, one), (two, two), (one, two), (two, one))
    ]
    with torch.no_grad():
        same_1, same_2, cross_1, cross_2 = (model(batch).logits for batch in mixed)
    torch.testing.assert_close(same_1 + same_2, cross_1 + cross_2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("weighting", "often"), [("count", 3.0), ("sqrt", 3**0.5), ("log", 1 + np.log(3)), ("binary", 1)]
)
def test_the_bag_of_ngrams_weighs_counts_and_has_unit_length(weighting, often):
    encoder = NGram(orders=1, weighting=weighting).build(9, TextInput(vocabulary=9, length=8))
    encoder.table.weight.data = torch.eye(9)
    bag = encoder(torch.tensor([[2, 5, 6, 5, 5, 3, 0, 0]])).x[0, 0]
    expected = torch.zeros(9)
    expected[5], expected[6] = often, 1.0
    torch.testing.assert_close(bag, expected / expected.norm())


def test_the_order_of_words_matters_from_two_tokens_on():
    text = TextInput(vocabulary=9, length=4)
    there, back = torch.tensor([[2, 5, 6, 7]]), torch.tensor([[2, 7, 6, 5]])
    for orders, same in ((1, True), (2, False)):
        encoder = NGram(orders=orders).build(8, text)
        assert torch.allclose(encoder(there).x, encoder(back).x, atol=1e-6) is same


def test_ngrams_of_a_text_do_not_depend_on_how_long_the_padding_is():
    encoder = NGram(orders=3).build(8, TextInput(vocabulary=9, length=9))
    short, long = torch.tensor([[2, 5, 6, 7]]), torch.tensor([[2, 5, 6, 7, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(encoder(short).x, encoder(long).x)


def test_a_text_shorter_than_the_longest_ngram_still_counts():
    encoder = NGram(orders=5).build(8, TextInput(vocabulary=9, length=2))
    assert encoder(torch.tensor([[2, 5]])).x.abs().sum() > 0
