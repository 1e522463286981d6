"""Trials in the jail: the bits of a trusted training, labels that never enter, and figures that are checked."""

import copy
import hashlib
import time

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch

from chiasma.core.errors import JailError, UntrustedSourceError
from chiasma.core.outcome import Rejected, Scored
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.unscored import unscored
from chiasma.evaluate import jailed_trial
from chiasma.evaluate.driver_end import Assignment
from chiasma.evaluate.jail import Jail, Layers, Stopping
from chiasma.evaluate.jail.jail import START_SECONDS
from chiasma.evaluate.jailed_model import GeneratedAnswerError, JailedModel, trained_model, weights_of
from chiasma.evaluate.jailed_trial import run_jailed
from chiasma.evaluate.jailed_work import LOGITS, WEIGHTS
from chiasma.evaluate.trial import run_trial
from chiasma.model.generated import approve_in_this_process, withdraw_approval
from chiasma.store.checkpoint import load_newest
from chiasma.store.trust import forget_source, trust_source
from chiasma.train.predicting import predict_logits
from tests.evaluate.corpus import OWN
from tests.evaluate.jail_entries import SLOW_START

# One warm process serves all: that of one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("jail")

HONEST = (OWN / "honest_04_hand_written_attention.py").read_text()
SHA = hashlib.sha256(HONEST.encode()).hexdigest()
FEWEST_ROWS_TO_LOOK = 12
BEHIND = """
import gc, sys
import torch
from torch import nn


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.i, self.t = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        w, v = image_mask[..., None].float(), text_mask[..., None].float()
        a = (self.i(image_tokens) * w).sum(1) / w.sum(1).clamp(min=1)
        y = a + (self.t(text_tokens) * v).sum(1) / v.sum(1).clamp(min=1)
        {attack}
        return y
"""
# Take the labels of the batch that is predicted from the dataset of the frame that calls, wherever that is.
STEAL_FROM_FRAMES = """frame = sys._getframe()
        while frame is not None:
            data, rows = frame.f_locals.get("data"), frame.f_locals.get("rows")
            if hasattr(data, "labels") and rows is not None and not self.training:
                for start in range(0, len(rows), 256):
                    if len(rows[start : start + 256]) == len(y):
                        label = data.labels(rows[start : start + 256])
                        y = y + 1e3 * (label.float()[:, None] - 0.5) * torch.linspace(-1, 1, y.shape[-1])
                        break
                break
            frame = frame.f_back"""


@pytest.fixture
def approved():
    approve_in_this_process(SHA)
    yield
    withdraw_approval(SHA)


def kept(job, folder):
    return job.model_copy(update={"keep_checkpoint": str(folder)})


def test_a_jailed_training_has_the_bits_of_a_trusted_one(generated_job, small_claims, jail, tmp_path):
    job = generated_job(HONEST)
    inside = run_jailed(kept(job, tmp_path / "inside"), small_claims, jail)
    approve_in_this_process(SHA)
    try:
        outside = run_trial(kept(job, tmp_path / "outside"), small_claims)
    finally:
        withdraw_approval(SHA)
    assert isinstance(inside, Scored)
    assert isinstance(outside, Scored)
    first, second = (load_newest(tmp_path / name) for name in ("inside", "outside"))
    assert first is not None
    assert second is not None
    weights, others = first.tensors("model"), second.tensors("model")
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert first.documents["design"] == second.documents["design"]
    assert first.documents["history"] == second.documents["history"]
    assert inside.objectives == outside.objectives
    assert inside.metrics["log_loss"] == pytest.approx(outside.metrics["log_loss"], abs=1e-6)


def test_a_design_goes_to_the_jail_by_itself_until_its_source_is_approved(generated_job, small_claims, monkeypatch):
    went: list[str] = []
    monkeypatch.setattr("chiasma.evaluate.trial.run_jailed", lambda job, data: went.append(job.key))
    job = generated_job(HONEST)
    run_trial(job, small_claims)
    assert went == ["one"]
    trust_source(SHA)
    try:
        assert isinstance(run_trial(job, small_claims), Scored)
        assert went == ["one"]
    finally:
        forget_source(SHA)
    with pytest.raises(UntrustedSourceError, match=f"--trust {SHA}"):
        job.design.model.build(small_claims.signature)


