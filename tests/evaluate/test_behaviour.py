"""Each behaviour check catches its fault, and honest modules have none."""

import hashlib

import pytest
import torch

from chiasma.evaluate.behaviour import fault_of
from chiasma.evaluate.process_state import changed, process_state
from chiasma.model.generated import approve_in_this_process, withdraw_approval
from tests.evaluate.corpus import expecting

BODY = """
import torch
import torch.nn as nn
import torch.nn.functional as F


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.i, self.t = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
        {init}

    def mean(self, x, mask):
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        a, b = self.mean(self.i(image_tokens), image_mask), self.mean(self.t(text_tokens), text_mask)
        {forward}
        return {out}
    {more}
"""
# Only the inputs are used, and the layers stand by.
NO_PARAMETERS = """raw, read = self.mean(image_tokens, image_mask), self.mean(text_tokens, text_mask)
        a, b = raw[:, :1] + 0 * a.detach(), read[:, :1]"""


def fault(forward: str = "pass", *, out: str = "a + b", init: str = "pass", more: str = "") -> str | None:
    source = BODY.format(forward=forward, out=out, init=init, more=more)
    sha = hashlib.sha256(source.encode()).hexdigest()
    approve_in_this_process(sha)
    try:
        return fault_of(source)
    finally:
        withdraw_approval(sha)


def test_an_honest_module_has_no_fault():
    assert fault() is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"out": "(a + b, 1)"}, "forward must return a plain tensor, but returned a tuple."),
        ({"out": "nn.Parameter(a + b)"}, "forward must return a plain tensor, but returned a Parameter."),
        ({"out": "(a + b)[:1]"}, "forward must return [3, 32] or [3, K, 32], but returned [1, 32]."),
        ({"out": "(a + b)[:, :8]"}, "forward must return [3, 32] or [3, K, 32], but returned [3, 8]."),
        ({"out": "(a + b).long()"}, "forward must return floating-point numbers, but returned torch.int64."),
        ({"out": "(a + b).double()"}, "its output must be torch.float32, but is torch.float64"),
        ({"out": "(a + b) / 0"}, "its output holds a NaN or an infinity"),
        ({"out": "(a + b) * 1e6"}, "but may not exceed 10000"),
        ({"out": "(a + b) * 0 + 1"}, "its output is the same for all rows"),
        ({"forward": "image_tokens.mul_(1.5)"}, "it changes its inputs"),
        ({"forward": "image_mask.fill_(True)"}, "it changes its inputs"),
        ({"out": "a + b + torch.rand(())"}, "its output in evaluation mode changes when it is asked again"),
        ({"out": "F.dropout(a + b)"}, "its output in evaluation mode changes when it is asked again"),
        ({"out": "a + b - (a + b).mean(0)"}, "the output of a row depends on the other rows of its batch"),
        ({"out": "self.i(image_tokens).mean(1) + b"}, "a masked token changes its output"),
        ({"init": "self.n = float(torch.rand(()))", "out": "(a + b) * (1 + self.n)"}, "another instance with the same"),
        (
            {"init": "self.w = torch.rand(dim, requires_grad=True)", "out": "(a + b) * self.w"},
            "parameters that are not",
        ),
        ({"init": "self.w = [nn.Linear(dim, dim)]", "out": "self.w[0](a + b)"}, "parameters that are not registered"),
        ({"out": "a + b.detach()"}, "no gradient reaches the text"),
        ({"out": "(a + b).detach()"}, "no gradient flows through it"),
        ({"out": "a + b * 0"}, "no gradient reaches the text"),
        ({"forward": NO_PARAMETERS, "out": "a + b"}, "no gradient reaches its parameters"),
        ({"more": "def train(self, mode=True):\n        return self"}, "eval() does not put all of it into evaluation"),
        (
            {"init": "torch.set_default_dtype(torch.float32); torch.set_num_threads(2)"},
            "it changes the number of threads",
        ),
        ({"init": "F.gelu = F.relu"}, "it changes torch.nn.functional.gelu, which belongs to the whole process"),
        ({"init": "nn.Linear.extra = 1"}, "it changes torch.nn.Linear.extra, which belongs to the whole process"),
        ({"init": "torch.optim.AdamW.step = None"}, "it changes torch.optim.AdamW.step"),
        ({"init": "__import__('os').environ['X_CHIASMA'] = '1'"}, "it changes the environment"),
        ({"init": "torch.set_grad_enabled(True); torch.autograd.set_detect_anomaly(True)"}, "anomaly detection"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:50],
)
def test_each_fault_is_named(settings, expected: str, monkeypatch: pytest.MonkeyPatch):
    with restored(monkeypatch):
        found = fault(**settings)
    assert found is not None
    assert expected in found


def test_a_module_may_have_two_million_parameters_where_it_is_64_wide():
    room = "self.w = nn.Parameter(torch.zeros({count}))"
    used = "(a + b) * (1 + self.w.sum())"
    assert fault(init=room.format(count=1_900_000), out=used) is None
    found = fault(init=room.format(count=2_000_001), out=used)
    assert found is not None
    assert "parameters with a width of 32, but the limit is 2,000,000" in found
    grows = fault(init="self.w = nn.Parameter(torch.zeros(dim * dim * 500))", out=used)
    assert grows is not None
    assert "parameters with a width of 64, but the limit is 2,000,000" in grows


def restored(monkeypatch: pytest.MonkeyPatch):
    """Return a context after which everything that a source changed is as before."""
    context = monkeypatch.context()

    class Restored:
        def __enter__(self):
            patch = context.__enter__()
            patch.setattr(torch.nn.functional, "gelu", torch.nn.functional.gelu)
            patch.setattr(torch.optim.AdamW, "step", torch.optim.AdamW.step)
            patch.setattr(torch.nn.Linear, "extra", None, raising=False)
            patch.delenv("X_CHIASMA", raising=False)

        def __exit__(self, *error):
            context.__exit__(*error)
            torch.set_num_threads(1)
            torch.autograd.set_detect_anomaly(False)
            __import__("os").environ.pop("X_CHIASMA", None)

    return Restored()


def test_a_module_that_fails_for_absent_rows_is_named():
    assert "a row without an image or a text" in (fault(out="a + b + 0 / text_tokens.abs().sum((1, 2))[:, None]") or "")


@pytest.mark.parametrize("case", expecting("accept"), ids=lambda case: case.name)
def test_no_honest_module_has_a_fault(case, generated_job, jail):
    # In a warm process: the first use of some parts of torch changes what belongs to all.
    ended = jail.run("chiasma.evaluate.jailed_work:check", {"model": generated_job(case.text).design.model.to_dict()})
    assert ended.answer == {"fault": None}


def test_what_belongs_to_the_process_is_compared_by_name():
    before = process_state()
    assert changed(before, process_state()) is None
    assert changed(before, {**process_state(), "autocast": True}) == "autocast"
    other = {**process_state()["math"], "pi": 1}
    assert changed(before, {**process_state(), "math": other}) == "math.pi"
