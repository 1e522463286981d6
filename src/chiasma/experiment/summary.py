"""What a run did, counted from its recorded rows."""

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chiasma.core.files import write_atomic
from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.evaluate.ladder import rank_correlations
from chiasma.experiment.finals import TrainedArm
from chiasma.experiment.grown import growth_notes
from chiasma.experiment.report.proposing import gone_notes
from chiasma.experiment.setting import CONTROL, Setting
from chiasma.store.checkpoint import load_newest
from chiasma.store.rows import CandidateRow
from chiasma.train.metrics import higher_is_better

if TYPE_CHECKING:
    from chiasma.experiment.judge import Evidence


def of_run(setting: Setting, evidence: "Evidence", best: TrainedArm) -> dict[str, Any]:
    """Return everything in the results that is not about the arms."""
    loop = evidence.loop
    jobs = setting.store.jobs()
    return {
        "run": setting.store.id,
        "verb": "evolve",
        "source": setting.config.data.source,
        "metric": setting.metric,
        "higher_is_better": higher_is_better(setting.metric),
        "budget": {
            "asked": setting.config.run.budget.words,
            "seconds": setting.config.run.budget.seconds,
            "trials": setting.config.run.budget.trials,
            "spent_seconds": setting.driver.clock.elapsed(),
            "candidates": loop.asked if loop else 0,
            "trainings": sum(job.outcome is not None for job in jobs),
            "workers": setting.config.run.workers,
        },
        "data": setting.data_report.to_dict(),
        "proposers": proposers(setting, evidence),
        "proposing": evidence.proposing,
        "rejections": rejections(setting),
        "duplicates_saved": loop.duplicates if loop else 0,
        "anytime": tuple(
            {"seconds": p.seconds, "candidates": p.candidates, "error": p.error, "proposer": p.proposer}
            for p in (loop.anytime if loop else ())
        ),
        "rungs": tuple(r.to_dict() for r in rank_correlations(loop.rows)) if loop else (),
        "history": history(best.best.folder),
        "growth": adapted(best.best.folder, "growth"),
        "controller": adapted(best.best.folder, "controller"),
        "design": trained_design(best),
        "lineage": lineage(setting, best),
        "provenance": setting.store.provenance,
    }


def proposers(setting: Setting, evidence: "Evidence") -> tuple[dict[str, Any], ...]:
    """Return, for each proposer, its candidates, their outcomes, its cost, its gain and the lowest error it found."""
    if evidence.loop is None:
        return ()
    top = setting.ladder.top
    found: list[dict[str, Any]] = []
    by_proposer = {row.number: row.proposer for row in setting.store.candidates()}
    for name in evidence.loop.proposers:
        rows = [row for row in evidence.loop.rows if by_proposer[row.candidate] == name]
        last = [row.outcome for row in rows if row.rung == top and isinstance(row.outcome, Scored)]
        found.append(
            {
                "proposer": name,
                "candidates": len({row.candidate for row in rows}),
                "trainings": len(rows),
                "scored": len({row.candidate for row in rows if isinstance(row.outcome, Scored)}),
                "rejected": len({row.candidate for row in rows if isinstance(row.outcome, Rejected)}),
                "failed": len({row.candidate for row in rows if isinstance(row.outcome, Failed)}),
                "seconds": sum(spend.seconds for spend in evidence.loop.ledger if spend.proposer == name),
                "gain": evidence.loop.gains[name],
                "best_error": min((outcome.objectives["error"] for outcome in last), default=None),
            }
        )
    return tuple(found)


def rejections(setting: Setting) -> dict[str, int]:
    """Return how many trainings were rejected, by stage and reason, and how many failed through no fault of theirs."""
    counts: Counter[str] = Counter()
    for job in setting.store.jobs():
        if isinstance(job.outcome, Rejected):
            counts[f"{job.outcome.stage}: {job.outcome.reason}"] += 1
        elif isinstance(job.outcome, Failed):
            counts[f"failed: {job.outcome.error}"] += 1
    return dict(counts)