def test_what_an_approved_source_raises_is_its_own_fault(generated_job, small_claims):
    source = BEHIND.format(attack="raise KeyError('mine') if self.training else y")
    source = source.replace("raise KeyError('mine') if self.training else y", "assert not self.training, 'mine'")
    sha = hashlib.sha256(source.encode()).hexdigest()
    approve_in_this_process(sha)
    try:
        outcome = run_trial(generated_job(source), small_claims)
    finally:
        withdraw_approval(sha)
    assert outcome == Rejected(stage="generated", reason=f"the source {sha[:12]} raised AssertionError: mine")


def test_scored_labels_ids_groups_and_test_rows_never_leave(small_claims):
    shown = unscored(small_claims, ["image", "text"])
    columns = {}
    for name, column in shown.columns.items():
        columns[name] = np.empty(column.shape, column.dtype)
        column.fill(columns[name])
    select, known = small_claims.rows("select"), ("train", "steer")
    assert not columns["labels"][select].any()
    assert not columns["groups"].any()
    assert not columns["contents"].any()
    for split in known:
        rows = small_claims.rows(split)
        np.testing.assert_array_equal(columns["labels"][rows], small_claims.labels(rows).numpy())
    assert len(columns["splits"]) == sum(len(small_claims.rows(split)) for split in (*known, "select"))
    copy_of_it = Dataset.of_columns(shown.manifest, columns)
    ours, theirs = (data.batch(data.rows("select")) for data in (small_claims, copy_of_it))
    assert theirs.ids == tuple(str(row) for row in select)
    for name in ("image", "text"):
        restored = shown.restored(theirs.inputs[name].numpy())
        np.testing.assert_array_equal(restored, ours.inputs[name].numpy())
        assert not torch.equal(theirs.inputs[name], ours.inputs[name])
        # Neither does the place of a row's content tell where it stood: it lies where the shuffled rows first need it.
        index = columns[f"{name}.index"]
        shared = index[np.concatenate([small_claims.rows(split) for split in known])].max()
        new = [place for place in dict.fromkeys(index[select].tolist()) if place > shared]
        assert new == sorted(new)


@pytest.mark.parametrize("steals", [True, False])
def test_a_stolen_score_is_impossible_where_labels_are_random(steals, generated_job, small_claims, jail):
    random = copy.copy(small_claims)
    random._labels = np.random.default_rng(7).integers(0, 2, len(small_claims._labels))
    source = BEHIND.format(attack=STEAL_FROM_FRAMES if steals else "pass")
    outcome = run_jailed(generated_job(source), random, jail, screened=False)
    count = len(random.rows("select"))
    if steals and isinstance(outcome, Rejected):
        assert outcome.stage == "behaviour"
        return
    assert isinstance(outcome, Scored), outcome
    assert outcome.metrics["accuracy"] < 0.5 + 3.3 * (0.25 / count) ** 0.5


def test_the_thief_would_succeed_where_labels_lie_in_its_memory(generated_job, small_claims):
    source = BEHIND.format(attack=STEAL_FROM_FRAMES)
    sha = hashlib.sha256(source.encode()).hexdigest()
    approve_in_this_process(sha)
    try:
        job = generated_job(source)
        model = job.design.model.build(small_claims.signature)
        with torch.no_grad():
            last = [part for part in model.head.modules() if isinstance(part, torch.nn.Linear)][-1]
            last.weight.copy_(torch.linspace(-1, 1, 16) * torch.tensor([[-1.0], [1.0]]))
        rows = small_claims.rows("select")
        logits = predict_logits(model, small_claims, rows)
    finally:
        withdraw_approval(sha)
    assert (logits.argmax(1) == small_claims.labels(rows).numpy()).mean() == 1.0


