"""What a report says of a controller."""

from chiasma.experiment.report import controller
from chiasma.experiment.report.render import render
from tests.experiment.sample_results import full_results as results

CONTROLLER = {
    "trace": [
        {"step": 20, "loss": 0.7, "rate": 1.2, "dropout": 0.9, "fusion_scale": 0.1, "structure": -0.2},
        {"step": 40, "loss": 0.6, "rate": 2.5, "dropout": 0.8, "fusion_scale": 0.3, "structure": 0.7},
    ],
    "returns": [{"step": 33, "reason": "the loss on steer rose from 0.600 to 0.900"}],
    "seconds": {"steps": 10.0, "computing": 0.2, "measuring": 0.7},
    "every": 20,
}


def test_actions_roll_backs_and_cost_are_told():
    done = results().model_copy(update={"controller": CONTROLLER})
    drawn = str(controller.actions(done))
    assert "learning rate 2.50" in drawn
    assert "fusion scale 0.30" in drawn
    assert controller.returns(done).rows == (("33", "the loss on steer rose from 0.600 to 0.900"),)
    assert [fact.value for fact in controller.cost(done)] == ["2.0 %", "7.0 %"]
    page = render(done)
    assert "What the controller did" in page
    assert "rose from 0.600 to 0.900" in page
    assert "every 20 steps" in page


def test_a_rate_that_follows_its_hypergradient_is_drawn_too():
    trace = [{"step": step, "all": step / 10} for step in (5, 10)]
    told = {"trace": trace, "seconds": {"steps": 1.0, "computing": 0.01, "measuring": 0.0}}
    done = results().model_copy(update={"controller": told})
    assert "learning rate 1.00" in str(controller.actions(done))
    assert [fact.value for fact in controller.cost(done)] == ["1.0 %"]
    assert controller.returns(done) is None


def test_a_report_of_a_training_without_a_controller_says_nothing_of_it():
    assert "What the controller did" not in render(results())
