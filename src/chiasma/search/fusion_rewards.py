"""What a fusion is worth: the validated metric, less what its size and its time cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.core.spec import Spec
from chiasma.search.protocols import Evaluation, Standing

Cost = Literal["parameters", "flops", "latency"]


class Penalty(Spec):
    """What one kind of cost takes off the reward.

    Attributes:
        weight: Taken off for each tenfold beyond what is free.
        free: What costs nothing; parameters, operations or seconds.
    """

    weight: float = Field(default=0.0, ge=0)
    free: float = Field(gt=0)

    def of(self, cost: float) -> float:
        """Return what a cost takes off."""
        return self.weight * max(0.0, math.log10(max(cost, self.free) / self.free))


class RewardRules(Spec):
    """How an evaluation becomes a reward.

    A candidate that stopped on a lower rung of the ladder than others is given what these gained above it on average.

    Attributes:
        metric: A metric of the evaluation that is better the higher it is; None is 1 less the error that the whole
            search minimises.
        parameters: Of the whole model.
        flops: Floating point operations for one example.
        latency: Seconds for one example, measured; needs ``latency`` among the search's objectives.
        lowest: The reward of a candidate that cannot be built or trained; no other gets less.
    """

    metric: str | None = None
    parameters: Penalty = Penalty(free=1e6)
    flops: Penalty = Penalty(free=1e8)
    latency: Penalty = Penalty(free=1e-3)
    lowest: float = 0.0

    @property
    def penalties(self) -> Mapping[Cost, Penalty]:
        """Return the penalties that take something off."""
        named: dict[Cost, Penalty] = {"parameters": self.parameters, "flops": self.flops, "latency": self.latency}
        return {name: penalty for name, penalty in named.items() if penalty.weight > 0}

    def parts(self, outcome: Scored | Rejected) -> "RewardParts":
        """Return an outcome's reward and what it is made of.

        Raises:
            ValueError: A metric or a cost that the reward needs was not measured; names it and what was.
        """
        if isinstance(outcome, Rejected):
            return RewardParts(reward=self.lowest, invalid=outcome.stage)
        known = {**outcome.metrics, **outcome.objectives}
        metric = 1 - _known(known, "error") if self.metric is None else _known(known, self.metric)
        taken = {name: penalty.of(_known(known, name)) for name, penalty in self.penalties.items()}
        reward = max(self.lowest, metric - math.fsum(taken.values()))
        return RewardParts(reward=reward, metric=metric, penalties=taken)


class RewardParts(Spec):
    """A reward and what it is made of.

    Attributes:
        reward: The metric and the lift less the penalties, and never below the lowest reward.
        metric: What was validated; None for a candidate that could not be.
        lift: What longer training usually adds to the metric, where the candidate was not trained longest.
        penalties: What was taken off, by cost.
        invalid: The stage at which the candidate was rejected; None where it was scored.
    """

    reward: float
    metric: float | None = None
    lift: float = 0.0
    penalties: Mapping[str, float] = {}
    invalid: str | None = None


class Climbs(Spec):
    """What longer training adds to the metric: the mean over candidates that were trained on a rung and on the next.

    Those that climb were the best of their rung, in part by luck, so that the mean is rather too small than too large.

    Attributes:
        counts: Candidates that climbed from each rung, from the lowest on.
        sums: By how much their metric rose, summed.
    """

    counts: tuple[int, ...] = ()
    sums: tuple[float, ...] = ()

    def after(self, evaluations: Sequence[Evaluation[Any]], rules: RewardRules) -> "Climbs":
        """Return the sums with one more candidate."""
        found: dict[int, list[float]] = {}
        for each in evaluations:
            if isinstance(each.outcome, Scored):
                found.setdefault(each.rung, []).append(rules.parts(each.outcome).metric or 0.0)
        means = {rung: math.fsum(metrics) / len(metrics) for rung, metrics in found.items()}
        rises = {rung: means[rung + 1] - mean for rung, mean in means.items() if rung + 1 in means}
        known = range(max(len(self.counts), *(rung + 1 for rung in rises), 0))
        counts, sums = dict(enumerate(self.counts)), dict(enumerate(self.sums))
        return Climbs(
            counts=tuple(counts.get(rung, 0) + (rung in rises) for rung in known),
            sums=tuple(sums.get(rung, 0.0) + rises.get(rung, 0.0) for rung in known),
        )

    def above(self, rung: int) -> float:
        """Return the mean rise from a rung to the highest that anybody climbed to; 0 from that one, or without any."""
        steps = zip(self.counts[rung:], self.sums[rung:], strict=True)
        return math.fsum(total / count for count, total in steps if count)


def reward_of(
    evaluations: Sequence[Evaluation[Any]], rules: RewardRules, climbs: Climbs | None = None
) -> RewardParts | None:
    """Return the reward of one candidate's evaluations, or None where all of them failed through no fault of its own.

    A rejection anywhere counts; else the mean over those that were trained longest. Who stopped on a lower rung than
    others is given what these gained above it on average, so that rewards can be compared.

    Args:
        evaluations: Of one candidate.
        rules: What is rewarded.
        climbs: What longer training adds; None where all candidates are trained alike.
    """
    told = [each for each in evaluations if not isinstance(each.outcome, Failed)]
    for each in told:
        if isinstance(each.outcome, Rejected):
            return rules.parts(each.outcome)
    if not told:
        return None
    top = max(each.rung for each in told)
    longest = [each.outcome for each in told if each.rung == top]
    mean = mean_parts([rules.parts(outcome) for outcome in longest if isinstance(outcome, Scored)])
    lift = 0.0 if climbs is None else climbs.above(top)
    if lift == 0.0:
        return mean
    reward = max(rules.lowest, (mean.metric or 0.0) + lift - math.fsum(mean.penalties.values()))
    return mean.model_copy(update={"reward": reward, "lift": lift})


def mean_parts(found: Sequence[RewardParts]) -> RewardParts:
    """Return the mean of rewards and of each of their parts; all of them were scored."""
    count = len(found)
    metric = math.fsum(each.metric or 0.0 for each in found) / count
    penalties = {name: math.fsum(each.penalties[name] for each in found) / count for name in found[0].penalties}
    return RewardParts(reward=math.fsum(each.reward for each in found) / count, metric=metric, penalties=penalties)


class Parent(Spec):
    """A design on offer for an edit.

    Attributes:
        hash: Of the design.
        family: What its fusion is built around.
        parts: Its reward.
        rung: How far it climbed; designs are compared with those that were trained as long.
    """

    hash: str
    family: str
    parts: RewardParts
    rung: int = 0


def parent_of(standing: Standing, family: str, rules: RewardRules) -> Parent:
    """Return a design of the archive with the mean of its rewards on its highest rung."""
    parts = mean_parts([rules.parts(o) for each in standing.evaluations if isinstance(o := each.outcome, Scored)])
    return Parent(hash=standing.candidate.hash, family=family, parts=parts, rung=standing.rung)


def on_offer(designs: Sequence[Parent], count: int) -> list[Parent]:
    """Return the designs to build on: the best of every family, best first, then the best of the rest.

    A family keeps its best, however good the others are, as long as there are no more families than places.
    """
    ranked = sorted(designs, key=lambda each: (-each.rung, -each.parts.reward))
    seen: set[str] = set()
    first: list[Parent] = []
    for each in ranked:
        if each.family not in seen:
            seen.add(each.family)
            first.append(each)
    rest = [each for each in ranked if each not in first]
    return [*first, *rest][:count]


def _known(values: Mapping[str, float], name: str) -> float:
    if name not in values:
        raise ValueError(f"The reward needs {name}, but only {', '.join(sorted(values))} were measured.")
    return values[name]
