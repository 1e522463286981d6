"""The stages between a table and a prepared folder, in order: labels, rows, images, splits, texts, files."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.core.rng import numpy_rng
from chiasma.core.spec import canonical_json
from chiasma.data import clean
from chiasma.data.captions import Describe, ImageSource, captioned
from chiasma.data.choices import allowed_matrix
from chiasma.data.inputs import Inputs, image_inputs, ready_made_inputs, text_inputs
from chiasma.data.labels import label_names
from chiasma.data.learnable import SIDES, Learnable, learnable
from chiasma.data.manifest import DataSpec, Table
from chiasma.data.mapped import save_array
from chiasma.data.pictures import Pictures, look_at_images
from chiasma.data.preprocessing import PreprocessingSpec
from chiasma.data.published_images import PublishedImages, read_image_processor
from chiasma.data.published_text import PublishedTokenizer, read_tokenizer
from chiasma.data.report import DataReport, SplitCount
from chiasma.data.several import standardised
from chiasma.data.signature import Signature, Target
from chiasma.data.slices import count_slices, write_slices
from chiasma.data.splits import SPLITS, cut, grouped
from chiasma.data.strings import StringColumn

Progress = Callable[[str], None]
Digest = Callable[[str | None], str | None]


@dataclass(frozen=True)
class Rows:
    """The rows that are kept, the sealed ones last, and what is known of each.

    Attributes:
        frame: Columns ``id image text label split group allowed slices line``.
        images: Number of each row's distinct image, -1 for none.
        groups: Group of each row.
        pairs: Distinct images that look the same.
    """

    frame: pd.DataFrame
    images: np.ndarray
    groups: np.ndarray
    pairs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def visible(self) -> int:
        """Return how many rows are not sealed."""
        return sum(split != "test" for split in self.frame["split"])


@dataclass(frozen=True)
class _Published:
    """The published tokenizer and image processor, where the settings name one."""

    tokenizer: PublishedTokenizer | None
    images: PublishedImages | None

    @classmethod
    def read(cls, spec: DataSpec) -> "_Published":
        return cls(
            None if spec.tokenizer is None else read_tokenizer(spec.tokenizer),
            None if spec.image_processor is None else read_image_processor(spec.image_processor),
        )

    def completed(self, spec: PreprocessingSpec) -> PreprocessingSpec:
        """Return how samples are encoded, the published way where there is one."""
        framing = None if self.images is None else self.images.framing
        separator = None if self.tokenizer is None else self.tokenizer.rules.separator
        return spec.model_copy(update={"framing": framing, "separator": separator})


def assemble(
    table: Table, spec: DataSpec, *, seed: int, folder: Path, progress: Progress, describe: Describe | None = None
) -> tuple[dict[str, Any], DataReport]:
    """Write every file of a prepared dataset but its manifest.

    Returns:
        The manifest's content, and the report.

    Raises:
        DataError: The table cannot be used as a whole, or too much of it cannot.
    """
    frame, what = _labelled(table, spec, seed)
    frame = captioned(
        frame, spec.captions, table.findings, source_of=lambda name: _source(name, table), describe=describe
    )
    frame = _cleaned(frame, table, spec)
    progress(f"looking at the images of {len(frame):,} rows")
    published = _Published.read(spec)
    framing = None if published.images is None else published.images.framing
    pictures = look_at_images(frame, table, spec, framing=framing, folder=folder, progress=progress)
    clean.stop_if_too_bad(table.findings, limit=spec.max_bad_fraction, root=table.image_root)
    rows = _split_rows(pictures, table, spec, what=what, seed=seed)
    target = what.target(_of_split(rows.frame, "train"), name=table.label_name)
    progress(f"encoding the texts of {len(rows.frame):,} rows")
    inputs = _inputs(rows, pictures, table, spec, published, folder)
    preprocessing = published.completed(
        _write_rows(rows, table, spec, what=what, target=target, inputs=inputs, digest=pictures.digest, folder=folder)
    )
    manifest = {
        "fingerprint": _test_fingerprint(rows, pictures),
        "sensitive": spec.sensitive,
        "source": spec.source,
        "image_root": None if table.image_root is None else str(table.image_root.resolve()),
        "preprocessing": preprocessing.to_dict(),
        "slices": write_slices(rows.frame, table.slice_names, folder),
        "parts": sorted(path.name.removesuffix(".index.npy") for path in folder.glob("*.index.npy")),
    }
    return manifest, _report(rows, table, spec, why=what.why, inputs=inputs)


def _source(name: str, table: Table) -> ImageSource | None:
    """Return where the image of a name is."""
    if name in table.arrays:
        return table.arrays[name]
    return None if table.image_root is None or not name.isprintable() else table.image_file(name)


def _labelled(table: Table, spec: DataSpec, seed: int) -> tuple[pd.DataFrame, Learnable]:
    """Check the whole label column before anything is spent on the rows."""
    frame, findings = table.frame, table.findings
    if spec.rows is not None and not table.curated and spec.rows < len(frame):
        chosen = np.sort(numpy_rng(seed, "rows").permutation(len(frame))[: spec.rows])
        findings.notes.append(f"Only {spec.rows:,} of {len(frame):,} rows are used, as data.rows says.")
        findings.rows_read -= len(frame) - spec.rows
        frame = frame.iloc[chosen].reset_index(drop=True)
    return learnable(frame, spec, findings, name=table.label_name)


def _cleaned(frame: pd.DataFrame, table: Table, spec: DataSpec) -> pd.DataFrame:
    frame = clean.clean_splits(frame, table.findings)
    frame = clean.clean_ids(frame, table.findings, limit=spec.max_bad_fraction)
    frame = clean.clean_texts(frame, table.findings, max_characters=spec.max_characters)
    clean.stop_if_too_bad(table.findings, limit=spec.max_bad_fraction, root=table.image_root)
    return frame


def _split_rows(pictures: Pictures, table: Table, spec: DataSpec, *, what: Learnable, seed: int) -> Rows:
    frame, findings = pictures.frame, table.findings
    if what.task == "contrastive":
        frame = clean.require_pairs(frame, findings, sides=[s for s in SIDES if s not in spec.features])
        clean.stop_if_too_bad(findings, limit=spec.max_bad_fraction, root=table.image_root)
    if not table.curated:
        contents = _contents(frame, pictures.numbers(frame))
        frame = clean.drop_repeats(frame, contents, findings, quantities=what.may_differ)
        if any(split is not None for split in frame["split"]):
            shared = {"image": pictures.numbers(frame), "group": _numbers(frame["group"])}
            frame = clean.drop_leaks(frame, shared, findings, drop=spec.shared_images == "drop")
    images = pictures.numbers(frame)
    links = [images, _numbers(frame["group"]), _contents(frame, images)]
    groups = grouped(len(frame), links, pairs={0: pictures.near})
    splits = pd.Series(_cut(frame, groups, table, spec, what=what, seed=seed), dtype=object, index=frame.index)
    frame = frame.assign(split=splits, number=groups)
    frame = clean.drop_unseen_labels(frame, findings)
    sealed = (frame["split"] == "test").to_numpy(bool)
    frame = frame.iloc[np.argsort(sealed, kind="stable")].reset_index(drop=True)
    for split in SPLITS:
        if not (frame["split"] == split).any():
            raise DataError(
                f"The {split} split is empty: {len(frame):,} rows in {len(np.unique(groups)):,} groups are too few for "
                "four splits. Add rows, or check the split and group columns."
            )
    return Rows(frame, pictures.numbers(frame), frame["number"].to_numpy(np.int64), pictures.near)


def _cut(
    frame: pd.DataFrame, groups: np.ndarray, table: Table, spec: DataSpec, *, what: Learnable, seed: int
) -> np.ndarray:
    """Cut the splits that the source does not have from its train rows."""
    given = frame["split"].to_numpy(object)
    wanted = {"steer": spec.steer_fraction, "select": spec.select_fraction, "test": spec.test_fraction}
    fractions = {name: share for name, share in wanted.items() if name not in set(given)}
    if not fractions:
        return given
    pool = np.array([split in (None, "train") for split in given])
    strata = _numbers(frame["label"]) if what.task == "classification" else np.zeros(len(frame), dtype=np.int64)
    result = given.copy()
    result[pool] = cut(groups[pool], strata[pool], fractions=fractions, seed=seed)
    _return_unlearned(result, frame, groups, pool)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in fractions.items())
    table.findings.notes.append(
        f"The source does not say which rows are for {shares}; they are cut from train by group."
    )
    return result


def _return_unlearned(result: np.ndarray, frame: pd.DataFrame, groups: np.ndarray, pool: np.ndarray) -> None:
    """Give rows of labels that would be in no train row back to train, with their groups, in place."""
    trained = {name for label in frame.loc[result == "train", "label"] for name in label_names(label)}
    lost = [bool(set(label_names(label)) - trained) for label in frame["label"]]
    back = np.isin(groups, groups[np.array(lost, dtype=bool) & pool]) & pool
    result[back] = "train"


def _contents(frame: pd.DataFrame, images: np.ndarray) -> np.ndarray:
    """Return a number for each row, equal exactly for the same image and the same text."""
    texts = _numbers(frame["text"])
    return pd.factorize(pd.Series(images * (int(texts.max(initial=0)) + 2) + texts))[0].astype(np.int64)


def _numbers(values: Iterable[Any]) -> np.ndarray:
    """Return a number for each value, equal exactly for equal ones; -1 for None."""
    known: dict[Any, int] = {}
    return np.array([-1 if v is None else known.setdefault(v, len(known)) for v in values], dtype=np.int64)


def _of_split(frame: pd.DataFrame, split: str) -> list[Any]:
    return frame.loc[frame["split"] == split, "label"].tolist()


def _inputs(
    rows: Rows, pictures: Pictures, table: Table, spec: DataSpec, published: "_Published", folder: Path
) -> list[Inputs]:
    train = (rows.frame["split"] == "train").to_numpy(bool)
    inputs = [
        ready_made_inputs(name, Path(path).expanduser(), rows.frame, table.findings, folder=folder)
        for name, path in sorted(spec.features.items())
    ]
    if "image" not in spec.features and (rows.images[train] >= 0).any():
        inputs.append(image_inputs(rows.images, pictures, published=published.images, folder=folder))
    if "text" not in spec.features and rows.frame.loc[train, "text"].notna().any():
        tokenizer = published.tokenizer
        inputs.append(text_inputs(rows.frame, train, spec, table.findings, published=tokenizer, folder=folder))
    if not inputs:
        raise DataError("No train row has an image or a text.")
    return sorted(inputs, key=lambda item: item.name)


def row_contents(frame: pd.DataFrame, digest: Digest) -> np.ndarray:
    """Return 64 bits of the hash of each row's image and text, equal in whatever file the row stands."""
    lines = (canonical_json([digest(image), text]) for image, text in zip(frame["image"], frame["text"], strict=True))
    hashes = b"".join(hashlib.blake2b(line.encode(), digest_size=8).digest() for line in lines)
    return np.frombuffer(hashes, dtype="<u8")


