"""Looking at runs: their results, their candidates, and where their models lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasma.core.errors import ChiasmaError, ConfigError, StorageError
from chiasma.core.files import read_json
from chiasma.core.launch import launched_ranks
from chiasma.core.spec import value_at
from chiasma.data.manifest import Columns, DataSpec
from chiasma.experiment.console import Console
from chiasma.experiment.front import Front
from chiasma.experiment.kept_rewards import kept_rewards
from chiasma.experiment.results import Results
from chiasma.experiment.writers import ANSWERS_FILE, FUSION
from chiasma.model.attention import DotProduct
from chiasma.model.fusion import Composed, Generated
from chiasma.model.generated import unapproved_in
from chiasma.model.graph.attention import GraphAttention
from chiasma.search.attention_space import attention_slots, short_slot
from chiasma.search.fusion_rewards import RewardParts
from chiasma.search.generators.store import AnswerStore
from chiasma.store.folders import find_run, list_runs, runs_root
from chiasma.store.rows import CandidateRow, JobRow
from chiasma.store.run import RunStore
from chiasma.train.design import Design

RESULTS_FILE = "results.json"
FRONT_FILE = "pareto_front.json"
BENCHMARK_FILE = "benchmark.json"
MODEL_FOLDER = "model"
CONTROLLER_FOLDER = "controller"


@dataclass(frozen=True)
class RunSummary:
    """One line of ``chiasma list runs``."""

    id: str
    status: str
    source: str
    candidates: int
    winner: str
    metric: str
    score: float | None


@dataclass(frozen=True)
class Story:
    """A candidate or a trained design: what it is, where it comes from, and what its trainings came to.

    Attributes:
        title: Which one it is, in words.
        design: As plain JSON.
        ancestors: ``(number, proposer, edit)`` from the youngest to the oldest.
        jobs: Its trainings; none for a run of ``chiasma train``.
        task: Which task it is for, in a run that has several.
        rewards: What a searched fusion earned, as its policy was told it, and the parts of that.
        conversation: What was said with the language model that wrote it, turn by turn.
    """

    title: str
    design: Mapping[str, Any]
    ancestors: tuple[tuple[str, str, str], ...] = ()
    jobs: tuple[JobRow, ...] = ()
    task: str = ""
    rewards: Mapping[str, float] = field(default_factory=dict)
    conversation: tuple[Mapping[str, Any], ...] = ()


def split_reference(text: str) -> tuple[str, int | None]:
    """Return ``("latest", 7)`` for ``latest#7``.

    Raises:
        ConfigError: What follows ``#`` is not a whole number.
    """
    run, mark, number = text.partition("#")
    if mark and not number.isdecimal():
        raise ConfigError(f"{text}: a candidate is RUN#K with a whole number K, but got {number!r}.")
    return run, int(number) if mark else None


def find_folder(reference: str, run_folder: str | None = None) -> Path:
    """Return a run's folder from its path, id, unique prefix, or ``latest``."""
    return find_run(reference, Path(run_folder).expanduser() if run_folder else runs_root())


def find_model(reference: str, run_folder: str | None = None) -> Path:
    """Return the folder of a saved model, from itself or from its run.

    Raises:
        StorageError: The run has no saved model yet.
        ConfigError: Nothing is found by that name.
    """
    given = Path(reference).expanduser()
    if given.is_dir() and any(given.glob("step-*")):
        return given
    run = find_folder(reference, run_folder)
    folder = run / MODEL_FOLDER
    if not any(folder.glob("step-*")):
        raise StorageError(f"Run {run.name} has no saved model: it did not finish. Continue it: chiasma resume {run}")
    return folder


def data_like(model: Path, spec: DataSpec) -> DataSpec:
    """Return how to read other data for a saved model: columns and task are those it was trained on, unless named."""
    from chiasma.experiment.saved import SavedModel

    known = SavedModel.load(model, device="cpu").data(spec.source)
    named = {name: value for name, value in spec.columns.to_dict().items() if value}
    columns = Columns.from_dict(known.columns.to_dict() | named)
    task = known.task if spec.task == "auto" else spec.task
    captions = spec.captions or known.captions
    return spec.model_copy(update={"columns": columns, "task": task, "captions": captions})


def read_results(run: Path) -> Results:
    """Return what a finished run found.

    Raises:
        StorageError: The run has no results yet.
    """
    if (run / CONTROLLER_FOLDER).is_dir():
        raise StorageError(f"Run {run.name} is a meta-training: it has no classifier. See {run / CONTROLLER_FOLDER}.")
    file = run / RESULTS_FILE
    for other, what in ((FRONT_FILE, "a search for one part of a model"), (BENCHMARK_FILE, "a benchmark")):
        if (run / other).is_file():
            raise StorageError(f"Run {run.name} is {what}: it has no classifier as its winner. See {run / other}.")
    if not file.is_file():
        raise StorageError(f"Run {run.name} has no results: it did not finish. Continue it: chiasma resume {run}")
    return Results.from_dict(read_json(file))


