"""Published ViLBERT weights: they round-trip, what matched is listed, and whatever differs is refused in one line."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from chiasma.core.errors import ConfigError
from chiasma.data.signature import ImageInput, Signature, TextInput, TokensInput
from chiasma.experiment.compose import load_config
from chiasma.model.multimodal import MultimodalModel
from chiasma.model.published import load_published
from chiasma.model.vilbert_weights import load_vilbert, published_state, save_published
from tests.contracts.inputs import signature
from tests.published_vilbert import FEATURE_WIDTH, save_tiny_vilbert, tiny_vilbert_settings

NEEDLESS = ("cls.", "q_dense")
REGIONS = TokensInput(count=5, dim=FEATURE_WIDTH, boxes=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for layout in ("facebook", "community"):
        save_tiny_vilbert(folder / layout, layout=layout)
    return folder


def state_in(weights: Path) -> dict[str, torch.Tensor]:
    return torch.load(weights if weights.is_file() else weights / "pytorch_model.bin", weights_only=True)


def data(words: int, image: TokensInput | ImageInput = REGIONS) -> Signature:
    return signature(text=TextInput(vocabulary=words + 1, length=7, tokenizer="published"), image=image)


def fresh(weights: Path, layout: str, image: TokensInput | ImageInput = REGIONS, **more) -> MultimodalModel:
    """Return a model of a design that names published weights, which it has not loaded yet."""
    folder = weights if weights.is_dir() else weights.parent
    words = len(json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
    values = tiny_vilbert_settings(weights, layout=layout) | more
    torch.manual_seed(0)
    return load_config("vilbert_facebook", values=values).design(data(words, image)).model.build(data(words, image))


@pytest.mark.parametrize("layout", ["facebook", "community"])
def test_a_published_state_dict_round_trips(published, tmp_path, layout):
    weights = published / layout if layout == "community" else published / layout / "pretrained_model.bin"
    model = fresh(weights, layout)
    load_published(model)
    theirs = {name: value for name, value in state_in(weights).items() if not any(n in name for n in NEEDLESS)}
    ours = published_state(model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    save_published(model, tmp_path / "again")
    shutil.copytree(
        weights.parent / "tokenizer" if weights.is_file() else weights / "tokenizer", tmp_path / "again/tokenizer"
    )
    again = fresh(tmp_path / "again", layout)
    load_published(again)
    mine, reloaded = model.state_dict(), again.state_dict()
    assert all(torch.equal(mine[name], reloaded[name]) for name in mine if not name.startswith("head."))


@pytest.mark.parametrize("layout", ["facebook", "community"])
def test_no_weight_of_encoders_and_fusion_stays_as_it_was_drawn(published, layout):
    weights = published / layout if layout == "community" else published / layout / "pretrained_model.bin"
    model = fresh(weights, layout)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_published(model)
    kept = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert kept
    assert all(name.startswith("head.") for name in kept)


def test_what_matched_and_what_was_left_out_is_listed(published):
    model = fresh(published / "community", "community")
    done = load_vilbert(model)
    assert done is not None
    assert done.matched["fusion.joins.1.text_asks.q.weight"] == "bert.encoder.c_layer.1.biattention.query2.weight"
    own = {name for name in model.state_dict() if not name.startswith("head.")}
    assert set(done.matched) == own
    assert "bert.encoder.c_layer.0.biOutput.q_dense1.weight" in done.ignored
    assert all(any(part in name for part in NEEDLESS) for name in done.ignored)
    assert (
        "not needed: biOutput.q_dense1, biOutput.q_dense2, cls.bi_seq_relationship, cls.imagePredictions," in done.words
    )
    assert f"{len(own)} tensors" in done.words


def test_a_design_without_weights_loads_none():
    config = load_config("vilbert_small")
    assert load_vilbert(config.design(signature()).model.build(signature())) is None


def changed(
    published: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Path:
    """Return a copy of the published file with other weights in it."""
    folder = tmp_path / "changed"
    shutil.copytree(published / "facebook", folder)
    weights = folder / "pretrained_model.bin"
    torch.save(change(state_in(weights)), weights)
    return weights


def without(part: str):
    return lambda state: {name: value for name, value in state.items() if part not in name}


def renamed(old: str, new: str):
    return lambda state: {name.replace(old, new): value for name, value in state.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("encoder.layer.3."), r"they lack bert\.encoder\.layer\.3\..* and 10 more\.$"),
        (
            lambda state: state | {"bert.encoder.v_layer.2.output.dense.bias": torch.zeros(16)},
            r"they also have bert\.encoder\.v_layer\.2\.output\.dense\.bias\.$",
        ),
        (
            lambda state: state | {"bert.t_pooler.dense.weight": torch.zeros(24, 13)},
            r"bert\.t_pooler\.dense\.weight is \[24, 13\] instead of \[24, 12\]\.$",
        ),
        (
            lambda state: state | {"bert.embeddings.word_embeddings.weight": torch.zeros(9, 12)},
            r"bert\.embeddings\.word_embeddings\.weight is \[9, 12\] instead of \[\d+, 12\]\.$",
        ),
        (
            lambda state: state | {"bert.embeddings.task_embeddings.weight": torch.zeros(20, 12)},
            r"they also have bert\.embeddings\.task_embeddings\.weight\.$",
        ),
        (without("v_"), r"they lack bert\.v_embeddings\..* and \d+ more\.$"),
        (
            renamed("embeddings.word_", "words.word_"),
            r"one name must end in embeddings\.word_embeddings\.weight, but 0",
        ),
    ],
    ids=[
        "missing layer",
        "extra layer",
        "other width",
        "other vocabulary",
        "task tokens",
        "plain BERT",
        "something else",
    ],
)
def test_other_weights_are_refused_in_one_line_that_names_what_differs(published, tmp_path, change, said):
    model = fresh(changed(published, tmp_path, change), "facebook")
    with pytest.raises(ConfigError, match=rf"^The weights \S+ are not this ViLBERT's: .*{said}") as caught:
        load_published(model)
    assert "\n" not in str(caught.value)


def test_names_with_a_prefix_and_old_norms_are_understood(published, tmp_path):
    def older(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old = {f"module.{name}": value for name, value in state.items()}
        return {
            n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for n, v in old.items()
        }

    model, plain = (
        fresh(changed(published, tmp_path, older), "facebook"),
        fresh(published / "facebook/pretrained_model.bin", "facebook"),
    )
    load_published(model)
    load_published(plain)
    assert torch.equal(
        published_state(model)["bert.embeddings.LayerNorm.bias"],
        published_state(plain)["bert.embeddings.LayerNorm.bias"],
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "v_num_attention_heads",
            4,
            "says v_num_attention_heads=4, but the settings make it 2: model.fusion.image.heads",
        ),
        ("t_biattention_id", [1, 3], r"says t_biattention_id=\[1, 3\], but .* \[2, 3\]: model.fusion.text_joins"),
        ("pooling_method", "sum", 'says fusion_method="sum", but the settings make it "mul": model.fusion.combine'),
        ("bi_hidden_size", 48, "says bi_hidden_size=48, but the settings make it 24: model.dim"),
    ],
)
def test_a_configuration_of_another_architecture_is_refused_though_the_weights_would_fit(
    published, tmp_path, key, value, said
):
    shutil.copytree(published / "facebook", tmp_path / "other")
    file = tmp_path / "other" / "bert_base_6layer_6conect.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ConfigError, match=said):
        fresh(tmp_path / "other" / "pretrained_model.bin", "facebook")


def test_weights_that_were_changed_since_are_refused(published, tmp_path):
    weights = changed(published, tmp_path, lambda state: state)
    model = fresh(weights, "facebook")
    torch.save(state_in(weights) | {"cls.more": torch.zeros(1)}, weights)
    os.utime(weights, ns=(0, 0))
    with pytest.raises(ConfigError, match=r"The weights file of .* is not the one that was used before"):
        load_published(model)


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_a_truncated_file_is_refused(published, tmp_path, ending):
    weights = changed(published, tmp_path, lambda state: state)
    if ending == "safetensors":
        state = {name: value.clone() for name, value in state_in(weights).items()}
        weights = weights.with_suffix(".safetensors")
        safetensors.torch.save_file(state, weights)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    model = fresh(weights, "facebook")
    with pytest.raises(ConfigError, match=r"The weights \S+ are damaged"):
        load_published(model)


class Marker:
    """Writes a file where anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "executed"))


