"""What the comparisons of searches share: document 001's small task, a search that ends on time, and a fair judge.

The task is document 001's: a transformer of one layer over patches of CIFAR-10, three epochs on 4,096 images. Unlike
there, mechanisms are chosen and judged on 2,048 further images of the training set (the test set is never read), and
the network around the mechanism is Chiasma's: GELU, small initial positions, a last norm. FLOPs are counted as Chiasma
counts them, for everybody.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import value_at
from chiasma.data.dataset import Dataset
from chiasma.evaluate.executor import LocalExecutor
from chiasma.evaluate.tasks import Task
from chiasma.experiment.attention_search import search_attention
from chiasma.experiment.beginning import prepare_data
from chiasma.experiment.compose import load_config
from chiasma.experiment.config import Budget, RunConfig
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.front import volume_of
from chiasma.model.attention import Mean
from chiasma.model.cost import cost
from chiasma.search.pareto import non_dominated
from chiasma.store.run import RunStore
from chiasma.train.design import Design

ROWS = {"train": 4096, "select": 2048, "steer": 256, "test": 64}
SETTINGS = (
    "data.near_duplicate_bits=null",
    "model.dim=64",
    "model.encoders.image={kind: vit, stem: patch, grid: 8, depth: 1, heads: 1, expansion: 4, dropout: 0.1, pool: cls}",
    "model.head={kind: classification, hidden: null}",
    "optim={lr: 1e-3, weight_decay: 0.01, schedule: {kind: constant}, warmup: 0.0}",
    "train={epochs: 3, batch_size: 128, evaluations: 1}",
    "search.slot=image.attention",
)
RUNGS = ("evaluate.rungs=[0.34, 1.0]", "evaluate.fewest_examples=4000")
"""The ladder of Chiasma's searches: a third of the training, then the whole."""
SLOT = "model.encoders.image.attention"
CHANCE_ERROR = 0.9
MARGIN = 1.1


@dataclass(frozen=True)
class Found:
    """One training of full length during a search: when it ended, what of, and what it came to."""

    seconds: float
    design: Design
    error: float
    flops: float


class Stopwatch(SilentConsole):
    """Asks a search to stop when its time is up, as Ctrl-C would."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def interrupted(self) -> bool:  # type: ignore[override]
        return time.monotonic() >= self._end


def write_images(folder: Path, source: Path) -> Path:
    """Write the task's images and a manifest with fixed splits; return the manifest."""
    frame = pd.read_parquet(source / "cifar10" / "train.parquet").head(sum(ROWS.values()))
    image, label = (next(name for name in frame.columns if name in known) for known in (("img", "image"), ("label",)))
    splits = [split for split, count in ROWS.items() for _ in range(count)]
    lines: list[str] = []
    for number, (row, split) in enumerate(zip(frame.to_dict("records"), splits, strict=True)):
        (folder / f"{number}.png").write_bytes(row[image]["bytes"])
        lines.append(json.dumps({"id": number, "img": f"{number}.png", "label": str(row[label]), "split": split}))
    manifest = folder / "images.jsonl"
    manifest.write_text("\n".join(lines))
    return manifest


def make_config(manifest: Path, *settings: str) -> RunConfig:
    """Return the settings of a search on the task."""
    folder = manifest.parent
    places = (f"run.folder={folder / 'runs'}", f"run.cache={folder / 'cache'}")
    return load_config(None, data=str(manifest), overrides=[*SETTINGS, *places, *settings])


def search(config: RunConfig, *, seconds: float) -> list[Found]:
    """Return what a search trained at full length until it was stopped, in the order of ending."""
    began = time.time()
    # Much more time than it has, so that every training is whole and none is spent on judging the best again.
    run = config.run.model_copy(update={"budget": Budget.parse(f"{8 * seconds:.0f}s")})
    result = search_attention(config.model_copy(update={"run": run}), console=Stopwatch(seconds))
    with RunStore.open(result.run_path) as store:
        designs = {row.number: Design.from_dict(row.design) for row in store.candidates()}
        # The mean of the values is there to measure the task, and not a mechanism that anybody found.
        designs = {number: each for number, each in designs.items() if not isinstance(value_at(each, SLOT), Mean)}
        jobs = [job for purpose in ("floor", "search") for job in store.jobs(purpose)]
    top = max(job.rung for job in jobs)
    shorter = [job.key for job in jobs if job.rung == top and not job.key.endswith("/1")]
    if shorter:
        raise SystemExit(f"{shorter[0]} was not trained at full length: give the search more time.")
    found = [
        Found(job.finished - began, designs[job.candidate], *_point(job.outcome))
        for job in jobs
        if job.rung == top and isinstance(job.outcome, Scored) and job.finished and job.candidate in designs
    ]
    return sorted(found, key=lambda each: each.seconds)


