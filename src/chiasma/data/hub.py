"""Any dataset of the Hugging Face hub: a folder that ``save_to_disk`` wrote, a folder of Parquet files, or its name.

Folders are read without the ``datasets`` library, names with it; scripts that come with a dataset are never run.
Columns get their roles as those of any table do; numbers that stand for names (ClassLabel) become the names.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import yaml

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.hub_tables import damaged, known_split, split_tables
from chiasma.data.records import Records, hash_of_names, stamp_of_files

PREFIX = "hf:"
INSTALL = "pip install 'chiasma[datasets]'"
_MANY, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"

Names = Mapping[str, Sequence[str]]
Part = tuple[str | None, pa.Table, Names]


def is_hub_name(source: str) -> bool:
    """Return whether a source is ``hf:NAME`` or ``hf:NAME:CONFIG``."""
    return source.startswith(PREFIX)


def is_saved(path: Path) -> bool:
    """Return whether a path is what ``save_to_disk`` writes, of one split or of several."""
    return (path / _MANY).is_file() or ((path / _STATE).is_file() and (path / _INFO).is_file())


def stamp_saved(folder: Path) -> str:
    """Return a hash of the layout's files."""
    names = [str(path.relative_to(folder)) for path in sorted([*folder.rglob("*.arrow"), *folder.rglob("*.json")])]
    return stamp_of_files(folder, names)


def read_saved(folder: Path) -> tuple[Records, list[str]]:
    """Read all splits.

    Raises:
        DataError: A file is missing or damaged.
    """
    return _records(_saved_parts(folder), stamp_saved(folder))


def is_parquet_folder(path: Path) -> bool:
    """Return whether a path is a folder of Parquet files that are named by their splits, perhaps in ``data``."""
    return path.is_dir() and bool(split_tables(path, suffix=".parquet"))


def stamp_parquet_folder(folder: Path) -> str:
    """Return a hash of the layout's files."""
    paths = [path for paths in split_tables(folder, suffix=".parquet").values() for path in paths]
    return stamp_of_files(folder, ["README.md", *(str(path.relative_to(folder)) for path in paths)])


def read_parquet_folder(folder: Path) -> tuple[Records, list[str]]:
    """Read all splits; images stay the encoded bytes that they are.

    Raises:
        DataError: A file is damaged.
    """
    return _records(_parquet_parts(folder), stamp_parquet_folder(folder))


def read_hub_name(source: str) -> tuple[Records, list[str]]:
    """Read a dataset by its name, from the hub or from what was fetched before.

    Raises:
        ConfigError: The ``datasets`` library is missing, or nothing of that name can be had.
    """
    found = _loaded(source)
    stamp = hash_of_names(f"{split} {part._fingerprint}" for split, part in found.items())
    return _records(((split, *_of_hub(part)) for split, part in found.items()), stamp)


def stamp_hub_name(source: str) -> str:
    """Return the hash that :func:`read_hub_name` gives; errors as there."""
    return hash_of_names(f"{split} {part._fingerprint}" for split, part in _loaded(source).items())


def _records(parts: Any, stamp: str) -> tuple[Records, list[str]]:
    rows: list[Mapping[str, Any]] = []
    columns: dict[str, None] = {}
    notes: list[str] = []
    for name, table, names in parts:
        split = None if name is None else known_split(name)
        if name is not None and split is None:
            notes.append(f"The split {name} is none that is known here; its {table.num_rows:,} rows are left out.")
            continue
        columns.update(dict.fromkeys(table.column_names))
        own = {} if split is None or "split" in table.column_names else {"split": split}
        columns.update(dict.fromkeys(own))
        rows += ({**_named(row, names), **own} for row in table.to_pylist())
    if not rows:
        raise DataError(f"The dataset has no row in a split that is known here. {' '.join(notes)}".rstrip())
    return Records(tuple(columns), rows, range(1, len(rows) + 1), (), stamp), notes


def _named(row: Mapping[str, Any], names: Names) -> Mapping[str, Any]:
    """Return a row with the names of its classes instead of their numbers; -1 stands for none."""
    changed = {column: _name(row.get(column), words) for column, words in names.items()}
    return {**row, **changed}


