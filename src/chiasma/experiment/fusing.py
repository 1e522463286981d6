"""Who proposes fusions in a run: a policy, the grammar, and a language model where one is asked."""

from typing import Any

from chiasma.experiment.config import SearchSection
from chiasma.experiment.setting import Setting
from chiasma.experiment.writers import make_writer
from chiasma.model.fusion import Generated
from chiasma.model.fusion.composed.source import source_of
from chiasma.search.action_bandit import ActionBandit, UniformActions
from chiasma.search.action_policy import ActionPolicy
from chiasma.search.actor_critic import ActorCritic
from chiasma.search.fusion_families import family_of
from chiasma.search.fusion_progress import FusionProgress
from chiasma.search.fusion_proposer import FusionProposer
from chiasma.search.fusion_space import FusionSpace
from chiasma.search.generators.store import AnswerStore
from chiasma.search.novelty import source_hash
from chiasma.train.design import Design

FUSION = "fusion"


def make_policy(search: SearchSection, *, seed: int) -> ActionPolicy:
    """Return what decides how the next fusion is made."""
    match search.policy:
        case "actor_critic":
            return ActorCritic(seed=seed)
        case "bandit":
            return ActionBandit(seed=seed)
        case "uniform":
            return UniformActions(seed=seed)


def fusion_proposer(setting: Setting, *, base: Design | None = None) -> FusionProposer:
    """Return the closed loop of policy, grammar and language model.

    Args:
        setting: Of the run; its answers are kept where it has a language model.
        base: The design whose fusion is searched; None to edit the fusions of good designs in the archive.
    """
    config = setting.config
    space, budget = FusionSpace(), config.run.budget
    return FusionProposer(
        seed=config.run.seed,
        policy=make_policy(config.search, seed=config.run.seed),
        grammar=space,
        base=base,
        writer=None if setting.answers is None else make_writer(config, setting.answers),
        show=lambda design: shown(space, design, config.llm.form),
        family=lambda design: family(space, design),
        names=(lambda design: name_of(space, design),),
        rules=config.search.reward,
        trials=budget.trials if base is not None else None,
        seconds=None if budget.seconds is None or base is None else budget.seconds * config.run.workers,
        name=FUSION,
    )


def shown(space: FusionSpace, design: Design, form: str) -> str | None:
    """Return a design's fusion as a language model is shown it; None where it cannot be."""
    if isinstance(design.model.fusion, Generated):
        return design.model.fusion.source if form == "code" else None
    fusion = space.at(design)
    if fusion is None:
        return None
    return fusion.to_json() if form == "json" else source_of(fusion)


def name_of(space: FusionSpace, design: Design) -> str:
    """Return a name that is equal for fusions that differ in how they are written alone."""
    fusion = design.model.fusion
    return f"source {source_hash(fusion.source)}" if isinstance(fusion, Generated) else space.behaviour(design)


def family(space: FusionSpace, design: Design) -> str:
    """Return the family of a design's fusion."""
    fusion = space.at(design)
    return "unknown" if fusion is None else family_of(fusion)


def proposing(progress: FusionProgress, answers: AnswerStore | None) -> dict[str, Any]:
    """Return how a search for fusions went, as JSON for a report; what was spent is what the ledger says."""
    told = progress.to_dict()
    found = {name: told[name] for name in ("valid", "invalid", "families", "credits", "written", "best")}
    if answers is not None:
        costs = answers.costs()
        tokens = costs.prompt_tokens + costs.answer_tokens
        found["spent"] = {"dollars": costs.dollars, "tokens": tokens, "calls": dict(costs.calls)}
    return found


def progress_words(progress: FusionProgress, answers: AnswerStore | None) -> str:
    """Return who made how many candidates, and what a language model wrote and cost in all its calls."""
    made = [f"{credit.candidates} by {author}" for author, credit in sorted(progress.credits.items())]
    said = [f"fusions: {', '.join(made)}"] if made else []
    written = progress.written
    if written.asked:
        rate = "" if written.valid_rate is None else f", {written.valid_rate:.0%} of its answers usable"
        spent = 0.0 if answers is None else answers.spent
        said.append(f"language model {written.usable} of {written.asked}{rate}, ${spent:.4f} spent")
    return "; ".join(said)