def test_code_in_a_pickle_is_refused_and_never_run(published, tmp_path):
    weights, marker = changed(published, tmp_path, lambda state: state), tmp_path / "marker"
    with open(weights, "wb") as file:
        pickle.dump({"bert.embeddings.word_embeddings.weight": Marker(marker)}, file)
    model = fresh(weights, "facebook")
    with pytest.raises(ConfigError, match="a pickle of more than tensors, which is never run"):
        load_published(model)
    assert not marker.exists()


def test_a_file_that_is_not_there_says_where_it_can_be_had(tmp_path):
    values = {"model.fusion.weights": str(tmp_path / "weights" / "vilbert.bin")}
    with pytest.raises(
        ConfigError, match=r"does not exist. Where there is a network: curl .*--set model.fusion.weights=FILE"
    ):
        load_config("vilbert_facebook", values=values).design(data(40))


PICTURES = ImageInput(channels=3, height=16, width=16)
FRESH = {"model.fusion.fresh_image": True}


@pytest.mark.parametrize("image", [PICTURES, TokensInput(count=5, dim=8, boxes=True)], ids=["pixels", "other features"])
def test_how_images_are_read_begins_anew_where_the_settings_allow_it(published, image):
    weights = published / "facebook/pretrained_model.bin"
    model = fresh(weights, "facebook", image, **FRESH)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = load_vilbert(model)
    assert done is not None
    assert done.fresh
    assert all(name.startswith("encoders.image.") for name in done.fresh)
    assert "from scratch, because model.fusion.fresh_image=true: encoders.image." in done.words
    after = model.state_dict()
    assert all(
        torch.equal(after[name], before[name]) == (name in done.fresh or name.startswith("head.")) for name in after
    )


