"""Choose the winner on select, save it, open the sealed test once, and write down what it showed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.errors import ChiasmaError
from chiasma.core.files import write_json
from chiasma.experiment import summary
from chiasma.experiment.arms import Contestant, contestant_of, contestant_of_floor, load_trained
from chiasma.experiment.beginning import StoppedTooSoonError
from chiasma.experiment.checked_rows import check_rows
from chiasma.experiment.checks import Check
from chiasma.experiment.choosing import choose
from chiasma.experiment.diagnosis import confusion, label_table
from chiasma.experiment.finals import TrainedArm
from chiasma.experiment.floors import ClassicalFloor
from chiasma.experiment.jail_terms import lesser_jail
from chiasma.experiment.plan import FinalPlan, SearchPlan
from chiasma.experiment.report.render import write_report
from chiasma.experiment.results import Gain, Results, RunResult
from chiasma.experiment.saved import SavedModel, learnt_contents
from chiasma.experiment.sealed import open_test, opening_words
from chiasma.experiment.search_loop import SearchLoop
from chiasma.experiment.setting import CONTROL, Setting
from chiasma.experiment.slice_table import slice_table
from chiasma.experiment.statistics import Bootstrap, UndefinedMetricError
from chiasma.model.adapters import with_adapters_merged
from chiasma.search.archive import SharedArchive
from chiasma.store.folders import ledger_folder


@dataclass(frozen=True)
class Evidence:
    """What the stages of a run found.

    Attributes:
        interrupted: The user stopped it; the test split stays sealed.
        loop: The search, or None where it never began.
        trained: All arms that are designs, with their trainings.
        unfitted: Classical floors that were not fitted in time, or why they failed.
        untrained: Names of arms that the finals had no time for, or that were rejected there.
        classical: The floors that are not.
        proposing: How those who proposed fusions did, as JSON; empty where nobody did.
    """

    interrupted: bool
    archive: SharedArchive
    loop: SearchLoop | None
    search_plan: SearchPlan
    final_plan: FinalPlan | None
    trained: tuple[TrainedArm, ...]
    untrained: tuple[str, ...]
    unfitted: tuple[str, ...]
    classical: tuple[ClassicalFloor, ...]
    proposing: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class TestFindings:
    """What the opened test split showed; empty where it stayed sealed."""

    __test__ = False

    parts: dict[str, Any]
    tests: dict[str, dict[str, Any]]
    notes: list[str]


def judge(setting: Setting, evidence: Evidence) -> RunResult:
    """Turn evidence into a saved model, results and a report.

    Raises:
        ChiasmaError: Nothing was trained, so that there is no model to hand back.
    """
    if not evidence.trained and evidence.interrupted:
        setting.store.set_status("stopped")
        raise StoppedTooSoonError(
            f"Stopped before anything was trained, so there is no model yet. Go on: chiasma resume {setting.store.path}"
        )
    if not evidence.trained:
        raise ChiasmaError(
            f"No design was trained within {setting.config.run.budget.words}, so there is no model to save. "
            f"Go on with a larger budget: chiasma resume {setting.store.path} --budget ..."
        )
    best = choose(evidence.trained, setting.dataset, metric=setting.metric)
    contestants = _contestants(setting, evidence, best)
    winner = contestants[-1]
    saved = _save(setting, winner, best)
    setting.console.status("judging")
    findings = (
        TestFindings({}, {}, ["The run was interrupted: figures are on select, and the test split is still sealed."])
        if evidence.interrupted
        else _open(setting, evidence, contestants, saved)
    )
    if "checks" not in findings.parts:
        findings.parts["checks"] = _checked_on_select(setting, winner, saved)
    notes = [*findings.notes, *summary.notes(setting, evidence, best)]
    arms = tuple(contestant.arm(findings.tests.get(contestant.name, {})) for contestant in contestants)
    results = Results(
        arms=arms,
        winner=winner.name,
        notes=tuple(notes),
        **summary.of_run(setting, evidence, best),
        **findings.parts,
    )
    write_json(setting.store.path / "results.json", results.to_dict())
    report = write_report(results, setting.store.path / "report.html")
    return RunResult(
        run_path=setting.store.path,
        results=results,
        model_path=setting.store.model_folder,
        report_path=report,
        stopped="interrupted" if evidence.interrupted else "finished",
    )


def _contestants(setting: Setting, evidence: Evidence, best: TrainedArm) -> list[Contestant]:
    """Return floors first, then the control, the finalists and, last, the winner."""
    dataset, metric = setting.dataset, setting.metric
    others = [arm for arm in evidence.trained if arm is not best]
    floors = [contestant_of_floor(floor, dataset, metric=metric) for floor in evidence.classical]
    found = floors + [contestant_of(arm, dataset, metric=metric, winner=False) for arm in others]
    order = {"floor": 0, "control": 1, "finalist": 2}
    found.sort(key=lambda contestant: order[contestant.role])
    return [*found, contestant_of(best, dataset, metric=metric, winner=True)]


def _save(setting: Setting, winner: Contestant, best: TrainedArm) -> SavedModel:
    """Save the winner's training with the lowest error on select, and return it."""
    saved = SavedModel(
        model=with_adapters_merged(
            load_trained(best.best.folder, accept_lesser=bool(lesser_jail([best.best.outcome])))
        ),
        preprocessing=setting.dataset.preprocessing(),
        calibrator=winner.calibrators[winner.shipped],
        card={
            "run": setting.store.id,
            "candidate": best.arm.candidate,
            "metric": setting.metric,
            "fingerprint": setting.dataset.fingerprint,
            "select": best.best.outcome.to_dict(),
            "data": setting.config.data.to_dict(),
            "seed": setting.config.run.seed,
        },
        learnt=learnt_contents(setting.dataset),
    ).expecting(winner.select[winner.shipped], setting.config.evaluate.checks)
    saved.save(setting.store.model_folder)
    return saved


