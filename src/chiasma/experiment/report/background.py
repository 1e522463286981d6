"""Can I trust the data, and how do I repeat and use it?"""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from chiasma.experiment.report.rows import Fact, Table
from chiasma.experiment.results import Results

SPLITS = ("train", "steer", "select", "test")


def splits(results: Results) -> Table:
    """Return the size of each split."""
    found = results.data.get("splits") or {}
    names = [name for name in SPLITS if name in found]
    rows = tuple(
        (name, f"{found[name].get('rows', 0):,}", f"{found[name].get('groups', 0):,}", _commonest(found[name]))
        for name in names
    )
    columns = ("split", "rows", "groups", "labels")
    return Table("Splits after cleaning", columns, rows, frozenset(columns[1:3]))


def cleaning(results: Results) -> Table:
    """Return what was set aside and what was noticed."""
    data = results.data
    rows = [("set aside", str(reason), f"{count:,}") for reason, count in _most(data.get("quarantined"))]
    rows += [("noticed", str(name), f"{count:,}") for name, count in _most(data.get("counts"))]
    if data.get("near_duplicate_images"):
        rows.append(("noticed", "pairs of near-duplicate images", f"{data['near_duplicate_images']:,}"))
        across = data.get("near_duplicate_images_across_splits", 0)
        rows.append(("noticed", "of these, pairs across splits", f"{across:,}"))
    return Table("Cleaning", ("what happened", "what", "count"), tuple(rows), frozenset({"count"}))


def data_words(results: Results) -> list[str]:
    """Return sentences about the data."""
    data = results.data
    words: list[str] = []
    if "rows_read" in data:
        words.append(f"{data['rows_read']:,} rows were read and {data.get('rows_kept', 0):,} kept.")
    if data.get("task"):
        words.append(f"Task: {data['task']}.")
    words += [f"{name}: {text}." for name, text in sorted((data.get("inputs") or {}).items())]
    if data.get("quarantine_file"):
        words.append(f"Rows that were set aside, each with its reason, are in {data['quarantine_file']}.")
    return [*words, *(str(note) for note in data.get("notes") or ())]


def commands(results: Results) -> list[tuple[str, str]]:
    """Return the command that made the run again, and one that uses its model."""
    command = results.provenance.get("command") or ()
    text = command if isinstance(command, str) else shlex.join(str(part) for part in command)
    again = text if text.startswith(("chiasma", "python")) or "/" in text.split(" ")[0] else ""
    return [
        ("Repeat the run", again or f"chiasma show {results.run}"),
        ("Predict a table of new rows", f"chiasma predict {results.run} new.csv -o predicted.csv"),
    ]


def snippet(model_folder: str) -> str:
    """Return Python that loads and uses the model."""
    return (
        "from chiasma import Classifier\n\n"
        f"model = Classifier.load({json.dumps(model_folder, ensure_ascii=False)})\n"
        'rows = [{"image": "photo.jpg", "text": "what it says"}]\n'
        "print(model.predict(rows), model.predict_proba(rows))"
    )


def provenance(results: Results) -> list[Fact]:
    """Return where the figures come from."""
    source = results.provenance
    environment = source.get("environment") or {}
    chiasma = source.get("chiasma") or {}
    commit = chiasma.get("commit")
    version = str(chiasma.get("version", "")) + (f", commit {commit[:12]}" if commit else "")
    dirty = " with uncommitted changes" if chiasma.get("dirty") else ""
    memory = source.get("memory_bytes")
    known = (
        ("run", results.run),
        ("data", results.source),
        ("chiasma", f"{version}{dirty}"),
        ("time", source.get("time")),
        ("seed", source.get("seed")),
        ("Python", environment.get("python")),
        ("machine", ", ".join(str(environment[key]) for key in ("platform", "cpu") if environment.get(key))),
        ("accelerators", ", ".join(environment.get("accelerators") or ()) or ("none" if environment else None)),
        ("cores", source.get("cores")),
        ("memory", f"{memory / 2**30:.1f} GiB" if memory else None),
        (
            "packages",
            ", ".join(f"{name} {version}" for name, version in sorted((environment.get("packages") or {}).items())),
        ),
    )
    return [Fact(name, str(value)) for name, value in known if value not in (None, "")]


def _commonest(split: Mapping[str, Any]) -> str:
    ordered = _most(split.get("labels"))
    shown = ", ".join(f"{label} {count:,}" for label, count in ordered[:4])
    return shown + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")


def _most(counts: Mapping[str, int] | None) -> list[tuple[str, int]]:
    """Return counts, the greatest first."""
    return sorted((counts or {}).items(), key=lambda item: (-item[1], item[0]))
