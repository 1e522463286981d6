"""How many more trials two workers finish than one in the same time, on the built-in data.

    python benchmarks/executor_scaling.py [--seconds 60] [--repeats 3] [--workers 2]

Each repeat runs both in alternating order, with warm workers, on the same queue of equal trainings, and counts the ones
that ended in time. Rows are kept in ``benchmarks/results/executor_scaling.jsonl``;
the ratio of medians is printed. Wanted: at least 1.8 with two workers on two free cores.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.evaluate.executor import LocalExecutor
from chiasma.evaluate.job import Job
from chiasma.evaluate.tasks import Task
from chiasma.model.encoders import Bert, Convolution
from chiasma.model.fusion import Multiplicative
from chiasma.model.multimodal import ModelSpec
from chiasma.train.design import Design

RESULTS = Path(__file__).with_name("results") / "executor_scaling.jsonl"
DESIGN = Design(
    model=ModelSpec(dim=64, encoders={"image": Convolution(), "text": Bert(depth=1)}, fusion=Multiplicative())
)


def main() -> None:
    """Measure, keep the rows and print the ratio."""
    parser = argparse.ArgumentParser(description="Trials finished by several workers versus one in the same time.")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each number of workers")
    parser.add_argument("--workers", type=int, default=2, help="workers to compare with one")
    parser.add_argument("--epochs", type=float, default=0.5, help="length of one training")
    arguments = parser.parse_args()
    dataset, _ = prepare(DataSpec(), seed=0, cache=Path("~/.cache/chiasma").expanduser())
    rates: dict[int, list[float]] = {1: [], arguments.workers: []}
    for repeat in range(arguments.repeats):
        order = sorted(rates) if repeat % 2 else sorted(rates, reverse=True)
        for workers in order:
            rate = trials_a_minute(dataset, workers, seconds=arguments.seconds, epochs=arguments.epochs)
            rates[workers].append(rate)
            keep({"workers": workers, "trials_a_minute": rate, "seconds": arguments.seconds, "repeat": repeat})
            print(f"{workers} worker(s): {rate:.1f} trials a minute", flush=True)
    ratio = statistics.median(rates[arguments.workers]) / statistics.median(rates[1])
    print(f"{arguments.workers} workers finish {ratio:.2f} times the trials of one (medians of {arguments.repeats})")


def trials_a_minute(dataset: Dataset, workers: int, *, seconds: float, epochs: float) -> float:
    """Return the trials that ended within ``seconds``, per minute up to the last of them, on warm workers."""
    design = replace_at(DESIGN, "training.loop.epochs", epochs)
    task = Task(dataset=str(dataset.folder), metric="accuracy")
    with LocalExecutor(workers) as executor:
        warm = [executor.submit(task.job(f"warm {number}", design, seed=number)) for number in range(2 * workers)]
        assert len(list(executor.as_completed())) == len(warm)
        started = time.monotonic()
        number = 0

        def submit() -> None:
            nonlocal number
            number += 1
            executor.submit(measured(task, design, number))

        for _ in range(workers + 1):  # One more than can run, so that no worker waits for this process.
            submit()
        ended = 0
        last = started
        for job, outcome, _ in executor.as_completed(started + seconds):
            if outcome.kind != "scored":
                raise RuntimeError(f"{job.key} was not scored: {outcome}")
            ended, last = ended + 1, time.monotonic()
            submit()
    return 60 * ended / (last - started)


def measured(task: Task, design: Design, number: int) -> Job:
    """Return one of the equal trainings that are counted."""
    return task.job(f"trial {number}", design, seed=number)


def keep(row: dict[str, float]) -> None:
    """Append a row to the results."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "a") as file:
        file.write(json.dumps(row | {"time": time.time()}) + "\n")


if __name__ == "__main__":
    main()
