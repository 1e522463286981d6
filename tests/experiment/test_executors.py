"""Which executor a run gets, and how a resume chooses another."""

import sys

import pytest

from chiasma.core.errors import ConfigError
from chiasma.evaluate.executor import LocalExecutor
from chiasma.experiment.compose import load_config
from chiasma.experiment.config import RunConfig, RunSection
from chiasma.experiment.executors import check_executor, make_executor, with_executor


def test_local_workers_are_the_default(tmp_path):
    with make_executor(RunSection(workers=1), log=tmp_path / "workers.log") as executor:
        assert isinstance(executor, LocalExecutor)


def test_a_missing_ray_is_one_line_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    section = RunSection(executor="ray")
    remedy = r"^run\.executor: ray is not installed\. Run: pip install 'chiasma\[ray\]'$"
    with pytest.raises(ConfigError, match=remedy):
        check_executor(section)
    with pytest.raises(ConfigError, match=remedy):
        make_executor(section, log=tmp_path / "workers.log")
    assert list(tmp_path.iterdir()) == []


def test_an_address_without_ray_is_refused():
    with pytest.raises(ConfigError, match="ray_address=auto needs executor=ray, but executor=local"):
        load_config(overrides=["run.ray_address=auto"])


def test_a_resume_keeps_its_executor_or_takes_another():
    began = RunConfig.from_dict({"run": {"executor": "ray", "ray_address": "10.0.0.1:6379", "workers": 3}})
    assert with_executor(began, None, None) == began
    assert with_executor(began, "local", None).run == RunSection(workers=3)
    elsewhere = RunSection(executor="ray", ray_address="auto", workers=3)
    assert with_executor(began, None, "auto").run == elsewhere
    assert with_executor(RunConfig.from_dict({"run": {"workers": 3}}), None, "auto").run == elsewhere
    with pytest.raises(ConfigError, match=r"run\.executor"):
        with_executor(began, "slurm", None)
