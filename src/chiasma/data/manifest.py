"""From any source to one table with known roles, ``id image text label split group``, none of which is guessed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from chiasma.core.errors import DataError
from chiasma.core.files import sha256_file
from chiasma.core.spec import Spec, suggestion
from chiasma.data.captions import Captions
from chiasma.data.decoding import image_path
from chiasma.data.digit_claims import SOURCES as BUILT_IN
from chiasma.data.digit_claims import digit_claims
from chiasma.data.findings import Findings
from chiasma.data.hub import is_hub_name, read_hub_name, stamp_hub_name
from chiasma.data.layouts import LAYOUTS, Layout, layout_of
from chiasma.data.published import Published
from chiasma.data.records import Records, read_records, records_from_frame
from chiasma.data.roles import Columns, check_slices, columns_by_role, missing_role, resolve_roles, text_columns
from chiasma.data.signature import PartTask, Task


class DataSpec(Spec):
    """The ``data`` section of the config: what to read and how to prepare it.

    Attributes:
        source: ``digit_claims``, ``digit_claims:hard``, a manifest (JSON lines, CSV, TSV, Parquet, also ``.gz``), or
            public data as it is distributed: a folder of Hateful Memes, ScienceQA, COCO captions, ImageNet (or any
            folder for each class), CIFAR-10 or IMDB, of any Hugging Face dataset, or ``hf:NAME[:CONFIG]`` by its name.
        columns: Which column plays which role.
        image_dir: Where image names start; None for the manifest's own folder.
        image_fallbacks: Folders, zip or tar files in which images that are missing there are looked for, in order.
        slices: Columns by whose values the results are shown apart; a cell may hold several, as a list or joined by
            ``|``. Empty takes a public dataset's own.
        task: ``auto`` decides from the label column and says so in the report. ``contrastive`` learns which image and
            which text belong together, and needs no labels; ``generation`` writes the label, a text; ``multitask``
            predicts several label columns.
        tasks: What each of several label columns is; one that is not named is decided from its values.
        image_size: Height and width in pixels; None fits the images, at most 64.
        image_fit: ``pad`` with black, ``crop`` the centre, or ``stretch``; a published image processor has its own way.
        image_processor: Size, fit and resampling of a published one, by its name on the hub or its folder; None is
            that of a pretrained image encoder, where there is one.
        max_pixels: A larger image is set aside before it is decoded.
        missing_images: ``keep`` a row whose image file is missing with its text alone, or ``quarantine`` it.
        tokenizer: A published one, by its name on the hub or its folder; None is that of a pretrained text encoder,
            and where there is none, word pieces are learned from the train split.
        vocabulary: Largest number of word pieces that are learned.
        text_length: Token ids a text; None for the 99.5th percentile of the train split, at most 128.
        lowercase: Learned word pieces are of lower case, without accents.
        max_characters: Longer texts are truncated and counted.
        steer_fraction: Share of the rows for decisions inside a training, cut from train where the source has none.
        select_fraction: Share of the rows for comparing candidates, cut from train where the source has none.
        test_fraction: Share of the rows that are sealed, cut from train where the source has none.
        near_duplicate_bits: Images whose perceptual hashes (64 bits) differ in at most so many bits, and that also look
            alike as thumbnails, belong to one group; None for no search.
        shared_images: What to do where the source's own splits share an image or a group: ``drop`` the copy in the
            split that matters less (train before steer, select, test), or ``keep`` and report it.
        max_bad_fraction: Stop when a larger share of the rows is unusable or misses its image.
        features: Tokens made elsewhere, by modality: a file in ``npz``, ``safetensors``, HDF5 or LMDB.
        captions: What images show, joined to the texts; None for no captions.
        sensitive: The report shows no examples.
        rows: Prepare only about so many rows, for a quick look.
    """

    source: str = "digit_claims"
    columns: Columns = Columns()
    image_dir: str | None = None
    image_fallbacks: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    task: Literal["auto"] | Task = "auto"
    tasks: Mapping[str, PartTask] = {}
    image_size: int | None = Field(default=None, ge=4, le=1024)
    image_fit: Literal["pad", "crop", "stretch"] = "pad"
    image_processor: Published | None = None
    max_pixels: int = Field(default=50_000_000, ge=1)
    missing_images: Literal["keep", "quarantine"] = "keep"
    tokenizer: Published | None = None
    vocabulary: int = Field(default=8000, ge=64, le=200_000)
    text_length: int | None = Field(default=None, ge=3, le=4096)
    lowercase: bool = True
    max_characters: int = Field(default=20_000, ge=1)
    steer_fraction: float = Field(default=0.08, gt=0, lt=1)
    select_fraction: float = Field(default=0.12, gt=0, lt=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    near_duplicate_bits: int | None = Field(default=4, ge=0, le=16)
    shared_images: Literal["drop", "keep"] = "drop"
    max_bad_fraction: float = Field(default=0.2, ge=0, le=1)
    features: Mapping[str, str] = {}
    captions: Captions | None = None
    sensitive: bool = False
    rows: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _tasks_of_several(self) -> "DataSpec":
        several = isinstance(self.columns.label, tuple) and len(self.columns.label) > 1
        if several and self.task not in ("auto", "multitask"):
            raise ValueError(
                f"several label columns are task=multitask, but task={self.task}: say tasks.COLUMN instead"
            )
        if (self.task == "multitask" or self.tasks) and not several:
            raise ValueError(
                "multitask needs several label columns, such as columns.label=[topic, price] (--label topic,price), "
                f"but columns.label={self.columns.label}"
            )
        return self

    @model_validator(mode="after")
    def _one_size(self) -> "DataSpec":
        if self.image_size is not None and self.image_processor is not None:
            raise ValueError(
                f"an image processor decides the size, but image_size={self.image_size} and "
                f"image_processor={self.image_processor.name}: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "DataSpec":
        share = self.steer_fraction + self.select_fraction + self.test_fraction
        if share >= 1:
            raise ValueError(
                f"steer_fraction + select_fraction + test_fraction must be below 1, but they sum to {share:g}"
            )
        return self


@dataclass(frozen=True)
class Table:
    """Rows with known roles.

    Attributes:
        frame: Columns ``id image text label split group allowed slices line``, all of dtype object; a missing value is
            None. ``allowed`` holds a tuple of labels, ``slices`` a tuple for each of ``slice_names``.
        findings: What was noticed while reading.
        label_name: The label column's own name.
        stamp: Hash of the source's bytes.
        image_root: Where the names in column ``image`` start.
        arrays: Images that are in memory instead of files, as ``H W 3`` uint8 or as the bytes of an image file, by the
            name in column ``image``.
        curated: The rows are balanced by construction, so that none may be dropped and none is searched for twins.
        slice_names: Columns by whose values results are shown apart.
        elsewhere: Where images lie that are not below ``image_root``, by the name in column ``image``.
    """

    frame: pd.DataFrame
    findings: Findings
    label_name: str
    stamp: str
    image_root: Path | None = None
    arrays: Mapping[str, np.ndarray | bytes] = field(default_factory=dict)
    curated: bool = False
    slice_names: tuple[str, ...] = ()
    elsewhere: Mapping[str, Path] = field(default_factory=dict)

    def image_file(self, name: str) -> Path | None:
        """Return where an image lies, or None where its name leads out of the image folder."""
        assert self.image_root is not None
        return self.elsewhere.get(name) or image_path(name, self.image_root)


def read(spec: DataSpec) -> Table:
    """Read the source and give its columns their roles.

    Raises:
        DataError: The source is missing, empty or damaged, or a role cannot be told from the column names.
    """
    if spec.source in BUILT_IN:
        if spec.task == "contrastive":
            raise DataError(
                f"Half of the pairs of {spec.source} do not belong together, so that task=contrastive needs other data."
            )
        return _read_built_in(spec)
    check_source(spec)
    path = Path(spec.source).expanduser()
    layout = layout_of(path)
    if layout is not None:
        spec = _with_columns_of(layout, spec)
    if is_hub_name(spec.source):
        records, notes = read_hub_name(spec.source)
    else:
        records, notes = (read_records(path), []) if layout is None else layout.read(path)
    beside = Path.cwd() if is_hub_name(spec.source) else path if path.is_dir() else path.parent
    root = beside if spec.image_dir is None else Path(spec.image_dir).expanduser()
    if not root.is_dir():
        raise DataError(f"The image folder {root} does not exist (data.image_dir).")
    return table_from_records(records, spec, image_root=root, notes=notes)


def check_source(spec: DataSpec) -> None:
    """Refuse a source that is not there, before anything is spent on it.

    Raises:
        DataError: There is neither such a file or folder nor such built-in data; says what is meant, if that is known.
    """
    path = Path(spec.source).expanduser()
    if spec.source in BUILT_IN or is_hub_name(spec.source) or path.exists() or "/" in spec.source or path.suffix:
        return
    layout = next((layout for layout in LAYOUTS if spec.source == layout.name.lower().replace(" ", "_")), None)
    if layout is not None:
        raise DataError(
            f"{layout.name} is not built in, and there is no folder {spec.source} here: name the folder that holds it "
            f"as DATA, such as /path/to/{spec.source}."
        )
    raise DataError(
        f"{spec.source!r} is neither a file or folder nor built-in data ({', '.join(BUILT_IN)})."
        f"{suggestion(spec.source, list(BUILT_IN))}"
    )


def _with_columns_of(layout: Layout, spec: DataSpec) -> DataSpec:
    """Return the settings with a layout's own column names and slices where the user gives none.

    Raises:
        DataError: A column that tells the label is to be an input, or the layout serves other tasks.
    """
    told = sorted(set(layout.label_in_disguise) & {*spec.columns.text, spec.columns.image})
    if told:
        raise DataError(f"{told[0]} is the label in disguise in {layout.name}, so that it cannot be an input.")
    if layout.columns_of_task and spec.task not in layout.columns_of_task and not spec.columns.label:
        tasks = " or ".join(f"data.task={task}" for task in layout.columns_of_task)
        raise DataError(f"{layout.name} has no classes to tell: say {tasks}, or name a label column (--label).")
    usual = {**layout.columns, **layout.columns_of_task.get(spec.task, {})}
    own = {role: name for role, name in usual.items() if not getattr(spec.columns, role)}
    slices = spec.slices or layout.slices
    return spec.model_copy(update={"columns": spec.columns.model_copy(update=own), "slices": slices})


def source_stamp(spec: DataSpec) -> str | None:
    """Return the hash that :func:`read` would give the source, without reading rows; None where there is no source."""
    if is_hub_name(spec.source):
        return stamp_hub_name(spec.source)
    path = Path(spec.source).expanduser()
    layout = layout_of(path)
    if layout is not None:
        return layout.stamp(path)
    return sha256_file(path) if path.is_file() else None


def from_frame(frame: pd.DataFrame, spec: DataSpec) -> Table:
    """Give the columns of a pandas frame their roles; images are file names or ``H W 3`` uint8 arrays.

    Raises:
        DataError: The frame is empty, or a role cannot be told from the column names.
    """
    if frame.empty:
        raise DataError("The table is empty: it has no rows.")
    root = Path.cwd() if spec.image_dir is None else Path(spec.image_dir).expanduser()
    return table_from_records(records_from_frame(frame), spec, image_root=root)


def table_from_records(
    records: Records, spec: DataSpec, *, image_root: Path | None = None, notes: Sequence[str] = ()
) -> Table:
    """Give each column its role.

    Raises:
        DataError: A named column does not exist, the label column is missing, or there is neither image nor text.
    """
    roles = resolve_roles(records.columns, spec.columns)
    roles["text"] = text_columns(roles["text"], records.columns, spec.captions)
    if not roles.get("label") and spec.task != "contrastive":
        raise DataError(missing_role("label", records.columns))
    check_slices(spec.slices, records.columns)
    findings = Findings(rows_read=records.total, notes=list(notes))
    for line in records.bad:
        findings.set_aside(line.line, reason=line.reason, detail=line.detail)
    used = {*spec.slices, *(name for names in roles.values() for name in names)}
    unused = [name for name in records.columns if name not in used]
    if unused:
        findings.notes.append(f"Columns that are not used: {', '.join(unused)}.")
    frame, arrays = columns_by_role(records, roles, spec.slices)
    return Table(frame, findings, ",".join(roles["label"]), records.stamp, image_root, arrays, slice_names=spec.slices)


def _read_built_in(spec: DataSpec) -> Table:
    check_slices(spec.slices, ())
    claims = digit_claims(spec.source, pairs=spec.rows)
    findings = Findings(rows_read=len(claims.frame))
    if spec.rows is not None and len(claims.frame) > 1.05 * spec.rows:
        findings.notes.append(
            f"data.rows={spec.rows:,} is too few to balance every text and image of {spec.source}: "
            f"{len(claims.frame):,} rows are used."
        )
    frame = claims.frame.assign(allowed=None, slices=[()] * len(claims.frame))
    return Table(frame, findings, "label", claims.stamp, arrays=claims.images, curated=True)
