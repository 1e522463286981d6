"""What a report says of a trunk that grew."""

from chiasma.core.spec import replace_at
from chiasma.data.signature import ImageInput, Signature, Target, TextInput
from chiasma.experiment.grown import growth_notes, kept_words, one_token_warning
from chiasma.experiment.report import growth
from chiasma.experiment.report.render import render
from chiasma.model.encoders import Convolution, NGram
from chiasma.model.fusion import FiLM, Gated
from chiasma.model.multimodal import ModelSpec
from chiasma.model.trunk import PopulationSpec
from tests.experiment.sample_results import full_results as results

SIGNATURE = Signature(
    inputs={"image": ImageInput(channels=1, height=8, width=8), "text": TextInput(vocabulary=30, length=6)},
    target=Target(task="classification", labels=("no", "yes")),
)

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


KEPT = {
    "step": 30,
    "review": 3,
    "members": {"perceptron_1": "member", "perceptron_2": "newcomer", "transformer_1": "member"},
    "shares": {"perceptron_1": 0.5, "transformer_1": 1.5},
    "edges": {"members": ["perceptron_1", "transformer_1"], "weights": [[0.9, 0.1], [0.4, 0.6]]},
}


def test_the_charts_the_table_and_the_router_are_told_of_the_model_that_is_kept():
    events = [{**event, "undone": True} for event in GROWTH["events"]]
    lives = {**GROWTH["lives"], "perceptron_3": {**GROWTH["lives"]["perceptron_2"], "name": "perceptron_3", "born": 5}}
    grown = results().model_copy(update={"growth": {**GROWTH, "lives": lives, "events": events, "kept": KEPT}})
    drawn = str(growth.lives(grown))
    assert "transformer_1 from 0, pruned after 4, kept as member; perceptron_2 from 1, alive, kept as newcomer" in drawn
    assert "perceptron_3 from 5, alive, not in the kept model" in drawn
    assert growth.events(grown).rows[0][1] == "pruned (undone: after the step that is kept)"
    assert "perceptron_1 hears perceptron_1 0.90, transformer_1 0.10" in str(growth.router(grown))


def test_words_say_which_step_is_kept_who_is_in_it_and_what_is_undone():
    events = [{**event, "undone": True} for event in GROWTH["events"]]
    (words,) = kept_words({**GROWTH, "events": events, "kept": KEPT})
    assert words == (
        "The model that is kept is that of step 30 (review 3 of 6); its trunk: perceptron_1, perceptron_2 (on trial), "
        "transformer_1. 1 later event in its population is undone. Who is on trial adds outside the router exactly "
        "what it added when that step was measured."
    )
    assert kept_words({}) == kept_words(GROWTH) == []


def test_the_notes_say_who_is_kept_and_why_growth_waited():
    waited = "growth waited for 40 % of the training"
    assert growth_notes({**GROWTH, "kept": KEPT, "waits": {"learned": waited}})[-1] == waited
    assert len(growth_notes({**GROWTH, "kept": KEPT, "waits": {}})) == 1


def test_members_that_look_at_one_token_are_warned_of():
    encoders = {"image": Convolution(widths=(8,), grid=2), "text": NGram(buckets=64)}
    spec = ModelSpec(dim=8, encoders=encoders, fusion=FiLM(), trunk=PopulationSpec(heads=2))
    (words,) = one_token_warning(spec, SIGNATURE)
    assert words == (
        "warning: the trunk is handed one token, of which the attention and convolutions of residual_convolution_1, "
        "transformer_1 are linear maps. Hand on every token with --set model.fusion.pool=none."
    )
    assert one_token_warning(replace_at(spec, "fusion.pool", "none"), SIGNATURE) == []
    (searched,) = one_token_warning(spec, SIGNATURE, searched=True)
    assert searched.endswith("search without: --set model.trunk=null growth=null.")
    (words,) = one_token_warning(replace_at(spec, "fusion", Gated()), SIGNATURE)
    assert words.endswith("Hand on every token with --set model.fusion.kind=film model.fusion.pool=none.")


def test_a_report_of_a_trunk_that_did_not_grow_says_nothing_of_it():
    assert "How the trunk grew" not in render(results())
