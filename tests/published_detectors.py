"""Tiny checkpoints of detectors in the names and layouts of the published ones."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SMALL = {"depths": [1, 1, 1, 1], "width": 4, "hidden": 8}
COCO_SMALL = {**SMALL, "dim": 8, "classes": 5}
GENOME_SMALL = {**SMALL, "classes": 7}


def _lively(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return statistics of norms as after training: at their defaults they would do nothing."""
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.uniform_(-0.2, 0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return state


def coco_state(*, second: bool) -> dict[str, Tensor]:
    """Return random weights of a tiny Faster R-CNN in torchvision's names; of the first version in its old ones."""
    from chiasma.model.encoders.extractors.coco import Pyramid, PyramidDetector

    torch.manual_seed(0)
    shape = {"depths": (1, 1, 1, 1), "width": 4, "hidden": 8, "dim": 8, "classes": 5}
    state = _lively(dict(PyramidDetector(Pyramid(second, **shape)).state_dict()))
    if second:
        # Norms that count are in the second version's file.
        return state | {"backbone.body.bn1.num_batches_tracked": torch.tensor(7)}
    old = re.compile(r"(backbone\.fpn\.\w+_blocks\.\d)\.0\.(\w+)")
    return {
        old.sub(r"\1.\2", name).replace("rpn.head.conv.0.0.", "rpn.head.conv."): value for name, value in state.items()
    }


def save_coco(path: Path, *, second: bool = True) -> Path:
    """Write what :func:`coco_state` returns, as torchvision's files are."""
    torch.save(coco_state(second=second), path)
    return path


def genome_state() -> dict[str, Tensor]:
    """Return random weights of a tiny Faster R-CNN in the names of ``faster_rcnn_res101_vg.pth``."""
    from chiasma.model.encoders.extractors.visual_genome import RegionDetector, Shape

    torch.manual_seed(0)
    network = RegionDetector(Shape(depths=(1, 1, 1, 1), width=4, hidden=8, classes=7))
    with torch.no_grad():
        # Regions that differ in what they are.
        network.RCNN_cls_score.weight.mul_(8)
    return _lively(dict(network.state_dict()))


def save_genome(path: Path, *, pooling: str = "align") -> Path:
    """Write what :func:`genome_state` returns, as its training script wrote the published file."""
    optimiser = {"state": {}, "param_groups": [{"lr": 0.001, "momentum": 0.9, "params": [0, 1]}]}
    whole: dict[str, Any] = {"session": 1, "epoch": 20, "model": genome_state(), "optimizer": optimiser}
    torch.save({**whole, "pooling_mode": pooling, "class_agnostic": False}, path)
    return path


DETR_BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 12, 16, 20],
    "depths": [1, 2, 1, 1],
    "out_features": ["stage4"],
}
_IN_STAGE = r"encoder\.stages\.(\d)\.layers\.(\d)\.(?:layer\.(\d)|(shortcut))\.(convolution|normalization)"
_TO_TIMM = (
    (r"embedder\.embedder\.convolution", r"conv1"),
    (r"embedder\.embedder\.normalization", r"bn1"),
)


def save_detr(folder: Path) -> Path:
    """Write a tiny DETR whose backbone has timm's names, as the published weights have them."""
    import transformers as t
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    backbone = t.ResNetConfig(**{key: value for key, value in DETR_BACKBONE.items() if key != "model_type"})
    shape = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_queries": 7, "num_labels": 5}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    network = t.DetrForObjectDetection(t.DetrConfig(backbone_config=backbone, **shape, **layers))
    _lively(dict(network.named_buffers()))
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 48, "max_size": 80, **DETR_PROCESSOR}))
    weights = load_file(folder / "model.safetensors")
    save_file({timm_name(name): value for name, value in weights.items()}, folder / "model.safetensors")
    return folder


DETR_PROCESSOR = {
    "feature_extractor_type": "DetrFeatureExtractor",
    "do_normalize": True,
    "do_resize": True,
    "format": "coco_detection",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def timm_name(name: str) -> str:
    """Return timm's name for a weight of transformers' own ResNet inside a DETR."""
    for pattern, replacement in _TO_TIMM:
        name = re.sub(pattern, replacement, name)
    found = re.search(
        r"encoder\.stages\.(\d)\.layers\.(\d)\.(?:layer\.(\d)|(shortcut))\.(convolution|normalization)", name
    )
    if found is None:
        return name
    stage, block, number, shortcut, part = found.groups()
    leaf = {"convolution": "conv", "normalization": "bn"}[part]
    inside = f"downsample.{int(leaf == 'bn')}" if shortcut else f"{leaf}{int(number) + 1}"
    return name.replace(found.group(), f"layer{int(stage) + 1}.{block}.{inside}")
