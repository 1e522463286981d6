"""Law 6: nothing is ever unpickled, but for byte arrays and plain values, and a file never calls anything."""

import contextlib
import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from chiasma.core.errors import DataError
from chiasma.data.array_pickles import read_array_pickle
from tests.data.official_pickles import write_pickle

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 12)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "batch"


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_a_pickle_of_python_2_gives_its_arrays_numbers_and_strings(path):
    write_pickle(path, {b"data": PIXELS, b"labels": [6, 9], b"filenames": [b"leptodactylus_s_000004.png"]})
    found = read_array_pickle(path)
    assert np.array_equal(found["data"], PIXELS)
    assert found["data"].dtype == np.uint8
    assert found["labels"] == [6, 9]
    assert found["filenames"] == [b"leptodactylus_s_000004.png"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_protocol_is_read(path, protocol):
    arrays = {"rows": PIXELS, "columns": np.asfortranarray(PIXELS), "text": "cat", "bytes": b"cat\xff"}
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = read_array_pickle(path)
    assert np.array_equal(found["rows"], PIXELS)
    assert np.array_equal(found["columns"], PIXELS)
    assert (found["text"], found["bytes"]) == ("cat", b"cat\xff")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "asked"),
    [
        (os.system, r"\w+\.system"),
        (eval, r"\w+\.eval"),
        (exec, r"\w+\.exec"),
        (subprocess.check_call, r"\w+\.check_call"),
        (getattr, r"\w+\.getattr"),
    ],
    ids=["system", "eval", "exec", "subprocess", "getattr"],
)
def test_a_pickle_that_calls_something_is_refused_with_the_file_and_what_it_asked_for(path, function, asked, protocol):
    marker = path.parent / "marker"
    arguments = {os.system: f"touch {marker}", subprocess.check_call: ["touch", str(marker)]}
    call = Calls(function, arguments.get(function, f"open({str(marker)!r}, 'w')"))
    path.write_bytes(pickle.dumps({"data": PIXELS, "labels": call}, protocol=protocol))
    with pytest.raises(DataError, match=f"^{path} asks for {asked}, but a pickle may hold NumPy arrays and plain"):
        read_array_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "value",
    [OrderedDict(a=1), {1, 2}.__class__, np.float64(1.5), Path("x"), np.load],
    ids=["container", "type", "number", "path", "function"],
)
def test_what_is_no_array_and_no_plain_value_is_refused(path, value):
    path.write_bytes(pickle.dumps({"data": value}))
    with pytest.raises(DataError, match=r"batch asks for .*, but a pickle may hold NumPy arrays"):
        read_array_pickle(path)


def test_an_array_of_objects_is_refused(path):
    path.write_bytes(pickle.dumps({"data": np.array([None, "x"], dtype=object)}))
    with pytest.raises(DataError, match=r"must be of unsigned bytes \(u1\), but one is of O8"):
        read_array_pickle(path)


@pytest.mark.parametrize("name", [b"ndarray", b"dtype"])
def test_a_pickle_cannot_change_what_the_next_one_is_read_with(path, name):
    path.write_bytes(b"\x80\x02cnumpy\n" + name + b"\n(N}(X\x04\0\0\0fillX\x01\0\0\0xutb0}.")
    with pytest.raises(DataError, match=r"batch is not a readable pickle: .*__setstate__"):
        read_array_pickle(path)


def test_what_an_allowed_name_holds_is_not_reached(path):
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__doc__\x93.")
    with pytest.raises(DataError, match=r"asks for numpy.ndarray.__doc__"):
        read_array_pickle(path)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_pickle_that_breaks_off_is_one_line(path, share):
    data = pickle.dumps({"data": PIXELS, "labels": [1, 2]}, protocol=2)
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match="batch is not a readable pickle: "):
        read_array_pickle(path)


def test_random_damage_is_a_wrong_value_or_one_line(path):
    data = pickle.dumps({"data": PIXELS, "labels": [1, 2], "text": "words"}, protocol=2)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[int(rng.integers(len(data)))] = int(rng.integers(256))
        path.write_bytes(damaged)
        # Any other error fails the test.
        with contextlib.suppress(DataError):
            read_array_pickle(path)


def test_a_pickle_without_a_dictionary_is_refused(path):
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="batch must hold a dictionary, but holds a list"):
        read_array_pickle(path)


def test_a_missing_file_is_one_line(path):
    with pytest.raises(DataError, match="batch cannot be read: No such file"):
        read_array_pickle(path)
