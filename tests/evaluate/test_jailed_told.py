"""What a child may say of growth and of a controller: the same as outside where it is honest, else refused."""

import copy
import hashlib
import json

import pytest

from chiasma.core.outcome import Scored
from chiasma.core.spec import replace_at
from chiasma.evaluate.jailed_told import NotATrainingError, check_told, read_told
from chiasma.evaluate.jailed_trial import run_jailed
from chiasma.evaluate.trial import run_trial
from chiasma.model.generated import approve_in_this_process, withdraw_approval
from chiasma.model.multimodal import ModelSpec
from chiasma.model.trunk import PopulationSpec
from chiasma.store.checkpoint import load_newest
from chiasma.train.controlling import HypergradientController, LSTMController
from chiasma.train.design import GrowthSpec
from tests.evaluate.corpus import OWN

HONEST = (OWN / "honest_04_hand_written_attention.py").read_text()
SHA = hashlib.sha256(HONEST.encode()).hexdigest()


@pytest.fixture
def adapting(generated_job):
    """Return a function that makes a job with a growing trunk and a controller."""

    def make(folder, controller):
        job = generated_job(HONEST, keep_checkpoint=str(folder))
        design = replace_at(job.design, "model.trunk", PopulationSpec().to_dict())
        design = replace_at(design, "training.growth", GrowthSpec(births="random", learned=0.0, probation=1).to_dict())
        design = replace_at(design, "training.controller", controller.to_dict())
        design = replace_at(design, "training.loop.evaluations", 6)
        design = replace_at(design, "training.loop.batch_size", 16)
        return job.model_copy(update={"design": design})

    return make


@pytest.mark.parametrize("controller", [LSTMController(every=3, share=1.0), HypergradientController(every=3)])
def test_growth_and_a_controller_are_told_as_outside_the_jail(controller, adapting, small_claims, jail, tmp_path):
    inside = run_jailed(adapting(tmp_path / "inside", controller), small_claims, jail)
    approve_in_this_process(SHA)
    try:
        outside = run_trial(adapting(tmp_path / "outside", controller), small_claims)
    finally:
        withdraw_approval(SHA)
    assert isinstance(inside, Scored), inside
    assert isinstance(outside, Scored), outside
    first, second = (load_newest(tmp_path / name) for name in ("inside", "outside"))
    assert first is not None
    assert second is not None
    assert first.documents["growth"]["lives"]
    assert first.documents["growth"] == second.documents["growth"]
    told, known = first.documents["controller"], second.documents["controller"]
    assert told["trace"]
    assert told.keys() == known.keys()
    assert told["trace"] == known["trace"]


@pytest.fixture
def said(adapting, small_claims, jail, tmp_path, monkeypatch):
    """Return a job, and what a child honestly says of it."""
    found = []
    real = read_told
    monkeypatch.setattr("chiasma.evaluate.jailed_trial.read_told", lambda each: (found.append(each), real(each))[1])
    job = adapting(tmp_path, LSTMController(every=3, share=1.0))
    outcome = run_jailed(job, small_claims, jail)
    assert isinstance(outcome, Scored), outcome
    return job, found[0]


def put(said, path, value):
    changed = copy.deepcopy(dict(said))
    *parents, last = path.split("/")
    place = changed
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(last) if isinstance(place, list) else last] = value
    return changed


def refusal(job, changed):
    """Return why a forged record is refused, or None."""
    try:
        told = read_told(json.loads(json.dumps(changed)))
        check_told(told, job, ModelSpec.from_dict(told.spec))
    except NotATrainingError as error:
        return str(error)
    return None


def test_growth_that_was_forged_is_refused_whatever_was_forged(said):
    job, honest = said
    assert refusal(job, honest) is None
    member = sorted(honest["growth"]["lives"])[0]
    life, deep = f"growth/lives/{member}", []
    for _ in range(50):
        deep = [deep]
    cases = {
        "growth/more": (1, "Extra inputs are not permitted"),
        "growth/reviews": (-1, "greater than or equal to 0"),
        "growth/began": ("\x1b[31m", "valid number"),
        "growth/waits": ({"learned": "two\nlines"}, "one short line of printable characters"),
        "growth/waits/learned": ("x" * 301, "one short line"),
        "growth/waits/else": ("x", "Input should be"),
        f"{life}/shares": ([-1.0], "greater than or equal to 0"),
        f"{life}/gains": ([1e300], "less than or equal to"),
        f"{life}/contributions": ([0.0] * 10_001, "at most 10000"),
        f"{life}/role": ("<script>", "Input should be"),
        f"{life}/errors": (deep, "valid number"),
        f"{life}/name": ("another", "has another name"),
        "growth/lives/a b": (honest["growth"]["lives"][member], "String should match pattern"),
        "growth/events": ([{}], "Field required"),
        "growth/edges/weights": ([[1.0]], "rows of"),
        "growth/kept/shares/nobody": (1.0, "nobody has no life"),
        "growth/kept/members": ({member: "leaving"}, "must be those of the model that is kept"),
        "growth/kept/shares": ({}, "the router weighs the members that the model has"),
        "growth/kept/step": (10**6, "nothing happens after the last step"),
        "growth": ({}, "growth: is not told"),
    }
    for path, (value, words) in cases.items():
        assert words in (refusal(job, put(honest, path, value)) or "accepted"), path


def test_a_controller_or_a_curve_that_was_forged_is_refused(said):
    job, honest = said
    assert len(honest["controller"]["trace"]) > 1
    cases = {
        "controller/trace/0/rate_of_everything": (1.0, "String should match pattern"),
        "controller/trace/0": ({"loss": 1.0}, "each point of a curve has its step"),
        "controller/trace/1": ({"step": 1}, "same settings"),
        "controller/trace": ([{"step": 1}] * 401, "at most 400"),
        "controller/returns": ([{"step": 1, "reason": "\u202eback"}], "printable"),
        "controller/seconds/steps": (-1.0, "greater than or equal to 0"),
        "controller/every": (0, "greater than or equal to 1"),
        "controller/more": ("x", "Extra inputs"),
        "controller": ({}, "controller: is not told"),
        "history/0/step": (10.0**8, "its steps rise to the last one"),
        "history/0": ({"step": 1.0}, "each row has"),
        "best/step": (0.5, "must be a row of the history"),
    }
    for path, (value, words) in cases.items():
        assert words in (refusal(job, put(honest, path, value)) or "accepted"), path
    plain = job.model_copy(update={"design": replace_at(job.design, "training.controller", None)})
    assert refusal(plain, honest) == "controller: is told of a training without it"


def test_a_reason_is_one_plain_line_however_long_a_forged_key_is(said):
    _, honest = said
    with pytest.raises(NotATrainingError) as caught:
        read_told(put(honest, "growth/" + "\x1b" * 10**6, 1))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
