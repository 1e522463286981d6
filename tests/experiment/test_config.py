"""Settings: composed from presets, files and the command line, validated as a whole, and none of them dead."""

import json
from pathlib import Path

import pytest

from chiasma.core.errors import ConfigError
from chiasma.data.signature import ImageInput, Signature, Target, TextInput
from chiasma.experiment.compose import load_config, preset_names, preset_title
from chiasma.experiment.config import Budget, RunConfig, default_design
from chiasma.experiment.config_schema import config_schema
from chiasma.model.cost import example_batch
from chiasma.model.fusion import CrossAttention, ViLBERT
from tests.experiment.toy_run import SIGNATURE
from tests.published import save_backbone

BOTH = Signature(
    inputs={"image": ImageInput(channels=3, height=8, width=8), "text": TextInput(vocabulary=50, length=6)},
    target=Target(task="classification", labels=("no", "yes")),
)


def only(modality: str) -> Signature:
    return Signature(inputs={modality: BOTH.inputs[modality]}, target=BOTH.target)


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_without_settings_the_defaults_hold():
    assert load_config() == RunConfig()


def test_the_default_preset_is_the_defaults():
    assert load_config("default") == RunConfig()


def test_a_rate_in_scientific_notation_is_a_number():
    assert load_config(overrides=["optim.lr=3e-5"]).optim.lr == 3e-5


def test_later_layers_win(tmp_path):
    write(tmp_path, "below.yaml", "optim: {lr: 0.1, weight_decay: 0.5}\nrun: {seed: 3}")
    file = write(tmp_path, "above.yaml", "include: [below.yaml]\noptim: {lr: 0.2}")
    config = load_config(file, data="digit_claims:hard", overrides=["run.seed=5"], values={"run.workers": 1})
    assert (config.optim.lr, config.optim.weight_decay, config.run.seed, config.run.workers) == (0.2, 0.5, 5, 1)
    assert config.data.source == "digit_claims:hard"


def test_a_file_can_include_a_preset(tmp_path):
    config = load_config(write(tmp_path, "mine.yaml", "include: [cross_attention]\nrun: {seed: 1}"))
    assert config.model.fusion is not None
    assert config.model.fusion.kind == "cross_attention"


def test_another_kind_replaces_a_component_whole(tmp_path):
    file = write(tmp_path, "mine.yaml", "model: {fusion: {kind: concat, hidden: 32}}")
    config = load_config(file, overrides=["model.fusion.kind=gated"])
    assert config.model.fusion is not None
    assert config.model.fusion.to_dict() == {"kind": "gated"}


def test_a_part_of_a_default_component_can_be_set():
    assert load_config(overrides=["optim.algorithm.beta1=0.8"]).optim.algorithm.to_dict()["beta1"] == 0.8


