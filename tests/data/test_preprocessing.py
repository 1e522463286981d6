import numpy as np
import pytest
import torch

from chiasma.core.errors import CorruptFileError, DataError
from chiasma.data.batch import Sample
from chiasma.data.preprocessing import Preprocessing, PreprocessingSpec
from chiasma.data.signature import Signature, Target, TokensInput


def test_what_is_saved_with_a_model_encodes_as_before(memes):
    dataset, _ = memes.prepare()
    ours = dataset.preprocessing()
    theirs = Preprocessing.load(ours.documents(), ours.files())
    samples = [
        Sample("a", {"image": np.full((9, 5, 3), 200, np.uint8), "text": "caption number 3"}),
        Sample("b", {"text": "CAPTION"}),
        Sample("c", {"image": str(dataset.image_paths([0])[0])}),
    ]
    first, second = ours.encode(samples), theirs.encode(samples)
    for name in ("image", "text"):
        assert torch.equal(first.inputs[name], second.inputs[name])
    assert first.present["image"].tolist() == [True, False, True]
    assert first.present["text"].tolist() == [True, True, False]
    assert not first.inputs["text"][2].any()


def test_a_saved_model_without_its_tokenizer_is_refused(memes):
    dataset, _ = memes.prepare()
    with pytest.raises(CorruptFileError, match=r"lacks the file tokenizer.json"):
        Preprocessing.load(dataset.preprocessing().documents(), {})


def test_a_sample_whose_image_cannot_be_read_is_named(memes, tmp_path):
    dataset, _ = memes.prepare()
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"Sample 'bad': The image .*x.png cannot be used: not a readable image"):
        dataset.encode([Sample("bad", {"image": str(tmp_path / "x.png")})])


def test_a_sample_whose_text_is_no_string_is_named(memes):
    dataset, _ = memes.prepare()
    with pytest.raises(DataError, match="Sample 'bad': text must be a string, but got ndarray"):
        dataset.encode([Sample("bad", {"text": np.zeros(3)})])


@pytest.fixture
def token_model():
    target = Target(task="classification", labels=("a", "b"))
    signature = Signature(inputs={"image": TokensInput(count=2, dim=3)}, target=target)
    return Preprocessing(PreprocessingSpec(signature=signature), None)


def test_ready_made_tokens_are_taken_as_arrays(token_model):
    batch = token_model.encode([Sample("a", {"image": np.ones((2, 3), np.float16)}), Sample("b", {})])
    assert batch.inputs["image"].x.sum().item() == 6
    assert batch.inputs["image"].mask.tolist() == [[True, True], [False, False]]


def test_a_picture_given_to_a_model_of_ready_made_tokens_is_refused(token_model):
    with pytest.raises(DataError, match=r"image must be an array of \(2, 3\) from the same encoder, but got str"):
        token_model.encode([Sample("a", {"image": "cat.png"})])


def test_tokens_that_are_not_finite_are_refused(token_model):
    with pytest.raises(DataError, match="Sample 'a': image must be finite"):
        token_model.encode([Sample("a", {"image": np.full((2, 3), np.nan)})])
