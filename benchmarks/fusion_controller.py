"""Does the controller of the fusion search learn? A planted bandit: three families, one of them better.

    python benchmarks/fusion_controller.py --seeds 0 1 2 3 4 5 6 7 8 9 --asks 300

Prints, for each policy, how often it chose the better family in the last quarter of its asks, with true rewards and
with rewards that are shuffled over the families. Rewards come in generations of four, the one before last at a time,
as in a search.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from chiasma.core.rng import numpy_rng
from chiasma.search.action_bandit import ActionBandit, UniformActions
from chiasma.search.action_policy import ActionPolicy, Factors, Progress
from chiasma.search.actor_critic import ActorCritic
from chiasma.search.fusion_action import Family, FusionAction

POLICIES: dict[str, Callable[..., ActionPolicy]] = {
    "actor_critic": ActorCritic,
    "bandit": ActionBandit,
    "uniform": UniformActions,
}
PLANTED: tuple[Family, ...] = ("attention", "gated", "mlp")
GENERATION = 4
UNDER_WAY = 2


def play(policy: ActionPolicy, better: Family, *, asks: int, seed: int, shuffled: bool, noise: float = 0.05) -> float:
    """Return how often the better family was chosen in the last quarter of the asks.

    Args:
        better: Its mean reward is .7, that of the others .6.
        shuffled: Each reward is that of a family drawn evenly, whatever was chosen.
        noise: Standard deviation of a reward.
    """
    rng = numpy_rng(seed, "planted")
    actions: list[FusionAction] = []
    waiting: list[list[tuple[int, float]]] = []
    told: list[float] = []
    while len(actions) < asks:
        generation: list[tuple[int, float]] = []
        for _ in range(GENERATION):
            number, action = policy.ask(_progress(actions, told, asks))
            actions.append(action)
            earning = PLANTED[int(rng.integers(len(PLANTED)))] if shuffled else action.family
            generation.append((number, (0.7 if earning == better else 0.6) + noise * float(rng.normal())))
        waiting.append(generation)
        if len(waiting) == UNDER_WAY:
            ended = waiting.pop(0)
            policy.tell(ended)
            told += [reward for _, reward in ended]
    last = actions[-asks // 4 :]
    return sum(action.family == better for action in last) / len(last)


def _progress(actions: Sequence[FusionAction], told: Sequence[float], asks: int) -> Progress:
    families = {family: sum(action.family == family for action in actions) for family in PLANTED}
    best = max(told, default=0.0)
    return Progress(best=best, recent=tuple(told[-8:]), left=1 - len(actions) / asks, families=families)


def shares(kind: str, *, seeds: Sequence[int], asks: int, shuffled: bool) -> list[float]:
    """Return the share of the better family for each seed; which one is better changes from seed to seed."""
    factors = Factors(families=PLANTED)
    return [
        play(
            POLICIES[kind](seed=seed, factors=factors),
            PLANTED[seed % len(PLANTED)],
            asks=asks,
            seed=seed,
            shuffled=shuffled,
        )
        for seed in seeds
    ]


def main() -> None:
    """Print one line a policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--asks", type=int, default=300)
    given = parser.parse_args()
    for kind in POLICIES:
        true, mixed = (shares(kind, seeds=given.seeds, asks=given.asks, shuffled=each) for each in (False, True))
        print(
            f"{kind}: better family in the last quarter, mean of {len(true)} seeds {np.mean(true):.3f} "
            f"(lowest {min(true):.2f}); with shuffled rewards {np.mean(mixed):.3f} (highest {max(mixed):.2f}); "
            f"chance {1 / len(PLANTED):.3f}"
        )


if __name__ == "__main__":
    main()