def test_environment_variables_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_RATE", "0.25")
    assert load_config(write(tmp_path, "mine.yaml", "optim: {lr: '${oc.env:MY_RATE}'}")).optim.lr == 0.25


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "rows.csv", "id,text,label\n")
    config = load_config(data="rows.csv", values={"run.folder": "my_runs", "data.features.image": "tokens.npz"})
    assert config.data.source == str(tmp_path / "rows.csv")
    assert config.run.folder == str(tmp_path / "my_runs")
    assert config.data.features["image"] == str(tmp_path / "tokens.npz")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lrr=1"], "optim.lrr: unknown key. Did you mean 'lr'?"),
        (["optimm.lr=1"], "optimm: unknown key. Did you mean 'optim'?"),
        (["optim.lr=-1"], "optim.lr: Input should be greater than 0, but got -1."),
        (["optim.lr=fast"], "optim.lr: Input should be a valid number"),
        (["optim.lr"], "--set optim.lr: expected path=value, such as optim.lr=3e-5."),
        (["data.columns.text=[a"], "--set data.columns.text=[a: the value is not valid YAML"),
        (["optim.lr=${oc.env:NOT_THERE_AT_ALL}"], "optim.lr: "),
        (["model.fusion.kind=telepathy"], "model.fusion.kind: 'telepathy' is unknown"),
        (["run.budget=soon"], "a budget is a time such as 90s, 10m or 1h30m, or a number of trials such as 200"),
        (["run.budget=0m"], "but got '0m'"),
        (["train.batch_size=10", "train.accumulation=3"], "batch_size must be divisible by accumulation"),
        (["evaluate.rungs=[0.5,0.2,1]"], "rungs must rise to 1, but got 0.5, 0.2, 1"),
        (["evaluate.objectives=[flops]"], "objectives start with error"),
        (["search.proposers=[local,local]"], "each proposer is named once"),
        (["run.device=toaster"], "run.device: "),
        (["optim=3"], "optim: "),
    ],
)
def test_a_bad_setting_is_one_line_with_path_rule_and_value(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: [1, 2", "is not valid YAML"),
        ("- 1\n- 2", "must hold settings by name, but it holds a list"),
        ("include: 3", "include must be a list of names or files, but got 3"),
        ("include: [nowhere.yaml]", "No config 'nowhere.yaml': neither a file nor a preset."),
        ("optim: {lr: 1}\noptim: {lr: 2}", "is not valid YAML"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "mine.yaml", text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistyped_preset_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'cross_attention'"):
        load_config("cros_attention")


def test_a_file_that_includes_itself_is_refused(tmp_path):
    write(tmp_path, "a.yaml", "include: [b.yaml]")
    file = write(tmp_path, "b.yaml", "include: [a.yaml]")
    with pytest.raises(ConfigError, match="includes itself"):
        load_config(file)


def test_a_config_survives_the_json_of_a_run():
    config = load_config("cross_attention", overrides=["run.budget=200", "model.encoders.image=null"])
    assert RunConfig.from_dict(json.loads(config.to_json())) == config


@pytest.mark.parametrize(
    ("text", "seconds", "trials", "words"),
    [
        ("10m", 600, None, "10 minutes"),
        ("90s", 90, None, "1.5 minutes"),
        ("1h", 3600, None, "1 hour"),
        ("1h30m", 5400, None, "1.5 hours"),
        ("20s", 20, None, "20 seconds"),
        ("200", None, 200, "200 trials"),
        ("1", None, 1, "1 trial"),
    ],
)
def test_budgets_are_read_and_said(text, seconds, trials, words):
    budget = Budget.parse(text)
    assert (budget.seconds, budget.trials, budget.words) == (seconds, trials, words)


def test_a_bad_budget_names_the_option():
    with pytest.raises(ConfigError, match=r"--budget: a budget is a time.*but got 'ten minutes'"):
        Budget.parse("ten minutes")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return {"image": str(save_backbone("clip", folder / "clip")), "text": str(save_backbone("bert", folder / "bert"))}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_a_design(name, backbones):
    encoders = load_config(name).model.encoders
    pretrained = [modality for modality, encoder in encoders.items() if encoder and encoder.kind == "pretrained"]
    tiny = {f"model.encoders.{modality}.name": backbones[modality] for modality in pretrained}
    if isinstance(fusion := load_config(name).model.fusion, ViLBERT) and fusion.weights is not None:
        # They are files of a gigabyte: tests/experiment/test_vilbert.py trains these presets with tiny ones.
        tiny |= {"model.fusion.weights": None, "model.fusion.fresh_image": False}
    assert load_config(name, values=tiny).design(BOTH).model.encoders
    assert preset_title(name)


def test_a_missing_modality_changes_the_default_design():
    assert set(default_design(BOTH).model.encoders) == {"image", "text"}
    assert default_design(only("text")).model.fusion is None


def test_null_leaves_a_modality_out():
    design = load_config(overrides=["model.encoders.image=null"]).design(BOTH)
    assert list(design.model.encoders) == ["text"]
    assert design.model.fusion is None


@pytest.mark.parametrize("name", ["cross_attention", "early"])
def test_a_fusion_that_looks_at_tokens_gets_encoders_that_hand_them_over(name):
    model = load_config(name).design(BOTH).model
    assert [encoder.pool for encoder in model.encoders.values()] == ["none", "none"]


def test_what_the_settings_say_of_an_encoder_beats_what_suits_the_fusion():
    model = load_config("early", overrides=["model.encoders.text.kind=ngram"]).design(BOTH).model
    assert model.encoders["text"].kind == "ngram"


def test_an_encoder_for_a_modality_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"model\.encoders\.image: the data has no such modality, only text"):
        load_config("linear").design(only("text"))


def test_leaving_out_everything_is_refused():
    with pytest.raises(ConfigError, match="all modalities of the data are left out: text"):
        load_config("image_only").design(only("text"))


def test_the_schema_describes_every_setting_of_a_run():
    schema = config_schema()
    bare = [
        f"{title}.{name}"
        for title, part in [("RunConfig", schema), *schema["$defs"].items()]
        for name, field in part.get("properties", {}).items()
        if title.endswith(("Section", "RunConfig", "Budget", "DataSpec", "LoopSpec", "OptimSpec"))
        and not field.get("description")
    ]
    assert not bare


def test_a_trunk_that_grows_looks_at_several_tokens():
    spec = load_config("growth").design(SIGNATURE).model
    model = spec.build(SIGNATURE).eval()
    fused = model.fuse(model.encode(example_batch(SIGNATURE, 3)))
    assert (fused.mask.sum(1) >= 4).all()
    memes = load_config("hateful_memes").model.fusion
    assert memes == CrossAttention(pool="none", depth=1, heads=8, expansion=2, dropout=0.2)
