"""Pretrained backbones: the same numbers as transformers', what trains, what is refused."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from chiasma.core.errors import ConfigError
from chiasma.core.rng import seed_torch
from chiasma.data.batch import Batch
from chiasma.data.published import Published
from chiasma.data.published_images import read_image_processor
from chiasma.data.published_text import SHIFT, encode_published, read_tokenizer
from chiasma.data.signature import ImageInput, Signature, Target, TextInput
from chiasma.evaluate.probe import probe
from chiasma.model.cost import cost
from chiasma.model.encoders import Pretrained
from chiasma.model.encoders.backbone import repeated_layers, width_of
from chiasma.model.encoders.pretrained import PretrainedEncoder, load_published
from chiasma.model.multimodal import ModelSpec
from chiasma.model.recompute import recompute_activations
from tests.contracts.encoders import EncoderContract
from tests.published import IMAGE_KINDS, PADDING, SIDE, TEXT_KINDS, VIT_PROCESSOR, save_backbone, save_processor

DIM = 12
LENGTH = 12
TEXTS = ["Look how many people", "a cat", "", "love you! not 3 dogs", "the red number is not the blue number of it all"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    return {kind: save_backbone(kind, root / kind) for kind in dict.fromkeys(IMAGE_KINDS + TEXT_KINDS)}


def image_input(folder: Path) -> ImageInput:
    found = read_image_processor(Published(name=str(folder)))
    height, width = found.framing.size
    return ImageInput(channels=3, height=height, width=width, mean=found.mean, deviation=found.deviation)


def text_input(folder: Path, length: int = LENGTH) -> TextInput:
    found = read_tokenizer(Published(name=str(folder)))
    return TextInput(
        vocabulary=found.rules.vocabulary + SHIFT,
        length=length,
        tokenizer=found.sha256,
        padding=found.rules.padding,
        special=tuple(each + SHIFT for each in found.rules.special),
    )


def encoder_of(folder: Path, reads: str, *, dim: int = DIM, loaded: bool = True, **settings) -> PretrainedEncoder:
    spec = Pretrained(name=str(folder), **settings).found(reads)
    input = image_input(folder) if reads == "image" else text_input(folder)
    spec.check(reads, input)
    torch.manual_seed(1)
    encoder = spec.build(dim, input)
    assert isinstance(encoder, PretrainedEncoder)
    if loaded:
        encoder.load_published()
    return encoder.eval()


def tokenized(folder: Path, texts: list[str]) -> torch.Tensor:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(read_tokenizer(Published(name=str(folder))).json)
    ids, _ = encode_published(tokenizer, texts, length=LENGTH)
    return torch.from_numpy(ids).long()


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(40, 61), (90, 33), (24, 24), (11, 50)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


def seen(folder: Path) -> torch.Tensor:
    framing = read_image_processor(Published(name=str(folder))).framing
    return torch.from_numpy(np.stack([framing.apply(picture) for picture in pictures()])).float() / 255


@torch.no_grad()
def theirs(folder: Path, reads: str, texts: list[str] = TEXTS):
    """Return what transformers' own pieces give, from the same files."""
    import transformers as t

    classes = {
        ("t5", "text"): t.T5EncoderModel,
        ("clip", "text"): t.CLIPTextModel,
        ("clip", "image"): t.CLIPVisionModel,
        ("siglip", "image"): t.SiglipVisionModel,
    }
    model = classes.get((folder.name, reads), t.AutoModel).from_pretrained(folder).eval()
    if reads == "image":
        processor = t.AutoImageProcessor.from_pretrained(folder, backend="pil")
        return model, model(pixel_values=processor(pictures(), return_tensors="pt")["pixel_values"])
    given = t.AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    return model, model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])


@pytest.mark.parametrize("kind", IMAGE_KINDS)
@torch.no_grad()
def test_images_give_what_transformers_gives_on_the_same_files(folders, kind):
    encoder = encoder_of(folders[kind], "image")
    ours = encoder.see(seen(folders[kind])).x
    model, out = theirs(folders[kind], "image")
    expected = out.last_hidden_state
    if kind == "resnet":
        expected = expected.flatten(2).transpose(1, 2)
    if kind == "clip":
        norm = next(module for name, module in model.named_modules() if name.endswith("post_layernorm"))
        torch.testing.assert_close(ours[:, 0], out.pooler_output, atol=1e-5, rtol=1e-5)
        expected = norm(expected)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", TEXT_KINDS)
