"""``docs/extending.md`` is run, block by block; what it adds is found again by whoever starts anew."""

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from chiasma.cli.main import app
from chiasma.core.errors import ConfigError, DataError
from chiasma.extend import (
    BaseFeatureExtractor,
    BaseMultimodalModel,
    get_feature_extractor,
    get_model,
    list_available_extractors,
    list_available_models,
    register_feature_extractor,
    register_model,
)
from chiasma.model import plugins
from chiasma.model.components import list_components
from chiasma.model.encoders.registered_extractors import RegisteredExtractor
from chiasma.model.registered_models import regions_of
from chiasma.model.whole import ModelPlugin
from tests.contracts.inputs import TEXT, batch, signature

PAGE = Path(__file__).parent.parent / "docs/extending.md"
MODULES = ("my_models", "my_extractors")

pytestmark = pytest.mark.xdist_group("extending")


def blocks() -> list[tuple[str, str]]:
    """Return language and text of each code block of the page."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def named() -> dict[str, str]:
    """Return the page's modules by file name."""
    return {match[1]: text for _, text in blocks() if (match := re.match(r"# (\w+\.py)\n", text))}


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Iterator[Path]:
    """Write the page's modules into an empty folder, with nothing registered."""
    for name, text in named().items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(plugins.VARIABLE, "")
    for name in ("RUNS", "CACHE", "STATE"):
        monkeypatch.setenv(f"CHIASMA_{name}", str(tmp_path / name.lower()))
    forget(monkeypatch)
    yield tmp_path
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a process that has imported none of the modules."""
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_stands_for", {})
    plugins._import_once.cache_clear()
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_every_block_of_the_page_runs(fresh, monkeypatch):
    assert set(named()) == {"my_models.py", "my_extractors.py"}
    ran = 0
    for language, text in blocks():
        if language == "bash":
            for line in filter(None, text.splitlines()):
                ran += 1
                words = shlex.split(line)
                if words[0] == "export":
                    monkeypatch.setenv(*words[1].split("=", 1))
                    continue
                result = CliRunner().invoke(app, words[1:])
                assert result.exit_code == 0, f"{line}\n{result.output}"
        elif language == "python" and not re.match(r"# \w+\.py\n", text):
            ran += 1
            exec(compile(text, str(PAGE), "exec"), {"__name__": "page"})
    assert ran == 9


def test_a_new_process_finds_what_its_parent_imported(fresh, monkeypatch):
    import my_models

    assert str(fresh / "my_models.py") in my_models.__file__
    forget(monkeypatch)
    spec = ModelPlugin.from_dict({"name": "my_model"})
    assert spec.options == {"hidden": 64}
    assert "my_models" in sys.modules


def test_without_the_module_one_line_names_the_variable(fresh, monkeypatch):
    with pytest.raises(ConfigError, match="A module that registers one is named in CHIASMA_PLUGINS"):
        ModelPlugin.from_dict({"name": "my_model"})
    monkeypatch.setenv(plugins.VARIABLE, "no_such_module")
    with pytest.raises(ConfigError, match="CHIASMA_PLUGINS: no_such_module cannot be imported"):
        list_available_models()


def test_entry_points_of_a_package_may_name_the_classes(fresh):
    (text,) = [text for language, text in blocks() if language == "toml"]
    groups = tomllib.loads(text.replace("my_package.", ""))["project"]["entry-points"]
    metadata = fresh / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    assert ModelPlugin.from_dict({"name": "my_model", "options": {"hidden": 8}}).options == {"hidden": 8}
    found = {f"{each.part} {each.name}": each for each in list_components()}
    assert found["model plugin:my_model"].origin == "my-package 1.0"
    assert found["extractor plugin:my_extractor"].summary == "The colours of the four quarters of an image."


def test_settings_of_a_registered_model_are_checked(fresh):
    import my_models  # noqa: F401

    with pytest.raises(ConfigError, match="hiden"):
        ModelPlugin.from_dict({"name": "my_model", "options": {"hiden": 8}})
    with pytest.raises(ConfigError, match=r"hidden.*wide"):
        ModelPlugin.from_dict({"name": "my_model", "options": {"hidden": "wide"}})


def test_a_name_belongs_to_one_class(fresh):
    import my_models  # noqa: F401

    with pytest.raises(ConfigError, match=r"'my_model' is my_models.MyMultimodalModel already"):

        @register_model("my_model")
        class Other(BaseMultimodalModel):
            pass

    for decorate, base in (
        (register_model, "BaseMultimodalModel"),
        (register_feature_extractor, "BaseFeatureExtractor"),
    ):
        with pytest.raises(ConfigError, match=f"must inherit {base}"):
            decorate("another")(int)  # pyright: ignore[reportArgumentType]


def test_a_model_is_told_of_masks_boxes_and_sizes(fresh):
    seen = {}

    @register_model("looking")
    class Looking(BaseMultimodalModel):
        def __init__(self, num_labels, num_regions, **rest):
            super().__init__()
            seen.update(rest, num_labels=num_labels, num_regions=num_regions)
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, **given):
            seen.update(given)
            return {"logits": torch.zeros(len(given["input_ids"]), seen["num_labels"]) + self.weight}

    data = signature()
    given = batch(data, absent={"image": [1]})
    model = ModelPlugin.from_dict({"name": "looking"}).build(data)
    assert (seen["num_labels"], seen["vocab_size"]) == (3, TEXT.vocabulary)
    assert model(given).logits.shape == (len(given), 3)
    assert seen["visual_features"].shape[1:] == (seen["num_regions"], seen["visual_dim"])
    assert seen["spatial_locations"].shape == (len(given), seen["num_regions"], 5)
    assert torch.equal(seen["attention_mask"], (given.inputs["text"] != 0).long())
    assert torch.equal(seen["visual_attention_mask"].any(1), given.present["image"])
    with pytest.raises(ConfigError, match="Looking reads image and text, but the data have text"):
        ModelPlugin.from_dict({"name": "looking"}).build(signature(text=TEXT))
    seen["num_labels"] = 2
    with pytest.raises(ConfigError, match=r"logits must be a tensor of \(\d+, 3\), but are \(\d+, 2\)"):
        model(given)


def test_patches_are_the_picture_and_boxes_say_where():
    image = torch.arange(2 * 3 * 13 * 9, dtype=torch.float32).reshape(2, 3, 13, 9)
    found = regions_of(image, torch.tensor([True, False]))
    assert found.x.shape == (2, 5 * 3, 3 * 9)
    assert torch.equal(found.x[0, 4].reshape(3, 3, 3), image[0, :, 3:6, 3:6])
    assert found.mask.any(1).tolist() == [True, False]
    assert found.boxes is not None
    torch.testing.assert_close(found.boxes[0, 4], torch.tensor([1 / 3, 1 / 5, 2 / 3, 2 / 5, 1 / 15]))


def test_models_of_document_003_are_found_by_name():
    assert {"vilbert_hf", "vilbert_facebook", "vilbert_small", "concat"} <= set(list_available_models())
    with torch.device("meta"):
        model = get_model("vilbert_hf", num_labels=2)
    assert sum(parameter.numel() for parameter in model.parameters()) > 150e6
    with pytest.raises(ConfigError, match=r"no model 'vilbert_hff'.* Did you mean 'vilbert_hf'"):
        get_model("vilbert_hff")
    with pytest.raises(ConfigError, match="vilbert_hf is a preset, which has no options here, but got dim"):
        get_model("vilbert_hf", dim=3)


def test_extractors_are_found_by_name():
    assert {"pixels", "resnet", "clip", "dinov2", "t5"} <= set(list_available_extractors())
    encoded = get_feature_extractor("pixels", side=8, patch=4)
    assert "pixels 8" in encoded.identity.name
    with pytest.raises(ConfigError, match="no extractor 'pixel'"):
        get_feature_extractor("pixel")


def test_a_registered_extractor_is_padded_masked_and_known_by_its_weights(fresh):
    import my_extractors

    few = my_extractors.MyFeatureExtractor(num_regions=6)
    encoded = RegisteredExtractor(few, "x").encode([Image.new("RGB", (8, 8), "red"), Image.new("RGB", (9, 4))])
    assert encoded.tokens.shape == (2, 6, 8)
    assert encoded.mask is not None
    assert encoded.mask.sum(1).tolist() == [4, 4]
    names = {RegisteredExtractor(my_extractors.MyFeatureExtractor(seed=seed), "x").identity for seed in (0, 0, 1)}
    assert len(names) == 2
    wide = my_extractors.MyFeatureExtractor(num_regions=3)
    with pytest.raises(DataError, match=r"at most \(3, 8\) and a box of 5 numbers for each, but returned \(4, 8\)"):
        RegisteredExtractor(wide, "x").encode([Image.new("RGB", (8, 8))])


def test_both_bases_are_abstract():
    for base in (BaseMultimodalModel, BaseFeatureExtractor):
        with pytest.raises(TypeError, match="abstract"):
            base()
