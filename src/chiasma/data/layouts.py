"""Sources that are known by their files and columns: public data in the layout in which it is distributed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasma.data import cifar, class_folders, coco, hateful_memes, hub, imdb, science_qa
from chiasma.data.records import Records


@dataclass(frozen=True)
class Layout:
    """One way in which a public dataset lies on disk.

    Attributes:
        name: As a user knows it.
        fits: Whether a path is in this layout; must not be true of anything else.
        read: Returns the rows, with columns of the usual names, and notes for the report.
        stamp: Returns a hash that changes with the rows.
        columns: Columns of other names, by role.
        columns_of_task: More of these, by the task that the settings name; nothing else can be learned where there are
            some.
        slices: Columns by whose values results are shown apart, unless the settings name others.
        label_in_disguise: Columns that tell the label and may never be an input.
    """

    name: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], tuple[Records, list[str]]]
    stamp: Callable[[Path], str]
    columns: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    columns_of_task: Mapping[str, Mapping[str, str | tuple[str, ...]]] = field(default_factory=dict)
    slices: tuple[str, ...] = ()
    label_in_disguise: tuple[str, ...] = ()


_SCIENCE_QA: Mapping[str, Any] = {
    "columns": {"text": science_qa.TEXT, "allowed": "allowed"},
    "slices": science_qa.SLICES,
    "label_in_disguise": science_qa.DISCUSS_THE_ANSWER,
}

LAYOUTS = (
    Layout(
        "Hateful Memes",
        hateful_memes.is_hateful_memes,
        hateful_memes.read_hateful_memes,
        hateful_memes.stamp_hateful_memes,
    ),
    Layout(
        "ScienceQA",
        science_qa.is_science_qa,
        science_qa.read_science_qa,
        science_qa.stamp_science_qa,
        **_SCIENCE_QA,
    ),
    Layout(
        "ScienceQA (Parquet)",
        science_qa.is_science_qa_parquet,
        science_qa.read_science_qa_parquet,
        science_qa.stamp_science_qa_parquet,
        **_SCIENCE_QA,
    ),
    Layout("CIFAR-10 (Parquet)", cifar.is_cifar10_parquet, cifar.read_cifar10_parquet, cifar.stamp_cifar10_parquet),
    Layout("CIFAR-10 (pickles)", cifar.is_cifar_pickles, cifar.read_cifar_pickles, cifar.stamp_cifar_pickles),
    Layout("CIFAR-10 (folders)", cifar.is_cifar10_folders, cifar.read_cifar10_folders, cifar.stamp_cifar10_folders),
    Layout(
        "IMDB (folders)",
        imdb.is_imdb_folders,
        imdb.read_imdb_folders,
        imdb.stamp_imdb_folders,
        label_in_disguise=(imdb.RATING,),
    ),
    Layout(
        "IMDB (table)",
        imdb.is_imdb_table,
        imdb.read_imdb_table,
        imdb.stamp_imdb_table,
        columns={"group": imdb.GROUP},
        label_in_disguise=(imdb.RATING,),
    ),
    Layout("COCO captions", coco.is_coco, coco.read_coco, coco.stamp_coco, columns_of_task=coco.COLUMNS_OF_TASK),
    Layout("Hugging Face (saved)", hub.is_saved, hub.read_saved, hub.stamp_saved),
    # Last: of folders that nothing else knows.
    Layout("Hugging Face (Parquet)", hub.is_parquet_folder, hub.read_parquet_folder, hub.stamp_parquet_folder),
    Layout(
        "class folders",
        class_folders.is_class_folders,
        class_folders.read_class_folders,
        class_folders.stamp_class_folders,
    ),
)


def layout_of(path: Path) -> Layout | None:
    """Return the layout that a path is in, or None where it is to be read as a plain table."""
    return next((layout for layout in LAYOUTS if layout.fits(path)), None)
