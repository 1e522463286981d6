"""What should happen to the members of a population: pure decisions on what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from chiasma.core.spec import Spec
from chiasma.train.design import GrowthSpec

# Below this urge for more members nobody is born.
RELUCTANT = -0.5
KINDS = ("perceptron", "transformer", "residual_convolution")
ALONE = ("perceptron",)


class Life(Spec):
    """What is known of a member; one figure for each review that it was there.

    Attributes:
        name: In the population.
        kind: Of member.
        role: In the population.
        born: The review at whose end it was born; 0 for the first ones.
        died: The review at whose end it was pruned; None while it lives.
        parent: Whom it was bred from.
        promoted: The review at whose end it was promoted; None for newcomers, 0 for the first ones.
        shares: Its weight in the router, in parts of an even share; 0 while it is a newcomer.
        gains: By how much the loss rises without it, in parts of the loss.
        errors: Standard error of that.
        contributions: Moving average of its part of all weights and of all gains.
    """

    name: str
    kind: str
    role: Literal["member", "newcomer", "leaving"] = "member"
    born: int = 0
    died: int | None = None
    parent: str | None = None
    promoted: int | None = None
    shares: tuple[float, ...] = ()
    gains: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    contributions: tuple[float, ...] = ()

    @property
    def reviews_as_member(self) -> int:
        """Return in how many reviews it was measured since it was promoted; all of them for the first ones."""
        return len(self.gains) - max(0, (self.promoted or 0) - self.born)

    def recent(self, count: int) -> tuple[float, float]:
        """Return the mean gain over the last reviews, and its error; those of one split are not independent."""
        return float(np.mean(self.gains[-count:])), float(np.mean(self.errors[-count:]))


@dataclass(frozen=True)
class Add:
    """Somebody is to be born; who, is the strategist's."""

    reason: str


@dataclass(frozen=True)
class Promote:
    """The router is to weigh a newcomer from now on."""

    name: str
    reason: str


@dataclass(frozen=True)
class Retire:
    """A member is to teach the others before it goes."""

    name: str
    reason: str


@dataclass(frozen=True)
class Prune:
    """A member is to go."""

    name: str
    reason: str


Decision = Add | Promote | Retire | Prune


def review(
    lives: Sequence[Life],
    rules: GrowthSpec,
    *,
    progress: float,
    cooldown: Mapping[str, int],
    urge: float = 0.0,
    kinds: Sequence[str] = KINDS,
) -> Decision | None:
    """Return the one thing that should happen after a review, or None.

    First whoever is leaving goes, then newcomers are decided on, then the least useful member is pruned if it is
    useless, then there may be a birth.

    Args:
        lives: Of those that live.
        rules: The thresholds.
        progress: Part of the training that is over.
        cooldown: Kinds that are not to be tried, with the reviews left.
        urge: What a controller proposes, from -1 for fewer members to 1 for more. It leans on the rules and sets none
            aside: to prune takes more certainty where more are wanted and less where fewer are, and there nobody is
            born. It never brings a birth about: where there is room, there is one anyway. 0 changes nothing.
        kinds: Who may be born at all.
    """
    for life in lives:
        if life.role == "leaving":
            return Prune(life.name, "the others have been taught what it did")
    for life in lives:
        if life.role == "newcomer":
            return _of_newcomer(life, rules)
    gone = _useless(lives, rules.model_copy(update={"certainty": rules.certainty * (1 + urge)}))
    if gone is not None:
        return gone
    if len(lives) >= rules.largest or progress > rules.last_birth or urge < RELUCTANT:
        return None
    if all(cooldown.get(kind, 0) for kind in kinds):
        return None
    return Add(f"{len(lives)} of at most {rules.largest} members")


def kinds_for(tokens: int) -> tuple[str, ...]:
    """Return the kinds that can use so many tokens: to look at one token, or to convolve it, is a linear map."""
    return KINDS if tokens > 1 else ALONE


def _of_newcomer(life: Life, rules: GrowthSpec) -> Decision | None:
    """Return whether a newcomer has shown what it is worth, or has had its time.

    It must certainly help, and by no less than what a member must be worth: the same figures would never prune it.
    """
    if len(life.gains) < rules.probation:
        return None
    gain, error = life.recent(rules.probation)
    if gain - rules.certainty * error > 0 and gain >= rules.worth:
        return Promote(life.name, f"without it the loss rises by {words(gain, error)}")
    if len(life.gains) >= rules.longevity:
        return Prune(life.name, f"after {len(life.gains)} reviews the loss rises by {words(gain, error)} without it")
    return None


def _useless(lives: Sequence[Life], rules: GrowthSpec) -> Decision | None:
    """Return the end of the least useful member if it is certainly useless and enough others remain."""
    candidates = [life for life in lives if life.role == "member" and is_useless(life, rules)]
    if not candidates or len(lives) <= rules.smallest:
        return None
    least = min(candidates, key=lambda life: (life.contributions[-1], life.name))
    gain, error = least.recent(rules.longevity)
    reason = f"in {rules.longevity} reviews the loss rose by {words(gain, error)} without it"
    return Retire(least.name, reason) if rules.lessons else Prune(least.name, reason)


def is_useless(life: Life, rules: GrowthSpec) -> bool:
    """Return whether a member was, in each of the last reviews and with certainty, worth less than it must be.

    Reviews in which it was a newcomer do not count: what it is worth once it is weighed must first be seen.
    """
    count = rules.longevity
    if life.reviews_as_member < count:
        return False
    recent = zip(life.gains[-count:], life.errors[-count:], strict=True)
    return all(gain + rules.certainty * error < rules.worth for gain, error in recent)


def contributions(lives: Sequence[Life], rules: GrowthSpec) -> dict[str, float]:
    """Return each member's contribution after its newest figures: a moving average over reviews.

    As in document 000's paper, half of it is the member's part of all routing weights and half its part of all rises of
    the loss, falls counting as nothing.
    """
    gains = {life.name: max(0.0, life.gains[-1]) for life in lives}
    shares = {life.name: life.shares[-1] for life in lives}
    now = {name: 0.5 * _part(shares, name) + 0.5 * _part(gains, name) for name in gains}
    return {
        life.name: now[life.name]
        if not life.contributions
        else rules.memory * life.contributions[-1] + (1 - rules.memory) * now[life.name]
        for life in lives
    }


def words(gain: float, error: float) -> str:
    """Return a rise of the loss as a reader says it."""
    # Adding nought turns a negative one into a plain one.
    return f"{round(100 * gain, 1) + 0.0:.1f} % (± {100 * error:.1f})"


def _part(values: Mapping[str, float], name: str) -> float:
    total = sum(values.values())
    return values[name] / total if total > 0 else 0.0
