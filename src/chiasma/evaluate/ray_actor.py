"""What runs inside a Ray worker: the same trial as in a local worker process, JSON in and JSON out.

Ray itself is not imported here. Jobs and answers are bytes, which Ray carries as they are.
"""

import importlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasma.core.errors import DataError, StorageError
from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.evaluate.worker import ALIVE, HEARTBEAT_SECONDS, READY, Evaluate, answer_job, prepare_trials

SHARED = "it must lie on storage that every node sees, at the same path"


class TrialActor:
    """One worker of a Ray cluster; it answers one job at a time and gives signs of life meanwhile."""

    def __init__(self) -> None:
        self._evaluate: Evaluate | None = None

    def prepare(self, order: bytes) -> bytes:
        """Import and warm up whatever is slow the first time, and say which process this is, or why it cannot work.

        Args:
            order: JSON of ``program``: ``module:function`` of what returns the evaluation; ``folder``: the driver's
                working directory, to which relative paths refer; ``log``: file that receives everything this process
                prints, null leaves that to Ray.
        """
        given = json.loads(order)
        try:
            enter(Path(given["folder"]), log=None if given["log"] is None else Path(given["log"]))
            module, _, function = given["program"].partition(":")
            self._evaluate = getattr(importlib.import_module(module), function)()
        except Exception as error:  # noqa: BLE001 - the process boundary: Ray would pickle it.
            return json.dumps({"useless": f"{type(error).__name__}: {error}"}).encode()
        return json.dumps(READY | {"pid": os.getpid(), "host": socket.gethostname()}).encode()

    def answer(self, job: bytes) -> bytes:
        """Return what a job came to."""
        assert self._evaluate is not None
        return answer_job(self._evaluate, json.loads(job)).to_json().encode()

    def alive(self) -> bytes:
        """Return a sign of life after two seconds."""
        time.sleep(HEARTBEAT_SECONDS)
        return json.dumps(ALIVE).encode()


def enter(folder: Path, *, log: Path | None) -> None:
    """Work where the driver works, and print into its log.

    Raises:
        StorageError: This machine does not see the folder or the file.
    """
    host = socket.gethostname()
    try:
        os.chdir(folder)
    except OSError as error:
        raise StorageError(f"The working directory {folder} cannot be entered on node {host}: {SHARED}.") from error
    if log is None:
        return
    try:
        # Not created: a new one would mean that this is not the driver's storage, and that results would be lost.
        file = os.open(log, os.O_WRONLY | os.O_APPEND)
    except OSError as error:
        raise StorageError(f"The run's folder {log.parent} is not on node {host}: {SHARED}.") from error
    for standard in (1, 2):
        os.dup2(file, standard)
    os.close(file)


def prepare_shared_trials() -> Evaluate:
    """Warm up and return the evaluator, for datasets that this machine sees."""
    evaluate = prepare_trials()

    def look_and_evaluate(job: Mapping[str, Any]) -> Scored | Rejected | Failed:
        if not Path(job["dataset"]).is_dir():
            host = socket.gethostname()
            raise DataError(f"The prepared dataset {job['dataset']} is not on node {host}: {SHARED} (--set run.cache).")
        return evaluate(job)

    return look_and_evaluate
