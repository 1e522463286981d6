"""Promises 1 to 7 about code that nobody has read, each with its figure, and what the jail costs.

    python benchmarks/faults_jail.py [--security FOLDER] [--repeats 40] [--canaries 20]

The corpus is ``tests/assets/security`` and, where given, a further folder of sources with the same headers. Wanted: no
effect and no refused honest module, with the screen and without it; canaries within the binomial 99.9 % bound of
chance; deadlines overrun by less than a second; no survivors; 25 ms more than in this process when warm, 4 s cold.
"""

import argparse
import hashlib
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import torch
from scipy.stats import binom

from chiasma.core.outcome import Rejected, Scored
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.evaluate.jail import Jail, Limits, Region
from chiasma.evaluate.jail import jail as supervisor
from chiasma.evaluate.jail.child import WORKING
from chiasma.evaluate.jailed_data import JailedDatasets
from chiasma.evaluate.jailed_trial import run_jailed
from chiasma.evaluate.jailed_work import LOGITS, WEIGHTS, train
from chiasma.evaluate.job import Job
from chiasma.model.encoders import NGram, Pixels
from chiasma.model.fusion import Generated
from chiasma.model.generated import withdraw_approval
from chiasma.model.multimodal import ModelSpec
from chiasma.store.folders import cache_folder
from chiasma.train.design import Design, LoopSpec, TrainingSpec

