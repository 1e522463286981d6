"""A compiled training, in a process of its own because the shape checks of tests cannot be compiled."""

import subprocess
import sys
from pathlib import Path

import pytest

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
