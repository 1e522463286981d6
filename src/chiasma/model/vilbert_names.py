"""What ViLBERT's published code calls its weights, and what they are called here."""

from collections.abc import Mapping
from typing import Any

from chiasma.model.fusion.vilbert import Stream, ViLBERT

FIRST = "embeddings.word_embeddings.weight"
"""The table of words, without which nothing is a ViLBERT; what stands before is the prefix of all others."""

PREFIX = "bert."
"""What stands before in the published files themselves."""

WORDS = "encoders.text.words.weight"
"""Our table of words: one row longer, since id 0 is padding here."""

IMAGE = "encoders.image."
"""What makes tokens of images."""

HEADS = (
    "cls.predictions",
    "cls.bi_seq_relationship",
    "cls.imagePredictions",
    "vil_prediction",
    "vil_prediction_gqa",
    "vil_binary_prediction",
    "vil_tri_prediction",
    "vil_logit",
    "vision_logit",
    "linguisic_logit",
    "classifier",
)
"""What answers in pretraining and other tasks, in the published spelling: left out, since a head of its own answers."""

UNUSED = ("biOutput.q_dense1", "biOutput.q_dense2")
"""What stands in the published files though their code never reads it."""

_LAYER = {
    "attention.q": "attention.self.query",
    "attention.k": "attention.self.key",
    "attention.v": "attention.self.value",
    "attention.o": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "after.layers.0": "intermediate.dense",
    "after.layers.2": "output.dense",
    "after.norm": "output.LayerNorm",
}
# In the published code 1 is the image and 2 the text.
_JOIN = {
    "image_asks.q": "biattention.query1",
    "image_asks.k": "biattention.key2",
    "image_asks.v": "biattention.value2",
    "image_asks.o": "biOutput.dense1",
    "image_norm": "biOutput.LayerNorm1",
    "text_asks.q": "biattention.query2",
    "text_asks.k": "biattention.key1",
    "text_asks.v": "biattention.value1",
    "text_asks.o": "biOutput.dense2",
    "text_norm": "biOutput.LayerNorm2",
    "image_after.layers.0": "v_intermediate.dense",
    "image_after.layers.2": "v_output.dense",
    "image_after.norm": "v_output.LayerNorm",
    "text_after.layers.0": "t_intermediate.dense",
    "text_after.layers.2": "t_output.dense",
    "text_after.norm": "t_output.LayerNorm",
}
_TABLES = {
    WORDS: FIRST,
    "encoders.text.positions.weight": "embeddings.position_embeddings.weight",
    "encoders.text.segments.weight": "embeddings.token_type_embeddings.weight",
}
_SINGLE = {
    "encoders.text.norm": "embeddings.LayerNorm",
    f"{IMAGE}project": "v_embeddings.image_embeddings",
    f"{IMAGE}boxes": "v_embeddings.image_location_embeddings",
    f"{IMAGE}norm": "v_embeddings.LayerNorm",
    "fusion.text_pooler": "t_pooler.dense",
    "fusion.image_pooler": "v_pooler.dense",
}


def published_names(spec: ViLBERT) -> dict[str, str]:
    """Return the published name, without its prefix, of every weight of both encoders and the fusion, by ours."""
    modules = dict(_SINGLE)
    for ours, theirs, count, parts in (
        ("fusion.text_layers", "encoder.layer", spec.text.depth, _LAYER),
        ("fusion.image_layers", "encoder.v_layer", spec.image.depth, _LAYER),
        ("fusion.joins", "encoder.c_layer", len(spec.text_joins), _JOIN),
    ):
        for number in range(count):
            modules |= {f"{ours}.{number}.{one}": f"{theirs}.{number}.{two}" for one, two in parts.items()}
    both = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in modules.items() for part in ("weight", "bias")}
    return _TABLES | both


def published_config(spec: ViLBERT, dim: int) -> dict[str, Any]:
    """Return what the published ``bert_base_6layer_6conect.json`` says, of other sizes too."""
    widths = spec.widths(dim)
    return {
        **_stream("", spec.text, widths["text"]),
        **_stream("v_", spec.image, widths["image"]),
        "bi_hidden_size": dim,
        "bi_num_attention_heads": spec.heads,
        "t_biattention_id": list(spec.text_joins),
        "v_biattention_id": list(spec.image_joins),
        "fusion_method": {"product": "mul", "sum": "sum"}[spec.combine],
        "hidden_act": "gelu",
        "v_hidden_act": "gelu",
    }


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in the published names, also where both streams have a part of their own in it."""
    flat = {key: value for key, value in config.items() if key not in ("t_config", "v_config")}
    for part, prefix in (("t_config", ""), ("v_config", "v_")):
        inner = config.get(part)
        if isinstance(inner, Mapping):
            flat |= {f"{prefix}{key}": value for key, value in inner.items() if key != "biattention_id"}
            if "biattention_id" in inner:
                flat["t_biattention_id" if part == "t_config" else "v_biattention_id"] = inner["biattention_id"]
    if "pooling_method" in flat:
        flat.setdefault("fusion_method", flat["pooling_method"])
    return flat


def setting_of(key: str) -> str:
    """Return the setting that an entry of the published configuration stands for."""
    return _SETTINGS.get(key, "model.fusion")


def _stream(prefix: str, stream: Stream, dim: int) -> dict[str, int]:
    return {
        f"{prefix}hidden_size": dim,
        f"{prefix}num_hidden_layers": stream.depth,
        f"{prefix}num_attention_heads": stream.heads,
        f"{prefix}intermediate_size": stream.expansion * dim,
    }


_SETTINGS = {
    "bi_hidden_size": "model.dim",
    "bi_num_attention_heads": "model.fusion.heads",
    "t_biattention_id": "model.fusion.text_joins",
    "v_biattention_id": "model.fusion.image_joins",
    "fusion_method": "model.fusion.combine",
    **{
        f"{prefix}{key}": f"model.fusion.{stream}.{name}"
        for prefix, stream in (("", "text"), ("v_", "image"))
        for key, name in (
            ("hidden_size", "dim"),
            ("num_hidden_layers", "depth"),
            ("num_attention_heads", "heads"),
            ("intermediate_size", "expansion"),
        )
    },
}
