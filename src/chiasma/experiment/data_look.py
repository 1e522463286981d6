"""What a prepared dataset looks like to a person."""

from typing import Any

import numpy as np

from chiasma.data.dataset import Dataset
from chiasma.data.several import count_classes, parts_of
from chiasma.data.signature import ImageInput, InputSpec, Target, TextInput
from chiasma.train.metrics import Scale

_LONGEST = 60


def describe_inputs(dataset: Dataset) -> dict[str, str]:
    """Return the shape of each modality and the target, in words."""
    words = {name: _shape(spec) for name, spec in dataset.signature.inputs.items()}
    target = dataset.signature.target
    if not target.tasks:
        return words | {"target": f"{target.task} of {_listed(target.labels)}"}
    each = {f"target {t.name}": f"{t.target.task} of {_listed(t.target.labels)}" for t in target.tasks}
    return words | each


def describe_splits(dataset: Dataset) -> list[tuple[str, int, str]]:
    """Return each split with its rows and its commonest labels; of the sealed test only how many rows there are."""
    lines: list[tuple[str, int, str]] = []
    for split in ("train", "steer", "select"):
        rows = dataset.rows(split)
        lines.append((split, len(rows), _label_counts(dataset, rows)))
    return [*lines, ("test", dataset.test_count, "sealed")]


def samples(dataset: Dataset, *, count: int) -> list[tuple[str, str, str, str]]:
    """Return the first rows of train: id, image path, text, label."""
    rows = dataset.rows("train")[:count]
    images = dataset.image_paths(rows) if "image" in dataset.signature.inputs else [""] * len(rows)
    texts = dataset.texts(rows) if "text" in dataset.signature.inputs else [""] * len(rows)
    labels = dataset.labels(rows).numpy()
    return [
        (str(identity), str(image or ""), _short(text or ""), _label_words(dataset, label))
        for identity, image, text, label in zip(dataset.ids(rows), images, texts, labels, strict=True)
    ]


def _shape(spec: InputSpec) -> str:
    if isinstance(spec, ImageInput):
        return f"images of {spec.height} x {spec.width} pixels, {spec.channels} channels"
    if isinstance(spec, TextInput):
        return f"texts of up to {spec.length} tokens, vocabulary of {spec.vocabulary:,}"
    return f"{spec.count} ready-made tokens of width {spec.dim}"


def _label_counts(dataset: Dataset, rows: np.ndarray) -> str:
    target = dataset.signature.target
    counts = count_classes(dataset.labels(rows).numpy(), target) if len(rows) else None
    if counts is None:
        return ""
    order = np.argsort(-counts, kind="stable")[:6]
    shown = ", ".join(f"{target.labels[place]} {counts[place]:,}" for place in order)
    return shown + (f", and {target.outputs - 6} more" if target.outputs > 6 else "")


def _label_words(dataset: Dataset, label: Any) -> str:
    target = dataset.signature.target
    if not target.tasks:
        return _one_label(target, label, dataset.target_scale)
    words: list[str] = []
    for part in parts_of(target):
        known, own = part.of(np.asarray(label)[None])
        said = _one_label(part.target, own[0], part.scale(dataset.target_scale)) if known[0] else "-"
        words.append(f"{part.name}: {said}")
    return ", ".join(words)


def _one_label(target: Target, label: Any, scale: Scale | None) -> str:
    if target.task == "classification":
        return target.labels[int(label)]
    if target.task == "contrastive":
        return ""
    if target.task == "multilabel":
        return "|".join(name for name, on in zip(target.labels, label, strict=True) if on)
    assert scale is not None
    return ", ".join(f"{value:.6g}" for value in scale[0] + scale[1] * label)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
