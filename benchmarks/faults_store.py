"""Kill writers, fill disks and damage files, and count what is lost. All figures should be zero, or n of n.

    python benchmarks/faults_store.py --kills 200

Prints one line a promise: ``checkpoints unreadable 0/200``, ``records lost 0``, ``damage found 400/400``, ...
The tests call the same functions with smaller numbers.
"""

import argparse
import logging
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from chiasma.core.errors import CorruptFileError
from chiasma.core.outcome import Scored
from chiasma.store.checkpoint import load_checkpoint, load_newest, save_checkpoint
from chiasma.store.openings import OpeningLedger
from chiasma.store.run import RunStore

READERS = 8

# Children come from a clean server process: quick to start, and nothing is forked from a process with open databases.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch", "chiasma.store.checkpoint", "chiasma.store.run"])


@dataclass
class Tally:
    """What a series of faults did.

    Attributes:
        faults: How many were injected.
        bad: How many of them broke the promise.
        acknowledged: What was promised to be durable, over all faults.
        notes: What went wrong, in words.
    """

    faults: int = 0
    bad: int = 0
    acknowledged: int = 0
    notes: list[str] = field(default_factory=list)


def save_small(folder: Path, step: int, *, keep: int = 2) -> Path:
    """Save a checkpoint whose every part says at which step it was made."""
    weights = torch.full((64, 32), float(step))
    return save_checkpoint(
        folder,
        step,
        tensors={"model": {"weight": weights, "bias": weights[0]}, "optimizer": {"moment": weights}},
        documents={"design": {"step": step}, "progress": {"epoch": step // 10, "loss": 1 / (step + 1)}},
        files={"tokenizer.bin": bytes([step % 256]) * 100},
        keep=keep,
    )


def is_consistent(folder: Path) -> int | None:
    """Return the step of the newest checkpoint if all its parts are of one step, else None."""
    found = load_newest(folder)
    if found is None or found.skipped:
        return None
    step = found.step
    model = found.tensors("model")
    parts = (
        bool((model["weight"] == step).all() and (model["bias"] == step).all()),
        bool((found.tensors("optimizer")["moment"] == step).all()),
        found.documents["design"] == {"step": step},
        found.files["tokenizer.bin"] == bytes([step % 256]) * 100,
    )
    return step if all(parts) else None


def kill_while_saving(folder: Path, *, kills: int, seed: int = 0) -> Tally:
    """Kill a process again and again while it saves checkpoints, and look at what is left each time."""
    rng, tally, step = random.Random(seed), Tally(), 0
    folder.mkdir(parents=True, exist_ok=True)
    acknowledgements = folder.parent / f"{folder.name}.acknowledged"
    for _ in range(kills):
        _kill_later(_save_forever, (folder, acknowledgements, step + 1), rng.uniform(0.0, 0.12), acknowledgements)
        promised = _numbers(acknowledgements)[-1]
        found = is_consistent(folder)
        tally.faults += 1
        tally.acknowledged += promised - step
        if found is None or found < promised:
            tally.bad += 1
            tally.notes.append(f"step {promised} was promised, {found} was found")
        step = found or promised
        if list(folder.glob("*.tmp")):
            tally.bad += 1
            tally.notes.append("a stale draft was left")
    return tally


def kill_while_recording(root: Path, *, kills: int, seed: int = 0, readers: int = READERS) -> Tally:
    """Kill the writer of a run again and again while others read, and look for every acknowledged record."""
    rng, tally = random.Random(seed), Tally()
    with RunStore.create(root, verb="fault", config={}, provenance={}) as store:
        path = store.path
    acknowledgements, complaints, stop = root / "acknowledged", root / "complaints", root / "stop"
    watching = [processes.Process(target=_read_forever, args=(path, complaints, stop)) for _ in range(readers)]
    for process in watching:
        process.start()
    for _ in range(kills):
        _kill_later(_record_forever, (path, acknowledgements), rng.uniform(0.0, 0.12), acknowledgements)
        tally.faults += 1
    stop.touch()
    for process in watching:
        process.join()
    with RunStore.open(path) as store:
        recorded = [event.data["number"] for event in store.events("acknowledged")]
        finished = [job.key for job in store.jobs() if job.outcome is not None]
    promised = _numbers(acknowledgements)
    tally.acknowledged = len(promised)
    tally.bad += len(set(promised) - set(recorded)) + (len(recorded) - len(set(recorded)))
    tally.bad += len({f"job-{number}" for number in promised} - set(finished))
    tally.notes += complaints.read_text().splitlines() if complaints.exists() else []
    if _integrity(path / "run.db") != "ok":
        tally.notes.append("integrity_check failed")
    return tally


def open_from_many(folder: Path, *, writers: int = 8, each: int = 25) -> Tally:
    """Let several processes count openings of one test split at once; each must get a number of its own."""
    results = folder / "results"
    folder.mkdir(parents=True, exist_ok=True)
    working = [processes.Process(target=_open_repeatedly, args=(folder, results, each)) for _ in range(writers)]
    for process in working:
        process.start()
    for process in working:
        process.join()
    numbers = sorted(_numbers(results))
    tally = Tally(faults=writers * each, acknowledged=OpeningLedger(folder).count("data"))
    tally.bad = writers * each - len(set(numbers) & set(range(writers * each)))
    tally.notes = [f"a writer ended with {process.exitcode}" for process in working if process.exitcode]
    return tally


def damage(folder: Path, *, flips: int, truncations: int, seed: int = 0) -> Tally:
    """Flip bits in and cut the ends off a checkpoint's files, one at a time, and count what a load notices."""
    rng, tally = random.Random(seed), Tally()
    path = save_small(folder, 7)
    files = sorted(path.iterdir())
    for number in range(flips + truncations):
        file = rng.choice(files)
        original = file.read_bytes()
        changed = bytearray(original)
        if number < flips:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        else:
            del changed[rng.randrange(len(changed)) :]
        file.write_bytes(changed)
        tally.faults += 1
        try:
            load_checkpoint(path)
        except CorruptFileError as error:
            tally.bad += 0 if str(file) in str(error) else 1
        else:
            tally.bad += 1
            tally.notes.append(f"{file.name} was damaged unnoticed")
        file.write_bytes(original)
    load_checkpoint(path)
    return tally


class _Marker:
    """Leaves a file behind when somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self.path),))


def plant_pickles(folder: Path) -> Tally:
    """Put files that run code when unpickled wherever a loader might look, and count those that ran."""
    tally = Tally()
    marker = folder / "executed"
    payload = pickle.dumps(_Marker(marker))
    for suffix in (".pt", ".bin", ".ckpt", ".pkl", ".npy", ".pt2", ""):
        trap = folder / f"trap{suffix or '_plain'}"
        good = save_small(trap, 1)
        (trap / f"step-00000002{suffix}").write_bytes(payload)
        (good / f"model{suffix or '.data'}").write_bytes(payload)
        for attempt in (lambda place=trap: load_newest(place), lambda place=trap: _load_all(place)):
            tally.faults += 1
            try:
                attempt()
            except CorruptFileError:
                continue
            tally.notes.append(f"{trap.name} was used")
    tally.bad = int(marker.exists())
    return tally


def _load_all(folder: Path) -> None:
    for path in folder.iterdir():
        load_checkpoint(path)


def _kill_later(target: Callable[..., None], arguments: tuple[Any, ...], seconds: float, signs: Path) -> None:
    """Start a child, wait until it has acknowledged something, and kill it a little later."""
    before = signs.stat().st_size if signs.exists() else 0
    child: BaseProcess = processes.Process(target=target, args=arguments)
    child.start()
    deadline = time.monotonic() + 60
    while not signs.exists() or signs.stat().st_size <= before:
        if child.exitcode is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The child that was to be killed ended by itself ({child.exitcode}).")
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()


def _save_forever(folder: Path, acknowledgements: Path, step: int) -> None:
    torch.set_num_threads(1)
    while True:
        save_small(folder, step)
        _acknowledge(acknowledgements, step)
        step += 1


def _record_forever(path: Path, acknowledgements: Path) -> None:
    with RunStore.open(path, write=True) as store:
        number = len(store.jobs())
        while True:
            key = f"job-{number}"
            attempt = store.begin_job(key, None, rung=0, seed=number, purpose="fault")
            if not store.finish_job(key, attempt, outcome=Scored(objectives={"error": number}), seconds=0.1):
                raise RuntimeError(f"{key} was finished twice")
            store.record_event("acknowledged", {"number": number})
            _acknowledge(acknowledgements, number)
            number += 1


def _read_forever(path: Path, complaints: Path, stop: Path) -> None:
    seen = 0
    while not stop.exists():
        try:
            with RunStore.open(path) as store:
                found = len(store.events())
                store.jobs()
        except (sqlite3.Error, CorruptFileError) as error:
            _acknowledge(complaints, f"a reader met: {error}")
            continue
        if found < seen:
            _acknowledge(complaints, f"a reader saw {found} events after {seen}")
        seen = found


def _open_repeatedly(folder: Path, results: Path, each: int) -> None:
    ledger = OpeningLedger(folder)
    for _ in range(each):
        opening = ledger.open_test("data", run=f"run-{os.getpid()}", verb="evolve")
        _acknowledge(results, opening.before)


def _acknowledge(path: Path, message: object) -> None:
    """Append one line; what a process has handed to the kernel survives its death."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{message}\n".encode())
    os.close(descriptor)


def _numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines()]


