"""Seeds are a function of a path, the same for ever."""

import subprocess
import sys

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from chiasma.core.rng import derive_seed, numpy_rng, seed_torch

parts = st.lists(st.text(max_size=5) | st.integers(), max_size=3)


def test_seeds_never_change_between_versions():
    # Golden values: a change here would make every recorded run impossible to repeat.
    assert derive_seed(0) == 6197007067532723406
    assert derive_seed(0, "shuffle", 3) == 2255779233159609413
    assert derive_seed(2**62, "bild", "ß", -1) == 6455188625612773491


@given(st.integers(0, 2**63 - 1), parts)
def test_a_seed_fits_every_generator_and_database(seed: int, path: list):
    assert 0 <= derive_seed(seed, *path) < 2**63


@given(st.integers(0, 9), parts, st.integers(0, 9), parts)
def test_different_paths_have_different_seeds(first: int, path: list, second: int, other: list):
    same = derive_seed(first, *path) == derive_seed(second, *other)
    assert same == ((first, path) == (second, other))


def test_a_number_and_its_text_are_different_paths():
    assert derive_seed(0, 1) != derive_seed(0, "1")
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")


def test_a_seed_is_the_same_in_another_process():
    code = "from chiasma.core.rng import derive_seed; print(derive_seed(5, 'x', 1))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(answer) == derive_seed(5, "x", 1)


def test_numpy_generators_repeat_for_the_same_path():
    np.testing.assert_array_equal(numpy_rng(1, "a").random(4), numpy_rng(1, "a").random(4))
    assert not np.array_equal(numpy_rng(1, "a").random(4), numpy_rng(1, "b").random(4))


def test_torch_repeats_for_the_same_path():
    seed_torch(1, "dropout", 7)
    first = torch.rand(4)
    seed_torch(1, "dropout", 8)
    other = torch.rand(4)
    seed_torch(1, "dropout", 7)
    assert torch.equal(torch.rand(4), first)
    assert not torch.equal(first, other)
