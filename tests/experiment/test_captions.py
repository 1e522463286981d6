"""A tiny real BLIP writes captions: the same as transformers', once an image, and for new rows too."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from typer.testing import CliRunner

from chiasma.cli.main import app
from chiasma.core.errors import ConfigError
from chiasma.data.captions import Captions
from chiasma.data.published import Published
from chiasma.data.published_images import read_image_processor
from chiasma.data.published_text import read_tokenizer
from chiasma.experiment.captioned_rows import captions_for
from chiasma.experiment.captions import Captioner, captioner, pinned
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.predict import predict_manifest, predict_one
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.train_run import train
from tests.published import BERT_NAMES, SIDE, SIGLIP_PROCESSOR, save_processor, save_tokenizer

pytestmark = pytest.mark.xdist_group("captions")


def save_blip(folder: Path) -> Path:
    """Write a tiny BLIP captioner, whose words depend on the image."""
    import transformers as t

    torch.manual_seed(3)
    ids = save_tokenizer(folder, BERT_NAMES)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    words = {"bos_token_id": ids["[CLS]"], "sep_token_id": ids["[SEP]"], "pad_token_id": ids["[PAD]"]}
    text = {"vocab_size": len(ids), "max_position_embeddings": 32, "encoder_hidden_size": 16, **shape, **words}
    text |= {"eos_token_id": ids["[SEP]"], "initializer_range": 1.0}
    vision = {"image_size": SIDE, "patch_size": 8, "initializer_range": 1.0, **shape}
    model = t.BlipForConditionalGeneration(t.BlipConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.eval().save_pretrained(folder)
    save_processor(folder, **SIGLIP_PROCESSOR | {"image_processor_type": "BlipImageProcessor"})
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    save_blip(folder / "blip")
    rng = np.random.default_rng(0)
    lines = ["id,img,text,label"]
    for k in range(40):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels // 4 + rng.integers(0, 192, 3, dtype=np.uint8)).save(folder / f"p{k}.png")
        lines.append(f"r{k},p{k}.png,joke {k},{'ab'[k % 2]}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def writer(place: Path, cache: Path, *, longest: int = 6) -> Captioner:
    captions = Captions(model=Published(name=str(place / "blip")), longest=longest)
    found = captioner(captions, cache=cache, device="cpu", max_pixels=10**6)
    assert isinstance(found, Captioner)
    return found


def pictures(place: Path, count: int) -> list[Path]:
    return [place / f"p{k}.png" for k in range(count)]


def test_captions_are_those_of_transformers(place, tmp_path):
    from transformers import BlipForConditionalGeneration

    ours = writer(place, tmp_path)(pictures(place, 20))
    model = BlipForConditionalGeneration.from_pretrained(place / "blip").eval()
    source = Published(name=str(place / "blip"))
    tokenizer, processor = Tokenizer.from_str(read_tokenizer(source).json), read_image_processor(source)
    for path, caption in zip(pictures(place, 20), ours, strict=True):
        pixels = torch.from_numpy(processor.apply(Image.open(path)))[None]
        with torch.inference_mode():
            row = model.generate(pixel_values=pixels, max_new_tokens=6, do_sample=False, num_beams=1)[0]
        assert caption == tokenizer.decode(row.tolist(), skip_special_tokens=True).strip()
    assert len(set(ours)) > 1


def test_each_image_is_looked_at_once_and_killed_work_goes_on(place, tmp_path, monkeypatch):
    paths = pictures(place, 40)
    whole = writer(place, tmp_path / "whole")(paths)
    first = writer(place, tmp_path / "cut")
    first(paths[:16])
    with open(first.file, "ab") as file:
        file.write(b'{"image": "cut o')
    again = writer(place, tmp_path / "cut")
    written: list[int] = []
    write = again._write
    monkeypatch.setattr(again, "_write", lambda batch: (written.append(len(batch)), write(batch)))
    assert again(paths) == whole
    assert written == [16, 8]
    warm = writer(place, tmp_path / "whole")
    monkeypatch.setattr(warm, "_write", None)
    assert warm([*paths, paths[0].read_bytes()]) == [*whole, whole[0]]


def test_what_cannot_be_read_has_no_caption(place, tmp_path):
    (tmp_path / "cut.png").write_bytes((place / "p0.png").read_bytes()[:50])
    found = writer(place, tmp_path)([tmp_path / "cut.png", tmp_path / "gone.png", place / "p0.png"])
    assert found[:2] == [None, None]
    assert found[2] is not None


def test_another_model_under_the_same_name_is_refused(place, tmp_path):
    shutil.copytree(place / "blip", tmp_path / "blip")
    captions = pinned(Captions(model=Published(name=str(tmp_path / "blip"))))
    assert captions is not None
    with open(tmp_path / "blip/model.safetensors", "ab") as file:
        file.write(b" ")
    write = captioner(captions, cache=tmp_path, device="cpu", max_pixels=10**6)
    assert write is not None
    with pytest.raises(ConfigError, match=r"The captioner of .* is not the one that was used before"):
        write(pictures(place, 1))


def test_a_model_of_another_kind_is_refused(place, tmp_path):
    shutil.copytree(place / "blip", tmp_path / "bert")
    config = json.loads((tmp_path / "bert/config.json").read_text())
    (tmp_path / "bert/config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    captions = Captions(model=Published(name=str(tmp_path / "bert")))
    write = captioner(captions, cache=tmp_path, device="cpu", max_pixels=10**6)
    assert write is not None
    with pytest.raises(ConfigError, match="is a 'bert' model, but captions are written by a 'blip' model"):
        write(pictures(place, 1))


@pytest.fixture(scope="module")
def trained(place) -> Path:
    values = {
        "data.captions.model": str(place / "blip"),
        "data.captions.longest": 6,
        "data.text_length": 16,
        "model.dim": 8,
        "model.encoders": {"image": None, "text": {"kind": "ngram", "buckets": 256}},
        "train.epochs": 1,
        "run.folder": str(place / "runs"),
        "run.cache": str(place / "cache"),
        "run.device": "cpu",
    }
    result = train(load_config(data=str(place / "rows.csv"), values=values), console=SilentConsole())
    assert result is not None
    return result.model_path


def test_a_model_trained_with_captions_reads_those_of_new_images(place, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASMA_CACHE", str(tmp_path / "cache"))
    saved = SavedModel.load(trained, device="cpu")
    known = saved.data("rows").captions
    assert known is not None
    assert known.model is not None
    assert known.model.sha256 is not None
    told = captions_for(saved, asked=None, device="cpu", console=SilentConsole())
    assert told.describe is not None
    (caption,) = told.describe([place / "p3.png"])
    with_caption = predict_one(saved, image=place / "p3.png", text="joke 3", captions=told)
    assert with_caption == predict_one(saved, image=None, text=f"joke 3 [SEP] {caption}")
    rows = predict_manifest(saved, place / "rows.csv", captions=told, console=SilentConsole())
    plain = predict_manifest(saved, place / "rows.csv", console=SilentConsole())
    assert rows[3].answer is not None
    assert plain[3].answer is not None
    assert rows[3].answer.scores == pytest.approx(with_caption.scores, abs=1e-6)
    assert rows[3].answer.scores != pytest.approx(plain[3].answer.scores, abs=1e-5)


def test_without_the_captioner_one_line_says_what_to_do(place, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASMA_CACHE", str(tmp_path / "cache"))
    (place / "blip").rename(place / "moved")
    try:
        row = ["predict", str(trained), "--image", str(place / "p3.png"), "--text", "joke 3", "--json"]
        failed = CliRunner().invoke(app, row)
        assert failed.exit_code != 0
        assert "where they came from is not here" in failed.stderr
        assert "--captions none" in failed.stderr
        without = CliRunner().invoke(app, [*row, "--captions", "none"])
        elsewhere = CliRunner().invoke(app, [*row, "--captions", str(place / "moved")])
        assert (without.exit_code, elsewhere.exit_code) == (0, 0)
        assert without.stdout != elsewhere.stdout
    finally:
        (place / "moved").rename(place / "blip")