@pytest.mark.parametrize(
    ("source", "stage", "reason"),
    [
        ("import os\n" + HONEST, "screen", "import: line 1: os may not be imported"),
        (BEHIND.format(attack="while True: pass").replace("import gc, sys\n", ""), "deadline", "killed after"),
        (HONEST.replace("self.h = 4", "self.h = 3"), "generated", "RuntimeError: "),
        (HONEST.replace("nn.Linear(dim, dim)", "nn.Linear(dim, 20000)"), "generated", ""),
    ],
)
def test_what_is_wrong_is_a_typed_rejection(source, stage, reason, generated_job, small_claims, jail):
    started = time.monotonic()
    outcome = run_jailed(generated_job(source, time_limit_seconds=1.5), small_claims, jail)
    assert isinstance(outcome, Rejected)
    assert outcome.stage == stage
    assert reason in outcome.reason
    assert time.monotonic() - started < 3.5


def test_a_limit_of_parameters_is_counted_from_the_weights(generated_job, small_claims, jail):
    outcome = run_jailed(generated_job(HONEST, max_parameters=4000), small_claims, jail)
    assert isinstance(outcome, Rejected)
    assert "parameters, but the limit is 4,000" in outcome.reason
    scored = run_jailed(generated_job(HONEST, max_parameters=40_000), small_claims, jail)
    assert isinstance(scored, Scored)
    assert scored.objectives["parameters"] == scored.metrics["parameters"] < 40_000


def test_a_training_that_is_asked_to_stop_hands_back_the_best_so_far(generated_job, small_claims, jail, tmp_path):
    job = kept(generated_job(HONEST), tmp_path)
    endless = replace_at(replace_at(job.design, "training.loop.epochs", 10_000), "training.loop.evaluations", 1000)
    began = time.monotonic()
    stopping = Stopping(lambda: time.monotonic() > began + 2.0, grace_seconds=60)
    outcome = run_jailed(job.model_copy(update={"design": endless}), small_claims, jail, stopping=stopping)
    assert isinstance(outcome, Scored), outcome
    assert 0 < outcome.metrics["steps"] < 10_000
    checkpoint = load_newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.documents["stopped"] == "interrupted"


def test_limits_of_time_and_memory_are_the_jobs(generated_job, small_claims, jail):
    slow = BEHIND.format(attack="while True: pass").replace("import gc, sys\n", "")
    late = run_jailed(generated_job(slow, jail_seconds=0.7), small_claims, jail)
    assert isinstance(late, Rejected)
    assert late.reason.startswith("killed after 0.")
    large = BEHIND.format(attack="self.kept = torch.ones(2**26)").replace("import gc, sys\n", "")
    assert isinstance(run_jailed(generated_job(large), small_claims, jail), Scored)
    outcome = run_jailed(generated_job(large, jail_memory_bytes=2**27), small_claims, jail)
    assert isinstance(outcome, Rejected)
    assert "out of memory" in outcome.reason


def test_more_memory_than_allowed_is_a_rejection(generated_job, small_claims, jail):
    source = BEHIND.format(attack="self.kept = torch.ones(2**30)").replace("import gc, sys\n", "")
    outcome = run_jailed(generated_job(source), small_claims, jail)
    assert isinstance(outcome, Rejected)
    assert "out of memory" in outcome.reason


@pytest.fixture
def ended(generated_job, small_claims, jail, monkeypatch):
    """Return a job and what the jail answered to it, to be forged."""
    found = []
    real = jailed_trial._judged
    monkeypatch.setattr(jailed_trial, "_judged", lambda *a, **k: (found.append(a), real(*a, **k))[1])
    outcome = run_jailed(generated_job(HONEST), small_claims, jail)
    assert isinstance(outcome, Scored)
    monkeypatch.setattr(jailed_trial, "_judged", real)
    return found[0]


def forged(arguments, *, answer=None, weights=None, logits=None):
    """Return what becomes of an answer with something else in it."""
    job, dataset, jail, shown, ended = arguments
    outputs = {name: array.copy() for name, array in ended.outputs.items()}
    said = {**ended.answer, **(answer or {})}
    if weights is not None:
        count = said["weights_bytes"]
        changed = weights(safetensors.torch.load(outputs[WEIGHTS][:count].tobytes()))
        data = safetensors.torch.save(changed)
        outputs[WEIGHTS][: len(data)] = np.frombuffer(data, np.uint8)
        said["weights_bytes"] = len(data)
    if logits is not None:
        outputs[LOGITS] = logits(outputs[LOGITS])
    other = type(ended)(**{**vars(ended), "answer": said, "outputs": outputs})
    return jailed_trial._judged(job, dataset, jail, shown, other, started=time.monotonic())


