"""What a search for fusions has come to so far: rewards, families, and who made what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from chiasma.core.spec import Spec
from chiasma.search.action_policy import RECENT, Progress
from chiasma.search.fusion_rewards import RewardParts
from chiasma.search.fusion_writer import Author, Writing


class Credit(Spec):
    """What one kind of author made.

    Attributes:
        candidates: What was proposed.
        valid: Of those that have been told, how many could be trained.
        invalid: How many could not.
        gain: By how much they raised the best reward of what was trained longest, summed; at first that of what was
            there before anything was proposed.
    """

    candidates: int = 0
    valid: int = 0
    invalid: int = 0
    gain: float = 0.0


class Written(Spec):
    """How a language model did.

    Attributes:
        asked: Designs that it was asked for.
        usable: How many of these it wrote, in the end.
        at_once: How many with its first answer.
        answers: Answers that were read, repairs included.
        instead: How often the grammar took over, by reason.
        refused: Answers that could not be used, by the first words of the reason.
    """

    asked: int = 0
    usable: int = 0
    at_once: int = 0
    answers: int = 0
    instead: Mapping[str, int] = {}
    refused: Mapping[str, int] = {}

    @property
    def valid_rate(self) -> float | None:
        """Return the part of all answers that could be used; None before the first."""
        return self.usable / self.answers if self.answers else None

    def after(self, writing: Writing) -> "Written":
        """Return the counts with one more design that was asked for."""
        made = writing.design is not None
        reason = writing.stopped or "nothing usable"
        instead = Counter(self.instead)
        instead.update([] if made else [reason])
        refused = Counter(self.refused)
        refused.update(each.split(":")[0][:60] for each in writing.refused)
        return Written(
            asked=self.asked + 1,
            usable=self.usable + made,
            at_once=self.at_once + (made and writing.turns == 1),
            answers=self.answers + writing.turns,
            instead=dict(instead),
            refused=dict(refused),
        )


class FusionProgress(Spec):
    """The state of a search, as a value; each step returns another one.

    Attributes:
        best: Highest reward of what was trained longest, the design that the search began with included; None while
            there is none.
        rung: How long that is, as a rung of the ladder.
        recent: The last rewards.
        valid: Candidates that could be trained.
        invalid: Candidates that could not.
        seconds: What all trainings took.
        families: Candidates by the family that was asked for.
        errors: Why the last candidates of a language model could not be trained.
        credits: By author.
        written: How the language model did.
    """

    best: float | None = None
    rung: int = 0
    recent: tuple[float, ...] = ()
    valid: int = 0
    invalid: int = 0
    seconds: float = 0.0
    families: Mapping[str, int] = {}
    errors: tuple[str, ...] = ()
    credits: Mapping[str, Credit] = {}
    written: Written = Written()

    def seen_by(self, *, parents: int, left: float) -> Progress:
        """Return what a policy sees."""
        told = self.valid + self.invalid
        return Progress(
            best=self.best or 0.0,
            recent=self.recent,
            valid=self.valid / told if told else 1.0,
            left=max(0.0, left),
            parents=parents,
            families=self.families,
        )

    def begun(self, reward: float, *, rung: int) -> "FusionProgress":
        """Return the state of a search that begins with something of this reward, trained up to this rung."""
        return self.model_copy(update={"best": reward, "rung": rung})

    def proposed(self, author: Author, family: str) -> "FusionProgress":
        """Return the state after a candidate was proposed."""
        credit = self.credits.get(author, Credit())
        credits = {**self.credits, author: credit.model_copy(update={"candidates": credit.candidates + 1})}
        families = {**self.families, family: self.families.get(family, 0) + 1}
        return self.model_copy(update={"credits": credits, "families": families})

    def told(
        self, author: Author, parts: RewardParts, *, rung: int = 0, error: str | None = None, kept: int
    ) -> "FusionProgress":
        """Return the state after a candidate's reward.

        Args:
            author: Who made it.
            parts: What it earned.
            rung: How far it climbed; what was trained less than others raises no best reward.
            error: Why it could not be trained.
            kept: Errors that are remembered.
        """
        ok = parts.invalid is None
        best = self.best if rung <= self.rung else None
        counts = ok and rung >= self.rung
        gain = max(0.0, parts.reward - best) if counts and best is not None else 0.0
        credit = self.credits.get(author, Credit())
        changed = {"valid": credit.valid + ok, "invalid": credit.invalid + (not ok), "gain": credit.gain + gain}
        errors: Sequence[str] = self.errors if error is None or author == "grammar" else (*self.errors, error)[-kept:]
        update: dict[str, Any] = {
            "recent": (*self.recent, parts.reward)[-RECENT:],
            "valid": self.valid + ok,
            "invalid": self.invalid + (not ok),
            "errors": tuple(errors),
            "credits": {**self.credits, author: credit.model_copy(update=changed)},
        }
        if counts:
            update |= {"best": parts.reward if best is None else max(best, parts.reward), "rung": rung}
        return self.model_copy(update=update)
