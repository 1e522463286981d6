"""Law 8: no knob is dead."""

import pytest

from chiasma.experiment.config import RunConfig
from tests.experiment.knobs import KNOBS, NOT_TRIED, SECTIONS_READ_BY_DRIVERS, Bench, fields_that_are_read, settings


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def test_every_setting_says_how_it_is_seen():
    unseen = [path for path in settings() if path not in KNOBS and not path.startswith(SECTIONS_READ_BY_DRIVERS)]
    assert unseen == list(NOT_TRIED)


def test_no_setting_is_listed_that_is_gone():
    assert set(KNOBS) | set(NOT_TRIED) <= set(settings())


@pytest.mark.parametrize("path", KNOBS)
def test_changing_a_setting_changes_something(bench, path):
    knob = KNOBS[path]
    first, second = (bench.observe(path, {**knob.base, path: value}) for value in knob.values)
    assert first != second


def test_without_a_change_nothing_changes(bench):
    config = bench.config({"train.epochs": 1, "model.dim": 16})
    assert bench.prepared(config) == bench.prepared(config)
    assert bench.trained(config) == bench.trained(config)


@pytest.mark.parametrize("path", [p for p in settings() if p.startswith(SECTIONS_READ_BY_DRIVERS) and p not in KNOBS])
def test_the_drivers_read_a_setting(path):
    assert path in fields_that_are_read()


def test_the_sections_are_those_of_the_design():
    sections = ["data", "model", "optim", "train", "growth", "controller", "search"]
    sections += ["llm", "evaluate", "tracking", "run"]
    assert list(RunConfig.model_fields) == sections