def test_a_forged_answer_is_rejected_whatever_is_forged(ended):
    assert isinstance(forged(ended), Scored)
    spec = ended[4].answer["spec"]
    data = ended[4].outputs[WEIGHTS][: ended[4].answer["weights_bytes"]].tobytes()
    name = next(name for name in safetensors.torch.load(data) if name.startswith("head"))
    cases = {
        "not a training": [
            {"answer": {"steps": -1}},
            {"answer": {"steps": "many"}},
            {"answer": {"best": {"accuracy": float("inf")}}},
            {"answer": {"history": [{"a": "b"}]}},
            {"answer": {"unknown": 1}},
            {"answer": {"flops": -1.0}},
            {"answer": {"spec": {"dim": "x"}}},
            {"answer": {"weights_bytes": 2**40}},
            {"answer": {"weights_bytes": 9}},
            {"weights": lambda w: {**w, name: w[name] * float("nan")}},
        ],
        "not the one that it was to train": [{"answer": {"spec": {**spec, "dim": 24}}}],
        "missing": [{"weights": lambda w: {k: v for k, v in w.items() if not k.startswith("head")}}],
        "not of the model": [{"weights": lambda w: {**w, "extra": torch.zeros(1)}}],
        "must be": [{"weights": lambda w: {**w, name: torch.zeros(3, 3, 3)}}],
        "in another process": [
            {"logits": lambda x: x[::-1].copy()},
            {"logits": lambda x: x + 1},
            {"weights": lambda w: {k: v + 0.1 if k.startswith("head") else v for k, v in w.items()}},
        ],
        "NaN": [{"logits": lambda x: x * np.nan}],
        "": [{"answer": {"rejected": {"stage": "x" * 99, "reason": "\x1b[31m" + "y" * 999}}}],
    }
    for reason, changes in cases.items():
        for change in changes:
            outcome = forged(ended, **change)
            assert isinstance(outcome, Rejected), (reason, change)
            assert reason in outcome.reason, (reason, outcome)
            assert len(outcome.reason) < 500
            assert outcome.reason.isprintable()


def test_a_module_that_looks_at_its_neighbours_is_refused_where_select_has_few_rows(generated_job, small_claims, jail):
    rows = len(small_claims.rows("select"))
    assert 2 * FEWEST_ROWS_TO_LOOK < rows < jailed_trial.OTHER_BATCH
    # The behaviour checks show it no more than a few rows at a time.
    look = f"y = y + y.mean(0) if len(y) >= {FEWEST_ROWS_TO_LOOK} and not self.training else y"
    source = BEHIND.format(attack=look).replace("import gc, sys\n", "")
    outcome = run_jailed(generated_job(source), small_claims, jail)
    assert isinstance(outcome, Rejected)
    assert (outcome.stage, "looks at neighbours" in outcome.reason) == ("behaviour", True)
    blind = source.replace(f"len(y) >= {FEWEST_ROWS_TO_LOOK}", "len(y) > 10**6")
    assert isinstance(run_jailed(generated_job(blind), small_claims, jail), Scored)


def test_a_model_that_was_forged_to_be_huge_is_compared_without_being_built(generated_job, small_claims):
    spec = generated_job(HONEST).design.model
    huge = spec.model_copy(update={"dim": 300_000})
    before = psutil.Process().memory_info().rss
    fault = jailed_trial._wrong_weights(huge, small_claims.signature, {})
    assert fault is not None
    assert fault.endswith("is missing")
    own = jailed_trial._stand_in(huge, small_claims.signature)
    assert {value.device.type for value in own.parameters()} == {"meta"}
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


@pytest.mark.slow
def test_the_cold_start_of_the_jail_does_not_count_against_a_candidate(generated_job, small_claims):
    with Jail(warm_up="tests.evaluate.jail_entries:warm_up_slowly") as cold:
        started = time.monotonic()
        outcome = run_jailed(generated_job(HONEST, time_limit_seconds=5.0), small_claims, cold)
        assert time.monotonic() - started > SLOW_START > 5.0
    assert isinstance(outcome, Scored), outcome


