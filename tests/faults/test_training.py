"""What the benchmarks of faults in trainings count, they notice; the counts: ``benchmarks/faults_training.py``."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from torch import nn

from benchmarks.faults_ranks import two_together
from chiasma.train.optim import NamedOptimizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the benchmark, which imports its neighbours as a script does."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("faults_training")


@pytest.mark.slow
def test_one_number_that_differs_on_one_rank_is_noticed_before_wrapping_anew_would_hide_it():
    seen = two_together(changes=4, plants=["none", "weights", "averages", "moments"])
    assert seen is not None
    for each in seen:
        calm, weights, averages, moments = each["differing"]
        assert calm == []
        assert weights == ["weights"]
        assert averages == ["averages"]
        assert {"averages", "moments"} <= set(moments)
        assert each["noticed"]


@pytest.mark.slow
def test_a_rank_that_never_answers_counts_as_hanging():
    assert two_together(changes=1, plants=["hang"], patience=15) is None


def test_moments_follow_parameters_that_are_replaced_under_their_own_name(faults: ModuleType):
    found = [faults.moments_mismatched(np.random.default_rng(trial)) for trial in range(6)]
    assert sum(wrong for wrong, _ in found) == 0
    assert sum(reshaped for _, reshaped in found) > 6


def test_moments_that_follow_the_position_are_noticed(faults: ModuleType):
    def by_position(optimizer: NamedOptimizer, model: nn.Module) -> NamedOptimizer:
        following, known = NamedOptimizer(model, optimizer.spec), optimizer.state()
        pairs = zip(optimizer.parameters.items(), following.parameters.items(), strict=False)
        places = {old: new for (old, was), (new, now) in pairs if was.shape == now.shape}
        named = {entry: entry.rpartition("/")[::2] for entry in known}
        following.load_state({f"{places[n]}/{key}": known[e] for e, (n, key) in named.items() if n in places})
        return following

    wrong = sum(faults.moments_mismatched(np.random.default_rng(trial), by_position)[0] for trial in range(6))
    assert wrong > 0