def test_published_features_are_read_as_published_though_the_settings_allow_otherwise(published):
    done = load_vilbert(fresh(published / "facebook/pretrained_model.bin", "facebook", **FRESH))
    assert done is not None
    assert done.fresh == ()


def test_pixels_are_refused_where_the_settings_do_not_allow_to_begin_anew(published):
    model = (
        load_config("vilbert_facebook", values=tiny_vilbert_settings(published / "facebook/pretrained_model.bin"))
        .design(data(40))
        .model
    )
    with pytest.raises(ConfigError, match=r"chiasma features DATA --extractor resnet .* then --features image="):
        model.check(data(40, PICTURES))


def test_word_pieces_of_the_data_are_refused(published):
    settings = tiny_vilbert_settings(published / "facebook/pretrained_model.bin")
    model = load_config("vilbert_facebook", values=settings).design(data(40)).model
    with pytest.raises(ConfigError, match=r"data\.tokenizer=google-bert/bert-base-uncased"):
        model.check(signature(image=REGIONS, text=TextInput(vocabulary=40, length=7)))


def test_only_a_vilbert_is_written_in_the_published_names(tmp_path):
    model = load_config("cross_attention").design(signature()).model.build(signature())
    with pytest.raises(
        ConfigError, match="Only a ViLBERT has published names, but the model's fusion is cross_attention"
    ):
        save_published(model, tmp_path)
    pixels = load_config("vilbert_small").design(signature()).model.build(signature())
    with pytest.raises(ConfigError, match=r"differs from a published ViLBERT in encoders.image.cells"):
        save_published(pixels, tmp_path)
