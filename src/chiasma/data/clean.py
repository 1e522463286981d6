"""Rows that cannot be used, repeat others, contradict them, or leak from one split into another; each is counted."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.data.decoding import TINY, Picture
from chiasma.data.findings import Findings
from chiasma.data.labels import LABEL_SEPARATOR, label_names
from chiasma.data.splits import SPLIT_NAMES, SPLITS, straddling
from chiasma.data.text import clipped


def clean_ids(frame: pd.DataFrame, findings: Findings, *, limit: float) -> pd.DataFrame:
    """Set aside rows without an id, and all but the first of those that share one.

    Where more than the share ``limit`` of the rows repeats an id, the column names no rows, which are numbered then.
    """
    for column in ("id", "image", "text", "group"):
        frame = findings.quarantine(
            frame, ~frame[column].map(_is_unicode).to_numpy(bool), reason=f"{column} is not valid Unicode"
        )
    repeated = frame["id"].duplicated().to_numpy(bool) & frame["id"].notna().to_numpy(bool)
    if repeated.sum() > limit * len(frame):
        findings.notes.append(
            f"{int(repeated.sum()):,} rows repeat the id of another: the id column names no rows, which are numbered."
        )
        numbered = pd.Series([f"row-{line:07d}" for line in frame["line"]], dtype=object, index=frame.index)
        return frame.assign(id=numbered)
    frame = findings.quarantine(frame, frame["id"].isna(), reason="id is missing")
    return findings.quarantine(frame, frame["id"].duplicated(), reason="duplicate id")


def clean_texts(frame: pd.DataFrame, findings: Findings, *, max_characters: int) -> pd.DataFrame:
    """Set aside texts with NUL bytes, cut over-long ones, and call blank ones absent."""
    nul = [text is not None and "\0" in text for text in frame["text"]]
    frame = findings.quarantine(frame, nul, reason="text holds NUL bytes")
    longer = sum(text is not None and len(text.strip()) > max_characters for text in frame["text"])
    if longer:
        findings.counts[f"texts cut to {max_characters:,} characters"] += longer
    texts = [None if text is None else clipped(text, max_characters) or None for text in frame["text"]]
    blank = sum(text is None for text in texts)
    if 0 < blank < len(texts):
        findings.counts["rows without a text"] += blank
    return frame.assign(text=pd.Series(texts, dtype=object, index=frame.index))


def clean_splits(frame: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    """Translate split names; where the source has splits at all, set aside rows without one.

    Raises:
        DataError: A name is unknown, or no row is called train.
    """
    names = [None if split is None else split.casefold() for split in frame["split"]]
    unknown = sorted({name for name in names if name is not None and name not in SPLIT_NAMES})
    if unknown:
        known = ", ".join(sorted(SPLIT_NAMES))
        raise DataError(f"Column split must hold names among {known}, but has {', '.join(map(repr, unknown[:5]))}.")
    translated = [None if name is None else SPLIT_NAMES[name] for name in names]
    frame = frame.assign(split=pd.Series(translated, dtype=object, index=frame.index))
    if all(name is None for name in translated):
        return frame
    if "train" not in translated:
        raise DataError(
            f"Column split must call some rows train, but has only {', '.join(sorted(filter(None, set(names))))}."
        )
    return findings.quarantine(frame, frame["split"].isna(), reason="split is missing")


def attach_images(
    frame: pd.DataFrame, pictures: Mapping[str, Picture], findings: Findings, *, keep_missing: bool
) -> pd.DataFrame:
    """Set aside rows whose image cannot be used; a missing file leaves the text alone where that is wished."""
    found = [None if name is None else pictures[name] for name in frame["image"]]
    absent = np.array([picture is not None and picture.problem == "missing image" for picture in found], dtype=bool)
    alone = absent & frame["text"].notna().to_numpy(bool) & keep_missing
    if alone.any():
        findings.counts["rows whose image file is missing, kept with their text alone"] += int(alone.sum())
        frame = frame.assign(image=frame["image"].where(~alone, None))
    usable = [None if name is None else pictures[name] for name in frame["image"]]
    reasons = ["" if picture is None else picture.problem for picture in usable]
    return findings.quarantine_each(frame, reasons, details=["" if p is None else p.detail for p in usable])


def count_oddities(frame: pd.DataFrame, pictures: Mapping[str, Picture], findings: Findings) -> None:
    """Count images that are usable but unusual."""
    used = [pictures[name] for name in frame["image"].dropna().unique()]
    animated = sum(picture.frames > 1 for picture in used)
    tiny = sum(0 < min(picture.width, picture.height) < TINY for picture in used)
    if animated:
        findings.counts["animated images, of which the first frame is used"] += animated
    if tiny:
        findings.counts[f"images with a side below {TINY} pixels"] += tiny


def require_content(frame: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    """Set aside rows with neither image nor text."""
    return findings.quarantine(frame, frame["image"].isna() & frame["text"].isna(), reason="neither image nor text")


def require_pairs(frame: pd.DataFrame, findings: Findings, *, sides: Sequence[str]) -> pd.DataFrame:
    """Set aside rows that lack one of the sides that are to be compared."""
    for side in sides:
        frame = findings.quarantine(frame, frame[side].isna(), reason=f"a pair without its {side}")
    return frame


def stop_if_too_bad(findings: Findings, *, limit: float, root: Path | None) -> None:
    """Refuse a source of which too much is unusable.

    Raises:
        DataError: More than ``limit`` of the rows are unusable or miss their image; names the commonest reason.
    """
    bad = findings.bad_rows()
    missing = findings.counts["rows whose image file is missing, kept with their text alone"]
    if missing:
        bad["missing image"] += missing
    total = sum(bad.values())
    if not total or total <= limit * findings.rows_read:
        return
    reason, count = bad.most_common(1)[0]
    first = next((entry for entry in findings.quarantined if entry["reason"] == reason and entry["detail"]), None)
    example = f" First: {first['detail']}." if first else f" Image names start at {root} (data.image_dir)."
    raise DataError(
        f"{total:,} of {findings.rows_read:,} rows ({total / findings.rows_read:.0%}) cannot be used, more than "
        f"data.max_bad_fraction={limit:g}. Most often: {reason} ({count:,} rows).{example}"
    )


def drop_repeats(frame: pd.DataFrame, contents: np.ndarray, findings: Findings, *, quantities: bool) -> pd.DataFrame:
    """Keep one of each set of rows with the same image, text and label; where the labels disagree keep none.

    The copy in the split that matters most is kept: test before select, steer and train. The source's own select and
    test splits stay as they are, so that figures compare with published ones; what repeats or disagrees is counted.

    Args:
        frame: The table, with canonical labels.
        contents: A number for each row, equal exactly for the same image and text.
        findings: Takes what is set aside.
        quantities: Labels are measurements, which may differ; then only identical ones repeat, and none conflict.
    """
    rank = np.array([SPLITS.index(split or "train") for split in frame["split"]])
    labels = pd.factorize(pd.Series([repr(label) for label in frame["label"]]))[0]
    table = pd.DataFrame({"content": contents, "label": labels, "rank": rank, "row": np.arange(len(frame))})
    different = np.asarray(table.groupby("content")["label"].transform("nunique"))
    conflict = (different > 1) & (not quantities)
    ordered = table.sort_values(["rank", "row"], ascending=[False, True])
    repeated = ordered.duplicated(["content", "label"]).sort_index().to_numpy(bool) & ~conflict
    best = np.asarray(table.groupby(["content", "label"])["rank"].transform("max"))
    across = repeated & (best > rank)
    evaluated = frame["split"].isin(["select", "test"]).to_numpy(bool)
    kept = int(((conflict | repeated) & evaluated & ~across).sum())
    if kept:
        findings.counts["rows in the source's select and test that repeat or contradict another, kept"] += kept
    conflict, repeated = conflict & ~evaluated, repeated & (~evaluated | across)
    reasons = np.select(
        [conflict, across, repeated],
        ["conflicting labels", "exact duplicate across splits", "exact duplicate"],
        default="",
    )
    details = [f"label {LABEL_SEPARATOR.join(label_names(label)) or label}" for label in frame["label"]]
    return findings.quarantine_each(frame, reasons, details=details)


def drop_leaks(frame: pd.DataFrame, keys: Mapping[str, np.ndarray], findings: Findings, *, drop: bool) -> pd.DataFrame:
    """Find rows that share an image or a group with a split that matters more.

    Raises:
        DataError: Dropping them would cost more than half of the train split.
    """
    splits = frame["split"].to_numpy()
    leaks = {name: straddling(values, splits) for name, values in keys.items()}
    if not drop:
        for name, mask in leaks.items():
            if mask.any():
                findings.counts[f"rows that share their {name} with another split, kept"] += int(mask.sum())
        return frame
    total = np.logical_or.reduce(list(leaks.values()))
    train = splits == "train"
    if total[train].sum() > train.sum() / 2:
        raise DataError(
            f"{total[train].sum():,} of {train.sum():,} train rows share an image or a group with another split of the "
            "source. If that is by design, say data.shared_images=keep; otherwise leave out the split column."
        )
    reasons = np.select(list(leaks.values()), [f"{name} also in another split" for name in leaks], default="")
    return findings.quarantine_each(frame, reasons)


def drop_unseen_labels(frame: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    """Set aside rows whose label no train row has, since it cannot be learned; note labels of one split only."""
    trained = {name for label in frame.loc[frame["split"] == "train", "label"] for name in label_names(label)}
    unseen = [sorted(set(label_names(label)) - trained) for label in frame["label"]]
    homes: dict[str, set[str]] = {}
    for label, split in zip(frame["label"], frame["split"], strict=True):
        for name in label_names(label):
            homes.setdefault(name, set()).add(split)
    lonely = sorted(name for name, splits in homes.items() if len(splits) == 1)
    if lonely:
        shown = ", ".join(f"{name!r} ({next(iter(homes[name]))})" for name in lonely[:5])
        findings.notes.append(
            f"{len(lonely):,} labels occur in one split only: {shown}{', ...' if len(lonely) > 5 else ''}."
        )
    return findings.quarantine(
        frame,
        [bool(names) for names in unseen],
        reason="label not in the train split",
        details=[", ".join(names) for names in unseen],
    )


def _is_unicode(text: str | None) -> bool:
    if text is None or text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