def rewrite_report(run: Path) -> Path:
    """Write a run's report again from its recorded results, and return its path.

    Raises:
        StorageError: The run has no results yet, or its folder cannot be written to.
    """
    from chiasma.experiment.report.front import write_front_report
    from chiasma.experiment.report.render import write_report

    path = run / "report.html"
    if (run / FRONT_FILE).is_file():
        return write_front_report(Front.from_dict(read_json(run / FRONT_FILE)), path)
    return write_report(read_results(run), path)


def summaries(run_folder: str | None = None) -> list[RunSummary]:
    """Return one summary a run, oldest first; a damaged run says so in its status."""
    root = Path(run_folder).expanduser() if run_folder else runs_root()
    return [_summary(path) for path in list_runs(root)]


def story(run: Path, number: int | None) -> Story:
    """Return candidate ``number`` of a run, or its winner.

    Raises:
        ConfigError: The run has no such candidate.
        StorageError: No number is given, and the run has no winner yet.
    """
    chosen = number if number is not None else _winner_number(run)
    if chosen is None:
        return Story(f"{run.name}: the design of its settings", read_results(run).design)
    with RunStore.open(run) as store:
        try:
            row = store.candidate(chosen)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        jobs = tuple(job for job in store.jobs() if job.candidate == chosen)
        ancestors = tuple((f"#{item.number}", item.proposer, item.edit) for item in _ancestors(store, row))
        title = f"{run.name}#{row.number}, proposed by {row.proposer}: {row.edit}"
        task = str(row.genome.get("task", "")) if row.proposer == "benchmark" else ""
        if row.proposer != FUSION:
            return Story(title, row.design, ancestors, jobs, task)
        rewards = _rewards(kept_rewards(store).get(row.hash))
    return Story(title, row.design, ancestors, jobs, task, rewards, _conversation(run, row.hash))


def _rewards(parts: RewardParts | None) -> dict[str, float]:
    """Return the reward that the policy learnt from, and its parts; nothing where it was not told any yet."""
    if parts is None:
        return {}
    if parts.metric is None:
        return {"reward": parts.reward}
    return {
        "reward": parts.reward,
        "metric": parts.metric,
        "lift for longer training": parts.lift,
        **{f"penalty for {name}": value for name, value in parts.penalties.items()},
    }


def _conversation(run: Path, candidate: str) -> tuple[Mapping[str, Any], ...]:
    if not (run / ANSWERS_FILE).is_file():
        return ()
    with AnswerStore(run / ANSWERS_FILE) as answers:
        return tuple(answers.conversation(candidate) or ())


def costs(run: Path, design: Mapping[str, Any], *, task: str = "") -> dict[str, str]:
    """Return parameters and FLOPs of a design for the run's data.

    Nothing where their shapes are not known, and for source that nobody has approved, which is not run here.

    Args:
        run: The run's folder.
        design: What it costs.
        task: Which of several tasks it is for.
    """
    from chiasma.data.signature import Signature
    from chiasma.experiment.saved import SavedModel
    from chiasma.model.cost import cost

    if unapproved_in(Design.from_dict(design)):
        return {}
    with RunStore.open(run) as store:
        noted = [event.data for event in store.events("dataset")]
        known = [data.get("signature") for data in noted if data.get("task", "") == task]
    folder = run / MODEL_FOLDER
    if known and known[0] is not None:
        signature = Signature.from_dict(known[0])
    elif any(folder.glob("step-*")):
        signature = SavedModel.load(folder, device="cpu").signature
    else:
        return {}
    size = cost(Design.from_dict(design).model, signature)
    words = {"parameters": f"{size.parameters:,}", "FLOPs an example": f"{size.flops:,.0f}"}
    if size.uncounted:
        words["not counted"] = ", ".join(size.uncounted)
    return words


def mechanisms(design: Mapping[str, Any]) -> dict[str, GraphAttention]:
    """Return the attention of a design that is not the usual one by its place, such as ``image.attention``."""
    value = Design.from_dict(design)
    found: dict[str, GraphAttention] = {}
    for path in attention_slots(value):
        spec = value_at(value, path)
        if isinstance(spec, DotProduct) and spec != DotProduct():
            spec = GraphAttention(projections=spec.projections)
        if isinstance(spec, GraphAttention):
            found[short_slot(path)] = spec
    return found


