"""What the doctor finds, and what it advises."""

import os

import pytest

from chiasma.evaluate.jail import GUARANTEES, Jail, Layers
from chiasma.experiment import doctor


def test_every_check_passes_or_has_a_remedy(tmp_path):
    checks = doctor.examine(tmp_path / "runs", tmp_path / "cache")
    assert [check.name for check in checks if check.state != "ok" and not check.remedy] == []
    assert {check.name for check in checks} >= {"python", "packages", "device", "sqlite", "runs folder", "disk"}


def test_a_folder_that_does_not_exist_yet_is_tried_at_its_parent(tmp_path):
    assert doctor.check_folder("runs folder", tmp_path / "not" / "yet").state == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    check = doctor.check_folder("runs folder", tmp_path)
    assert check.state == "error"
    assert "permission is denied" in check.found


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ("numpy>=1.26", None),
        ("numpy>=99.1", "is older than 99.1"),
        ("no-such-package>=1", "no-such-package is missing"),
        ('ray>=2; extra == "ray"', None),
    ],
)
def test_a_package_is_missing_or_too_old(requirement, reason):
    found = doctor.unmet(requirement)
    assert found == reason if reason is None else reason in found


@pytest.mark.parametrize(
    ("check", "extra"),
    [(doctor.check_ray, "ray"), (doctor.check_wandb, "tracking"), (doctor.check_hydra, "hydra")],
)
def test_an_optional_package_is_said_to_be_there_or_not(check, extra, monkeypatch):
    assert check().state == "ok"
    assert check().found[0].isdigit()
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert f"pip install 'chiasma[{extra}]'" in check().found


def test_shared_memory_that_is_missing_is_no_problem(tmp_path):
    assert doctor.check_shared_memory(tmp_path / "none").state == "ok"


def test_each_guarantee_of_the_jail_is_tried_and_named():
    checks = doctor.check_jail()
    assert [check.name for check in checks] == ["jail", *(f"jail: {name}" for name in GUARANTEES)]
    assert checks[0].found.startswith("full (Landlock") or checks[0].state == "warning"


def test_a_guarantee_that_does_not_hold_is_a_warning_with_a_remedy():
    checks = {check.name: check for check in doctor.check_jail(Jail(layers=Layers.only("descriptors", "limits")))}
    assert checks["jail"].state == "warning"
    assert "without" in checks["jail"].found
    assert checks["jail: kernel"].found == "does not hold: system calls beyond a list are refused"
    assert "Linux 5.13" in checks["jail: kernel"].remedy
    assert checks["jail: environment"].state == "ok"


def test_a_jail_that_does_not_start_is_a_warning():
    check = doctor.check_jail(Jail(warm_up="chiasma.nowhere:nothing"))[0]
    assert check.state == "warning"
    assert "did not start" in check.found
