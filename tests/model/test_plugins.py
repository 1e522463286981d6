"""A third party's package is found by its entry points, checked by its own spec, and used like our own parts."""

import sys
from pathlib import Path

import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.model.components import list_components
from chiasma.model.multimodal import ModelSpec
from tests.contracts.inputs import ROWS, batch, signature

MODULE = '''
"""A package of a third party."""

from typing import ClassVar

import torch
from torch import nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Output, Tokens
from chiasma.data.signature import TextInput
from chiasma.model.attention import AttentionKernel, AttentionSettings
from chiasma.model.encoders.encoder import Encoder, EncoderSettings
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from chiasma.model.whole import WholeModel, WholeModelSettings


class LongestFusion(Fusion):
    def __init__(self, dim, scale):
        super().__init__()
        self.scale = scale
        self.map = nn.Linear(dim, dim)

    def forward(self, image, text):
        return Tokens.single(self.map(torch.maximum(image.mean(), text.mean())) * self.scale)


class Longest(FusionSettings):
    """Take the larger of the two, feature by feature."""

    scale: float = 1.0

    def build(self, dim):
        return LongestFusion(dim, self.scale)


class LettersEncoder(Encoder):
    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(1, dim)

    def forward(self, inputs):
        return Tokens.single(self.map((inputs != 0).sum(1, keepdim=True).float()))


class Letters(EncoderSettings):
    """Count the words of a text."""

    accepts: ClassVar = (TextInput,)

    def build(self, dim, input):
        return LettersEncoder(dim)


class MeanKernel(AttentionKernel):
    def forward(self, q, k, v, mask):
        weights = mask.to(v.dtype) / mask.sum(-1, keepdim=True)
        return (weights @ v).expand_as(q)


class Mean(AttentionSettings):
    """Average all values."""

    def build(self, head_dim):
        return MeanKernel()


class Whole(WholeModel):
    def __init__(self, labels):
        super().__init__()
        self.map = nn.Linear(1, labels)

    def forward(self, batch, targets=None):
        return Output(self.map(batch.inputs["image"].mean((1, 2, 3))[:, None]))


class Brightness(WholeModelSettings):
    """Judge an image by its brightness."""

    def build(self, signature):
        return Whole(signature.target.outputs)


class Stranger(Spec):
    """Not a fusion."""
'''

ENTRY_POINTS = """
[chiasma.fusion]
longest = thirdparty_parts:Longest
stranger = thirdparty_parts:Stranger
[chiasma.encoder]
letters = thirdparty_parts:Letters
[chiasma.attention]
mean = thirdparty_parts:Mean
[chiasma.model]
brightness = thirdparty_parts:Brightness
"""


@pytest.fixture(autouse=True)
def third_party_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a distribution with one plugin of each kind for the length of a test."""
    (tmp_path / "thirdparty_parts.py").write_text(MODULE)
    metadata = tmp_path / "thirdparty_parts-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty-parts\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("thirdparty_parts", None)


def design(**changes: object) -> ModelSpec:
    encoders = {"image": {"kind": "pixels"}, "text": {"kind": "bert", "depth": 1}}
    return ModelSpec.from_dict({"dim": 16, "encoders": encoders, "fusion": {"kind": "concat"}, **changes})


def check_that_it_runs(spec: ModelSpec) -> None:
    model = spec.build(signature())
    logits = model(batch(signature())).logits
    assert logits.shape == (ROWS, 3)
    logits.square().sum().backward()
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_a_fusion_plugin_takes_the_place_of_ours():
    check_that_it_runs(design(fusion={"kind": "plugin", "name": "longest", "options": {"scale": 2.0}}))


def test_an_encoder_plugin_takes_the_place_of_ours():
    letters = {"kind": "plugin", "name": "letters"}
    check_that_it_runs(design(encoders={"image": {"kind": "pixels"}, "text": letters}))


def test_an_attention_plugin_goes_wherever_attention_goes():
    mean = {"kind": "plugin", "name": "mean", "options": {"projections": {"q": False}}}
    spec = design(fusion={"kind": "cross_attention", "attention": mean})
    check_that_it_runs(spec)


def test_a_whole_model_replaces_everything_and_absent_images_stay_unseen():
    spec = ModelSpec.from_dict({"whole": {"kind": "plugin", "name": "brightness"}})
    check_that_it_runs(spec)
    torch.manual_seed(0)
    model = spec.build(signature())
    clean = batch(signature(), absent={"image": [1]})
    logits = model(clean).logits
    clean.inputs["image"][1] = float("nan")
    assert torch.equal(model(clean).logits, logits)


def test_a_whole_model_beside_encoders_is_refused():
    with pytest.raises(ConfigError, match="replaces encoders, fusion and trunk, but encoders, fusion are given"):
        design(whole={"kind": "plugin", "name": "brightness"})


def test_defaults_are_filled_in_so_that_equal_designs_have_equal_hashes():
    short = design(fusion={"kind": "plugin", "name": "longest"})
    long = design(fusion={"kind": "plugin", "name": "longest", "options": {"scale": 1.0}})
    assert short == long
    assert short.content_hash() == long.content_hash()


def test_an_unknown_plugin_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"No plugin 'longst' .*'chiasma.fusion'. Did you mean 'longest'\?"):
        design(fusion={"kind": "plugin", "name": "longst"})


def test_an_unknown_option_is_refused_by_the_plugins_own_spec():
    with pytest.raises(ConfigError, match=r"plugin 'longest'.scael: unknown key. Did you mean 'scale'\?"):
        design(fusion={"kind": "plugin", "name": "longest", "options": {"scael": 2.0}})


def test_an_option_out_of_type_is_refused():
    with pytest.raises(ConfigError, match=r"plugin 'longest'.scale"):
        design(fusion={"kind": "plugin", "name": "longest", "options": {"scale": "wide"}})


def test_an_object_that_is_no_fusion_is_refused():
    with pytest.raises(ConfigError, match=r"must be a subclass of chiasma.model.fusion.fusion.FusionSettings"):
        design(fusion={"kind": "plugin", "name": "stranger"})


def test_installed_plugins_are_listed_with_their_package():
    theirs = {(c.part, c.name): c for c in list_components() if c.origin != "chiasma"}
    assert set(theirs) == {
        ("fusion", "plugin:longest"),
        ("fusion", "plugin:stranger"),
        ("encoder", "plugin:letters"),
        ("attention", "plugin:mean"),
        ("model", "plugin:brightness"),
    }
    assert theirs["encoder", "plugin:letters"].summary == "Count the words of a text."
    assert theirs["encoder", "plugin:letters"].origin == "thirdparty-parts 1.2"


def test_all_our_own_components_are_listed_with_a_sentence():
    ours = [component for component in list_components() if component.origin == "chiasma"]
    names = {(component.part, component.name) for component in ours}
    assert ("fusion", "multiplicative") in names
    assert ("encoder", "convolution") in names
    assert ("attention", "dot_product") in names
    assert ("head", "regression") in names
    assert len(names) == len(ours)
    assert all(component.summary.endswith(".") for component in ours)
