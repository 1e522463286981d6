"""Kill whole searches with SIGKILL at random moments, resume them, and compare the end with an uninterrupted one.

    python benchmarks/search_after_kill.py --repeats 100
    python benchmarks/search_after_kill.py --repeats 30 --verb attention
    python benchmarks/search_after_kill.py --repeats 10 --verb fusion
    python benchmarks/search_after_kill.py --repeats 10 --verb written --earliest 0.3

Each repeat starts ``chiasma evolve --config quick``, ``chiasma search attention`` or ``chiasma search fusion``
(``written``: with a language model behind a local server, whose modules run in the jail), in a process group of its
own, kills the group at a random moment of its life (before its first record, while floors,
candidates or finals train, while it judges), and calls ``chiasma resume`` until it ends; what is killed before there is
a run counts as ``too early``. Compared are all candidates, all outcomes but their durations, and the closing figures;
with a language model also how many answers were paid for: as many as without a kill, so none twice.
Rows are kept in ``benchmarks/results/search_after_kill.jsonl``.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llm_fault_server import SOURCE, Act, completion, says, serving

from chiasma.core.outcome import Scored
from chiasma.store.run import RunStore

RESULTS = Path(__file__).with_name("results") / "search_after_kill.jsonl"
TIMINGS = {"train_seconds", "latency", "jail_seconds"}
SMALL = ["data.rows=320", "train.epochs=1", "model.dim=8", "evaluate.seeds=2", "model.encoders.text.kind=ngram"]
FUSION = ["search", "fusion", "--set", *SMALL[:3], "search.generation=2", "evaluate.seeds=2", "run.seed=2"]
JUDGED = ("unjudged", "hypervolume", "refused", "duplicates_saved", "notes", "mechanisms")
VERBS = {
    "evolve": (
        ["evolve", "--config", "quick"],
        "results.json",
        ("gains", "winner", "calibration", "per_label", "design"),
    ),
    "attention": (
        ["search", "attention", "--slot", "image.attention", "--set", *SMALL, "search.generation=2", "run.seed=2"],
        "pareto_front.json",
        JUDGED,
    ),
    "fusion": (FUSION, "pareto_front.json", (*JUDGED, "proposing")),
    "written": ([*FUSION, "search.generator=openai", "llm.model=local"], "pareto_front.json", (*JUDGED, "proposing")),
}
"""The command, the file that it ends with, and what must be the same in it."""


def main() -> None:
    """Print how many killed searches ended as the uninterrupted one did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--trials", type=int, default=8, help="budget of each search")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--earliest", type=float, default=0.0, help="killed after this part of its life")
    parser.add_argument("--verb", choices=list(VERBS), default="evolve")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    identical = early = late = 0
    writes = options.verb == "written"
    with TemporaryDirectory() as place, serving(choose=variation) if writes else nullcontext() as server:
        root = Path(place)
        os.environ |= {"CHIASMA_CACHE": str(root / "cache"), "CHIASMA_STATE": str(root / "state")}
        if server is not None:
            VERBS["written"][0].append(f"llm.base_url={server.url}")
        search(options.verb, root / "warm", options.trials, kill_after=None)
        started = time.monotonic()
        search(options.verb, root / "whole", options.trials, kill_after=None)
        seconds = time.monotonic() - started
        (whole,) = (root / "whole").iterdir()
        expected = trace(options.verb, whole)
        for repeat in range(options.repeats):
            runs = root / f"repeat-{repeat}"
            moment = moments.uniform(options.earliest, 1.0) * seconds
            ended = search(options.verb, runs, options.trials, kill_after=moment)
            found = list(runs.glob("*/run.db"))
            early, late = early + (not found), late + ended
            same = not found or after_resume(options.verb, found[0].parent) == expected
            identical += same
            keep(
                {
                    "verb": options.verb,
                    "repeat": repeat,
                    "moment": moment,
                    "of": seconds,
                    "run": bool(found),
                    "ended": ended,
                    "same": same,
                }
            )
            print(
                f"{repeat + 1}: killed at {moment:.1f} of {seconds:.1f} s, {'same' if same else 'DIFFERENT'}",
                flush=True,
            )
    print(f"identical {identical}/{options.repeats}; killed before there was a run {early}, after its end {late}")
    raise SystemExit(0 if identical == options.repeats else 1)


def variation(body: dict[str, Any]) -> Act:
    """Answer a request with a module that depends on the request alone."""
    text = json.dumps(body["messages"], sort_keys=True)
    factor = 1 + int(hashlib.sha256(text.encode()).hexdigest()[:4], 16) / 2**16
    source = SOURCE.replace("return self.image(image)", f"return {factor:.6f} * self.image(image)")
    return says(completion(f"```python\n{source}```"))


def search(verb: str, runs: Path, trials: int, *, kill_after: float | None) -> bool:
    """Search, or be killed on the way; return whether the search ended by itself."""
    command = [sys.executable, "-m", "chiasma", *VERBS[verb][0], "--budget", str(trials), "--run-folder", str(runs)]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        status = process.wait(kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    if status:
        raise SystemExit(f"The search itself failed with exit code {status}.")
    return True


def after_resume(verb: str, run: Path) -> Any:
    """Resume a run to its end and return its trace."""
    subprocess.run([sys.executable, "-m", "chiasma", "resume", str(run)], check=True, capture_output=True)
    return trace(verb, run)


def trace(verb: str, run: Path) -> Any:
    """Return everything that must be the same after a kill."""
    with RunStore.open(run) as store:
        candidates = [(row.number, row.hash, row.proposer, row.edit) for row in store.candidates()]
        outcomes: dict[str, Any] = {}
        for job in store.jobs():
            if isinstance(job.outcome, Scored):
                metrics = {name: value for name, value in job.outcome.metrics.items() if name not in TIMINGS}
                outcomes[job.key] = (dict(job.outcome.objectives), metrics)
            elif job.outcome is not None:
                outcomes[job.key] = job.outcome.to_dict()
    _, file, judged = VERBS[verb]
    results = json.loads((run / file).read_text())
    if "spent" in results.get("proposing", {}):
        # What was under way at a kill may be paid for in vain; what was answered is not asked for again.
        results["proposing"]["spent"] = results["proposing"]["spent"]["calls"]["answered"]
    return candidates, outcomes, {name: results[name] for name in judged}


def keep(row: dict[str, Any]) -> None:
    """Append a row to the results."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
