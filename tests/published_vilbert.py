"""Tiny ViLBERT checkpoints in the layouts in which the large ones are distributed, heads of pretraining included."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tests.published import BERT_NAMES, save_tokenizer

Layout = Literal["community", "facebook"]

FEATURE_WIDTH = 20
POSITIONS = 32
REGION_CLASSES = 11

CONFIGS: dict[str, dict[str, Any]] = {
    # As bert_base_6layer_6conect.json, with six as three.
    "facebook": {
        "hidden_size": 12,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 48,
        "v_hidden_size": 16,
        "v_num_hidden_layers": 2,
        "v_num_attention_heads": 2,
        "v_intermediate_size": 16,
        "bi_hidden_size": 24,
        "bi_num_attention_heads": 2,
        "t_biattention_id": [2, 3],
        "v_biattention_id": [0, 1],
        "pooling_method": "mul",
    },
    # The widths of BERT in both streams, joined after every second layer of the text.
    "community": {
        "hidden_size": 12,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 48,
        "v_hidden_size": 12,
        "v_num_hidden_layers": 2,
        "v_num_attention_heads": 3,
        "v_intermediate_size": 48,
        "bi_hidden_size": 12,
        "bi_num_attention_heads": 3,
        "t_biattention_id": [2, 4],
        "v_biattention_id": [1, 2],
    },
}
COMMON = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "v_attention_probs_dropout_prob": 0.1,
    "v_feature_size": FEATURE_WIDTH,
    "v_hidden_act": "gelu",
    "v_hidden_dropout_prob": 0.1,
    "v_target_size": REGION_CLASSES,
}


def save_tiny_vilbert(folder: Path, *, layout: Layout = "facebook") -> Path:
    """Write a tiny checkpoint and a tokenizer, and return what ``model.fusion.weights`` may name.

    Args:
        folder: Where it goes; the tokenizer goes to ``tokenizer`` in it.
        layout: ``facebook`` is one file with its configuration beside it, ``community`` a folder as on the hub, whose
            ``config.json`` is that of a plain BERT.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = len(save_tokenizer(folder / "tokenizer", BERT_NAMES))
    config = COMMON | CONFIGS[layout] | {"vocab_size": vocabulary}
    (folder / "bert_base_6layer_6conect.json").write_text(json.dumps(config, indent=2))
    state = tiny_state(config)
    if layout == "facebook":
        torch.save(state, folder / "pretrained_model.bin")
        return folder / "pretrained_model.bin"
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": config["hidden_size"]}))
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def tiny_vilbert_settings(weights: Path, *, layout: Layout = "facebook") -> dict[str, Any]:
    """Return the settings, by dotted path, with which a ViLBERT preset reads what :func:`save_tiny_vilbert` wrote."""
    config = CONFIGS[layout]
    folder = weights if weights.is_dir() else weights.parent
    streams = {
        name: {
            "depth": config[f"{prefix}num_hidden_layers"],
            "heads": config[f"{prefix}num_attention_heads"],
            "expansion": config[f"{prefix}intermediate_size"] // config[f"{prefix}hidden_size"],
            "dim": config[f"{prefix}hidden_size"],
        }
        for name, prefix in (("text", ""), ("image", "v_"))
    }
    return {
        "data.tokenizer": str(folder / "tokenizer"),
        "data.text_length": 16,
        "model.dim": config["bi_hidden_size"],
        "model.encoders.text.positions": POSITIONS,
        "model.fusion.weights": str(weights),
        "model.fusion.text": streams["text"],
        "model.fusion.image": streams["image"],
        "model.fusion.heads": config["bi_num_attention_heads"],
        "model.fusion.text_joins": config["t_biattention_id"],
        "model.fusion.image_joins": config["v_biattention_id"],
    }


def tiny_state(config: dict[str, Any]) -> dict[str, Tensor]:
    """Return random weights under the published names, as training with the published code leaves them."""
    shapes = {f"bert.{name}": shape for name, shape in _body(config).items()} | _heads(config)
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in state:
        if "LayerNorm" in name and name.endswith("weight"):
            state[name] = 1 + state[name]
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    return state


def _body(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    text, image, both = config["hidden_size"], config["v_hidden_size"], config["bi_hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], text),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], text),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], text),
        **_norm("embeddings.LayerNorm", text),
        **_linear("v_embeddings.image_embeddings", config["v_feature_size"], image),
        **_linear("v_embeddings.image_location_embeddings", 5, image),
        **_norm("v_embeddings.LayerNorm", image),
        **_linear("t_pooler.dense", text, both),
        **_linear("v_pooler.dense", image, both),
    }
    for name, prefix, width in (("layer", "", text), ("v_layer", "v_", image)):
        for number in range(config[f"{prefix}num_hidden_layers"]):
            shapes |= _layer(f"encoder.{name}.{number}", width, config[f"{prefix}intermediate_size"])
    for number in range(len(config["t_biattention_id"])):
        shapes |= _connection(f"encoder.c_layer.{number}", config)
    return shapes


def _layer(path: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for part in ("query", "key", "value"):
        shapes |= _linear(f"{path}.attention.self.{part}", width, width)
    shapes |= _linear(f"{path}.attention.output.dense", width, width)
    shapes |= _norm(f"{path}.attention.output.LayerNorm", width)
    shapes |= _linear(f"{path}.intermediate.dense", width, hidden)
    return shapes | _linear(f"{path}.output.dense", hidden, width) | _norm(f"{path}.output.LayerNorm", width)


def _connection(path: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    both, shapes = config["bi_hidden_size"], {}
    for number, width in ((1, config["v_hidden_size"]), (2, config["hidden_size"])):
        for part in ("query", "key", "value"):
            shapes |= _linear(f"{path}.biattention.{part}{number}", width, both)
        shapes |= _linear(f"{path}.biOutput.dense{number}", both, width)
        shapes |= _norm(f"{path}.biOutput.LayerNorm{number}", width)
        # In every published file, and read by nobody.
        shapes |= _linear(f"{path}.biOutput.q_dense{number}", both, width)
    for letter, prefix in (("v", "v_"), ("t", "")):
        width, hidden = config[f"{prefix}hidden_size"], config[f"{prefix}intermediate_size"]
        shapes |= _linear(f"{path}.{letter}_intermediate.dense", width, hidden)
        shapes |= _linear(f"{path}.{letter}_output.dense", hidden, width)
        shapes |= _norm(f"{path}.{letter}_output.LayerNorm", width)
    return shapes


def _heads(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    text, image = config["hidden_size"], config["v_hidden_size"]
    return {
        "cls.predictions.bias": (config["vocab_size"],),
        **_linear("cls.predictions.transform.dense", text, text),
        **_norm("cls.predictions.transform.LayerNorm", text),
        **_linear("cls.bi_seq_relationship", config["bi_hidden_size"], 2),
        **_linear("cls.imagePredictions.transform.dense", image, image),
        **_norm("cls.imagePredictions.transform.LayerNorm", image),
        **_linear("cls.imagePredictions.decoder", image, REGION_CLASSES),
    }


def _linear(path: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}.weight": (outputs, inputs), f"{path}.bias": (outputs,)}


def _norm(path: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}.weight": (width,), f"{path}.bias": (width,)}
