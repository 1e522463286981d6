"""Extraction and import as a user meets them."""

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.features import Features, import_file
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.features import extract_features, import_features
from tests.published import save_backbone, write_memes


@pytest.fixture(scope="module")
def memes(tmp_path_factory):
    return write_memes(tmp_path_factory.mktemp("memes") / "data", train=6, dev=3, test=2)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return save_backbone("resnet", tmp_path_factory.mktemp("published") / "resnet")


def settings(source, cache, **values):
    return load_config(None, data=str(source), overrides=(), values={"run.cache": str(cache), **values})


def extract(memes, tmp_path, name="resnet", **words):
    out = tmp_path / "image.safetensors"
    done = extract_features(settings(memes, tmp_path), name, out=out, console=SilentConsole(), **words)
    return done, import_file(out)


def test_images_become_tokens_with_boxes_that_a_second_time_costs_nothing(memes, resnet, tmp_path):
    done, found = extract(memes, tmp_path, weights=str(resnet), options={"grid": 2}, batch_size=2)
    assert done["encoded now"] == done["rows"] == len(found.ids) == 11
    assert found.tokens.shape[1:] == (4, 16)
    assert found.boxes is not None
    again, same = extract(memes, tmp_path, weights=str(resnet), options={"grid": 2})
    assert again["encoded now"] == 0
    assert np.array_equal(same.tokens, found.tokens)
    assert np.array_equal(same.boxes, found.boxes)


def test_images_that_cannot_be_read_are_left_out_and_named(memes, tmp_path):
    rows = tmp_path / "rows.csv"
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows.write_text("id,img,text,label\na,good.png,one,yes\nb,bad.png,two,no\nc,none.png,three,no\n")
    said: list[str] = []

    class Listening(SilentConsole):
        def say(self, text: str) -> None:
            said.append(text)

    out = tmp_path / "t.npz"
    done = extract_features(settings(rows, tmp_path), "pixels", out=out, console=Listening())
    assert done["could not be read"] == 2
    assert import_file(out).ids == ("a",)
    assert any("bad.png" in line for line in said)
    assert any("none.png" in line for line in said)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("resnett", {}, "neither an extractor nor a run. Did you mean 'resnet'"),
        ("pixels", {"modality": "text"}, "--extractor pixels reads images, but --modality is text"),
        ("pixels", {"modality": "sound"}, "--modality must be image or text, but got 'sound'"),
        ("pixels", {"weights": "x"}, "--extractor pixels.weights: unknown key"),
        ("pixels", {"options": {"regions": 3}}, "--extractor pixels.regions: unknown key"),
        ("clip", {"weights": "/none/here"}, "The folder /none/here does not exist"),
    ],
)
def test_a_wrong_extractor_is_one_line(memes, tmp_path, name, words, message):
    with pytest.raises(ConfigError, match=message):
        extract(memes, tmp_path, name, **words)


def test_a_wrong_place_for_the_tokens_is_known_before_anything_is_computed(memes, tmp_path):
    for out, message in ((tmp_path / "t.txt", "must end in"), (tmp_path / "none" / "t.npz", "does not exist")):
        with pytest.raises(ConfigError, match=message):
            extract_features(settings(memes, tmp_path), "pixels", out=out, console=SilentConsole())


def test_imported_tokens_may_be_named_like_the_images(memes, tmp_path):
    ids = tuple(path.name for path in sorted((memes / "img").iterdir()))
    names = tuple(f"img/{name}" for name in (*ids[:4], "other.png"))
    Features(names, np.ones((5, 2, 3), np.float16)).save(tmp_path / "given.safetensors")
    out = tmp_path / "kept.npz"
    done = import_features(settings(memes, tmp_path), f"image={tmp_path / 'given.safetensors'}", out=out)
    assert done["matched by"] == "image name"
    assert done["rows of the data with tokens"] == done["used by the data"] == 4
    assert import_file(out).ids == names[:4]
    Features(("x",), np.ones((1, 2, 3), np.float16)).save(tmp_path / "given.safetensors")
    with pytest.raises(DataError, match=r"No id of .* fits a row"):
        import_features(settings(memes, tmp_path), f"image={tmp_path / 'given.safetensors'}")
