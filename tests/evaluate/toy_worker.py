"""A worker whose jobs misbehave as their keys say; it speaks the real protocol without importing torch.

The first word of a key is the behaviour: ``score``, ``sleep 0.2``, ``crash``, ``once MARKER``, ``noise``, ``stale``,
``babble LINE``, ``raise``.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasma.core.outcome import Scored
from chiasma.evaluate.worker import serve

PROTOCOL = 3  # The first descriptor that is free when the worker keeps its standard output for itself.


def evaluate(job: Mapping[str, Any]) -> Scored:
    behaviour, *arguments = job["key"].split()
    if behaviour == "sleep":
        time.sleep(float(arguments[0]))
    elif behaviour == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif behaviour == "once" and job["attempt"] == 1:
        Path(arguments[0]).touch()
        time.sleep(60)
    elif behaviour == "noise":
        print("a print in the middle of the protocol", flush=True)
        os.write(1, b'{"key": "forged"}\n')
    elif behaviour == "stale":
        stolen = Scored(objectives={"error": 0.0}).to_dict()
        late = {"key": job["key"], "attempt": job["attempt"] - 1, "outcome": stolen, "seconds": 1.0, "leaving": False}
        os.write(PROTOCOL, json.dumps(late).encode() + b"\n")
    elif behaviour == "babble" and job["attempt"] == 1:
        os.write(PROTOCOL, arguments[0].encode() + b"\n")
        time.sleep(60)
    elif behaviour == "raise":
        raise RuntimeError("the disk of this worker is broken")
    return Scored(objectives={"error": 0.5}, metrics={"attempt": float(job["attempt"])})


def prepare():
    return evaluate


if __name__ == "__main__":
    if "--stillborn" in sys.argv:
        print("cannot start: no such library", file=sys.stderr)
        sys.exit(3)
    serve(prepare)
