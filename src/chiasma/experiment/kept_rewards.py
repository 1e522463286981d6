"""What the policy of a search for fusions learnt from: each reward with its parts, recorded in the run."""

from collections.abc import Callable

from chiasma.search.fusion_rewards import RewardParts
from chiasma.store.run import RunStore

KIND = "reward"


def reward_keeper(store: RunStore) -> Callable[[str, RewardParts], None]:
    """Return what records a candidate's reward, given the candidate's hash.

    A resume tells the same rewards again, and records those alone that have changed: of a candidate that was told
    before its training was complete, or under a larger budget.
    """
    known = kept_rewards(store)

    def keep(candidate: str, parts: RewardParts) -> None:
        if known.get(candidate) != parts:
            store.record_event(KIND, {"candidate": candidate, "parts": parts.to_dict()})
            known[candidate] = parts

    return keep


def kept_rewards(store: RunStore) -> dict[str, RewardParts]:
    """Return what each candidate earned and of what parts that is made, by its hash; the last record counts."""
    return {event.data["candidate"]: RewardParts.from_dict(event.data["parts"]) for event in store.events(KIND)}
