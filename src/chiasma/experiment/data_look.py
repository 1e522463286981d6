"""What a prepared dataset looks like to a person."""

from typing import Any

import numpy as np

from chiasma.data.dataset import Dataset
from chiasma.data.signature import ImageInput, InputSpec, TextInput

_LONGEST = 60


def describe_inputs(dataset: Dataset) -> dict[str, str]:
    """Return the shape of each modality and the target, in words."""
    words = {name: _shape(spec) for name, spec in dataset.signature.inputs.items()}
    target = dataset.signature.target
    return words | {"target": f"{target.task} of {_listed(target.labels)}"}


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
    if target.task == "regression" or not len(rows):
        return ""
    labels = dataset.labels(rows).numpy()
    several = target.task == "multilabel"
    counts = labels.sum(0).astype(int) if several else np.bincount(labels, minlength=target.outputs)
    order = np.argsort(-counts, kind="stable")[:6]
    shown = ", ".join(f"{target.labels[place]} {counts[place]:,}" for place in order)
    return shown + (f", and {target.outputs - 6} more" if target.outputs > 6 else "")


def _label_words(dataset: Dataset, label: Any) -> str:
    target = dataset.signature.target
    if target.task == "classification":
        return target.labels[int(label)]
    if target.task == "multilabel":
        return "|".join(name for name, on in zip(target.labels, label, strict=True) if on)
    assert dataset.target_scale is not None
    mean, deviation = dataset.target_scale
    return ", ".join(f"{value:.6g}" for value in np.asarray(mean) + np.asarray(deviation) * label)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