def _name(value: Any, words: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_name(each, words) for each in value]
    return words[value] if isinstance(value, int) and 0 <= value < len(words) else None


def _saved_parts(folder: Path) -> Iterator[Part]:
    splits: Sequence[str | None] = [None]
    if (folder / _MANY).is_file():
        splits = _json(folder / _MANY).get("splits", [])
    for split in splits:
        top = folder if split is None else folder / split
        files = [entry.get("filename") for entry in _json(top / _STATE).get("_data_files", [])]
        tables = [_arrow(top, str(name)) for name in files]
        if not tables:
            raise DataError(f"{top / _STATE} names no data file.")
        yield split, pa.concat_tables(tables), _class_names(_json(top / _INFO).get("features"))


def _arrow(folder: Path, name: str) -> pa.Table:
    if Path(name).name != name or not (folder / name).is_file():
        raise DataError(f"{folder / _STATE} names the data file {name!r}, which is not in its folder.")
    try:
        with pa.memory_map(str(folder / name)) as file:
            return pa.ipc.open_stream(file).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder / name} is not a readable Arrow file: {str(error).splitlines()[0]}.") from None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path.parent.parent} is a saved dataset, but lacks {path.parent.name}/{path.name}.") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from None
    return found if isinstance(found, dict) else {}


def _parquet_parts(folder: Path) -> Iterator[Part]:
    card = _features_of_card(folder / "README.md")
    for split, paths in split_tables(folder, suffix=".parquet").items():
        for path in paths:
            try:
                table = parquet.read_table(path, partitioning=None)
            except (pa.ArrowException, OSError) as error:
                raise damaged(path, error) from None
            told = (table.schema.metadata or {}).get(b"huggingface")
            own = json.loads(told).get("info", {}).get("features") if told else None
            yield split, table, _class_names(own) or card


def _class_names(features: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each column whose feature has some."""
    found: dict[str, list[str]] = {}
    for column, feature in (features or {}).items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[column] = [str(name) for name in inner["names"]]
    return found


def _features_of_card(path: Path) -> dict[str, list[str]]:
    """Return the same from the head of a dataset card."""
    match = re.match(r"---\n(.*?)\n---", path.read_text(encoding="utf-8") if path.is_file() else "", re.DOTALL)
    try:
        info = yaml.safe_load(match[1]).get("dataset_info") if match else None
    except (yaml.YAMLError, AttributeError):
        return {}
    info = info[0] if isinstance(info, list) and info else info
    found: dict[str, list[str]] = {}
    for feature in (info.get("features") or ()) if isinstance(info, dict) else ():
        names = feature.get("dtype", {}).get("class_label", {}) if isinstance(feature.get("dtype"), dict) else {}
        if names.get("names"):
            found[feature["name"]] = [str(names["names"][key]) for key in sorted(names["names"], key=int)]
    return found


def _loaded(source: str) -> Mapping[str, Any]:
    """Return the splits of a dataset by its name.

    Raises:
        ConfigError: It cannot be had; says why and what to do.
    """
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"{source}: reading by name needs the datasets library: {INSTALL}.") from None
    name, _, config = source.removeprefix(PREFIX).partition(":")
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, config or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(
            f"{source} cannot be had: {line}. Where there is a network: `hf download {name} --repo-type dataset "
            f"--local-dir FOLDER`; bring the folder here and give it as DATA."
        ) from None
    assert isinstance(found, Mapping)
    return found


def _of_hub(part: Any) -> tuple[pa.Table, Names]:
    """Return a split's rows as they are stored, with image files that lie in the library's cache as bytes."""
    table = part.with_format("arrow")[:]
    for column in table.column_names:
        kind = table.schema.field(column).type
        if pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}:
            cells = [_with_bytes(cell) for cell in table.column(column).to_pylist()]
            table = table.set_column(table.column_names.index(column), column, pa.array(cells, kind))
    names = {column: list(f.names) for column, f in part.features.items() if getattr(f, "names", None)}
    return table, names


def _with_bytes(cell: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if cell is None or cell["bytes"] is not None or cell["path"] is None or not Path(cell["path"]).is_file():
        return cell
    return {"bytes": Path(cell["path"]).read_bytes(), "path": cell["path"]}
