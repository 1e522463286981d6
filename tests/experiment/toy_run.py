"""A search whose trainings are arithmetic: only the executor is a toy; store, driver, loop and proposers are real."""

import random
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chiasma.core.outcome import Rejected, Scored
from chiasma.core.rng import numpy_rng
from chiasma.data.signature import ImageInput, Signature, Target, TextInput
from chiasma.evaluate.executor import Ended, Executor
from chiasma.evaluate.job import Job
from chiasma.evaluate.ladder import Ladder
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.driver import Clock, Driver
from chiasma.experiment.search_loop import SearchLoop
from chiasma.search.allocator import BanditAllocator
from chiasma.search.archive import SharedArchive
from chiasma.search.design_space import DesignSpace
from chiasma.search.local_search import LocalSearch
from chiasma.search.random_search import RandomSearch
from chiasma.store.run import RunStore

SIGNATURE = Signature(
    inputs={"image": ImageInput(channels=3, height=8, width=8), "text": TextInput(vocabulary=50, length=8)},
    target=Target(task="classification", labels=("no", "yes")),
)


def toy_outcome(job: Job) -> Scored | Rejected:
    """Score a job by its design's hash alone, better on higher rungs; one in ten is rejected."""
    rng = numpy_rng(int(job.design.content_hash(), 16), "toy", job.rung)
    if rng.random() < 0.1:
        return Rejected(stage="train", reason="loss is not finite")
    return Scored(objectives={"error": float(rng.random()) / (1 + job.rung), "flops": 1.0, "parameters": 1.0})


class ToyExecutor(Executor):
    """Answers in an order of its own, the newest job first for ``order_seed=None``; gives up after so many answers."""

    def __init__(self, order_seed: int | None = 0, *, answers: int | None = None) -> None:
        self._rng = None if order_seed is None else random.Random(order_seed)
        # How long a training takes differs from run to run; with a budget of trials nothing may depend on it.
        self._seconds = random.Random()
        self._jobs: dict[int, Job] = {}
        self._next = 0
        self.answered: list[str] = []
        self._left = answers

    def submit(self, job: Job) -> int:
        self._next += 1
        self._jobs[self._next] = job
        return self._next

    def as_completed(self, deadline: float | None = None) -> Iterator[Ended]:
        del deadline
        while self._jobs:
            if self._left == 0:
                raise KeyboardInterrupt
            handle = self._rng.choice(sorted(self._jobs)) if self._rng else max(self._jobs)
            job = self._jobs.pop(handle)
            self.answered.append(job.key)
            if self._left is not None:
                self._left -= 1
            yield job, toy_outcome(job), self._seconds.uniform(0.1, 9.0)

    def cancel(self, handle: int) -> None:
        self._jobs.pop(handle, None)

    def close(self) -> None:
        self._jobs.clear()


class KillingExecutor(ToyExecutor):
    """Kills its own process, as the machine might, instead of giving the last answer."""

    def as_completed(self, deadline: float | None = None) -> Iterator[Ended]:
        import os

        try:
            yield from super().as_completed(deadline)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGKILL)


def run_search(
    store: RunStore,
    executor: Executor,
    *,
    workers: int,
    trials: int | None = 30,
    recorded: Mapping[str, Mapping[str, Any]] | None = None,
) -> SearchLoop:
    """Search to the end, or without trials until the executor gives up, and return the loop."""
    driver = Driver(store, executor, console=SilentConsole(), clock=Clock(), workers=workers, recorded=recorded)
    space = DesignSpace(SIGNATURE, train_rows=1000)
    proposers = {"random": RandomSearch(space, seed=7), "local": LocalSearch(space, seed=7)}

    def make_job(*, key, design, seed, fraction, rung, keep=None, start=None, time_limit_seconds=None):
        return Job(key=key, design=design, dataset="none", seed=seed, fraction=fraction, rung=rung, metric="accuracy")

    archive = SharedArchive()
    loop = SearchLoop(
        driver,
        archive,
        proposers=proposers,
        allocator=BanditAllocator(["random", "local"], ["random"]),
        ladder=Ladder(),
        top=1.0,
        generation=6,
        trials=trials,
        seed=7,
        make_job=make_job,
        again=lambda: [each.candidate for each in archive.standings() if each.rung == 2 and len(each.evaluations) == 1],
    )
    try:
        loop.run(lambda: False)
    except KeyboardInterrupt:
        if trials is not None:
            raise
    return loop


def new_store(folder: Path) -> RunStore:
    """Make a run."""
    return RunStore.create(folder, verb="evolve", config={}, provenance={})


def trace(store: RunStore, loop: SearchLoop) -> tuple:
    """Return everything that must not depend on workers, arrival or interruption."""
    candidates = [(row.number, row.hash, row.proposer, row.generation, row.parents) for row in store.candidates()]
    jobs = sorted((job.key, job.outcome.to_json()) for job in store.jobs() if job.outcome is not None)
    rows = [(row.candidate, row.rung, row.outcome.to_json()) for row in loop.rows]
    ledger = [(spend.proposer, spend.gain) for spend in loop.ledger]
    states = {name: proposer.state_dict() for name, proposer in loop.proposers.items()}
    best = [(s.candidate.hash, s.rung, s.objectives) for s in loop.archive.standings()]
    return candidates, jobs, rows, ledger, states, best