@dataclass(frozen=True)
class Comparison:
    """What searches that are compared share.

    Attributes:
        manifest: The data.
        task: What every training has in common.
        standard: The design with standard attention.
        judge: Trains again what they found.
    """

    manifest: Path
    task: Task
    standard: Design
    judge: "Judge"


def prepare_comparison(folder: Path, source: Path, *, workers: int, judging_seeds: int) -> Comparison:
    """Write the data and fix the reference point: guessing, a little more FLOPs than standard attention."""
    manifest = write_images(folder, source)
    task, standard = make_task(make_config(manifest))
    flops = cost(standard.model, Dataset.open(Path(task.dataset)).signature).flops
    reference = CHANCE_ERROR, MARGIN * flops
    print(f"reference point: error {reference[0]:.2f}, FLOPs {reference[1]:.4g}", flush=True)
    return Comparison(manifest, task, standard, Judge(task, reference=reference, workers=workers, seeds=judging_seeds))


def make_task(config: RunConfig) -> tuple[Task, Design]:
    """Return what every training has in common, and the design with standard attention."""
    dataset, _ = prepare_data(config, SilentConsole())
    task = Task(dataset=str(dataset.folder), metric="accuracy", objectives=("error", "flops"))
    return task, config.design(dataset.signature)


class Judge:
    """Trains designs again on seeds that no search used, and measures what fronts are worth.

    Args:
        task: As in the searches.
        reference: Error and FLOPs beyond which nothing counts, fixed before any search.
        workers: Trainings at a time.
        seeds: Fresh trainings of each design.
    """

    def __init__(self, task: Task, *, reference: tuple[float, float], workers: int, seeds: int) -> None:
        self._task, self._reference, self._workers, self._seeds = task, reference, workers, seeds
        self._points: dict[str, tuple[float, float]] = {}

    def judge(self, designs: Iterable[Design]) -> None:
        """Train whatever is not known yet."""
        new = {design.content_hash(): design for design in designs}
        new = {name: design for name, design in new.items() if name not in self._points}
        scores: dict[str, list[tuple[float, float]]] = {name: [] for name in new}
        with LocalExecutor(self._workers) as executor:
            for name, design in new.items():
                for seed in range(self._seeds):
                    executor.submit(self._task.job(f"{name}/{seed}", design, seed=derive_seed(seed, "fresh")))
            for job, outcome, _ in executor.as_completed():
                point = _point(outcome) if isinstance(outcome, Scored) else (1.0, 1e12)
                scores[job.key.partition("/")[0]].append(point)
        self._points |= {name: tuple(np.mean(points, axis=0)) for name, points in scores.items()}

    def volume(self, front: Sequence[Found]) -> float:
        """Return the hypervolume of a front by its fresh trainings, as a part of the box to the reference point."""
        points = [self._points[each.design.content_hash()] for each in front]
        return volume_of(points, self._reference) if points else 0.0


def front_at(found: Sequence[Found], seconds: float) -> list[Found]:
    """Return the front of what had ended by then, by the search's own scores."""
    known = [each for each in found if each.seconds <= seconds]
    if not known:
        return []
    errors: dict[str, list[float]] = {}
    for each in known:
        errors.setdefault(each.design.content_hash(), []).append(each.error)
    # What was trained more than once is as good as its mean.
    known = [replace(each, error=float(np.mean(errors[each.design.content_hash()]))) for each in known]
    known = list({each.design.content_hash(): each for each in known}.values())
    kept = non_dominated(np.array([[each.error, each.flops] for each in known]))
    return [each for each, here in zip(known, kept, strict=True) if here]


def install_plugin(folder: Path) -> None:
    """Make document 001's attention a plugin of this process and its workers."""
    metadata = folder / "document_001-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: document-001\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[chiasma.attention]\ndocument_001 = document_001_attention:Symbolic\n")
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, str(folder), os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, str(folder))


def _point(outcome: Scored) -> tuple[float, float]:
    return outcome.objectives["error"], outcome.objectives["flops"]
