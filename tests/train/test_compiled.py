"""A compiled training, in a process of its own because the shape checks of tests cannot be compiled."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch._inductor.exc import InductorError

from chiasma.core.errors import ConfigError
from chiasma.experiment.config import RunConfig
from chiasma.train.compiling import CompileError, check_compiled, compiler_errors
from chiasma.train.controlling import LSTMController

PROGRAM = """
import sys
from functools import partial
from pathlib import Path

import torch

# Another backend than the default one traces just the same, and needs no C++ compiler.
made = []
torch.compile = lambda model, compiler=partial(torch.compile, backend="eager"): made.append(model) or compiler(model)

from chiasma.train.ranks import ALONE
from chiasma.train.trainer import Trainer
from tests.train.ranks_program import Written, claims, design

torch.set_num_threads(1)
data, spec = claims(Path(sys.argv[1]), ALONE), design(accumulation=1, epochs=1)
fits = {}
for compile in (False, True):
    growth = Written(spec.training.growth, data, seed=0)
    fits[compile] = Trainer(spec, data, device="cpu", compile=compile, callbacks=[growth]).fit()
plain, compiled = (fits[key].model.state_dict() for key in (False, True))
assert len(made) == 4, len(made)
assert plain.keys() == compiled.keys()
for name, value in plain.items():
    torch.testing.assert_close(compiled[name], value, atol=1e-5, rtol=1e-4)
print(*sorted(fits[True].model.spec.trunk.members))
"""


@pytest.mark.slow
def test_a_compiled_training_follows_births_promotions_and_prunes_to_the_same_weights(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["perceptron_9", "transformer_1"]


CONTROLLED = """
import sys
from functools import partial
from pathlib import Path

import torch

graphs = []


def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward


torch.compile = partial(torch.compile, backend=backend)

from chiasma.adapt.callbacks import callbacks_of
from chiasma.core.spec import replace_at
from chiasma.train.compiling import compiled
from chiasma.train.ranks import ALONE
from chiasma.train.trainer import Trainer
from tests.train.ranks_program import claims, design

torch.set_num_threads(1)
data, spec = claims(Path(sys.argv[1]), ALONE), replace_at(design(accumulation=1, epochs=4), "training.growth", None)
counts = {}
for controls in (None, ["rate", "rates", "decay"]):
    controller = None if controls is None else {"kind": "lstm", "controls": controls, "every": 3, "sample": 16}
    made = replace_at(spec, "training.controller", controller)
    graphs.clear()
    adapting = callbacks_of(made, data, seed=0, precision="float32")
    fit = Trainer(made, data, device="cpu", compile=True, callbacks=adapting).fit()
    counts[bool(controls)] = len(graphs)
print(counts[False], counts[True], fit.steps // 3)
graphs.clear()


class Chain(torch.nn.Module):
    def __init__(self, length):
        super().__init__()
        self.parts = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(length)])

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


for length in range(1, 13):
    compiled(Chain(length))(torch.ones(2, 2))
print(len(graphs))
"""


@pytest.mark.slow
def test_what_a_controller_decides_compiles_nothing_anew(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", CONTROLLED, str(tmp_path)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone, controlled, decisions, changed = (int(word) for word in done.stdout.split())
    assert 0 < alone == controlled
    assert decisions > 8
    # Nor does torch give up on a trunk that has changed more often than it allows for one model.
    assert changed == 12
    assert "recompile_limit" not in done.stderr


@pytest.mark.parametrize(
    ("controls", "remedy"),
    [(("rate", "dropout"), "[rate]"), (("gates",), "[rate]"), (("rates", "gates", "dropout"), "[rates]")],
    ids=str,
)
def test_a_controller_that_would_compile_anew_at_each_decision_is_refused_with_the_remedy(controls, remedy):
    check_compiled(LSTMController(controls=("rate", "rates", "decay")))
    with pytest.raises(ConfigError, match=re.escape(f"run.compile=false or controller.controls={remedy}")):
        check_compiled(LSTMController(controls=controls))
    settings = {"run": {"compile": True}, "controller": {"kind": "lstm", "controls": controls}}
    with pytest.raises(ConfigError, match=r"run\.compile=true and controller\.controls with"):
        RunConfig.from_dict(settings)


def test_a_failure_of_the_compiler_is_its_first_line_with_the_remedy():
    with pytest.raises(CompileError) as caught, compiler_errors():
        raise InductorError(RuntimeError("C++ compile error\n" + "g++ " * 30_000), None)
    assert len(str(caught.value)) < 500
    assert "C++ compile error" in str(caught.value)
    assert str(caught.value).endswith("Do without: --set run.compile=false.")