def _integrity(path: Path) -> str:
    database = sqlite3.connect(path)
    (answer,) = database.execute("PRAGMA integrity_check").fetchone()
    database.close()
    return answer


def main() -> None:
    """Run every fault and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--truncations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)  # The damaged checkpoints below are meant.
    folder = Path(tempfile.mkdtemp(prefix="chiasma-faults-"))
    try:
        saved = kill_while_saving(folder / "saving", kills=chosen.kills, seed=chosen.seed)
        print(f"checkpoints unreadable {saved.bad}/{saved.faults} ({saved.acknowledged} saved)", *saved.notes)
        kept = kill_while_recording(folder / "recording", kills=chosen.kills, seed=chosen.seed)
        print(f"records lost {kept.bad} of {kept.acknowledged}, writer killed {kept.faults} times", *kept.notes)
        counted = open_from_many(folder / "ledger")
        print(f"openings lost {counted.bad}/{counted.faults} with eight writers", *counted.notes)
        found = damage(folder / "damage", flips=chosen.flips, truncations=chosen.truncations, seed=chosen.seed)
        print(f"damage found {found.faults - found.bad}/{found.faults}", *found.notes)
        planted = plant_pickles(folder / "pickles")
        print(f"pickles executed {planted.bad} of {planted.faults} loads", *planted.notes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
