"""What is kept of a growing trunk: the best evaluation may lie before the last events."""

from typing import Any

import numpy as np

from chiasma.adapt.kept import growth_of
from chiasma.adapt.measure import Measuring
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.train.design import Design
from chiasma.train.fit import Fit
from tests.adapt.test_growth import EVENTFUL, claims, growing, trainer

__all__ = ["claims"]
ROLES = {"birth": "newcomer", "promotion": "member", "retirement": "leaving"}
RANDOM = growing(**{**EVENTFUL, "births": "random"})


def trained(design: Design, data: Dataset) -> tuple[Fit, dict[str, Any]]:
    done = trainer(design, data).fit()
    return done, growth_of(done, design.training.loop, data, precision="float32")


def roles_after(events: list[dict[str, Any]], design: Design) -> dict[str, str]:
    """Return who is there, and as what, after the events that are not undone."""
    roles = dict.fromkeys(design.model.trunk.members, "member")
    for event in events:
        if event["undone"]:
            continue
        if event["event"] == "pruning":
            del roles[event["name"]]
        else:
            roles[event["name"]] = ROLES[event["event"]]
    return roles


def test_events_after_the_best_evaluation_are_undone_in_the_kept_model(claims: Dataset):
    # So long steps that the model is soon worse than it was.
    done, grown = trained(replace_at(RANDOM, "training.optim.lr", 0.3), claims)
    kept = grown["kept"]
    assert kept["step"] == done.best["step"] < done.steps
    assert done.history[kept["review"] - 1] == done.best
    assert any(event["undone"] for event in grown["events"])
    roles = {name: place.role for name, place in done.model.spec.trunk.members.items()}
    assert kept["members"] == roles == roles_after(grown["events"], RANDOM)
    assert set(grown["lives"]) > set(roles)


def test_the_last_weights_are_kept_with_all_events_and_their_router(claims: Dataset):
    done, grown = trained(replace_at(RANDOM, "training.loop.restore_best", False), claims)
    kept = grown["kept"]
    assert not any(event["undone"] for event in grown["events"])
    assert (kept["step"], kept["review"]) == (done.steps, grown["reviews"])
    assert kept["members"] == roles_after(grown["events"], RANDOM)
    assert kept["members"] != dict.fromkeys(RANDOM.model.trunk.members, "member")
    measured = Measuring(claims, claims.rows("steer"), precision="float32").members(done.model)
    assert kept["edges"]["members"] == list(measured.routed) == sorted(kept["shares"])
    np.testing.assert_allclose(kept["edges"]["weights"], measured.edges, rtol=1e-5)
    for name, share in kept["shares"].items():
        np.testing.assert_allclose(share, measured.shares[name], rtol=1e-5)


def test_a_training_without_growth_tells_nothing_of_it(claims: Dataset):
    assert trained(replace_at(RANDOM, "training", {"loop": {"epochs": 0.5}}), claims)[1] == {}
