import errno
from pathlib import Path

import numpy as np
import pytest

from chiasma.core.errors import StorageError
from chiasma.core.files import storage_errors
from chiasma.data.mapped import create_mapped, save_array


@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3), np.zeros((0, 4), np.uint8), np.asfortranarray(np.eye(3))]
)
def test_a_saved_array_is_read_back_by_numpy(tmp_path, array):
    save_array(tmp_path / "a.npy", array)
    again = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_told_apart_from_other_faults():
    with pytest.raises(OSError, match="No space left") as caught:
        save_array(Path("/dev/full"), np.zeros(100_000))
    assert caught.value.errno == errno.ENOSPC
    with (
        pytest.raises(StorageError, match="Cannot write /dev/full: the disk is full"),
        storage_errors(Path("/dev/full")),
    ):
        save_array(Path("/dev/full"), np.zeros(100_000))


def test_a_mapped_array_is_written_in_place(tmp_path):
    create_mapped(tmp_path / "a.npy", shape=(3, 2), dtype=np.uint8)[1] = 7
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 0], [7, 7], [0, 0]]
