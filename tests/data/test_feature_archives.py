"""Regions in HDF5 and LMDB as others hand them on, and files that mean harm."""

import os
import pickle

import h5py
import lmdb
import numpy as np
import pytest

from chiasma.core.errors import DataError
from chiasma.data.features import import_file

NAMES = ("01235", "42953")
COUNTS = (3, 2)
SIZES = ((200, 100), (50, 80))
"""Width and height of each image."""


def features(count=3):
    return np.random.default_rng(0).normal(size=(2, count, 4)).astype(np.float32)


def boxes():
    """Return boxes in pixels: the left half of each image, again and again."""
    return np.array([[[0, 0, width / 2, height]] * 3 for width, height in SIZES], np.float32)


def flat(path, **changes):
    width, height = np.array(SIZES).T
    values = {
        "image_id": np.array(NAMES, dtype="S"),
        "features": features(),
        "boxes": boxes(),
        "image_w": width,
        "image_h": height,
        "num_boxes": np.array(COUNTS),
    }
    with h5py.File(path, "w") as file:
        for name, value in (values | changes).items():
            if value is not None:
                file[name] = value
    return path


def grouped(path):
    with h5py.File(path, "w") as file:
        for row, name in enumerate(NAMES):
            group = file.create_group(name)
            group["features"], group["bbox"] = features()[row, : COUNTS[row]], boxes()[row, : COUNTS[row]]
            group["image_width"], group["image_height"] = SIZES[row]
    return path


def mmf(path, **changes):
    """Write LMDB as MMF's own script does."""
    with lmdb.open(str(path), map_size=2**20) as environment, environment.begin(write=True) as transaction:
        for row, name in enumerate(NAMES):
            item = {
                "feature_path": name,
                "features": features()[row],
                "image_height": SIZES[row][1],
                "image_width": SIZES[row][0],
                "num_boxes": np.int64(COUNTS[row]),
                "objects": np.arange(3),
                "cls_prob": np.ones((3, 5), np.float32),
                "bbox": boxes()[row],
            }
            transaction.put(name.encode(), pickle.dumps(item | changes))
        transaction.put(b"keys", pickle.dumps([name.encode() for name in NAMES]))
    return path


@pytest.mark.parametrize(("write", "name"), [(flat, "f.h5"), (grouped, "f.hdf5"), (mmf, "f.lmdb")])
def test_regions_come_with_masks_and_boxes_in_parts_of_their_own_image(tmp_path, write, name):
    found = import_file(write(tmp_path / name))
    assert found.ids == NAMES
    assert found.mask is not None
    assert found.boxes is not None
    assert found.mask.tolist() == [[True] * 3, [True, True, False]]
    expected = features()
    expected[1, 2] = 0
    assert np.abs(found.tokens - expected).max() < 2e-3
    assert found.boxes[0, 0].tolist() == found.boxes[1, 1].tolist() == [0, 0, 0.5, 1, 0.5]
    assert not found.boxes[1, 2].any()


def test_one_file_of_lmdb_is_read_like_its_folder(tmp_path):
    folder = mmf(tmp_path / "f.lmdb")
    assert import_file(folder / "data.mdb").ids == NAMES


