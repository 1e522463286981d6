import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from chiasma.core.errors import DataError
from chiasma.data.feature_store import Encoded, FeatureStore
from chiasma.data.features import Features, import_file
from chiasma.data.signature import TokensInput


def tokens(count=60, n=4, dim=6):
    return np.random.default_rng(0).normal(size=(count, n, dim)).astype(np.float16)


def write(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def test_features_replace_the_images_of_the_rows_they_name(memes, tmp_path):
    values = tokens()
    order = np.random.default_rng(1).permutation(60)
    path = write(tmp_path / "f.npz", tokens=values[order], id=np.array([f"{n:05d}" for n in order]))
    dataset, report = memes.prepare(features={"image": str(path)})
    assert dataset.signature.inputs["image"] == TokensInput(count=4, dim=6)
    rows = dataset.rows("train")
    batch = dataset.batch(rows)
    expected = values[[int(identity) for identity in dataset.ids(rows)]].astype(np.float32)
    assert np.array_equal(batch.inputs["image"].x.numpy(), expected)
    assert batch.inputs["image"].mask.all()
    assert dataset.image_paths(rows)[0].is_file()
    assert any("matched by" in note for note in report.notes)
    with pytest.raises(DataError, match="has no decoded images"):
        dataset.images(rows)


def test_rows_without_features_lack_the_modality(memes, tmp_path):
    path = write(tmp_path / "f.npz", tokens=tokens(30), id=np.array([f"{n:05d}" for n in range(30)]))
    dataset, report = memes.prepare(features={"image": str(path)})
    rows = dataset.rows("train")
    batch = dataset.batch(rows)
    there = [int(identity) < 30 for identity in dataset.ids(rows)]
    assert batch.present["image"].tolist() == there
    assert not batch.inputs["image"].x[~batch.present["image"]].any()
    assert "30 rows without" in report.inputs["image"]


def test_image_files_are_not_needed_where_features_are_given(memes, tmp_path):
    import shutil

    shutil.rmtree(memes.folder / "img")
    path = write(tmp_path / "f.npz", tokens=tokens(), id=np.array([f"{n:05d}" for n in range(60)]))
    dataset, report = memes.prepare(features={"image": str(path)})
    assert report.rows_kept == 60
    assert dataset.batch(dataset.rows("train")).present["image"].all()


def test_features_of_the_text_are_found_by_row_id(memes, tmp_path):
    for row in memes.rows:
        row["id"] = "q" + row["id"]
    path = write(tmp_path / "f.npz", tokens=tokens(), id=np.array([f"q{n:05d}" for n in range(60)]))
    dataset, _ = memes.prepare(features={"text": str(path)})
    assert dataset.signature.inputs["text"] == TokensInput(count=4, dim=6)
    assert dataset.texts([0]) == ["caption number 0"]


def test_masks_and_boxes_come_along(memes, tmp_path):
    mask = np.ones((60, 4), dtype=bool)
    mask[:, 3] = False
    boxes = np.full((60, 4, 5), 0.5, dtype=np.float32)
    names = np.array([f"{n:05d}" for n in range(60)])
    path = write(tmp_path / "f.npz", tokens=tokens(), id=names, mask=mask, boxes=boxes)
    dataset, _ = memes.prepare(features={"image": str(path)})
    batch = dataset.batch(dataset.rows("train")).inputs["image"]
    assert batch.mask[0].tolist() == [True, True, True, False]
    assert not batch.x[:, 3].any()
    assert batch.boxes[0, 0].tolist() == [0.5] * 5
    assert not batch.boxes[:, 3].any()


def test_features_that_fit_no_row_are_refused_with_both_names(memes, tmp_path):
    path = write(tmp_path / "f.npz", tokens=tokens(2), id=np.array(["x", "y"]))
    with pytest.raises(DataError, match=r"No id of .* fits a row: its first is 'x', the table's first '00000'"):
        memes.prepare(features={"image": str(path)})


def test_what_is_saved_is_what_is_read(tmp_path):
    features = Features(("a", "b"), tokens(2), np.array([[True] * 4] * 2), np.zeros((2, 4, 5), np.float32))
    features.save(tmp_path / "f.safetensors")
    again = import_file(tmp_path / "f.safetensors")
    assert again.ids == features.ids
    assert np.array_equal(again.tokens, features.tokens)
    assert np.array_equal(again.mask, features.mask)


class Marker:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_python_objects_are_never_loaded(tmp_path):
    marker = tmp_path / "executed"
    path = write(tmp_path / "f.npz", tokens=np.array([Marker(marker)], dtype=object), id=np.array(["a"]))
    with pytest.raises(DataError, match="holds Python objects, which are never loaded"):
        import_file(path)
    (tmp_path / "g.npz").write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(DataError, match=r"g\.npz holds Python objects"):
        import_file(tmp_path / "g.npz")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"tokens": tokens(2)}, "must hold 'tokens' and 'id', but has tokens"),
        ({"tokens": tokens(2)[0], "id": np.array(["a"])}, r"must be n x N x D floats, but is \(4, 6\) of float16"),
        ({"tokens": np.zeros((2, 1, 1), int), "id": np.array(["a", "b"])}, "floats, but is .* of int64"),
        ({"tokens": tokens(2), "id": np.array(["a"])}, r"must be 2 names, one a row, but is \(1,\)"),
        ({"tokens": tokens(2), "id": np.array(["a", "a"])}, "'a' occurs more than once"),
        ({"tokens": np.full((1, 1, 1), np.nan), "id": np.array(["a"])}, "finite and within float16, but row 'a'"),
        ({"tokens": np.full((1, 1, 1), 1e6), "id": np.array(["a"])}, "finite and within float16, but row 'a'"),
        ({"tokens": tokens(2), "id": np.array([1, 2]), "mask": np.ones(2)}, r"'mask' in .* must be \(2, 4\) booleans"),
        (
            {"tokens": tokens(2), "id": np.array([1, 2]), "boxes": np.ones(2)},
            r"'boxes' .* must be finite and \(2, 4, 5\)",
        ),
    ],
)
def test_features_that_break_a_rule_are_one_line(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        import_file(write(tmp_path / "f.npz", **arrays))


def test_damaged_feature_files_are_one_line(tmp_path):
    path = write(tmp_path / "f.npz", tokens=tokens(2), id=np.array(["a", "b"]))
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(30):
        path.write_bytes(data[: int(rng.integers(len(data)))])
        with pytest.raises(DataError, match=r"damaged|Python objects|must hold"):
            import_file(path)
    save_file({"tokens": tokens(2)}, tmp_path / "g.safetensors", metadata={"id": "[broken"})
    with pytest.raises(DataError, match=r"g.safetensors is damaged"):
        import_file(tmp_path / "g.safetensors")


def encoder(log: list[int]):
    def encode(contents):
        log.append(len(contents))
        return Encoded(np.stack([np.full((2, 3), len(str(content)), np.float32) for content in contents]))

    return encode


def store(folder):
    return FeatureStore(folder, encoder="length", weights="none", preprocessing="none")


def test_each_distinct_content_is_encoded_once(tmp_path):
    log: list[int] = []
    texts = ["a", "bb", "a", "ccc"]
    assert store(tmp_path).extract(texts, encoder(log), batch_size=2).encoded == 3
    assert store(tmp_path).extract(texts, encoder(log)).encoded == 0
    assert sum(log) == 3
    features = store(tmp_path).features(texts, ids=["1", "2", "3", "4"])
    assert features.tokens[:, 0, 0].tolist() == [1, 2, 1, 3]
    assert features.tokens.dtype == np.float16


def test_a_changed_file_is_extracted_again_and_nothing_else(tmp_path):
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.bin")
        files[-1].write_text(f"content {number}")
    log: list[int] = []
    store(tmp_path / "s").extract(files, encoder(log))
    files[2].write_text("changed")
    assert store(tmp_path / "s").missing(files) == [2]
    with pytest.raises(DataError, match="'2' has no tokens yet, or its content has changed since"):
        store(tmp_path / "s").features(files, ids=[str(n) for n in range(5)])
    assert store(tmp_path / "s").extract(files, encoder(log)).encoded == 1


def test_another_encoder_has_tokens_of_its_own(tmp_path):
    store(tmp_path).extract(["a"], encoder([]))
    other = FeatureStore(tmp_path, encoder="length", weights="other", preprocessing="none")
    assert other.missing(["a"]) == [0]


def test_an_encoder_that_changes_its_shape_is_refused(tmp_path):
    store(tmp_path).extract(["a"], encoder([]))
    with pytest.raises(DataError, match=r"must return \(2, 3\) tokens as before, but returned \(9, 3\)"):
        store(tmp_path).extract(["b"], lambda contents: Encoded(np.zeros((len(contents), 9, 3))))
    with pytest.raises(DataError, match="not finite in float16"):
        store(tmp_path).extract(["b"], lambda contents: Encoded(np.full((len(contents), 2, 3), np.inf)))


def test_masks_and_boxes_are_kept_with_the_tokens(tmp_path):
    def encode(contents):
        sizes = [len(text) for text in contents]
        mask = np.array([[place < size for place in range(3)] for size in sizes])
        return Encoded(np.ones((len(sizes), 3, 2)), mask, np.array([[[size / 10] * 5] * 3 for size in sizes]))

    store(tmp_path).extract(["a", "bb"], encode)
    found = store(tmp_path).features(["bb", "a"], ids=["x", "y"])
    assert found.mask is not None
    assert found.mask.tolist() == [[True, True, False], [True, False, False]]
    assert found.boxes is not None
    assert found.boxes[:, 0, 0].tolist() == pytest.approx([0.2, 0.1])
    with pytest.raises(DataError, match=r"must return \(3,\) mask as before, but returned None"):
        store(tmp_path).extract(["c"], lambda contents: Encoded(np.ones((1, 3, 2)), None, np.ones((1, 3, 5))))


def test_a_content_that_cannot_be_prepared_is_left_out_with_its_reason(tmp_path):
    def prepare(text):
        if text == "bad":
            raise DataError("it is bad")
        return text

    done = store(tmp_path).extract(["a", "bad", tmp_path / "none", "bad"], encoder([]), prepare=prepare)
    assert done.encoded == 1
    assert {place: done.problems[place] for place in (1, 3)} == {1: "it is bad", 3: "it is bad"}
    assert "No such file" in done.problems[2]


def test_what_is_encoded_when_the_user_stops_is_kept(tmp_path):
    def progress(line):
        if line == "encoded 4 of 9":
            raise KeyboardInterrupt

    texts = [f"{number}" for number in range(9)]
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path).extract(texts, encoder([]), batch_size=2, progress=progress)
    assert store(tmp_path).missing(texts) == [4, 5, 6, 7, 8]


