"""Devices and precision."""

import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.train.devices import autocast, check_precision, environment, pick_device


def test_auto_takes_the_best_device_there_is():
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device("auto").type == best
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("name", "hint"), [("gpu", "'cpu'"), ("cuda:x", "'cuda'"), ("cpu:1", "'cpu'")])
def test_an_unknown_device_is_refused_with_a_suggestion(name: str, hint: str):
    with pytest.raises(ConfigError, match=rf"device: '{name}' is unknown\. Did you mean {hint}"):
        pick_device(name)


def test_a_device_that_this_machine_lacks_is_refused_with_what_it_has():
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ConfigError, match=rf"device: '{missing}' is not available; torch .* sees .*cpu"):
        pick_device(missing)


def test_an_unknown_precision_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"precision: 'float8' is unknown\. Did you mean 'float"):
        check_precision("float8")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_matrix_products_run_in_the_precision_asked_for(precision, expected: torch.dtype):
    with autocast(torch.device("cpu"), precision):
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == expected


def test_the_environment_names_what_bits_depend_on():
    here = environment(torch.device("cpu"), "bfloat16", ranks=1)
    assert here["torch"] == torch.__version__
    assert (here["device"], here["precision"], here["threads"]) == ("cpu", "bfloat16", torch.get_num_threads())
