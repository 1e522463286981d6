"""The image stage of preparation: which rows keep their image, and which images are the same or look it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from chiasma.core.errors import DataError
from chiasma.core.files import storage_errors
from chiasma.data import clean
from chiasma.data.decoding import COMPARABLE, Decoded, Picture, decode_all, survey
from chiasma.data.framing import Framing
from chiasma.data.image import fitted
from chiasma.data.manifest import DataSpec, Table
from chiasma.data.mapped import create_mapped
from chiasma.data.near_duplicates import near_duplicates

LARGEST_AUTOMATIC = 64


@dataclass(frozen=True)
class Pictures:
    """What is known after the image stage.

    Attributes:
        frame: The rows that are left.
        known: What each image name is.
        order: Number of each distinct image, by its digest.
        near: Pairs of these numbers that look the same.
        size: Height and width of the decoded images; zeros where none were decoded.
    """

    frame: pd.DataFrame
    known: dict[str, Picture]
    order: dict[str, int]
    near: list[tuple[int, int]]
    size: tuple[int, int] = (0, 0)

    def numbers(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the number of each row's image, -1 for none."""
        names = frame["image"]
        return np.array([-1 if n is None else self.order[self.known[n].digest] for n in names], dtype=np.int64)

    def digest(self, name: str | None) -> str | None:
        """Return the content hash behind an image name."""
        return None if name is None else self.known[name].digest


def look_at_images(
    frame: pd.DataFrame,
    table: Table,
    spec: DataSpec,
    *,
    framing: Framing | None,
    folder: Path,
    progress: Callable[[str], None],
) -> Pictures:
    """Check every image, decode the distinct ones into ``image.data.npy``, set aside the rows of those that fail."""
    ready_made = "image" in spec.features
    names = frame["image"].dropna()
    known = survey(
        names,
        root=table.image_root,
        arrays=table.arrays,
        max_pixels=spec.max_pixels,
        headers=not ready_made,
        elsewhere=table.elsewhere,
    )
    if ready_made:
        # Tokens stand for the image, so that its file is not needed.
        known = {name: replace(p, digest=p.digest or f"name:{name}", problem="") for name, p in known.items()}
    frame = clean.attach_images(frame, known, table.findings, keep_missing=spec.missing_images == "keep")
    frame = clean.require_content(frame, table.findings)
    clean.stop_if_too_bad(table.findings, limit=spec.max_bad_fraction, root=table.image_root)
    distinct = list({known[name].digest: known[name] for name in reversed(frame["image"].dropna().tolist())}.values())[
        ::-1
    ]
    order = {picture.digest: number for number, picture in enumerate(distinct)}
    if ready_made or not distinct:
        if ready_made:
            table.findings.notes.append(
                "Images are not decoded, since tokens stand for them; near-duplicates are not sought."
            )
        return Pictures(frame, known, order, [])
    if framing is None:
        side = spec.image_size or min(LARGEST_AUTOMATIC, max(max(p.width, p.height) for p in distinct))
        size = (side, side)
        shrink = partial(fitted, height=side, width=side, fit=spec.image_fit)
    else:
        size, shrink = framing.size, framing.apply
    decoded = _decode(distinct, table, spec, size=size, shrink=shrink, folder=folder, progress=progress)
    problems = {name: decoded.problems.get(picture.digest, "") for name, picture in known.items()}
    details = ["" if name is None else problems[name] for name in frame["image"]]
    frame = table.findings.quarantine(frame, [bool(d) for d in details], reason="unreadable image", details=details)
    clean.count_oddities(frame, known, table.findings)
    near = [] if table.curated else _near(decoded, table, spec)
    return Pictures(frame, known, order, near, size)


def _decode(
    distinct: list[Picture],
    table: Table,
    spec: DataSpec,
    *,
    size: tuple[int, int],
    shrink: Callable[[Image.Image], np.ndarray],
    folder: Path,
    progress: Callable[[str], None],
) -> Decoded:
    def load(name: str) -> bytes | np.ndarray:
        if name in table.arrays:
            return table.arrays[name]
        path = table.image_file(name)
        assert path is not None
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"The image {path} disappeared while it was read: {error.strerror}.") from None

    with storage_errors(folder):
        out = create_mapped(folder / "image.data.npy", shape=(len(distinct), 3, *size), dtype=np.uint8)
    return decode_all(distinct, load=load, out=out, shrink=shrink, max_pixels=spec.max_pixels, progress=progress)


def _near(decoded: Decoded, table: Table, spec: DataSpec) -> list[tuple[int, int]]:
    if spec.near_duplicate_bits is None:
        return []
    skipped = int((~decoded.comparable).sum()) - len(decoded.problems)
    if skipped:
        table.findings.counts[f"images too small (below {COMPARABLE} pixels) or plain to seek near-duplicates"] = (
            skipped
        )
    return near_duplicates(decoded, bits=spec.near_duplicate_bits)