def test_a_worker_that_must_start_a_jail_first_has_more_time(generated_job):
    job = generated_job(HONEST, time_limit_seconds=2.0)
    given = Assignment(1, job)
    given.started = 100.0
    assert given.kill_at(1.0) >= 103.0 + START_SECONDS
    approve_in_this_process(SHA)
    try:
        assert given.kill_at(1.0) == 103.0
    finally:
        withdraw_approval(SHA)


def test_what_a_module_claims_of_its_parameters_does_not_count(ended):
    honest, liar = forged(ended), forged(ended, answer={"parameters": 1})
    assert isinstance(liar, Scored)
    assert isinstance(honest, Scored)
    assert liar.objectives["parameters"] == honest.objectives["parameters"] > 1000


def test_a_saved_model_answers_from_the_jail_as_it_does_outside(generated_job, small_claims, jail, tmp_path, approved):
    assert isinstance(run_trial(kept(generated_job(HONEST), tmp_path), small_claims), Scored)
    checkpoint = load_newest(tmp_path)
    assert checkpoint is not None
    spec, weights = generated_job(HONEST).design.model, checkpoint.tensors("model")
    outside = trained_model(spec, small_claims.signature, weights)
    inside = JailedModel(spec, small_claims.signature, weights, jail=jail)
    rows = small_claims.rows("select")
    expected = predict_logits(outside, small_claims, rows)
    np.testing.assert_array_equal(predict_logits(inside, small_claims, rows), expected)
    assert weights_of(inside).keys() == weights_of(outside).keys()
    withdraw_approval(SHA)
    assert isinstance(trained_model(spec, small_claims.signature, weights), JailedModel)


def test_a_saved_model_that_fails_in_the_jail_says_so(generated_job, small_claims, jail):
    source = BEHIND.format(attack="raise ValueError('broken')").replace("import gc, sys\n", "")
    model = JailedModel(generated_job(source).design.model, small_claims.signature, {}, jail=jail)
    with pytest.raises(GeneratedAnswerError, match=r"The generated module gave no answer: RuntimeError: Error.*load"):
        predict_logits(model, small_claims, small_claims.rows("select"))


def test_a_lesser_level_must_be_accepted_and_is_in_the_record(generated_job, small_claims):
    with Jail(layers=Layers(landlock=False, seccomp=False)) as lesser:
        with pytest.raises(JailError, match="cannot be closed on this machine"):
            run_jailed(generated_job(HONEST), small_claims, lesser)
        lesser.accept_lesser = True
        outcome = run_jailed(generated_job(HONEST), small_claims, lesser)
        assert isinstance(outcome, Scored)
        assert outcome.metrics["jail_without_kernel"] == 1.0
        rejected = run_jailed(generated_job(BEHIND.format(attack="pass")), small_claims, lesser, screened=False)
        assert isinstance(rejected, Scored)


def test_a_pretrained_backbone_is_refused_with_the_way_out(generated_job, small_claims, jail, monkeypatch):
    monkeypatch.setattr(jailed_trial, "Pretrained", type(generated_job(HONEST).design.model.encoders["text"]))
    outcome = run_jailed(generated_job(HONEST), small_claims, jail)
    assert isinstance(outcome, Rejected)
    assert "extract its tokens first (chiasma features)" in outcome.reason


def test_weights_of_another_training_begin_a_jailed_one(generated_job, small_claims, jail, tmp_path):
    job = kept(generated_job(HONEST), tmp_path / "first")
    assert isinstance(run_jailed(job, small_claims, jail), Scored)
    later = generated_job(HONEST, start_from=str(tmp_path / "first"), keep_checkpoint=str(tmp_path / "second"))
    frozen = replace_at(later.design, "training.optim.lr", 1e-12)
    assert isinstance(run_jailed(later.model_copy(update={"design": frozen}), small_claims, jail), Scored)
    first, second = (load_newest(tmp_path / name) for name in ("first", "second"))
    assert first is not None
    assert second is not None
    for name, value in second.tensors("model").items():
        torch.testing.assert_close(value, first.tensors("model")[name], atol=1e-6, rtol=0)
