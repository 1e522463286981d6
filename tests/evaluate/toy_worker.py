"""A worker whose jobs misbehave as their keys say; it speaks the real protocol without importing torch.

The first word of a key is the behaviour: ``score``, ``sleep 0.2``, ``crash``, ``once MARKER``, ``noise``, ``raise``.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasma.core.outcome import Scored
from chiasma.evaluate.worker import serve


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
    elif behaviour == "raise":
        raise RuntimeError("the disk of this worker is broken")
    return Scored(objectives={"error": 0.5}, metrics={"attempt": float(job["attempt"])})


if __name__ == "__main__":
    if "--stillborn" in sys.argv:
        print("cannot start: no such library", file=sys.stderr)
        sys.exit(3)
    serve(lambda: evaluate)