OWN = Path(__file__).parents[1] / "tests" / "assets" / "security"
SECRET = "canary-5b21"
SUPERVISOR = """
import threading, time, psutil
from chiasma.evaluate.jail import Jail, Limits
jail = Jail()
jail.start()
run = lambda: jail.run("chiasma.evaluate.jail.level:never_end", {}, limits=Limits(wall_seconds=60))
threading.Thread(target=run, daemon=True).start()
while len(psutil.Process(jail.warm_pid).children()) < 2:
    time.sleep(0.01)
print(jail.warm_pid, *(child.pid for child in psutil.Process(jail.warm_pid).children()), flush=True)
time.sleep(60)
"""


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description="What the jail keeps, and what it costs.")
    parser.add_argument("--security", type=Path, help="a further folder of sources with headers")
    parser.add_argument("--repeats", type=int, default=40, help="repetitions of each timing")
    parser.add_argument("--canaries", type=int, default=20, help="trainings on random labels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = corpus([OWN, *([arguments.security] if arguments.security else [])])
    data, _ = prepare(DataSpec(rows=200), seed=0, cache=cache_folder())
    print(f"{len(cases)} sources: {dict(Counter(expect for _, expect, _ in cases))}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        supervisor.ENVIRONMENT["ESCAPE_MARKER"] = str(Path(folder) / "marker")
        os.environ["ESCAPE_SECRET"] = SECRET
        started = time.monotonic()
        with Jail() as jail:
            warm = jail.run("chiasma.evaluate.jail.level:nothing", {})
            print(f"cold start: {time.monotonic() - started:.2f} s, level {warm.level.words}")
            for screened in (True, False):
                contained(cases, data, jail, Path(folder), screened=screened)
            canaries(data, jail, cases, count=arguments.canaries)
            orders(cases, data, jail)
            deadlines(jail)
            limits(jail)
            overhead(cases, data, jail, repeats=arguments.repeats)
    survivors()


def corpus(folders: list[Path]) -> list[tuple[str, str, str]]:
    """Return name, expectation and source of every file."""
    found: list[tuple[str, str, str]] = []
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        text = path.read_bytes().decode(errors="replace")
        expect = re.search(r"^# expect: (\w+)", text, re.MULTILINE)
        found.append((path.stem, expect[1] if expect else "contain", text or "pass"))
    return found


def job_for(source: str, data: Dataset, **settings: object) -> Job:
    """Return a short training with a source as its fusion."""
    encoders = {"image": Pixels(size=8), "text": NGram(buckets=64)}
    model = ModelSpec(dim=16, encoders=encoders, fusion=Generated(source=source))
    training = TrainingSpec(loop=LoopSpec(epochs=1.0, evaluations=1))
    fields = {"seed": 1, "metric": "accuracy", **settings}
    return Job(key="one", design=Design(model=model, training=training), dataset=str(data.folder), **fields)


def contained(cases: list[tuple[str, str, str]], data: Dataset, jail: Jail, folder: Path, *, screened: bool) -> None:
    """Promises 1 and 2."""
    effects: list[str] = []
    refused: list[str] = []
    stages: Counter[str] = Counter()
    before = jail.warm_pid
    for name, expect, source in cases:
        outcome = run_jailed(job_for(source, data, time_limit_seconds=3.0), data, jail, screened=screened)
        reason = outcome.reason if isinstance(outcome, Rejected) else ""
        left = [path for path in folder.iterdir() if path.unlink() is None]
        if left or "ESCAPED" in reason or SECRET in reason or jail.warm_pid != before:
            effects.append(name)
        if expect == "accept" and isinstance(outcome, Rejected):
            refused.append(f"{name}: {outcome.stage}: {outcome.reason}")
        if expect != "accept":
            stages[outcome.stage if isinstance(outcome, Rejected) else "scored without an effect"] += 1
    hostile = sum(expect != "accept" for _, expect, _ in cases)
    mode = "with" if screened else "without"
    print(f"1. {mode} the screen: effects {len(effects)}/{hostile} {effects}; hostile sources end as {dict(stages)}")
    print(f"2. {mode} the screen: honest modules refused {len(refused)}/{len(cases) - hostile} {refused}")


def canaries(data: Dataset, jail: Jail, cases: list[tuple[str, str, str]], *, count: int) -> None:
    """Promise 3: every source that is scored without the screen, on random labels."""
    thieves = [source for name, _, source in cases if name.startswith(("cht", "hostile_1", "ok_01"))]
    highest, scored, rows = 0.0, 0, len(data.rows("select"))
    bound = float(binom.ppf(0.999, rows, 0.5)) / rows
    above = 0
    for seed in range(max(1, count // len(thieves) + 1)):
        labels = np.random.default_rng(seed).integers(0, 2, len(data.labels(np.arange(len(data.rows("train"))))) * 9)
        random = Dataset.open(data.folder)
        random._labels = labels[: len(random._labels)].astype(np.int64)
        for source in thieves:
            outcome = run_jailed(job_for(source, data, time_limit_seconds=3.0), random, jail, screened=False)
            if isinstance(outcome, Scored):
                scored += 1
                highest = max(highest, outcome.metrics["accuracy"])
                above += outcome.metrics["accuracy"] > bound
    print(f"3. canary: highest accuracy {highest:.3f} of {scored} scored, bound {bound:.3f} each, above it {above}")


def orders(cases: list[tuple[str, str, str]], data: Dataset, jail: Jail) -> None:
    """Promise 4: three honest modules in all orders, a corrupting one between."""
    honest = [source for _, expect, source in cases if expect == "accept"][:3]
    corrupting = next(source for name, _, source in cases if name == "hostile_12_patch_measure")
    seen: dict[str, set[str]] = {source: set() for source in honest}
    for order in itertools.permutations(honest):
        for source in order:
            run_jailed(job_for(corrupting, data), data, jail, screened=False)
            outcome = run_jailed(job_for(source, data), data, jail)
            assert isinstance(outcome, Scored), outcome
            kept = {name: value for name, value in outcome.metrics.items() if "seconds" not in name}
            seen[source].add(repr(sorted(kept.items())))
    print(f"4. distinct results of each module in all orders: {max(map(len, seen.values()))}")


def deadlines(jail: Jail) -> None:
    """Promise 5."""
    overruns = []
    for wall in [0.2] * 20:
        ended = jail.run("chiasma.evaluate.jail.level:never_end", {}, limits=Limits(wall_seconds=wall))
        assert ended.refusal is not None
        overruns.append(ended.seconds - wall)
    children = psutil.Process(jail.warm_pid).children() if jail.warm_pid else []
    orphans = sum(child.name() == WORKING for child in children)
    print(f"5. deadline overrun p99 {1e3 * float(np.percentile(overruns, 99)):.0f} ms, orphans {orphans}")


def survivors() -> None:
    """Promise 6: the supervisor and then the warm process are killed while a child works."""
    left = 0
    for victim in ("supervisor", "warm"):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            warm, *children = map(int, process.stdout.readline().split())
            os.kill(process.pid if victim == "supervisor" else warm, signal.SIGKILL)
            time.sleep(1.0)
            left += sum(alive(pid) for pid in ([warm, *children] if victim == "supervisor" else children))
            process.kill()
    print(f"6. survivors one second after kill -9 of the supervisor and of the warm process: {left}")


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def limits(jail: Jail) -> None:
    """Promise 7, by the guarantee of the level and our own memory; tests have one case for each kind of excess."""
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(50):
        jail.run("chiasma.evaluate.jail.level:attempts", {"secret": "x"}, limits=Limits(memory_bytes=2**26))
    growth = (process.memory_info().rss - before) / 2**20
    print(f"7. memory limit holds: {jail.level.holds['memory']}; our own growth over 50 requests {growth:.1f} MiB")


def overhead(cases: list[tuple[str, str, str]], data: Dataset, jail: Jail, *, repeats: int) -> None:
    """Time the same training in the jail and in this process, in turn, and compare the weights."""
    source = next(source for name, _, source in cases if name == "honest_04_hand_written_attention")
    job, shown = job_for(source, data), JailedDatasets().shown(data, ("image", "text"))
    outputs = {LOGITS: Region.of("f4", len(data.rows("select")), 2), WEIGHTS: Region.of("u1", 2**20)}
    inside: list[float] = []
    outside: list[float] = []
    computed: list[float] = []
    digests: set[str] = set()
    for _ in range(repeats):
        request = {"job": job.to_dict(), "manifest": dict(shown.manifest), "started": time.monotonic()}
        began = time.process_time()
        ended = jail.run("chiasma.evaluate.jailed_work:train", request, inputs=shown.columns, outputs=outputs)
        processor = time.process_time() - began + ended.cpu_seconds
        assert ended.answer is not None, ended.refusal
        inside.append(ended.seconds)
        arrays = {name: np.zeros(region.shape, region.dtype) for name, region in outputs.items()}
        columns = {name: shared.array for name, shared in shown.columns.items()}
        started, began = time.monotonic(), time.process_time()
        told = train({**request, "started": started}, columns, arrays)
        outside.append(time.monotonic() - started)
        computed.append(processor - (time.process_time() - began))
        for place, count in (
            (ended.outputs[WEIGHTS], ended.answer["weights_bytes"]),
            (arrays[WEIGHTS], told["weights_bytes"]),
        ):
            digests.add(hashlib.sha256(place[:count].tobytes()).hexdigest())
    withdraw_approval(hashlib.sha256(source.encode()).hexdigest())
    empty = [jail.run("chiasma.evaluate.jail.level:nothing", {}).seconds for _ in range(repeats)]
    more = 1e3 * (statistics.median(inside) - statistics.median(outside))
    wall, here, trip = (1e3 * statistics.median(times) for times in (inside, outside, empty))
    print(
        f"overhead of one jailed training: {more:.1f} ms ({wall:.1f} against {here:.1f} in this process, medians of "
        f"{repeats}), and {1e3 * statistics.median(computed):.1f} ms more processor time, most of it before the "
        f"request; empty round trip {trip:.1f} ms; distinct weights {len(digests)}"
    )


if __name__ == "__main__":
    main()
