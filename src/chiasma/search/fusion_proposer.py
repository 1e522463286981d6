"""Propose fusions: a policy says what to try, a language model or the grammar makes it, the reward teaches."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from chiasma.core.outcome import Failed, Rejected
from chiasma.core.rng import derive_seed, numpy_rng
from chiasma.core.spec import Spec
from chiasma.search.action_policy import ActionPolicy
from chiasma.search.bridge import LAST_ERRORS, Shown
from chiasma.search.choices import pick
from chiasma.search.fusion_action import FusionAction
from chiasma.search.fusion_progress import FusionProgress
from chiasma.search.fusion_rewards import (
    Climbs,
    Parent,
    RewardParts,
    RewardRules,
    on_offer,
    parent_of,
    reward_of,
)
from chiasma.search.fusion_writer import Author, FusionWriter
from chiasma.search.novelty import Novelty
from chiasma.search.protocols import Archive, Candidate, Evaluation, Proposer
from chiasma.train.design import Design

F = TypeVar("F")

REDRAWS = 20


class FusionGrammar(Protocol[F]):
    """Makes fusions of its own form, and reads those of designs.

    Attributes:
        refused: How many edits were thrown away, by reason.
    """

    refused: Counter[str]

    def follow(self, action: FusionAction, parents: Sequence[F], rng: np.random.Generator) -> tuple[F, str]:
        """Return what an action asks for, made of these parents, and how it was made in words."""
        ...

    def lower(self, genome: F, incumbent: Design) -> Design:
        """Return the incumbent with this fusion."""
        ...

    def at(self, design: Design) -> F | None:
        """Return the fusion of a design, or None where the grammar cannot express it."""
        ...


class FusionGenome(Spec):
    """How a candidate came to be; what it is stands in its design.

    Attributes:
        action: What the policy asked for.
        author: ``grammar``, or a language model that wrote free source (``code``) or a tree (``json``).
        number: Of the ask; with the run's seed it repeats what was drawn.
    """

    action: FusionAction
    author: Author
    number: int


@dataclass(frozen=True)
class _Offered(Generic[F]):
    """A design of the archive that can be edited."""

    parent: Parent
    design: Design
    tree: F | None
    text: str | None


@dataclass(frozen=True)
class _Asked:
    """A candidate that waits for its reward."""

    number: int
    author: Author


class FusionProposer(Proposer[FusionGenome]):
    """The closed loop of controller, bridge, generator and reward.

    For every candidate the policy draws an action from how the search stands. The language model, if there is one, is
    asked for a design that follows it. Where it gives none that is sound and new, because it fails, is not asked for
    want of money, or cannot mend its answer, the grammar makes one: the search always goes on.

    Args:
        seed: The run's seed.
        policy: Says what to try.
        grammar: Makes and reads trees.
        base: The design whose fusion is searched; None to edit those of good designs in the archive.
        writer: The language model; None leaves all to the grammar.
        show: Returns a fusion as the language model is shown it, or None where it cannot be.
        family: Returns the family of a fusion that no language model wrote for this proposer.
        suits: Returns whether a design has a fusion that can be replaced.
        names: Return names that are equal for designs that are equal but for how they are written.
        refuse: Returns why a design is not tried in place of the one that it is an edit of, or None.
        rules: What is rewarded.
        left: Returns what part of the budget is left, given the number of the ask and the seconds of training that
            its candidates took so far. It must answer alike when the search is resumed, whatever the budget is then.
        keep: Records what a candidate earned, by its hash, as the policy is told it.
        name: The proposer's name in the archive and the report.

    Attributes:
        progress: What the search has come to.
        climbs: What longer training adds to the metric.
        rewards: By hash of the candidate, what it earned and of what parts that is made.
    """

    def __init__(
        self,
        *,
        seed: int,
        policy: ActionPolicy,
        grammar: FusionGrammar[Any],
        base: Design | None = None,
        writer: FusionWriter | None = None,
        show: Callable[[Design], str | None] = lambda design: None,
        family: Callable[[Design], str] = lambda design: "unknown",
        suits: Callable[[Design], bool] = lambda design: design.model.fusion is not None,
        names: Sequence[Callable[[Design], str]] = (),
        refuse: Callable[[Design, Design], str | None] = lambda design, base: None,
        rules: RewardRules | None = None,
        left: Callable[[int, float], float] = lambda number, seconds: 1.0,
        keep: Callable[[str, RewardParts], None] = lambda candidate, parts: None,
        name: str = "fusion",
    ) -> None:
        self.seed = seed
        self.policy = policy
        self.grammar = grammar
        self.base = base
        self.writer = writer
        self.rules = rules or RewardRules()
        self.name = name
        self.progress = FusionProgress()
        self.climbs = Climbs()
        self.rewards: dict[str, RewardParts] = {}
        self._show = show
        self._family = family
        self._suits = suits
        self._refuse = refuse
        self._left = left
        self._keep = keep
        self._novelty = Novelty(names)
        self._asked: dict[str, _Asked] = {}
        self._families: dict[str, str] = {}
        self._duplicates = 0

    @property
    def duplicates(self) -> int:
        """Return how many designs were not proposed because an equal one had been."""
        return self._duplicates

    @property
    def refused(self) -> Counter[str]:
        """Return how many edits of the grammar made no sense, by reason; each was followed by another try."""
        return self.grammar.refused

    def ask(self, count: int, archive: Archive) -> list[Candidate[FusionGenome]]:
        """Return up to ``count`` candidates that are new; fewer where nothing new was found, or there is no base."""
        found = (self._one(archive) for _ in range(count))
        return [candidate for candidate in found if candidate is not None]

    def tell(self, evaluations: Sequence[Evaluation[FusionGenome]]) -> None:
        """Learn from outcomes, in candidate order; a candidate's several trainings are told together."""
        by_hash: dict[str, list[Evaluation[FusionGenome]]] = {}
        for evaluation in evaluations:
            by_hash.setdefault(evaluation.candidate.hash, []).append(evaluation)
        rewards: list[tuple[int, float | None]] = []
        for hash, found in by_hash.items():
            # Before anybody is rewarded: who stopped early is compared with those that climbed beside it.
            self.climbs = self.climbs.after(found, self.rules) if hash in self._asked else self.climbs
        for hash, found in by_hash.items():
            spent = self.progress.seconds + sum(each.seconds for each in found)
            self.progress = self.progress.model_copy(update={"seconds": spent})
            asked = self._asked.pop(hash, None)
            # What was told before is trained again on another seed: the archive averages, the policy has learnt.
            if asked is not None:
                parts = self._rewarded(asked, hash, found)
                rewards.append((asked.number, None if parts is None else parts.reward))
        self.policy.tell(rewards)

    def state_dict(self) -> Mapping[str, Any]:
        """Return JSON from which :meth:`load_state_dict` continues exactly."""
        return {
            "policy": self.policy.state_dict(),
            "progress": self.progress.to_dict(),
            "climbs": self.climbs.to_dict(),
            "rewards": {hash: parts.to_dict() for hash, parts in self.rewards.items()},
            "asked": {hash: [each.number, each.author] for hash, each in self._asked.items()},
            "families": dict(self._families),
            "seen": self._novelty.state(),
            "duplicates": self._duplicates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self.progress = FusionProgress.from_dict(state["progress"])
        self.climbs = Climbs.from_dict(state["climbs"])
        self.rewards = {hash: RewardParts.from_dict(parts) for hash, parts in state["rewards"].items()}
        self._asked = {hash: _Asked(number, author) for hash, (number, author) in state["asked"].items()}
        self._families = {str(hash): str(family) for hash, family in state["families"].items()}
        self._novelty.load(state["seen"].items())
        self._duplicates = int(state["duplicates"])

    def _one(self, archive: Archive) -> Candidate[FusionGenome] | None:
        number = self.policy.asks
        rng = numpy_rng(self.seed, "propose", self.name, number)
        base = self._base(archive, rng)
        if base is None:
            return None
        if number == 0:
            self._begin(archive)
        offered = self._offered(archive)
        left = self._left(number, self.progress.seconds)
        _, action = self.policy.ask(self.progress.seen_by(parents=len(offered), left=left))
        chosen = self._parents(action, offered, rng)
        candidate = self._written(number, action, base, chosen, archive)
        candidate = candidate or self._composed(number, action, base, chosen, archive)
        if candidate is None:
            self.policy.tell([(number, None)])
            return None
        self._novelty.add(candidate.design)
        self._asked[candidate.hash] = _Asked(number, candidate.genome.author)
        used = [each.parent.family for each in chosen if each.parent.hash in candidate.parents]
        family = used[0] if used else action.family
        self.progress = self.progress.proposed(candidate.genome.author, family)
        if candidate.genome.author == "code":
            # Nobody can read the family of free source: it is what was asked for.
            self._families[candidate.hash] = family
        return candidate

    def _base(self, archive: Archive, rng: np.random.Generator) -> Design | None:
        if self.base is not None:
            return self.base
        incumbent = archive.incumbent(rng, suits=self._suits)
        return None if incumbent is None else incumbent.design

    def _begin(self, archive: Archive) -> None:
        """Take the best of what is there before anything is proposed as the reward to raise."""
        known = [parent_of(each, "", self.rules) for each in archive.standings()]
        if known:
            rung, reward = max((each.rung, each.parts.reward) for each in known)
            self.progress = self.progress.begun(reward, rung=rung)

    def _offered(self, archive: Archive) -> list[_Offered[Any]]:
        """Return the designs of the archive that can be edited, the best of every family first."""
        found: dict[str, _Offered[Any]] = {}
        for standing in archive.standings():
            design = standing.candidate.design
            if not self._suits(design):
                continue
            tree = self.grammar.at(design)
            text = self._show(design) if self.writer is not None else None
            if tree is not None or text is not None:
                family = self._families.get(standing.candidate.hash) or self._family(design)
                parent = parent_of(standing, family, self.rules)
                found[parent.hash] = _Offered(parent, design, tree, text)
        best = on_offer([each.parent for each in found.values()], self.policy.factors.parents)
        for each in best:
            self._novelty.add(found[each.hash].design)
        return [found[each.hash] for each in best]

    def _parents(
        self, action: FusionAction, offered: Sequence[_Offered[Any]], rng: np.random.Generator
    ) -> list[_Offered[Any]]:
        """Return what an action builds on: nothing, a parent, or a parent and a mate, of the action's family if any."""
        if action.operation == "fresh" or not offered:
            return []
        first = offered[min(action.parent, len(offered) - 1)]
        mates = [each for each in offered if each is not first]
        if action.operation == "mutate" or not mates:
            return [first]
        return [first, pick([each for each in mates if each.parent.family == action.family] or mates, rng)]

    def _written(
        self,
        number: int,
        action: FusionAction,
        base: Design,
        chosen: Sequence[_Offered[Any]],
        archive: Archive,
    ) -> Candidate[FusionGenome] | None:
        """Return what the language model wrote, or None where it wrote nothing that is sound and new."""
        if self.writer is None:
            return None
        shown = [each for each in chosen if each.text is not None]
        edited = shown[0].design if shown else base
        writing = self.writer.write(
            action,
            base=edited,
            parents=[_shown(each) for each in shown],
            errors=self.progress.errors,
            best=self.progress.best,
            known=lambda design: self._known(design, archive),
            refuse=lambda design: self._refuse(design, edited),
            seed=derive_seed(self.seed, "llm", self.name, number),
        )
        self.progress = self.progress.model_copy(update={"written": self.progress.written.after(writing)})
        if writing.design is None:
            errors = (*self.progress.errors, *writing.refused[-1:])[-LAST_ERRORS:]
            self.progress = self.progress.model_copy(update={"errors": errors})
            return None
        candidate = self._candidate(
            number,
            action,
            self.writer.author,
            writing.design,
            base,
            shown,
            f"{self.writer.settings.named_model()} wrote it",
        )
        self.writer.keep(candidate.hash, writing.conversation)
        return candidate

    def _composed(
        self,
        number: int,
        action: FusionAction,
        base: Design,
        chosen: Sequence[_Offered[Any]],
        archive: Archive,
    ) -> Candidate[FusionGenome] | None:
        """Return what the grammar makes, or None where many draws gave nothing new."""
        readable = [each for each in chosen if each.tree is not None]
        placed = action.model_copy(update={"parent": 0})
        if action.operation == "crossover" and len(readable) == 1:
            placed = placed.model_copy(update={"operation": "mutate"})
        for draw in range(REDRAWS):
            rng = numpy_rng(self.seed, "compose", self.name, number, draw)
            genome, words = self.grammar.follow(placed, [each.tree for each in readable], rng)
            edited = readable[0].design if readable else base
            design = self.grammar.lower(genome, edited)
            if self._known(design, archive) is not None:
                self._duplicates += 1
            elif reason := self._refuse(design, edited):
                self.grammar.refused[reason] += 1
            else:
                return self._candidate(number, action, "grammar", design, base, readable, words)
        return None

    def _candidate(
        self,
        number: int,
        action: FusionAction,
        author: Author,
        design: Design,
        base: Design,
        chosen: Sequence[_Offered[Any]],
        words: str,
    ) -> Candidate[FusionGenome]:
        parents = tuple(each.parent.hash for each in chosen) or (base.content_hash(),)
        genome = FusionGenome(action=action, author=author, number=number)
        return Candidate(self.name, genome, design, parents, words)

    def _known(self, design: Design, archive: Archive) -> str | None:
        """Return which known design is equal to this one."""
        own = design.content_hash()
        return own if archive.by_hash(own) else self._novelty.known(design)

    def _rewarded(self, asked: _Asked, hash: str, found: Sequence[Evaluation[Any]]) -> RewardParts | None:
        parts = reward_of(found, self.rules, self.climbs)
        if parts is None:
            return None
        self.rewards[hash] = parts
        self._keep(hash, parts)
        reasons = [f"{o.stage}: {o.reason}" for each in found if isinstance(o := each.outcome, Rejected)]
        error = reasons[0] if reasons else None
        rung = max(each.rung for each in found if not isinstance(each.outcome, Failed))
        self.progress = self.progress.told(asked.author, parts, rung=rung, error=error, kept=LAST_ERRORS)
        return parts


def _shown(offered: _Offered[Any]) -> Shown:
    """Return a design as a language model is shown it."""
    assert offered.text is not None
    parent = offered.parent
    return Shown(text=offered.text, family=parent.family, reward=parent.parts.reward, metric=parent.parts.metric)