def _checked_on_select(setting: Setting, winner: Contestant, saved: SavedModel) -> tuple[Check, ...]:
    dataset, logits = setting.dataset, winner.select[winner.shipped]
    return check_rows(saved, dataset, dataset.rows("select"), logits, evaluate=setting.config.evaluate)


def _open(setting: Setting, evidence: Evidence, contestants: list[Contestant], saved: SavedModel) -> TestFindings:
    """Open the test split once for all arms, and compare the winner with each."""
    dataset, store, config = setting.dataset, setting.store, setting.config
    if dataset.test_count == 0:
        return TestFindings({}, {}, ["The data have no test split: all figures are on select, which chose the winner."])
    if dataset.test_groups < 2:
        return TestFindings(
            {}, {}, ["The test split is one group of examples, so no interval exists; it stays sealed."]
        )
    rows, before = open_test(
        dataset, ledger_folder=ledger_folder(), run=f"{store.id}, {config.run.budget.words}", verb="evolve", once=True
    )
    setting.console.say(opening_words(before))
    over = partial(
        Bootstrap.over,
        dataset,
        level=config.evaluate.level,
        resamples=config.evaluate.resamples,
        seed=config.run.seed,
    )
    bootstrap = over(rows)
    winner = contestants[-1]
    compared = [c for c in contestants if c.role in ("floor", "control", "winner") or _is_control(c, contestants)]
    outputs = {c.name: c.outputs(rows, device=config.run.device) for c in compared}
    tests = {c.name: c.test_metrics(outputs[c.name], bootstrap) for c in compared}
    gains = tuple(_gain(winner, c, outputs, bootstrap, setting.metric) for c in compared if c is not winner)
    decided = winner.judged(outputs["winner"], "accuracy")
    place, shipped = winner.shipped, winner.calibrators[winner.shipped]
    _keep_predictions(store.path / "predictions.npz", setting, rows, winner, outputs)
    target = dataset.signature.target
    parts: dict[str, Any] = {
        "gains": tuple(gain for gain in gains if gain is not None),
        "opening": before,
        "calibration": shipped.describe(outputs["winner"][place], bootstrap.labels),
        "per_label": label_table(decided, bootstrap.labels, target, target_scale=dataset.target_scale),
        "slices": slice_table(
            dataset,
            rows,
            winner.judged(outputs["winner"], setting.metric),
            metric=setting.metric,
            bootstrap=over,
        ),
        "confusion": confusion(decided, bootstrap.labels, target),
        "reliability": shipped.reliability(outputs["winner"][place], bootstrap.labels),
        "test_examples": len(rows),
        "test_groups": bootstrap.count,
        "checks": check_rows(
            saved, dataset, rows, outputs["winner"][place], evaluate=config.evaluate, expected=saved.expectation
        ),
    }
    return TestFindings(parts, tests, [])


def _is_control(contestant: Contestant, contestants: list[Contestant]) -> bool:
    """Return whether a finalist stands for random search, because it found the control's best design."""
    if any(other.role == "control" for other in contestants) or contestant.trained is None:
        return False
    mine = [c for c in contestants if c.trained is not None and c.trained.arm.proposer == CONTROL and c.role != "floor"]
    return bool(mine) and contestant is mine[0]


def _gain(
    winner: Contestant, other: Contestant, outputs: dict[str, np.ndarray], bootstrap: Bootstrap, metric: str
) -> Gain | None:
    try:
        return bootstrap.gain_against(
            other.name,
            winner.judged(outputs[winner.name], metric),
            other.judged(outputs[other.name], metric),
            metric=metric,
        )
    except UndefinedMetricError:
        return None


def _keep_predictions(
    path: Path, setting: Setting, rows: np.ndarray, winner: Contestant, outputs: dict[str, np.ndarray]
) -> None:
    """Keep what the winner's figures on test were made from, so that runs can be compared without opening it again."""
    dataset = setting.dataset
    summary.write_arrays(
        path,
        {
            "ids": np.array([str(identity) for identity in dataset.ids(rows)]),
            "groups": dataset.groups(rows),
            "labels": dataset.labels(rows).numpy(),
            "winner": winner.judged(outputs["winner"], setting.metric),
        },
    )