def searched_fusion(design: Mapping[str, Any]) -> Composed | Generated | None:
    """Return the fusion of a design if it is one that a search makes: composed, or written as source."""
    fusion = Design.from_dict(design).model.fusion
    return fusion if isinstance(fusion, Composed | Generated) else None


def resume_run(
    run: Path,
    *,
    budget: str | None,
    executor: str | None = None,
    ray_address: str | None = None,
    console: Console,
    started: float | None = None,
) -> Any:
    """Continue a run of whatever verb it was made by; a time budget counts from ``started`` on.

    Raises:
        ConfigError: The budget or the executor is not one, or is given for a training, which has none.
        StorageError: The folder is not a run that can be continued.
    """
    from chiasma.experiment import attention_search, benchmark, evolve, fusion_search, meta_train, train_run
    from chiasma.experiment.config import Budget

    if budget is not None:
        Budget.parse(budget)
    with RunStore.open(run) as store:
        verbs = [event.data["verb"] for event in store.events("verb")]
    if not verbs:
        raise StorageError(f"Run {run.name} ended before it had begun: there is nothing to continue. Start a new run.")
    if verbs in (["train"], [meta_train.VERB]):
        if budget is not None:
            raise ConfigError(f"--budget: {run.name} is a training, whose length is train.epochs; it has no budget.")
        if executor is not None or ray_address is not None:
            raise ConfigError(f"--executor: {run.name} is a training, which has no workers.")
        if verbs == ["train"]:
            return train_run.resume(run, console=console)
    if launched_ranks() > 1:
        raise ConfigError(f"{run.name} is not a training, so one process continues it: start it without torchrun.")
    if verbs == [meta_train.VERB]:
        return meta_train.resume(run, console=console)
    if verbs == ["benchmark"]:
        if budget is not None:
            raise ConfigError(f"--budget: {run.name} is a benchmark, whose length is its seeds; it has no budget.")
        return benchmark.resume(run, executor=executor, ray_address=ray_address, console=console)
    if verbs != ["search"]:
        again = evolve.resume
    else:
        fusions = read_json(run / "config.json")["search"]["slot"] == FUSION
        again = fusion_search.resume if fusions else attention_search.resume
    return again(run, budget=budget, executor=executor, ray_address=ray_address, console=console, started=started)


def _summary(run: Path) -> RunSummary:
    try:
        return _read_summary(run)
    except (OSError, ChiasmaError) as error:
        return RunSummary(run.name, f"damaged: {error}", "", 0, "", "", None)


def _read_summary(run: Path) -> RunSummary:
    config = read_json(run / "config.json")
    with RunStore.open(run) as store:
        status = "interrupted" if store.is_interrupted else store.status
        candidates = len(store.candidates())
    source = str(config["data"]["source"])
    if (run / FRONT_FILE).is_file():
        return _front_summary(run, status, source, candidates)
    if not (run / RESULTS_FILE).is_file():
        return RunSummary(run.name, status, source, candidates, "", "", None)
    results = read_results(run)
    winner = next((arm for arm in results.arms if arm.name == results.winner), None)
    test = winner.test.get(results.metric) if winner else None
    score = test.value if test is not None else (winner.select.get(results.metric) if winner else None)
    split = "test" if test is not None else "select"
    return RunSummary(run.name, status, source, candidates, results.winner, f"{results.metric} on {split}", score)


def _front_summary(run: Path, status: str, source: str, candidates: int) -> RunSummary:

    front = Front.from_dict(read_json(run / FRONT_FILE))
    best = front.best
    name, score = ("", None) if best is None else (best.name, best.score.value)
    return RunSummary(run.name, status, source, candidates, name, f"{front.metric} on select", score)


def _winner_number(run: Path) -> int | None:
    """Return the winner's number, or None for a run that trained the one design of its settings."""
    if (run / FRONT_FILE).is_file():
        best = Front.from_dict(read_json(run / FRONT_FILE)).best
        if best is None:
            raise StorageError(f"Run {run.name} judged no candidate; name one of its candidates: {run.name}#K.")
        return best.candidate
    results = read_results(run)
    return next(arm.candidate for arm in results.arms if arm.name == results.winner)


def _ancestors(store: RunStore, row: CandidateRow) -> list[CandidateRow]:
    """Return parents, then their parents, and so on; each once."""
    found: list[CandidateRow] = []
    youngest = [row]
    while youngest:
        parents = [store.by_hash(hash) for each in youngest for hash in each.parents]
        youngest = []
        for parent in parents:
            if parent is not None and parent != row and parent not in found:
                found.append(parent)
                youngest.append(parent)
    return found