def test_regions_without_boxes_are_read_too(tmp_path):
    found = import_file(flat(tmp_path / "f.h5", boxes=None, image_w=None, num_boxes=None))
    assert found.boxes is None
    assert found.mask is not None
    assert found.mask.all()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_values_of_any_protocol_and_type_are_read(tmp_path, monkeypatch, protocol):
    monkeypatch.setattr(pickle, "DEFAULT_PROTOCOL", protocol)
    whole = pickle.dumps
    monkeypatch.setattr(pickle, "dumps", lambda value: whole(value, protocol=protocol))
    found = import_file(mmf(tmp_path / "f.lmdb", features=features()[0].astype(">f8")))
    assert np.abs(found.tokens[0] - features()[0]).max() < 2e-3
    assert found.mask is not None
    assert found.mask.sum() == sum(COUNTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": None}, "holds 'features', but none of image_id"),
        ({"num_boxes": np.array([1, 2, 3])}, "has 2 rows of features, but 3 of count"),
        ({"image_w": None}, r"'01235' has boxes, but no size of its image"),
        ({"image_h": np.array([0, 3])}, r"'01235' has boxes, but no size of its image"),
        ({"boxes": np.zeros((2, 3, 5))}, r"the boxes of '01235' must be 3 x 4 pixels, but are \(3, 5\)"),
        ({"features": np.zeros((2, 3, 4), int)}, r"must be N x D floats, but are \(3, 4\) of int64"),
        ({"features": np.full((2, 3, 4), np.inf)}, "must be finite and within float16, but row '01235'"),
        ({"image_id": np.array(["a", "a"], dtype="S")}, "'a' occurs more than once"),
    ],
)
def test_hdf5_that_breaks_a_rule_is_one_line(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        import_file(flat(tmp_path / "f.h5", **changes))


def test_nothing_outside_an_hdf5_file_is_read(tmp_path):
    flat(tmp_path / "secret.h5")
    (tmp_path / "secret.raw").write_bytes(features().tobytes())
    for kind in ("link", "external", "virtual"):
        path = flat(tmp_path / f"{kind}.h5", features=None)
        with h5py.File(path, "a") as file:
            if kind == "link":
                file["features"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "features")
            elif kind == "external":
                raw = [(str(tmp_path / "secret.raw"), 0, h5py.h5f.UNLIMITED)]
                file.create_dataset("features", (2, 3, 4), np.float32, external=raw)
            else:
                layout = h5py.VirtualLayout((2, 3, 4), np.float32)
                layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "features", (2, 3, 4))
                file.create_virtual_dataset("features", layout)
        with pytest.raises(DataError, match="'features' leads out of the file, which is not followed"):
            import_file(path)


class Marker:
    """Would make a folder if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("place", ["bbox", "objects", "features"])
def test_a_value_with_code_in_it_is_refused_and_nothing_runs(tmp_path, place):
    path = mmf(tmp_path / "f.lmdb", **{place: Marker(tmp_path / "executed")})
    with pytest.raises(DataError, match=r"'01235', asks for \w+\.mkdir, but a pickle may hold NumPy arrays"):
        import_file(path)
    assert not (tmp_path / "executed").exists()


def test_values_that_break_a_rule_are_one_line(tmp_path):
    nested = np.array([{"features": 3}], dtype=object)
    with pytest.raises(DataError, match="its arrays must be of numbers, but one is of O8"):
        import_file(mmf(tmp_path / "f.lmdb", features=nested))
    with pytest.raises(DataError, match=r"must be N x D floats, but are \(1, 3, 4\)"):
        import_file(mmf(tmp_path / "g.lmdb", features=features()[:1]))
    with pytest.raises(DataError, match=r"h.lmdb is damaged: int\(\) argument"):
        import_file(mmf(tmp_path / "h.lmdb", num_boxes=[3]))


def test_damaged_archives_are_one_line(tmp_path):
    whole = flat(tmp_path / "f.h5").read_bytes()
    (tmp_path / "g.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "h.lmdb").mkdir()
    (tmp_path / "h.lmdb" / "data.mdb").write_bytes(b"no database" * 1000)
    for name in ("g.h5", "h.lmdb"):
        with pytest.raises(DataError, match=f"{name} is damaged: "):
            import_file(tmp_path / name)
    with pytest.raises(DataError, match="does not exist"):
        import_file(tmp_path / "none.lmdb")
    (tmp_path / "x.pkl").touch()
    with pytest.raises(DataError, match=r"must end in one of \.npz, \.safetensors, \.h5"):
        import_file(tmp_path / "x.pkl")


def test_regions_in_lmdb_can_be_trained_on(memes, tmp_path):
    path = tmp_path / "f.lmdb"
    with lmdb.open(str(path), map_size=2**20) as environment, environment.begin(write=True) as transaction:
        for number in range(60):
            values = {"features": np.full((2, 3), number, np.float32), "num_boxes": 1 + number % 2}
            transaction.put(f"{number:05d}".encode(), pickle.dumps(values))
    dataset, report = memes.prepare(features={"image": str(path)})
    rows = dataset.rows("train")
    batch = dataset.batch(rows)
    assert batch.inputs["image"].x[:, 0, 0].tolist() == [float(identity) for identity in dataset.ids(rows)]
    assert batch.inputs["image"].mask.sum(1).tolist() == [1 + int(identity) % 2 for identity in dataset.ids(rows)]
    assert any("matched by" in note for note in report.notes)