KILLED = """
import os, signal, sys, time
import numpy as np
from pathlib import Path
from chiasma.data.feature_store import Encoded, FeatureStore
def encode(contents):
    time.sleep(0.02)
    print(len(contents), flush=True)
    return Encoded(np.stack([np.full((2, 3), float(text), np.float32) for text in contents]))
def run():
    store = FeatureStore(Path(sys.argv[1]), encoder="e", weights="w", preprocessing="p")
    return store.extract([str(n) for n in range(200)], encode, batch_size=4, shard_batches=2)
child = os.fork()
if child == 0:
    run()
time.sleep(0.4)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print("killed", flush=True)
run()
"""


@pytest.mark.slow
def test_an_extraction_that_is_killed_continues_where_it_was(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    before, after = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("killed")
    encoded_before, encoded_after = (sum(int(line) for line in part.split()) for part in (before, after))
    assert 0 < encoded_before < 200
    assert 200 <= encoded_before + encoded_after <= 200 + 8
    done = FeatureStore(tmp_path, encoder="e", weights="w", preprocessing="p")
    texts = [str(n) for n in range(200)]
    assert done.features(texts, ids=texts).tokens[:, 0, 0].tolist() == list(range(200))
    assert json.loads((done.folder / "encoder.json").read_text())["encoder"] == "e"