def _write_rows(
    rows: Rows,
    table: Table,
    spec: DataSpec,
    *,
    what: Learnable,
    target: Target,
    inputs: list[Inputs],
    digest: Digest,
    folder: Path,
) -> PreprocessingSpec:
    frame, visible = rows.frame, rows.visible
    train = (frame["split"] == "train").to_numpy(bool)
    labels, scale = standardised(what.encode(frame, target, images=rows.images), target, train=train)
    arrays = {
        "contents": row_contents(frame, digest),
        "labels": labels[:visible],
        "test_labels": labels[visible:],
        "splits": np.array([SPLITS.index(split) for split in frame["split"]], dtype=np.uint8),
        "groups": rows.groups,
        "image_name.index": _numbers(frame["image"]),
    }
    for name, values in arrays.items():
        save_array(folder / f"{name}.npy", values)
    StringColumn.write(folder, "ids", frame["id"].tolist())
    names = list(dict.fromkeys(frame["image"].dropna()))
    StringColumn.write(folder, "image_names", [str(table.elsewhere.get(name, name)) for name in names])
    allowed = allowed_matrix(frame["allowed"], target.labels)
    if allowed is not None:
        table.findings.counts["rows that allow some of the classes only"] = int((~allowed.all(1)).sum())
        save_array(folder / "allowed.npy", allowed)
    if table.arrays:
        (folder / "image_name.index.npy").unlink()
    return PreprocessingSpec(
        signature=Signature(inputs={item.name: item.kind for item in inputs}, target=target),
        image_fit=spec.image_fit,
        max_pixels=spec.max_pixels,
        max_characters=spec.max_characters,
        target_mean=None if scale is None else tuple(scale[0].tolist()),
        target_deviation=None if scale is None else tuple(scale[1].tolist()),
    )


