"""What W&B's own files of an offline run hold: records of its own protocol in blocks, as LevelDB writes its log."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK = 7, 32768
WHOLE, LAST = 1, 4


@dataclass
class Sitting:
    """One sitting of an offline run."""

    id: str = ""
    project: str = ""
    entity: str = ""
    name: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None


def ended(run: Path, *, within_seconds: float = 30.0) -> list[Sitting]:
    """Return every sitting of a run once all have ended: W&B's service writes its last block when it likes."""
    deadline = time.monotonic() + within_seconds
    while (found := sittings(run)) and any(each.exit_code is None for each in found):
        assert time.monotonic() < deadline, "W&B's service has not written the end of a run"
        time.sleep(0.1)
    return found


def sittings(run: Path) -> list[Sitting]:
    """Return every sitting of a run, oldest first; none where W&B was not told anything."""
    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    return [_sitting(file) for file in files]


def _sitting(file: Path) -> Sitting:
    found = Sitting()
    for record in _records(file):
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                found.id, found.project, found.entity = run.run_id, run.project, run.entity
                found.name, found.group, found.tags = run.display_name, run.run_group, tuple(run.tags)
                found.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
            case "history":
                row = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                found.rows.append(row)
            case "summary":
                updates = record.summary.update
                found.summary |= {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in updates}
            case "metric":
                found.axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
            case "exit":
                found.exit_code = record.exit.exit_code
    return found


def _records(file: Path) -> Iterator[Record]:
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER, list[bytes]()
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts.append(data[position + HEADER : position + HEADER + length])
        position += HEADER + length
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts.clear()
            yield record
