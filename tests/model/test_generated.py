"""Generated source as a spec: its identity is its hash, and nothing of it runs before it is approved."""

import hashlib
from pathlib import Path

import pytest
import torch

from chiasma.core.errors import ConfigError, UntrustedSourceError
from chiasma.data.batch import Tokens
from chiasma.model.cost import cost, parameters
from chiasma.model.encoders import NGram, Pixels
from chiasma.model.fusion import Concat, FusionSpec, Generated
from chiasma.model.generated import (
    GeneratedFaultError,
    approve_in_this_process,
    generated_in,
    is_approved,
    unapproved_in,
    withdraw_approval,
)
from chiasma.model.memory import pass_memory
from chiasma.model.multimodal import ModelSpec
from chiasma.store.trust import forget_source, is_trusted, trust_source
from tests.contracts.inputs import signature

SOURCES = sorted((Path(__file__).parents[1] / "assets" / "security").glob("honest_*.py"))
SOURCE = SOURCES[0].read_text()
SHA = hashlib.sha256(SOURCE.encode()).hexdigest()


@pytest.fixture
def approved():
    approve_in_this_process(SHA)
    yield
    withdraw_approval(SHA)


def test_unapproved_source_is_not_run(tmp_path):
    marker = tmp_path / "marker"
    spec = Generated(source=f"open({str(marker)!r}, 'w').close()")
    with pytest.raises(UntrustedSourceError, match=f"Read it; if it is harmless: --trust {spec.sha256}"):
        spec.build(16)
    assert not marker.exists()


def test_the_hash_of_the_text_is_the_identity(approved):
    assert Generated(source=SOURCE).sha256 == SHA
    assert is_approved(SHA)
    other = Generated(source=SOURCE + "\n")
    assert other.content_hash() != Generated(source=SOURCE).content_hash()
    with pytest.raises(UntrustedSourceError):
        other.build(16)


def test_an_approval_is_kept_in_the_state_folder_and_can_be_taken_back(monkeypatch, tmp_path):
    monkeypatch.setenv("CHIASMA_STATE", str(tmp_path))
    assert not is_approved(SHA)
    path = trust_source(SHA)
    assert path == tmp_path / "trusted-sources" / SHA
    assert is_approved(SHA)
    Generated(source=SOURCE).build(16)
    forget_source(SHA)
    forget_source(SHA)
    assert not is_trusted(SHA)


@pytest.mark.parametrize("bad", ["", "abc", SHA.upper(), "../" + SHA, SHA + "/x"])
def test_only_a_whole_hash_can_be_approved(bad: str, tmp_path):
    with pytest.raises(ConfigError, match="a source is approved by its SHA-256 in 64 hexadecimal digits"):
        trust_source(bad, folder=tmp_path)
    assert not is_trusted(bad, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sources_are_found_wherever_they_stand():
    model = ModelSpec(dim=16, encoders={"image": Pixels(size=8), "text": NGram(buckets=16)}, fusion=Concat())
    assert list(generated_in(model)) == []
    other = model.model_copy(update={"fusion": Generated(source=SOURCE)})
    assert [part.sha256 for part in unapproved_in(other)] == [SHA]
    assert ModelSpec.from_json(other.to_json()) == other


def test_several_vectors_become_several_tokens():
    source = next(path.read_text() for path in SOURCES if "several_tokens" in path.name)
    sha = hashlib.sha256(source.encode()).hexdigest()
    approve_in_this_process(sha)
    try:
        fusion = Generated(source=source).build(16).eval()
        x, mask = torch.randn(4, 5, 16), torch.ones(4, 5, dtype=torch.bool)
        mask[1] = False
        out = fusion(Tokens(x, mask), Tokens(x, mask))
    finally:
        withdraw_approval(sha)
    assert out.x.shape == (4, 3, 16)
    assert out.mask.tolist() == [[row != 1] * 3 for row in range(4)]
    assert not out.x[1].any()


def test_a_source_without_the_class_is_named():
    source = "class Other: pass"
    sha = hashlib.sha256(source.encode()).hexdigest()
    approve_in_this_process(sha)
    try:
        with pytest.raises(GeneratedFaultError, match="the source must define the class FusionModule"):
            Generated(source=source).build(16)
    finally:
        withdraw_approval(sha)


def test_it_is_a_member_of_the_union():
    assert Generated.model_fields["kind"].default == "generated"
    assert "Generated" in str(FusionSpec)


def test_what_approved_source_costs_and_keeps_in_memory_is_counted_like_any_part(approved):
    encoders = {"image": Pixels().to_dict(), "text": NGram().to_dict()}
    spec = ModelSpec.from_dict({"dim": 16, "encoders": encoders, "fusion": {"kind": "generated", "source": SOURCE}})
    model = spec.build(signature())
    counted = cost(spec, signature())
    assert (counted.parameters, counted.uncounted) == (parameters(model), ())
    assert counted.flops > 0
    found = pass_memory(spec, signature(), rows=3)
    assert found.weights == sum(4 * value.numel() for value in model.state_dict().values())
