"""What a report says of a trunk that grew."""

from chiasma.experiment.report import growth
from chiasma.experiment.report.render import render
from tests.experiment.sample_results import full_results as results

GROWTH = {
    "reviews": 6,
    "lives": {
        name: {
            "name": name,
            "born": born,
            "died": died,
            "promoted": promoted,
            "shares": [1.0],
            "contributions": [0.2, 0.5],
        }
        for name, born, died, promoted in (
            ("perceptron_1", 0, None, 0),
            ("transformer_1", 0, 4, 0),
            ("perceptron_2", 1, None, None),
        )
    },
    "edges": {"members": ["perceptron_1", "perceptron_3"], "weights": [[0.7, 0.3], [0.2, 0.8]]},
    "events": [
        {
            "review": 4,
            "step": 40,
            "loss": 0.51234,
            "event": "pruning",
            "name": "transformer_1",
            "reason": "in 4 reviews the loss rose by 0.0 % (± 0.1) without it",
        }
    ],
}


def test_every_member_has_a_life_a_contribution_and_a_place_in_the_routers_graph():
    grown = results().model_copy(update={"growth": GROWTH})
    assert "transformer_1 from 0, pruned after 4; perceptron_2 from 1, alive" in str(growth.lives(grown))
    assert "perceptron_2 0.50" in str(growth.contributions(grown))
    assert "perceptron_1 hears perceptron_1 0.70, perceptron_3 0.30" in str(growth.router(grown))
    rows = growth.events(grown).rows
    assert rows == (
        ("transformer_1", "pruned", "4", "40", "0.512", "in 4 reviews the loss rose by 0.0 % (± 0.1) without it"),
    )
    page = render(grown)
    assert "How the trunk grew" in page
    assert "the loss rose by 0.0 %" in page


def test_a_report_says_why_growth_waited():
    waited = {**GROWTH, "events": [], "waits": {"room": "growth waits: there are 3 members"}}
    page = render(results().model_copy(update={"growth": waited}))
    assert "<p>growth waits: there are 3 members.</p>" in page
    assert "growth waits" not in render(results().model_copy(update={"growth": GROWTH}))


def test_a_report_of_a_trunk_that_did_not_grow_says_nothing_of_it():
    assert "How the trunk grew" not in render(results())
