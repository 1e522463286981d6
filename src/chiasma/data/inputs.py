"""The model inputs of all rows, one modality at a time: distinct values in one array, and an index a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from chiasma.core.errors import DataError
from chiasma.data.features import import_file
from chiasma.data.findings import Findings
from chiasma.data.manifest import DataSpec
from chiasma.data.mapped import save_array
from chiasma.data.pictures import Pictures
from chiasma.data.preprocessing import TOKENIZER_FILE, texts_to_ids
from chiasma.data.published_images import PublishedImages
from chiasma.data.published_text import SHIFT, PublishedTokenizer, published_length
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.data.strings import StringColumn
from chiasma.data.text import TEXT_SEPARATOR, automatic_length, train_tokenizer


@dataclass(frozen=True)
class Inputs:
    """One modality whose files are written.

    Attributes:
        words: What it is, for the report.
    """

    name: str
    kind: ImageInput | TextInput | TokensInput
    words: str


def image_inputs(numbers: np.ndarray, pictures: Pictures, *, published: PublishedImages | None, folder: Path) -> Inputs:
    """Index the images that are decoded already."""
    save_array(folder / "image.index.npy", numbers)
    height, width = pictures.size
    words = f"{len(np.unique(numbers[numbers >= 0])):,} distinct images of {width} x {height} pixels{_absent(numbers)}"
    kind = ImageInput(channels=3, height=height, width=width)
    if published is not None:
        kind = kind.model_copy(update={"mean": published.mean, "deviation": published.deviation})
    return Inputs("image", kind, words)


def text_inputs(
    frame: pd.DataFrame,
    train: np.ndarray,
    spec: DataSpec,
    findings: Findings,
    *,
    published: PublishedTokenizer | None,
    folder: Path,
) -> Inputs:
    """Encode every distinct text, with a published tokenizer or with word pieces learned from the train split.

    Raises:
        DataError: Texts are to be longer than the published tokenizer allows.
    """
    distinct = list(dict.fromkeys(frame["text"].dropna()))
    position = {text: number for number, text in enumerate(distinct)}
    index = np.array([-1 if text is None else position[text] for text in frame["text"]], dtype=np.int64)
    learnt_from = list(dict.fromkeys(frame.loc[train, "text"].dropna()))
    if published is None:
        tokenizer = train_tokenizer(learnt_from, vocabulary=spec.vocabulary, lowercase=spec.lowercase)
        length = spec.text_length or automatic_length(tokenizer, learnt_from)
        kind = TextInput(vocabulary=tokenizer.get_vocab_size(), length=length)
    else:
        tokenizer = Tokenizer.from_str(published.json)
        joined = [text.replace(TEXT_SEPARATOR, published.rules.separator) for text in learnt_from]
        kind = _published_kind(published, tokenizer, joined, spec)
    length, size = kind.length, kind.vocabulary
    separator = None if published is None else published.rules.separator
    ids, shortened = texts_to_ids(tokenizer, distinct, kind=kind, separator=separator)
    rows_cut = int(shortened[index[index >= 0]].sum())
    if rows_cut:
        findings.counts[f"texts cut to {length} token ids"] += rows_cut
    save_array(folder / "text.data.npy", ids.astype(np.uint16) if size < 2**16 else ids)
    save_array(folder / "text.index.npy", index)
    StringColumn.write(folder, "texts", distinct)
    kept = tokenizer.to_str() if published is None else published.json
    (folder / TOKENIZER_FILE).write_text(kept, encoding="utf-8")
    whose = "" if spec.tokenizer is None else f" of {spec.tokenizer.name}"
    words = f"{len(distinct):,} distinct texts, {size:,} word pieces{whose}, {length} ids long{_absent(index)}"
    return Inputs("text", kind, words)


def _published_kind(
    published: PublishedTokenizer, tokenizer: Tokenizer, texts: Sequence[str], spec: DataSpec
) -> TextInput:
    rules = published.rules
    if spec.text_length is not None and rules.longest is not None and spec.text_length > rules.longest:
        assert spec.tokenizer is not None
        raise DataError(
            f"The tokenizer {spec.tokenizer.name} allows texts of {rules.longest} ids at most, but "
            f"data.text_length={spec.text_length}."
        )
    return TextInput(
        vocabulary=rules.vocabulary + SHIFT,
        length=spec.text_length or published_length(tokenizer, texts, most=rules.longest),
        tokenizer=published.sha256,
        padding=rules.padding,
        blank=None if rules.blank is None else rules.blank + SHIFT,
        special=tuple(each + SHIFT for each in rules.special),
    )


def ready_made_inputs(name: str, path: Path, frame: pd.DataFrame, findings: Findings, *, folder: Path) -> Inputs:
    """Take a modality from a feature file, whose ids are image names (with or without folder and ending) or row ids.

    Raises:
        DataError: The file cannot be used, no id fits, or one id fits two different images.
    """
    features = import_file(path)
    position = {identity: number for number, identity in enumerate(features.ids)}
    index, scheme = match_rows(name, frame, position, path, example=features.ids[0])
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


def match_rows(
    name: str, frame: pd.DataFrame, position: dict[str, int], path: Path, *, example: str
) -> tuple[np.ndarray, str]:
    """Try the ways in which ids may name rows, and take the one that fits most rows.

    Args:
        name: The modality; only images are also found by their names.
        frame: The rows.
        position: Place of each id in the file.
        path: The file, for messages.
        example: One of its ids.

    Returns:
        The place of each row's tokens, -1 where there are none, and by what they were found.

    Raises:
        DataError: No id fits, or ids without folder name images of one name in two folders.
    """
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
