"""Who proposes fusions in a run: a policy, the grammar, and a language model where one is asked."""

from collections.abc import Callable, Mapping
from typing import Any

from chiasma.experiment.config import Budget, SearchSection
from chiasma.experiment.driver import Driver
from chiasma.experiment.kept_rewards import reward_keeper
from chiasma.experiment.report.proposing import gone_words, spent_words
from chiasma.experiment.setting import Setting
from chiasma.experiment.writers import FUSION, Answers, make_writer
from chiasma.model.fusion import Generated
from chiasma.model.fusion.composed.source import source_of
from chiasma.model.tokens import starves
from chiasma.search.action_bandit import ActionBandit, UniformActions
from chiasma.search.action_policy import ActionPolicy
from chiasma.search.actor_critic import ActorCritic
from chiasma.search.fusion_families import family_of
from chiasma.search.fusion_proposer import FusionProposer
from chiasma.search.fusion_space import FusionSpace
from chiasma.search.novelty import source_hash
from chiasma.search.protocols import Proposer
from chiasma.train.design import Design


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
    config, space = setting.config, FusionSpace()
    left = budget_left(setting.driver, config.run.budget, workers=config.run.workers)

    def tell(why: str) -> None:
        setting.console.say(f"warning: {gone_words(why)}")

    return FusionProposer(
        seed=config.run.seed,
        policy=make_policy(config.search, seed=config.run.seed),
        grammar=space,
        base=base,
        writer=None if setting.answers is None else make_writer(config, setting.answers, tell=tell),
        show=lambda design: shown(space, design, config.llm.form),
        family=lambda design: family(space, design),
        names=(lambda design: name_of(space, design),),
        refuse=lambda design, base: starves(design.model, base.model, setting.dataset.signature),
        rules=config.search.reward,
        # Where others propose too, nobody knows how much of the budget fusions get.
        left=left if base is not None else lambda number, seconds: 1.0,
        keep=reward_keeper(setting.store),
        name=FUSION,
    )


def budget_left(driver: Driver, budget: Budget, *, workers: int) -> Callable[[int, float], float]:
    """Return what says how much of the budget is left at an ask: a decision, which a resume or a replay repeats.

    What was spent is measured where time is counted, and a resume may come with a larger budget.
    """

    def left(number: int, seconds: float) -> float:
        spent = number / budget.trials if budget.trials else seconds / ((budget.seconds or 1.0) * workers)
        name = f"budget left at ask {number} for a {FUSION}"
        return driver.decide(name, lambda: {"left": 1 - spent}, repeated=True)["left"]

    return left


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


def proposing(proposers: Mapping[str, Proposer[Any]], answers: Answers | None) -> dict[str, Any]:
    """Return how a search for fusions went, as JSON for a report; what was spent is what the ledger says.

    Args:
        proposers: By name; nothing is returned where none of them proposes fusions.
        answers: Of the language model, where one is asked.
    """
    proposer = proposers.get(FUSION)
    if not isinstance(proposer, FusionProposer):
        return {}
    told = proposer.progress.to_dict()
    found = {name: told[name] for name in ("valid", "invalid", "families", "credits", "written", "best")}
    if proposer.writer is not None and (why := proposer.writer.generator.broken) is not None:
        found["gone"] = why
    if answers is not None:
        found["spent"] = answers.spent()
    return found


def proposing_words(proposers: Mapping[str, Proposer[Any]], answers: Answers | None) -> str:
    """Return who made how many candidates and gained what, and what a language model wrote and cost in all its calls.

    Gains are of the reward, over what was there before anything was proposed. Empty where nobody proposes fusions.
    """
    proposer = proposers.get(FUSION)
    if not isinstance(proposer, FusionProposer):
        return ""
    progress = proposer.progress
    made = [
        f"{credit.candidates} by {author} (gained {credit.gain:.4f})"
        for author, credit in sorted(progress.credits.items())
    ]
    said = [f"fusions: {', '.join(made)}"] if made else []
    written = progress.written
    if written.asked:
        rate = "" if written.valid_rate is None else f", {written.valid_rate:.0%} of its answers usable"
        said.append(f"language model {written.usable} of {written.asked}{rate}")
    if answers is not None:
        said.append(f"spent {spent_words(answers.spent())}")
    return "; ".join(said)
