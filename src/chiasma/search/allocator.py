"""Move the budget to whichever proposer pays, and keep the controls honest."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chiasma.search.protocols import Allocator, Spend


@dataclass(frozen=True)
class _Account:
    """What one proposer did so far; the discounted sums weigh recent candidates more."""

    candidates: int
    seconds: float
    recent_seconds: float
    recent_gain: float


class SharesAllocator(Allocator):
    """Give every proposer its share of the candidates, whatever comes of them.

    Args:
        shares: By name, positive; earlier ones win ties.

    Raises:
        ValueError: There is none, or a share is not positive.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        if not shares or min(shares.values()) <= 0:
            raise ValueError(f"shares must be positive and at least one, but got {dict(shares)}.")
        self.shares = dict(shares)

    def next(self, ledger: Sequence[Spend]) -> str:
        """Return the name of the proposer that is furthest behind its share of the candidates."""
        counts = Counter(spend.proposer for spend in ledger if spend.proposer in self.shares)
        return min(self.shares, key=lambda name: (counts[name] + 1) / self.shares[name])


class BanditAllocator(Allocator):
    """Give the next candidate to the proposer with the best optimistic gain per second.

    Discounted upper-confidence bandit (Garivier and Moulines 2008, https://arxiv.org/abs/0805.3415); unlike the paper,
    a pull's reward is gain per second and its evidence is seconds, so that a cheap proposer may try more often. Before
    that, every proposer is tried once, and a control that is behind its share goes first.

    Args:
        names: All proposers; earlier ones win ties.
        controls: Those of ``names`` that must not starve, such as random search.
        floor_share: Part of the seconds, and of the candidates, that the controls get at least, shared evenly.
        exploration: Weight of the bonus for the unexplored; 0 trusts the past alone.
        discount: How much a gain counts one candidate later; 1 forgets nothing.

    Raises:
        ValueError: A name is repeated, a control is not among the names, or a number is out of range.
    """

    def __init__(
        self,
        names: Sequence[str],
        controls: Sequence[str],
        *,
        floor_share: float = 0.2,
        exploration: float = 0.5,
        discount: float = 0.95,
    ) -> None:
        if not names or len(set(names)) != len(names):
            raise ValueError(f"names must be distinct and at least one, but got {list(names)}.")
        strangers = [name for name in controls if name not in names]
        if strangers:
            raise ValueError(f"controls must be among names {list(names)}, but {strangers} are not.")
        if not 0 <= floor_share <= 1:
            raise ValueError(f"floor_share must be within 0..1, but got {floor_share}.")
        if not 0 < discount <= 1:
            raise ValueError(f"discount must be above 0 and at most 1, but got {discount}.")
        if exploration < 0:
            raise ValueError(f"exploration must not be negative, but got {exploration}.")
        self.names = tuple(names)
        self.controls = tuple(name for name in names if name in controls)
        self.floor_share = floor_share
        self.exploration = exploration
        self.discount = discount

    def next(self, ledger: Sequence[Spend]) -> str:
        """Return the name of the proposer that makes the next candidate; a pure function of the ledger.

        Lines of strangers, such as the floors, are ignored. A candidate that is still training may stand in the ledger
        with 0 seconds and no gain, so that it counts as a candidate already.
        """
        accounts = {name: self._account(name, ledger) for name in self.names}
        for name in self.names:
            if accounts[name].candidates == 0:
                return name
        behind = self._most_behind(accounts)
        return behind if behind is not None else self._most_promising(accounts)

    def _account(self, name: str, ledger: Sequence[Spend]) -> _Account:
        known = [spend for spend in ledger if spend.proposer in self.names]
        own = [(age, spend) for age, spend in enumerate(reversed(known)) if spend.proposer == name]
        weights = [self.discount**age for age, _ in own]
        return _Account(
            candidates=len(own),
            seconds=sum(spend.seconds for _, spend in own),
            recent_seconds=sum(weight * spend.seconds for weight, (_, spend) in zip(weights, own, strict=True)),
            recent_gain=sum(weight * max(spend.gain, 0.0) for weight, (_, spend) in zip(weights, own, strict=True)),
        )

    def _most_behind(self, accounts: dict[str, _Account]) -> str | None:
        """Return the control that is, or would be after one more candidate of another, furthest below its share."""
        if not self.controls:
            return None
        floor = self.floor_share / len(self.controls)
        candidates = sum(account.candidates for account in accounts.values())
        seconds = sum(account.seconds for account in accounts.values())
        shares: list[tuple[float, str]] = []
        for name in self.controls:
            of_candidates = accounts[name].candidates / (candidates + 1)
            of_seconds = accounts[name].seconds / seconds if seconds > 0 else 1.0
            shares.append((min(of_candidates, of_seconds), name))
        share, name = min(shares, key=lambda item: item[0])
        return name if share < floor else None

    def _most_promising(self, accounts: dict[str, _Account]) -> str:
        """Return the highest upper confidence bound on gain per second; rates are scaled to the best rate."""
        rates = {n: a.recent_gain / a.recent_seconds if a.recent_seconds > 0 else 0.0 for n, a in accounts.items()}
        best = max(rates.values())
        candidates = sum(account.candidates for account in accounts.values())
        mean_cost = sum(account.seconds for account in accounts.values()) / candidates
        pulls = {n: a.recent_seconds / mean_cost if mean_cost > 0 else a.candidates for n, a in accounts.items()}
        total = sum(pulls.values())

        def bound(name: str) -> float:
            rate = rates[name] / best if best > 0 else 0.0
            bonus = math.sqrt(2 * math.log1p(total) / pulls[name]) if pulls[name] > 0 else math.inf
            return rate + self.exploration * bonus

        return max(self.names, key=bound)
