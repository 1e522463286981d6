"""Trains designs, each in a process of its own, and prints by how many bytes its memory rose; run as a script."""

import json
import os
import sys
from pathlib import Path

import torch

from chiasma.data.dataset import Dataset
from chiasma.train.design import Design
from chiasma.train.trainer import Trainer


def main(folder: str) -> None:
    """Read one design with its precision a line, and answer each by a line."""
    torch.set_num_threads(1)
    data = Dataset.open(folder)
    lines = [json.loads(line) for line in sys.stdin]
    # What the first training of a process loads and keeps is no part of what a training takes.
    for line in lines[:3]:
        _train(line, data, dim=8)
    for line in lines:
        print(_measured(line, data), flush=True)


def _measured(line: dict, data: Dataset) -> int:
    """Return the rise from before a training to its fullest moment, in a fork so that each begins alike."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        # Code that a fork has not called yet is in its memory no sooner than it calls it; that is not the training's.
        before, code = _resident("VmRSS"), _resident("RssFile")
        _train(line, data)
        rise = _resident("VmHWM") - before - (_resident("RssFile") - code)
        os.write(theirs, str(rise).encode())
        os._exit(0)
    os.wait()
    return int(os.read(ours, 64))


def _train(line: dict, data: Dataset, **changes: int) -> None:
    design = {**line["design"], "model": {**line["design"]["model"], **changes}}
    Trainer(Design.from_dict(design), data, device="cpu", precision=line["precision"]).fit()


def _resident(key: str) -> int:
    fields = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return int(fields[key].split()[0]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
