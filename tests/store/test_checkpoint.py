"""Checkpoints are whole, verified, and never run code."""

import fcntl
import hashlib
import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch

from benchmarks.faults_store import damage, plant_pickles, save_small
from chiasma.core.errors import CorruptFileError
from chiasma.store.checkpoint import Checkpoint, any_saved, load_checkpoint, load_newest, save_checkpoint, verify


def newest(folder: Path) -> Checkpoint:
    found = load_newest(folder)
    assert found is not None
    return found


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def forge(path: Path, name: str, data: bytes, *, kind: str = "tensors", rename: str | None = None) -> None:
    """Replace a file and make the manifest agree, as an attacker would."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"].pop(name, None)
    entry = {"kind": kind, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"][name if rename is None else rename] = entry
    sealed = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    manifest["sha256"] = hashlib.sha256(sealed).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    if rename is None:
        (path / name).write_bytes(data)


def test_everything_comes_back_bit_for_bit(tmp_path: Path):
    tensors = {
        "weight": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "count": torch.tensor(7),
        "seen": torch.tensor([True, False]),
        "empty": torch.zeros(0, 2),
    }
    documents = {"progress": {"loss": 0.1 + 0.2, "names": ["ß", "\u0000"], "best": None}}
    save_checkpoint(tmp_path, 3, tensors={"model": tensors}, documents=documents, files={"tokenizer.json": b"\x00{"})
    found = newest(tmp_path)
    assert (found.step, found.documents, found.files) == (3, documents, {"tokenizer.json": b"\x00{"})
    restored = found.tensors("model")
    assert restored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert restored[name].dtype == tensor.dtype
        assert torch.equal(restored[name], tensor)


def test_tied_and_transposed_weights_are_saved(tmp_path: Path):
    weight = torch.randn(3, 4)
    save_checkpoint(tmp_path, 0, tensors={"model": {"a": weight, "b": weight, "c": weight.T}}, documents={})
    restored = newest(tmp_path).tensors("model")
    assert torch.equal(restored["b"], weight)
    assert torch.equal(restored["c"], weight.T)


def test_nothing_is_found_where_nothing_was_saved(tmp_path: Path):
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "missing") is None
    (tmp_path / "step-00000003.tmp").mkdir()
    assert not any_saved(tmp_path)
    assert not any_saved(tmp_path / "missing")
    save_small(tmp_path, 3)
    assert any_saved(tmp_path)


def test_the_newest_few_are_kept(tmp_path: Path):
    for step in (1, 2, 10, 11):
        save_small(tmp_path, step, keep=2)
    assert steps(tmp_path) == ["step-00000010", "step-00000011"]
    save_small(tmp_path, 12, keep=1)
    assert steps(tmp_path) == ["step-00000012"]


def test_the_same_step_can_be_saved_again_without_a_moment_in_which_it_is_gone(tmp_path: Path):
    save_small(tmp_path, 5)
    later = save_checkpoint(tmp_path, 5, tensors={}, documents={"again": True})
    assert newest(tmp_path).path == later
    assert newest(tmp_path).documents == {"again": True}


def test_a_rewound_training_replaces_the_later_past(tmp_path: Path):
    for step in (100, 110, 120):
        save_small(tmp_path, step, keep=3)
    save_small(tmp_path, 105, keep=3)
    assert steps(tmp_path) == ["step-00000100", "step-00000105"]


def test_a_damaged_newest_one_falls_back_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save_small(tmp_path, 1)
    path = save_small(tmp_path, 2)
    (path / "model.safetensors").write_bytes(b"short")
    with caplog.at_level(logging.WARNING):
        found = newest(tmp_path)
    assert found.step == 1
    assert [item.path for item in found.skipped] == [path]
    assert f"{path / 'model.safetensors'} is damaged: it has 5 bytes, but " in found.skipped[0].reason
    assert "step-00000002 is damaged and is skipped" in caplog.text


def test_when_all_are_damaged_nothing_is_started_over_silently(tmp_path: Path):
    (save_small(tmp_path, 1) / "design.json").unlink()
    with pytest.raises(CorruptFileError, match=r"All 1 checkpoints in .* are damaged; .*design\.json is missing"):
        load_newest(tmp_path)


def test_a_damaged_one_that_was_passed_over_is_replaced_by_the_next_save(tmp_path: Path):
    save_small(tmp_path, 1, keep=1)
    path = save_small(tmp_path, 9, keep=2)
    (path / "design.json").write_text("{}")
    save_small(tmp_path, 2, keep=1)
    assert steps(tmp_path) == ["step-00000002"]


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path):
    tally = damage(tmp_path, flips=300, truncations=100)
    assert (tally.faults, tally.bad, tally.notes) == (400, 0, [])


def test_swapped_files_are_found(tmp_path: Path):
    path = save_small(tmp_path, 1)
    first, second = (path / "model.safetensors").read_bytes(), (path / "optimizer.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(second)
    (path / "optimizer.safetensors").write_bytes(first)
    with pytest.raises(CorruptFileError, match=r"safetensors is damaged"):
        load_checkpoint(path)


def test_a_renamed_checkpoint_is_refused(tmp_path: Path):
    path = save_small(tmp_path, 1)
    os.rename(path, tmp_path / "step-00000002")
    with pytest.raises(CorruptFileError, match="says it was saved at step 1, but its name says 2"):
        load_checkpoint(tmp_path / "step-00000002")


def test_a_manifest_with_a_key_twice_is_refused(tmp_path: Path):
    path = save_small(tmp_path, 1)
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"step": 1', '"step": 9,\n "step": 1'))
    with pytest.raises(CorruptFileError, match=r"manifest\.json .*key 'step' is there twice"):
        load_checkpoint(path)


def test_a_document_with_a_key_twice_is_refused_even_with_a_matching_hash(tmp_path: Path):
    path = save_small(tmp_path, 1)
    forge(path, "design.json", b'{"step":1,"step":2}', kind="document")
    with pytest.raises(CorruptFileError, match=r"design\.json .*key 'step' is there twice"):
        load_checkpoint(path)


def test_files_that_are_not_listed_are_refused(tmp_path: Path):
    path = save_small(tmp_path, 1)
    (path / "extra.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"extra\.json is not in the manifest"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "a/b.json", "..", ".hidden", "a\\b", "", "a\nb"])
def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path, name: str):
    path = save_small(tmp_path, 1)
    (tmp_path / "outside.json").write_text("{}")
    forge(path, "design.json", b"{}", kind="document", rename=name)
    with pytest.raises(CorruptFileError, match=r"manifest\.json is refused: file name .* is not made of"):
        load_checkpoint(path)


def test_links_are_not_followed(tmp_path: Path):
    path = save_small(tmp_path, 1)
    outside = tmp_path / "outside"
    outside.write_bytes((path / "design.json").read_bytes())
    (path / "design.json").unlink()
    (path / "design.json").symlink_to(outside)
    with pytest.raises(CorruptFileError, match=r"design\.json is not a plain file"):
        load_checkpoint(path)
    (tmp_path / "step-00000009").symlink_to(path)
    with pytest.raises(CorruptFileError, match="is not a checkpoint folder"):
        load_checkpoint(tmp_path / "step-00000009")


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path):
    path = save_small(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["format"] = 2
    manifest["sha256"] = hashlib.sha256(
        json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    with pytest.raises(CorruptFileError, match="has format 2, but this chiasma reads format 1"):
        load_checkpoint(path)


def test_a_pickle_is_never_executed(tmp_path: Path):
    tally = plant_pickles(tmp_path)
    assert (tally.bad, tally.faults) == (0, 14)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pickle.dumps([1, 2, 3]), "its header would have"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "its header would have 4611686018427387904 of 10 bytes"),
        ((17 << 20).to_bytes(8, "little") + b"{" * (17 << 20), "has a header of 17825792 bytes, but at most 16777216"),
        ((100_001).to_bytes(8, "little") + b'{"a":' + b"[" * 99_996, "nested too deeply"),
        ((3).to_bytes(8, "little") + b"[1]", "its header is not JSON"),
        (b"\x00", "its header would have"),
    ],
)
def test_a_header_that_could_exhaust_the_reader_is_refused_even_with_a_matching_hash(
    tmp_path: Path, data: bytes, reason: str
):
    path = save_small(tmp_path, 1)
    forge(path, "model.safetensors", data)
    with pytest.raises(CorruptFileError, match=reason):
        load_checkpoint(path)


def test_a_header_that_lies_about_its_tensors_is_refused_when_they_are_read(tmp_path: Path):
    path = save_small(tmp_path, 1)
    header = b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4]}}'
    forge(path, "model.safetensors", len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(CorruptFileError, match=r"model\.safetensors is not a usable safetensors file"):
        load_checkpoint(path).tensors("model")


def test_tensors_are_verified_again_while_they_are_read(tmp_path: Path):
    path = save_small(tmp_path, 1)
    found = load_checkpoint(path)
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(CorruptFileError, match="SHA-256"):
        found.tensors("model")


def test_unknown_tensors_are_named_with_those_there_are(tmp_path: Path):
    save_small(tmp_path, 1)
    with pytest.raises(ValueError, match=r"has no tensors 'ema'; it has: model, optimizer\."):
        newest(tmp_path).tensors("ema")


@pytest.mark.parametrize(
    ("documents", "files", "message"),
    [
        ({"../a": {}}, {}, r"file name '\.\./a\.json' is not made of"),
        ({"manifest": {}}, {}, "is taken by the manifest"),
        ({"a": {}}, {"a.json": b""}, r"file name 'a\.json' is used twice"),
        ({"a": float("nan")}, {}, "Document 'a' of a checkpoint must be plain JSON"),
        ({"a": object()}, {}, "Document 'a' of a checkpoint must be plain JSON"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_saved(tmp_path: Path, documents: dict, files: dict, message: str):
    save_small(tmp_path, 1)
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path, 2, tensors={}, documents=documents, files=files)
    assert steps(tmp_path) == ["step-00000001"]


def test_at_least_one_checkpoint_is_kept(tmp_path: Path):
    with pytest.raises(ValueError, match="keep must be at least 1, but keep=0"):
        save_checkpoint(tmp_path, 1, tensors={}, documents={}, keep=0)


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path):
    save_small(tmp_path, 1)
    (tmp_path / "step-00000002.tmp").mkdir()
    (tmp_path / "step-00000002.tmp" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "step-00000003.tmp").mkdir()
    living = os.open(tmp_path / "step-00000003.tmp", os.O_RDONLY)
    fcntl.flock(living, fcntl.LOCK_EX)
    assert newest(tmp_path).step == 1
    assert steps(tmp_path) == ["step-00000001", "step-00000003.tmp"]
    os.close(living)
    save_small(tmp_path, 4)
    assert steps(tmp_path) == ["step-00000001", "step-00000004"]


def test_everything_is_on_disk_before_the_checkpoint_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A kill cannot show a missing sync, only a power cut could: so the calls themselves are watched.
    calls: list[str] = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), sync(fd)))
    monkeypatch.setattr(os, "rename", lambda old, new: (calls.append(f"rename to {new.name}"), rename(old, new)))
    save_checkpoint(tmp_path, 1, tensors={"model": {}}, documents={"a": 1}, files={"b": b""})
    assert calls == [
        *("model.safetensors", "a.json", "b", "manifest.json"),
        *("step-00000001.tmp", "rename to step-00000001", tmp_path.name),
    ]


def test_a_disk_that_changes_what_was_written_costs_no_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_small(tmp_path, 1, keep=1)
    sync = os.fsync

    def forget_a_byte(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)
        if path.name == "model.safetensors":
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")

    monkeypatch.setattr(os, "fsync", forget_a_byte)
    with pytest.raises(CorruptFileError, match=r"step-00000002/model\.safetensors is damaged"):
        save_small(tmp_path, 2, keep=1)
    assert newest(tmp_path).step == 1


def test_verify_reads_every_file(tmp_path: Path):
    path = save_small(tmp_path, 1)
    assert sorted(verify(path).files) == [
        "design.json",
        "model.safetensors",
        "optimizer.safetensors",
        "progress.json",
        "tokenizer.bin",
    ]