def _test_fingerprint(rows: Rows, pictures: Pictures) -> str:
    """Hash what is sealed, whatever its order: changing a setting must not hide earlier openings."""
    sealed = rows.frame.loc[rows.frame["split"] == "test", ["image", "text", "label"]]
    lines = sorted(
        canonical_json([pictures.digest(image), text, label]) for image, text, label in sealed.itertuples(index=False)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]


def _report(rows: Rows, table: Table, spec: DataSpec, *, why: str, inputs: list[Inputs]) -> DataReport:
    frame, findings = rows.frame, table.findings
    return DataReport(
        source=spec.source,
        task=why,
        rows_read=findings.rows_read,
        rows_kept=len(frame),
        splits={split: _split_count(frame, rows.groups, split) for split in SPLITS},
        quarantined=dict(findings.reasons().most_common()),
        counts=dict(sorted(findings.counts.items())),
        inputs={item.name: item.words for item in inputs},
        slices=count_slices(frame, table.slice_names),
        near_duplicate_images=len(rows.pairs),
        near_duplicate_images_across_splits=_across(rows),
        notes=tuple(findings.notes),
    )


def _split_count(frame: pd.DataFrame, groups: np.ndarray, split: str) -> SplitCount:
    here = (frame["split"] == split).to_numpy(bool)
    counts = Counter(name for label in frame.loc[here, "label"] for name in label_names(label))
    return SplitCount(
        rows=int(here.sum()),
        groups=len(np.unique(groups[here])),
        labels=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
    )


def _across(rows: Rows) -> int:
    homes: dict[int, set[str]] = {}
    for image, split in zip(rows.images.tolist(), rows.frame["split"], strict=True):
        homes.setdefault(image, set()).add(split)
    return sum(len(homes.get(a, set()) | homes.get(b, set())) > 1 for a, b in rows.pairs if a in homes and b in homes)
