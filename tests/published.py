"""Tiny real checkpoints, written by transformers in the layouts in which the large ones are distributed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

WORDS = "a an and cat dog red green blue how look many people love you number meme is not the of 0 1 2 3 4 5 6 7 8 9"
SIDE = 24
PADDING = 7
"""Id that the tokenizers here pad with: not 0, where T5 and DistilBERT have theirs."""


def vocabulary(names: dict[str, str]) -> dict[str, int]:
    """Return ids for words, with the special ones in between, padding at :data:`PADDING`."""
    special = [name for role, name in names.items() if role != "pad"]
    words = [*WORDS.split(), *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789")]
    order = list(dict.fromkeys([*special, *words]))
    order.insert(PADDING, names["pad"])
    return {word: number for number, word in enumerate(dict.fromkeys(order))}


BERT_NAMES = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "pad": "[PAD]"}
T5_NAMES = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
CLIP_NAMES = {"bos": "<start>", "eos": "<end>", "unk": "<unk>", "pad": "<end>"}


def save_tokenizer(folder: Path, names: dict[str, str], *, longest: int = 32) -> dict[str, int]:
    """Write a tokenizer's files and return its vocabulary."""
    from transformers import PreTrainedTokenizerFast

    ids = vocabulary(names)
    tokenizer: Any = Tokenizer(WordPiece(ids, unk_token=names["unk"], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    begin, end = names.get("cls") or names.get("bos"), names.get("sep") or names["eos"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}" if begin else f"$A {end}",
        special_tokens=[(name, ids[name]) for name in (begin, end) if name],
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest,
        **{f"{role}_token": name for role, name in names.items()},
    )
    wrapped.save_pretrained(folder)
    return ids


def save_processor(folder: Path, **settings: Any) -> None:
    """Write an image processor's file as it lies on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


CLIP_PROCESSOR = {
    "crop_size": SIDE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": SIDE,
}
VIT_PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": SIDE, "width": SIDE},
}
SIGLIP_PROCESSOR = VIT_PROCESSOR | {"image_processor_type": "SiglipImageProcessor", "resample": 3}
DINO_PROCESSOR = {
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 28},
}
RESNET_PROCESSOR = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": SIDE,
}


def save_backbone(kind: str, folder: Path, **changes: Any) -> Path:
    """Write a tiny checkpoint of a kind, with the heads that published ones have, and return its folder."""
    import transformers as t

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("distilbert", "bert", "modernbert"):
        model = _masked_language_model(kind, save_tokenizer(folder, BERT_NAMES), changes)
    elif kind == "t5":
        ids = save_tokenizer(folder, T5_NAMES)
        shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2, "pad_token_id": PADDING}
        model = t.T5ForConditionalGeneration(t.T5Config(vocab_size=len(ids) + 3, **shape | changes))
    elif kind in ("clip", "siglip"):
        model = _two_towers(kind, folder, changes)
    else:
        model = _image_classifier(kind, folder, changes)
    model.eval().save_pretrained(folder)
    return folder


def _masked_language_model(kind: str, ids: dict[str, int], changes: dict[str, Any]) -> Any:
    import transformers as t

    common = {"vocab_size": len(ids), "max_position_embeddings": 32, "pad_token_id": PADDING}
    if kind == "distilbert":
        shape = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
        return t.DistilBertForMaskedLM(t.DistilBertConfig(**common | shape | changes))
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "bert":
        return t.BertForMaskedLM(t.BertConfig(**common | shape | changes))
    ends = {"cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
    return t.ModernBertForMaskedLM(t.ModernBertConfig(**common | shape | ends | changes))


def _two_towers(kind: str, folder: Path, changes: dict[str, Any]) -> Any:
    import transformers as t

    ids = save_tokenizer(folder, CLIP_NAMES, longest=20)
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {"bos_token_id": ids["<start>"], "eos_token_id": ids["<end>"], "pad_token_id": ids["<end>"]}
    text = {"vocab_size": len(ids), "max_position_embeddings": 20, **shape, **ends}
    vision = {"image_size": SIDE, "patch_size": 8, **shape, **changes}
    if kind == "clip":
        save_processor(folder, **CLIP_PROCESSOR)
        return t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    save_processor(folder, **SIGLIP_PROCESSOR)
    return t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))


def _image_classifier(kind: str, folder: Path, changes: dict[str, Any]) -> Any:
    import transformers as t

    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "vit":
        save_processor(folder, **VIT_PROCESSOR)
        return t.ViTForImageClassification(t.ViTConfig(image_size=SIDE, patch_size=8, **shape | changes))
    if kind == "dinov2":
        save_processor(folder, **DINO_PROCESSOR)
        shape.pop("intermediate_size")
        # Positions for larger images than it sees, as the published ones have.
        return t.Dinov2ForImageClassification(t.Dinov2Config(image_size=40, patch_size=8, **shape | changes))
    assert kind == "resnet", kind
    save_processor(folder, **RESNET_PROCESSOR)
    stages = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 1, 1], "layer_type": "basic"}
    model = t.ResNetForImageClassification(t.ResNetConfig(**stages | changes))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # Statistics as after training: at their defaults a batch norm in evaluation does nothing.
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


IMAGE_KINDS = ("clip", "siglip", "vit", "dinov2", "resnet")
TEXT_KINDS = ("distilbert", "bert", "modernbert", "t5", "clip")


def write_memes(folder: Path, *, train: int = 24, dev: int = 12, test: int = 8) -> Path:
    """Write a tiny set in the layout of Hateful Memes, and return its folder."""
    (folder / "img").mkdir(parents=True)
    rng = np.random.default_rng(0)
    number = 1000
    for name, count in {"train": train, "dev_seen": dev, "test_seen": test}.items():
        lines = []
        for place in range(count):
            number += 17
            # Every third is hateful: the classes are not balanced, as in the original.
            label, identity = int(place % 3 == 0), f"{number:05d}"
            pixels = rng.integers(0, 256, (30 + place % 7, 41, 3), np.uint8)
            Image.fromarray(pixels // 2 + (90 if label else 0)).save(folder / f"img/{identity}.png")
            text = f"look how many people love you {number} {'not' if label else 'the cat'}"
            lines.append(json.dumps({"id": identity, "img": f"img/{identity}.png", "label": label, "text": text}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder
