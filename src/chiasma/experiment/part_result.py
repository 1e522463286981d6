"""What a search for one part of a design found, written down: the front, and what a reader must know of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasma.core.files import write_json
from chiasma.core.outcome import Rejected
from chiasma.evaluate.ladder import rank_correlations
from chiasma.experiment.config import RunConfig
from chiasma.experiment.driver import Finished
from chiasma.experiment.finals import TrainedArm
from chiasma.experiment.floors import Majority
from chiasma.experiment.front import Front, Unjudged, comparable, judged, volume_of
from chiasma.experiment.jail_terms import lesser_jail
from chiasma.experiment.judging import Judging
from chiasma.experiment.judging_again import Search, front_of, make_judgings
from chiasma.experiment.plan import SearchPlan
from chiasma.experiment.report.front import write_drawings, write_front_report
from chiasma.experiment.report.proposing import gone_notes
from chiasma.experiment.report.wording import amount
from chiasma.experiment.runs import FRONT_FILE
from chiasma.experiment.search_loop import SearchLoop
from chiasma.search.attention_space import short_slot


@dataclass(frozen=True)
class SearchResult:
    """What the verb hands back.

    Attributes:
        run_path: The run's folder, with ``pareto_front.json``, ``graphs/`` and ``report.html``.
        front: What was found.
        use: What ``--set`` takes to use the best mechanism; empty where none was judged.
        stopped: ``finished``, or ``interrupted`` where the user stopped it.
    """

    run_path: Path
    front: Front
    use: str
    stopped: str


def conclude(
    search: Search, loop: SearchLoop, trained: Sequence[TrainedArm], search_plan: SearchPlan, *, interrupted: bool
) -> SearchResult:
    """Write the front, its drawings and the report.

    Args:
        search: What the stages shared.
        loop: The search, told or settled.
        trained: What was trained on fresh seeds, or else by the search itself.
        search_plan: Says how long everything was trained.
        interrupted: The user stopped it.
    """
    setting = search.setting
    front = _front(search, loop, trained, search_plan)
    notes = [
        *_notes(front, setting.config, interrupted=interrupted),
        *lesser_jail([item.outcome for item in loop.finished]),
    ]
    front = front.model_copy(update={"notes": tuple(notes)})
    write_json(setting.store.path / FRONT_FILE, front.to_dict())
    write_drawings(front, setting.store.path / "graphs")
    write_front_report(front, setting.store.path / "report.html")
    return SearchResult(
        setting.store.path,
        front,
        "" if front.best is None else front.use(front.best.name),
        "interrupted" if interrupted else "finished",
    )


def _front(search: Search, loop: SearchLoop, trained: Sequence[TrainedArm], search_plan: SearchPlan) -> Front:
    """Return everything that was measured, without what a reader must know of it."""
    setting, judgings = search.setting, make_judgings(search.setting)
    fresh = all(training.round >= 0 for arm in trained for training in arm.trainings)
    mechanisms = judged(
        trained,
        judgings,
        objectives=search.objectives,
        describe=lambda arm: search.part.describe(arm.arm.design),
        standard=search.part.standard,
        limits=search.rules.limits or {},
        diverged=search.diverged,
        fresh=fresh,
    )
    beside = set(search.part.matters or ()) - {search.part.standard}
    feasible = {each.name for each in mechanisms if each.feasible and each.name not in beside}
    points = comparable([arm for arm in trained if arm.arm.name in feasible], search.objectives)
    return Front(
        run=setting.store.id,
        source=setting.dataset.source,
        slot=short_slot(search.part.path),
        standard=search.part.standard,
        around=search.part.around(search.base),
        metric=setting.metric,
        objectives=search.objectives,
        mechanisms=mechanisms,
        fresh=fresh,
        trained=search_plan.top,
        unjudged=_unjudged(search, {each.name for each in mechanisms} | search.diverged.keys()),
        reference=search.reference,
        hypervolume=volume_of(points, search.reference),
        **_baseline_figures(search, judgings[0], trained, tried=0 if fresh else loop.trained + len(search.arms)),
        lost=tuple(sorted(name for name in search.diverged if not search.judged.get(name))),
        rejections=_reasons(loop.finished),
        refused=dict(loop.refused.most_common()),
        duplicates_saved=loop.duplicates,
        candidates=loop.trained,
        trainings=len(loop.finished),
        seconds=setting.driver.clock.elapsed(),
        budget=setting.config.run.budget.words,
        rungs=tuple(item.to_dict() for item in rank_correlations(loop.rows)),
        history=tuple(search.history),
        gains=loop.gains,
        proposing=search.part.proposing(),
    )


def _baseline_figures(search: Search, judging: Judging, trained: Sequence[TrainedArm], *, tried: int) -> dict[str, Any]:
    """Return what the baselines say of the task: whether attention matters, and whether there is anything to find."""
    dataset = search.setting.dataset
    by_name = {arm.arm.name: arm for arm in trained}
    both = [by_name[name] for name in search.part.matters or () if name in by_name]
    floor = Majority().fit(dataset).logits(dataset, dataset.rows("select"))
    return {
        "attention_matters": judging.gain(*both) if len(both) == 2 else None,
        "chance": judging.chance(floor),
        "above_chance": judging.above(trained, floor, tried=tried),
    }


def _unjudged(search: Search, known: set[str]) -> tuple[Unjudged, ...]:
    """Return what else the search itself had on its front."""
    numbers = {row.hash: row.number for row in search.setting.store.candidates()}
    baselines = {arm.design.content_hash() for arm in search.arms.values()}
    found: list[Unjudged] = []
    for each in front_of(search):
        number = numbers[each.candidate.hash]
        if f"#{number}" not in known and each.candidate.hash not in baselines:
            objectives = {name: each.objectives[name] for name in search.objectives}
            part = search.part.describe(each.candidate.design).to_dict()
            found.append(Unjudged(**part, name=f"#{number}", candidate=number, objectives=objectives))
    return tuple(found)


def _reasons(finished: Sequence[Finished]) -> dict[str, int]:
    outcomes = (item.outcome for item in finished)
    return dict(Counter(f"{o.stage}: {o.reason}" for o in outcomes if isinstance(o, Rejected)).most_common())


def _notes(front: Front, config: RunConfig, *, interrupted: bool) -> list[str]:
    """Return what a reader must know before believing the front."""
    notes = [_how_judged(front, interrupted=interrupted)]
    if front.above_chance is False:
        notes.append(
            "Nothing that was judged is shown to be better than always giving the most frequent answer "
            f"({amount(front.metric, front.chance or 0.0)}): on these labels there was nothing to find."
        )
    matters = front.attention_matters
    if matters is not None and matters.low <= 0:
        notes.append(
            "Attention is not shown to matter on this task: the mean of the values is not clearly worse than standard "
            "attention, so that a mechanism found here says little about attention."
        )
    if front.fresh and any(each.seeds == 1 for each in front.mechanisms):
        notes.append("Some were judged on one fresh seed, so that their intervals do not cover the luck of training.")
    for each in front.mechanisms:
        if each.diverged:
            times = f"{each.diverged} of its fresh seeds"
            notes.append(f"{each.name} could not be trained on {times}, so that it is neither ahead nor behind.")
    if front.lost:
        notes.append(f"Could not be trained on any fresh seed, and are no findings: {', '.join(front.lost)}.")
    beyond = [each.name for each in front.mechanisms if not each.feasible]
    if beyond:
        notes.append(f"Beyond search.limits, and for comparison only: {', '.join(beyond)}.")
    if front.unjudged:
        names = ", ".join(each.name for each in front.unjudged)
        notes.append(f"Also on the search's own front, but not judged (evaluate.finalists): {names}.")
    notes += gone_notes(front.proposing)
    if config.search.warm_start:
        notes.append(
            "In the search, children began with their parents' weights and the baselines from scratch; what was judged "
            "on fresh seeds began from scratch, all alike."
        )
    return notes


def _how_judged(front: Front, *, interrupted: bool) -> str:
    """Return on which rows and seeds the figures were measured, and after how much training."""
    length = f"after {front.trained or 1:.0%} of their epochs"
    if front.fresh:
        return (
            f"All were judged on the select split on fresh seeds, {length}. They are the best of "
            f"{front.candidates} on these rows, so that their scores lean to the bright side and nobody is called "
            "better here; chiasma benchmark says so or not, on a test split that is sealed until then."
        )
    why = "The run was interrupted" if interrupted else "There was no time to judge on fresh seeds"
    why = "No finalist could be trained on a fresh seed" if front.lost else why
    return f"{why}: figures are the search's own, {length}, on the seeds that selected, so that nobody is ahead."
