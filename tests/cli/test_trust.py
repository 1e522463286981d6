"""``--trust`` takes only what its own command holds, and ``chiasma trust`` lists it and takes it back."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
import yaml

from chiasma.experiment.saved import SavedModel
from chiasma.model.fusion import Generated
from chiasma.model.generated import approve_in_this_process, withdraw_approval
from chiasma.store.trust import is_trusted
from tests.cli.conftest import invoke
from tests.evaluate.corpus import OWN

SOURCE = (OWN / "honest_04_hand_written_attention.py").read_text()
SHA = hashlib.sha256(SOURCE.encode()).hexdigest()


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CHIASMA_STATE", str(tmp_path / "state"))
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"model": {"fusion": {"kind": "generated", "source": SOURCE}}}))
    return file


def test_a_hash_of_nothing_in_the_settings_is_refused_and_nothing_is_approved(settings):
    refused = invoke("config", "show", "--config", str(settings), "--trust", "0" * 64)
    assert refused.exit_code == 2
    assert f"names no source here. There are: {SHA} (model.fusion)." in refused.output
    assert not is_trusted("0" * 64)
    assert not is_trusted(SHA)
    assert "There is none." in invoke("config", "show", "--trust", SHA).output
    assert not is_trusted(SHA)


def test_a_source_of_the_settings_is_approved_listed_and_taken_back(settings):
    assert "No generated source may run" in invoke("trust").output
    assert invoke("config", "show", "--config", str(settings), "--trust", SHA[:10]).exit_code == 0
    assert is_trusted(SHA)
    listed = invoke("trust").output
    assert SHA in listed
    assert "model.fusion" in listed
    wrong = invoke("trust", "--withdraw", "00000000")
    assert (wrong.exit_code, f"There are: {SHA} (model.fusion)" in wrong.output) == (2, True)
    assert is_trusted(SHA)
    assert "runs in the jail again" in invoke("trust", "--withdraw", SHA[:8]).output
    assert not is_trusted(SHA)


def test_a_saved_model_is_asked_which_sources_it_holds(trained, settings, tmp_path):
    for verb in (("predict", str(trained), "--text", "a seven"), ("evaluate", str(trained), "--on", "select")):
        refused = invoke(*verb, "--trust", SHA)
        assert (refused.exit_code, "names no source here. There is none." in refused.output) == (2, True), verb
    saved = SavedModel.load(trained / "model", device="cpu")
    approve_in_this_process(SHA)
    try:
        model = saved.model.spec.model_copy(update={"fusion": Generated(source=SOURCE)}).build(saved.signature)
    finally:
        withdraw_approval(SHA)
    dataclasses.replace(saved, model=model).save(tmp_path / "model")
    assert not is_trusted(SHA)
    predicted = invoke("predict", str(tmp_path / "model"), "--text", "a seven", "--trust", SHA[:8])
    assert predicted.exit_code == 0, predicted.output
    assert is_trusted(SHA)