@torch.no_grad()
def test_texts_give_what_transformers_gives_on_the_same_files(folders, kind):
    encoder = encoder_of(folders[kind], "text")
    ids = tokenized(folders[kind], TEXTS)
    tokens = encoder.read(ids)
    _, out = theirs(folders[kind], "text")
    counted = ids != 0
    assert torch.equal(tokens.mask, counted)
    torch.testing.assert_close(tokens.x[counted], out.last_hidden_state[counted], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_end_of_clips_texts_is_what_clip_pools(folders):
    encoder = encoder_of(folders["clip"], "text", pool="cls")
    pooled = encoder(tokenized(folders["clip"], TEXTS))
    _, out = theirs(folders["clip"], "text")
    torch.testing.assert_close(pooled.x[:, 0], encoder.project(out.pooler_output), atol=1e-5, rtol=1e-5)


def test_ids_are_one_higher_and_padding_is_zero_whatever_the_tokenizer_pads_with(folders):
    found = read_tokenizer(Published(name=str(folders["distilbert"])))
    assert found.rules.padding == PADDING
    ids = tokenized(folders["distilbert"], ["a cat", ""])
    assert (ids[0] == 0).sum() == LENGTH - 4
    assert ids[1, :2].tolist() == [1 + SHIFT, 2 + SHIFT]
    encoder = encoder_of(folders["distilbert"], "text")
    handed = []
    encoder.backbone.register_forward_pre_hook(lambda _, __, given: handed.append(given), with_kwargs=True)
    encoder(ids)
    assert handed[0]["input_ids"][0, 4:].unique().tolist() == [PADDING]
    assert handed[0]["attention_mask"][0].tolist() == [1] * 4 + [0] * (LENGTH - 4)


@pytest.mark.parametrize("kind", TEXT_KINDS)
@torch.no_grad()
def test_padding_has_no_influence(folders, kind):
    encoder = encoder_of(folders[kind], "text")
    ids = tokenized(folders[kind], ["a cat", "look how many people love you"])
    short = ids[:, : int((ids != 0).sum(1).max())]
    whole, cut = encoder(ids), encoder(short)
    counted = short != 0
    torch.testing.assert_close(whole.x[:, : short.shape[1]][counted], cut.x[counted], atol=1e-5, rtol=1e-5)


def learning(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def step(encoder: PretrainedEncoder, inputs: torch.Tensor) -> set[str]:
    """Take a step with momentum and weight decay, and return the names of what moved, buffers included."""
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.train()
    learns = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=0.1, weight_decay=0.5)
    encoder(inputs).x.square().sum().backward()
    optimizer.step()
    return {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}


def test_nothing_but_the_projection_learns_where_all_is_frozen(folders):
    encoder = encoder_of(folders["distilbert"], "text")
    assert learning(encoder) == {"project.weight", "project.bias"}
    assert step(encoder, tokenized(folders["distilbert"], TEXTS)) == {"project.weight", "project.bias"}


@pytest.mark.parametrize(
    ("kind", "reads", "parts"),
    [
        ("distilbert", "text", ("transformer.layer.1.", "transformer.layer.2.")),
        ("bert", "text", ("encoder.layer.1.", "encoder.layer.2.")),
        ("t5", "text", ("encoder.block.1.", "encoder.block.2.", "encoder.final_layer_norm")),
        ("modernbert", "text", ("layers.1.", "layers.2.", "final_norm")),
        ("clip", "image", ("layers.1.", "layers.2.", "post_layernorm")),
        ("clip", "text", ("layers.1.", "layers.2.", "final_layer_norm")),
        ("vit", "image", (".1.", ".2.", "layernorm.")),
        ("resnet", "image", ("stages.1.", "stages.2.")),
    ],
)
def test_the_last_layers_and_the_final_norm_learn_and_nothing_else_moves(folders, kind, reads, parts):
    encoder = encoder_of(folders[kind], reads, freeze="last_n", trainable_layers=2)
    learns = {name for name in learning(encoder) if not name.startswith("project.")}
    for part in parts:
        assert any(part in name for name in learns), part
    assert all(any(part in name for part in parts) for name in learns), learns
    inputs = seen(folders[kind]) if reads == "image" else tokenized(folders[kind], TEXTS)
    moved = step(encoder, inputs)
    assert learning(encoder) <= moved
    statistics = {name for name in moved - learning(encoder) if "running" in name or "num_batches" in name}
    assert moved - learning(encoder) == statistics
    assert all(any(part in name for part in parts) for name in statistics), statistics


@pytest.mark.parametrize(
    ("kind", "reads"), [*((kind, "image") for kind in IMAGE_KINDS), *((kind, "text") for kind in TEXT_KINDS)]
)
def test_everything_that_makes_tokens_learns_where_nothing_is_frozen(folders, kind, reads):
    encoder = encoder_of(folders[kind], reads, freeze="none")
    inputs = seen(folders[kind]) if reads == "image" else tokenized(folders[kind], TEXTS)
    still = {name for name, _ in encoder.named_parameters()} - learning(encoder)
    assert still == ({"backbone.embeddings.mask_token"} if kind == "dinov2" else set())
    assert learning(encoder) <= step(encoder, inputs)
    assert all(parameter.grad is not None for parameter in encoder.parameters() if parameter.requires_grad)


def test_frozen_parts_stay_in_evaluation_mode_while_the_rest_trains(folders):
    encoder = encoder_of(folders["resnet"], "image").train()
    assert encoder.training
    assert not any(module.training for module in encoder.backbone.modules())
    encoder = encoder_of(folders["distilbert"], "text", freeze="last_n", trainable_layers=1).train()
    modes = {name: module.training for name, module in encoder.backbone.named_modules()}
    assert modes["transformer.layer.2"]
    assert not modes["transformer.layer.1"]
    assert not modes["embeddings.dropout"]
    assert not any(module.training for module in encoder.eval().modules())


def test_no_gradient_is_kept_below_the_layers_that_learn(folders):
    encoder = encoder_of(folders["distilbert"], "text", freeze="last_n", trainable_layers=1).train()
    out = {}
    for place in (1, 2):
        layer = encoder.backbone.get_submodule(f"transformer.layer.{place}")
        layer.register_forward_hook(lambda _, __, given, place=place: out.update({place: given}))
    encoder(tokenized(folders["distilbert"], TEXTS))
    values = {place: given[0] if isinstance(given, tuple) else given for place, given in out.items()}
    assert not values[1].requires_grad
    assert values[2].requires_grad


@pytest.mark.parametrize("freeze", ["none", "last_n"])
@pytest.mark.parametrize(
    ("kind", "reads"), [*((kind, "image") for kind in IMAGE_KINDS), *((kind, "text") for kind in TEXT_KINDS)]
)
def test_layers_that_learn_are_recomputed_to_the_same_gradients_where_that_is_wanted(folders, kind, reads, freeze):
    inputs = seen(folders[kind]) if reads == "image" else tokenized(folders[kind], TEXTS)
    calls, gradients = [], []
    for recompute in (False, True):
        encoder = encoder_of(folders[kind], reads, freeze=freeze, trainable_layers=1).train()
        recompute_activations(encoder, recompute)
        called: list[nn.Module] = []
        for part in repeated_layers(encoder.backbone)[-1].modules():
            if next(part.children(), None) is None:
                part.register_forward_pre_hook(lambda part, _, called=called: called.append(part))
        torch.manual_seed(2)
        encoder(inputs).x.square().sum().backward()
        calls.append(len(called))
        gradients.append({name: each.grad for name, each in encoder.named_parameters() if each.grad is not None})
        gradients[-1] |= dict(encoder.named_buffers())
        assert not any("forward" in vars(module) for module in encoder.modules())
    # Means over batches must not see a batch twice.
    assert calls[1] == calls[0] if kind == "resnet" else calls[1] > 1.5 * calls[0]
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def saved(folder: Path, model) -> Path:
    """Save a model of another kind with an image processor, and return its folder."""
    model.eval().save_pretrained(folder)
    save_processor(folder, **VIT_PROCESSOR)
    return folder


def test_a_network_that_does_not_say_how_wide_its_tokens_are_is_looked_at(tmp_path):
    import transformers as t

    config = t.MobileNetV2Config(image_size=SIDE, depth_multiplier=0.25)
    encoder = encoder_of(saved(tmp_path, t.MobileNetV2ForImageClassification(config)), "image")
    tokens = encoder(seen(tmp_path))
    assert tokens.x.shape[::2] == (len(pictures()), DIM)
    assert tokens.x.isfinite().all()
    assert width_of(t.EfficientNetModel(t.EfficientNetConfig(width_coefficient=0.5, hidden_dim=640))) == 640


def test_a_network_that_hides_patches_at_random_is_refused(tmp_path):
    import transformers as t

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = t.ViTMAEConfig(
        image_size=SIDE, patch_size=8, decoder_hidden_size=16, decoder_num_attention_heads=2, **shape
    )
    folder = saved(tmp_path / "mae", t.ViTMAEForPreTraining(config))
    with pytest.raises(ConfigError, match=r"vit_mae\) hides patches at random even when it only looks"):
        Pretrained(name=str(folder)).found("image")


def test_last_layers_are_not_guessed_where_several_lists_could_be_the_layers(tmp_path):
    import transformers as t

    folder = saved(tmp_path / "pvt", t.PvtForImageClassification(t.PvtConfig(image_size=SIDE, depths=[1, 1, 1, 1])))
    with pytest.raises(ConfigError, match=r"several lists of layers .*freeze must be all or none"):
        encoder_of(folder, "image", freeze="last_n", trainable_layers=1, loaded=False)
    assert encoder_of(folder, "image", freeze="none", loaded=False)


def test_more_layers_than_there_are_cannot_learn(folders):
    with pytest.raises(ConfigError, match=r"has 3 layers, but trainable_layers=4"):
        encoder_of(folders["distilbert"], "text", freeze="last_n", trainable_layers=4)


@pytest.mark.parametrize(("kind", "reads"), [("t5", "text"), ("resnet", "image"), ("siglip", "image")])
def test_a_model_without_class_token_cannot_be_pooled_by_it(folders, kind, reads):
    with pytest.raises(ConfigError, match=r"pool=cls needs a class token"):
        encoder_of(folders[kind], reads, pool="cls")


def test_a_tower_that_transformers_does_not_offer_alone_is_refused(folders):
    with pytest.raises(ConfigError, match=r"has no model of kind 'siglip_text_model' that makes tokens"):
        Pretrained(name=str(folders["siglip"])).found("text")


def test_without_transformers_it_says_what_to_install(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs transformers: pip install 'chiasma\[pretrained\]'"):
        Pretrained(name=str(folders["bert"])).found("text")


def test_an_image_model_cannot_read_texts(folders):
    with pytest.raises(ConfigError, match=r"\(vit\) reads pixel_values, so that it cannot encode texts"):
        Pretrained(name=str(folders["vit"])).found("text")


SIGNATURES = {"target": Target(task="classification", labels=("no", "yes"))}


def whole(folders, **settings) -> tuple[ModelSpec, Signature]:
    signature = Signature(
        inputs={"image": image_input(folders["clip"]), "text": text_input(folders["distilbert"])}, **SIGNATURES
    )
    encoders = {
        "image": Pretrained(name=str(folders["clip"]), **settings).found("image"),
        "text": Pretrained(name=str(folders["distilbert"]), **settings).found("text"),
    }
    fusion = {"kind": "cross_attention", "heads": 2}
    return ModelSpec.from_dict(
        {"dim": 16, "encoders": {n: e.to_dict() for n, e in encoders.items()}, "fusion": fusion}
    ), signature


@pytest.mark.parametrize("freeze", ["all", "none", "last_n"])
def test_a_whole_model_passes_the_probe(folders, freeze):
    spec, signature = whole(folders, freeze=freeze)
    model = spec.build(signature)
    load_published(model)
    assert probe(model, signature) is None


@pytest.mark.parametrize("kind", [*IMAGE_KINDS, *(kind for kind in TEXT_KINDS if kind not in IMAGE_KINDS)])
def test_every_operation_of_a_backbone_is_counted(folders, kind):
    reads = "image" if kind in IMAGE_KINDS else "text"
    input = image_input(folders[kind]) if reads == "image" else text_input(folders[kind])
    spec = Pretrained(name=str(folders[kind])).found(reads)
    found = cost(ModelSpec(dim=8, encoders={reads: spec}), Signature(inputs={reads: input}, **SIGNATURES))
    assert found.uncounted == ()
    assert found.flops > 1e4


def test_only_what_learns_counts_as_parameters(folders):
    spec, signature = whole(folders)
    frozen = cost(spec, signature)
    thawed = cost(whole(folders, freeze="none")[0], signature)
    assert frozen.parameters < thawed.parameters
    assert frozen.flops == thawed.flops


def test_an_absent_modality_changes_nothing(folders):
    spec, signature = whole(folders)
    model = spec.build(signature).eval()
    images, ids = seen(folders["clip"]), tokenized(folders["distilbert"], TEXTS[:2] + TEXTS[3:])
    absent = torch.tensor([True, False, True, False])
    for name, other in (("image", torch.rand_like(images)), ("text", ids.flip(0))):
        present = {"image": torch.ones(4, dtype=torch.bool), "text": torch.ones(4, dtype=torch.bool), name: ~absent}
        one = Batch({"image": images, "text": ids}, present, ("a", "b", "c", "d"))
        two = Batch({**one.inputs, name: torch.where(_like(absent, other), other, one.inputs[name])}, present, one.ids)
        with torch.no_grad():
            first, second = model(one).logits, model(two).logits
        assert torch.equal(first, second)
        assert first.isfinite().all()


def _like(rows: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return rows.reshape(-1, *[1] * (value.ndim - 1))


def test_a_spec_is_enough_to_build_the_architecture_after_the_folder_is_gone(folders, tmp_path):
    folder = Path(shutil.copytree(folders["distilbert"], tmp_path / "distilbert"))
    spec, input = Pretrained(name=str(folder)).found("text"), text_input(folder)
    with_weights = spec.build(DIM, input)
    with_weights.load_published()
    shutil.rmtree(folder)
    again = Pretrained.from_json(spec.to_json()).found("text")
    assert again == spec
    rebuilt = again.build(DIM, input).eval()
    rebuilt.load_state_dict(with_weights.state_dict(), strict=True)
    ids = torch.randint(1, 20, (2, LENGTH))
    assert torch.equal(rebuilt(ids).x, with_weights.eval()(ids).x)


def copied(folders, tmp_path, kind="distilbert") -> Path:
    return Path(shutil.copytree(folders[kind], tmp_path / kind))


def test_other_weights_under_the_same_name_are_another_design_and_are_refused(folders, tmp_path):
    folder = copied(folders, tmp_path)
    before = Pretrained(name=str(folder)).found("text")
    save_backbone("distilbert", folder, initializer_range=0.5)
    after = Pretrained(name=str(folder)).found("text")
    assert before.content_hash() != after.content_hash()
    with pytest.raises(ConfigError, match=r"are not those of this design: their SHA-256 is"):
        before.build(DIM, text_input(folder)).load_published()


def test_a_missing_weight_is_named_and_never_left_at_random(folders, tmp_path):
    folder = copied(folders, tmp_path)
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    name = next(key for key in tensors if "layer.1.ffn.lin1.weight" in key)
    tensors.pop(name)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack .*layer\.1\.ffn\.lin1\.weight"):
        encoder_of(folder, "text")


def test_weights_of_another_shape_are_refused(folders, tmp_path):
    folder = copied(folders, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dim": 48}))
    with pytest.raises(ConfigError, match=r"have other shapes than its config.json says: "):
        encoder_of(folder, "text")


def test_a_folder_without_weights_says_what_it_has(folders, tmp_path):
    folder = copied(folders, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds no weights: it must have model\.safetensors .* but has config\.json"):
        Pretrained(name=str(folder)).found("text")


def test_a_folder_that_is_not_there_says_what_it_must_hold(tmp_path):
    with pytest.raises(ConfigError, match=r"The folder .*gone does not exist\. It must hold .* config\.json"):
        Pretrained(name=str(tmp_path / "gone")).found("text")


def test_damaged_weights_are_named(folders, tmp_path):
    folder = copied(folders, tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"model\.safetensors are damaged: "):
        encoder_of(folder, "text")


def test_weights_in_parts_are_read_together(folders, tmp_path):
    import transformers

    folder = copied(folders, tmp_path, "bert")
    expected = encoder_of(folder, "text").state_dict()
    model = transformers.BertForMaskedLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = encoder_of(folder, "text").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def as_pickle(folder: Path, values) -> Path:
    (folder / "model.safetensors").unlink()
    torch.save(values, folder / "pytorch_model.bin")
    return folder


def test_plain_tensors_in_a_pickle_are_read(folders, tmp_path):
    folder = copied(folders, tmp_path)
    expected = encoder_of(folder, "text").state_dict()
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    positions = {"distilbert.embeddings.position_ids": torch.arange(32)[None]}
    found = encoder_of(as_pickle(folder, tensors | positions), "text").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class Marker:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_of_more_than_tensors_is_refused_and_never_run(folders, tmp_path):
    marker = tmp_path / "executed"
    folder = copied(folders, tmp_path)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    as_pickle(folder, tensors | {"surprise": Marker(marker)})
    with pytest.raises(ConfigError, match=r"a pickle of more than tensors, which is never run"):
        encoder_of(folder, "text")
    assert not marker.exists()


def test_sparse_tensors_in_a_pickle_are_refused(folders, tmp_path):
    folder = copied(folders, tmp_path)
    as_pickle(folder, {"distilbert.embeddings.word_embeddings.weight": torch.eye(4).to_sparse()})
    with pytest.raises(ConfigError, match=r"must be strided tensors by name|damaged, or a pickle of more than tensors"):
        encoder_of(folder, "text")


def test_loading_draws_nothing_from_the_global_generator(folders):
    encoder = encoder_of(folders["clip"], "image", loaded=False)
    seed_torch(3, "test")
    before = torch.get_rng_state()
    encoder.load_published()
    assert torch.equal(torch.get_rng_state(), before)


def test_data_of_another_tokenizer_are_refused(folders):
    spec = Pretrained(name=str(folders["distilbert"])).found("text")
    with pytest.raises(ConfigError, match=r"were prepared with another tokenizer: data.tokenizer="):
        spec.check("text", text_input(folders["t5"]))
    with pytest.raises(ConfigError, match=r"were prepared with word pieces of their own: data.tokenizer="):
        spec.check("text", TextInput(vocabulary=50, length=LENGTH))


def test_images_of_another_preparation_are_refused(folders):
    spec = Pretrained(name=str(folders["clip"])).found("image")
    with pytest.raises(ConfigError, match=r"were prepared without one: data.image_processor="):
        spec.check("image", ImageInput(channels=3, height=SIDE, width=SIDE))
    larger = image_input(folders["clip"]).model_copy(update={"height": 32, "width": 32})
    with pytest.raises(ConfigError, match=r"sees images of 24 x 24 pixels, but .* makes 32 x 32"):
        spec.check("image", larger)


def test_texts_longer_than_a_backbone_can_read_are_refused(folders):
    spec = Pretrained(name=str(folders["distilbert"])).found("text")
    with pytest.raises(
        ConfigError, match=r"reads 32 ids at most, but the texts of the data have 33: data.text_length=32"
    ):
        spec.check("text", text_input(folders["distilbert"], length=33))


def test_one_folder_serves_both_modalities(folders):
    image, text = (Pretrained(name=str(folders["clip"])).found(reads) for reads in ("image", "text"))
    assert image.backbone.weights == text.backbone.weights
    assert (image.backbone.model_type, text.backbone.model_type) == ("clip_vision_model", "clip_text_model")


class TestThePretrainedContract(EncoderContract):
    """What every encoder keeps, a pretrained one keeps too."""

    @pytest.fixture(params=["clip", "distilbert", "mean"])
    def spec(self, request, folders):
        kind = "distilbert" if request.param == "mean" else request.param
        settings = {"pool": "mean"} if request.param == "mean" else {}
        return Pretrained(name=str(folders[kind]), freeze="none", **settings).found(
            "image" if kind == "clip" else "text"
        )

    def input_of(self, spec):
        folder = Path(spec.name)
        return image_input(folder) if folder.name == "clip" else text_input(folder)

    def knobs(self, spec):
        # What the others do is tested above: names, and layers that learn.
        return ["pool"]