def lineage(setting: Setting, best: TrainedArm) -> tuple[dict[str, Any], ...]:
    """Return the winner's ancestors, the oldest first, each with the edit that made it."""
    rows = {row.hash: row for row in setting.store.candidates()}
    scores = {job.candidate: job.outcome for job in setting.store.jobs() if job.purpose in ("search", "floor")}
    chain: list[CandidateRow] = []
    row = next((row for row in rows.values() if row.number == best.arm.candidate), None)
    while row is not None and row not in chain:
        chain.append(row)
        row = rows.get(row.parents[0]) if row.parents else None
    found: list[dict[str, Any]] = []
    for row in reversed(chain):
        outcome = scores.get(row.number)
        error = outcome.objectives["error"] if isinstance(outcome, Scored) else None
        found.append({"candidate": row.number, "proposer": row.proposer, "edit": row.edit, "error": error})
    return tuple(found)


def history(folder: Path) -> tuple[Mapping[str, float], ...]:
    """Return the shipped training's rows, one an evaluation on steer."""
    checkpoint = load_newest(folder)
    return tuple(checkpoint.documents.get("history", ())) if checkpoint else ()


def trained_design(best: TrainedArm) -> Mapping[str, Any]:
    """Return the shipped design as its training left it: with the members that its trunk has in the end."""
    return adapted(best.best.folder, "design") or best.arm.design.to_dict()


def adapted(folder: Path, what: str) -> Mapping[str, Any]:
    """Return a document of the shipped training, such as how its trunk grew; empty where there was none."""
    checkpoint = load_newest(folder)
    return checkpoint.documents.get(what, {}) if checkpoint else {}


def notes(setting: Setting, evidence: "Evidence", best: TrainedArm) -> list[str]:
    """Return the sentences that a reader must know to judge the figures."""
    found: list[str] = []
    plan = evidence.final_plan
    searched_only = best.best.round < 0
    if searched_only and not evidence.interrupted:
        found.append("There was no time for final trainings: figures come from the search's own trainings and seeds.")
    elif plan is not None and len(best.trainings) == 1 and not searched_only:
        found.append("The budget allowed one fresh seed, so intervals do not cover the luck of training.")
    if len(best.trainings) > 1:
        found.append(
            f"Figures average {len(best.trainings)} trainings of the winner on fresh seeds; the one with the best "
            "score on select is saved."
        )
    if plan is not None and plan.fraction < 1:
        found.append(f"The budget allowed {plan.fraction:.0%} of each design's full training, for all arms alike.")
    if evidence.unfitted:
        found.append(f"Classical floors that were not fitted: {', '.join(evidence.unfitted)}.")
    if evidence.untrained:
        found.append(
            f"Not trained in the finals, for want of time or because it was rejected: {', '.join(evidence.untrained)}."
        )
    if CONTROL not in setting.config.search.proposers:
        found.append("There was no control: random search is not among the proposers.")
    elif not any(arm.arm.proposer == CONTROL for arm in evidence.trained):
        found.append("Random search, the control, scored no design within this budget, so it is not compared.")
    if best.arm.role == "floor":
        found.append(
            f"No searched design was better on select than the floor {best.arm.name} by more than one standard error, "
            "so that floor is shipped."
        )
    found += gone_notes(evidence.proposing)
    found += growth_notes(adapted(best.best.folder, "growth"))
    if best.arm.proposer == CONTROL:
        found.append("Random search itself, the control, found the winner.")
    cut = [arm.arm.name for arm in evidence.trained if any(t.outcome.metrics.get("cut_short") for t in arm.trainings)]
    if cut:
        found.append(f"The time ran out before the full length of the final training of: {', '.join(cut)}.")
    return found


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as ``npz``, atomically and without objects."""
    buffer = io.BytesIO()
    plain: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez_compressed(buffer, allow_pickle=False, **plain)
    write_atomic(path, buffer.getvalue())
