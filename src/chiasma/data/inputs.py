"""The model inputs of all rows, one modality at a time: distinct values in one array, and an index a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.data.features import import_file
from chiasma.data.findings import Findings
from chiasma.data.manifest import DataSpec
from chiasma.data.mapped import save_array
from chiasma.data.pictures import Pictures
from chiasma.data.preprocessing import TOKENIZER_FILE
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.data.strings import StringColumn
from chiasma.data.text import automatic_length, encode_texts, train_tokenizer


@dataclass(frozen=True)
class Inputs:
    """One modality whose files are written.

    Attributes:
        words: What it is, for the report.
    """

    name: str
    kind: ImageInput | TextInput | TokensInput
    words: str


def image_inputs(numbers: np.ndarray, pictures: Pictures, *, folder: Path) -> Inputs:
    """Index the images that are decoded already."""
    save_array(folder / "image.index.npy", numbers)
    size = pictures.size
    words = f"{len(np.unique(numbers[numbers >= 0])):,} distinct images of {size} x {size} pixels{_absent(numbers)}"
    return Inputs("image", ImageInput(channels=3, height=size, width=size), words)


def text_inputs(frame: pd.DataFrame, train: np.ndarray, spec: DataSpec, findings: Findings, *, folder: Path) -> Inputs:
    """Learn the word pieces from the train split and encode every distinct text."""
    distinct = list(dict.fromkeys(frame["text"].dropna()))
    position = {text: number for number, text in enumerate(distinct)}
    index = np.array([-1 if text is None else position[text] for text in frame["text"]], dtype=np.int64)
    learnt_from = list(dict.fromkeys(frame.loc[train, "text"].dropna()))
    tokenizer = train_tokenizer(learnt_from, vocabulary=spec.vocabulary, lowercase=spec.lowercase)
    length = spec.text_length or automatic_length(tokenizer, learnt_from)
    ids, shortened = encode_texts(tokenizer, distinct, length=length)
    rows_cut = int(shortened[index[index >= 0]].sum())
    if rows_cut:
        findings.counts[f"texts cut to {length} token ids"] += rows_cut
    size = tokenizer.get_vocab_size()
    save_array(folder / "text.data.npy", ids.astype(np.uint16) if size < 2**16 else ids)
    save_array(folder / "text.index.npy", index)
    StringColumn.write(folder, "texts", distinct)
    (folder / TOKENIZER_FILE).write_text(tokenizer.to_str(), encoding="utf-8")
    words = f"{len(distinct):,} distinct texts, {size:,} word pieces, {length} ids long{_absent(index)}"
    return Inputs("text", TextInput(vocabulary=size, length=length), words)


def ready_made_inputs(name: str, path: Path, frame: pd.DataFrame, findings: Findings, *, folder: Path) -> Inputs:
    """Take a modality from a feature file, whose ids are image names (with or without folder and ending) or row ids.

    Raises:
        DataError: The file cannot be used, no id fits, or one id fits two different images.
    """
    features = import_file(path)
    position = {identity: number for number, identity in enumerate(features.ids)}
    index, scheme = _matched(name, frame, position, path, example=features.ids[0])
    used, compact = np.unique(index[index >= 0], return_inverse=True)
    index[index >= 0] = compact.reshape(-1)
    arrays = {"data": features.tokens, "mask": features.mask, "boxes": features.boxes}
    for part, values in arrays.items():
        if values is not None:
            save_array(folder / f"{name}.{part}.npy", values[used])
    save_array(folder / f"{name}.index.npy", index)
    if name == "text":
        _keep_texts(frame, folder)
    findings.notes.append(f"Tokens of {name} come from {path.name}, matched by {scheme}.")
    kind = features.signature()
    words = f"{len(used):,} of {len(features.ids):,} ready-made sets of {kind.count} tokens of width {kind.dim}"
    return Inputs(name, kind, words + _absent(index))


def _keep_texts(frame: pd.DataFrame, folder: Path) -> None:
    distinct = list(dict.fromkeys(frame["text"].dropna()))
    StringColumn.write(folder, "texts", distinct)


def _matched(
    name: str, frame: pd.DataFrame, position: dict[str, int], path: Path, *, example: str
) -> tuple[np.ndarray, str]:
    """Try the ways in which ids may name rows, and take the one that fits most rows."""
    names: dict[str, Sequence[str | None]] = {"row id": frame["id"].tolist()}
    if name == "image":
        images = [None if image is None else PurePosixPath(image) for image in frame["image"]]
        names |= {
            "image name": [None if image is None else str(image) for image in images],
            "image name without ending": [None if image is None else str(image.with_suffix("")) for image in images],
            "image file name without folder and ending": [None if image is None else image.stem for image in images],
        }
    fits = {way: np.array([-1 if v is None else position.get(v, -1) for v in values]) for way, values in names.items()}
    way = max(fits, key=lambda key: int((fits[key] >= 0).sum()))
    index = fits[way].astype(np.int64)
    if not (index >= 0).any():
        raise DataError(
            f"No id of {path} fits a row: its first is {example!r}, the table's first {frame['id'].iloc[0]!r}."
        )
    if way.endswith("folder and ending"):
        pairs = {(value, image) for value, image in zip(names[way], frame["image"], strict=True) if value is not None}
        if len(pairs) != len({value for value, _ in pairs}):
            raise DataError(
                f"The ids of {path} name image files without folder, but two folders hold files of one name."
            )
    return index, way


def _absent(index: np.ndarray) -> str:
    absent = int((index < 0).sum())
    return f"; {absent:,} rows without" if absent else ""
