import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from chiasma.core.errors import StorageError
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec, from_frame
from chiasma.data.prepare import prepare, prepared_folder


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "prepared").iterdir() if path.name != "images")


def test_the_second_call_opens_what_the_first_prepared(memes):
    spec, cache, lines = memes.spec(), memes.folder / "cache", []
    first, report = prepare(spec, seed=0, cache=cache)
    start = time.perf_counter()
    second, again = prepare(spec, seed=0, cache=cache, progress=lines.append)
    assert time.perf_counter() - start < 1
    assert lines == []
    assert (first.folder, report) == (second.folder, again)
    assert len(folders(cache)) == 1


def test_a_changed_image_is_noticed(memes):
    first, _ = memes.prepare()
    (memes.folder / "img/00001.png").write_bytes((memes.folder / "img/00002.png").read_bytes())
    second, _ = memes.prepare()
    assert first.key != second.key


def test_an_image_that_appears_is_noticed(memes):
    path = memes.folder / "img/00001.png"
    data = path.read_bytes()
    path.unlink()
    _, before = memes.prepare()
    path.write_bytes(data)
    _, after = memes.prepare()
    assert "rows whose image file is missing, kept with their text alone" in before.counts
    assert not any("missing" in name for name in after.counts)


def test_a_changed_row_setting_or_seed_gives_another_dataset(memes):
    spec, cache = memes.spec(), memes.folder / "cache"
    keys = {prepare(spec, seed=seed, cache=cache)[0].key for seed in (0, 1)}
    keys.add(memes.prepare(lowercase=False)[0].key)
    memes.rows[0]["text"] = "another caption"
    keys.add(memes.prepare()[0].key)
    assert len(keys) == 4


PREPARE = """
import sys
from pathlib import Path
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
def run():
    prepare(DataSpec.from_json(sys.argv[1]), seed=0, cache=Path(sys.argv[2]))
"""

KILL = """
import os, signal, time
for delay in (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7):
    child = os.fork()
    if child == 0:
        run()
        os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_another_process_prepares_identical_files(memes, tmp_path):
    spec = memes.spec()
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", PREPARE + "run()", spec.to_json(), str(tmp_path)]
    subprocess.run(command, check=True, env=environment)
    ours, _ = memes.prepare()
    theirs = tmp_path / "prepared" / ours.key
    for path in ours.folder.glob("*"):
        if path.name not in ("dataset.json", "report.json"):
            assert (theirs / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_no_half_made_dataset(make_memes):
    memes = make_memes(400)
    spec, cache = memes.spec(), memes.folder / "cache"
    subprocess.run([sys.executable, "-c", PREPARE + KILL, spec.to_json(), str(cache)], check=True)
    dataset, report = prepare(spec, seed=0, cache=cache)
    assert report.rows_kept == 400
    assert folders(cache) == [dataset.folder.name]
    Dataset.open(dataset.folder, verify=True)


def test_a_damaged_dataset_is_prepared_again_and_says_so(memes):
    spec, cache, lines = memes.spec(), memes.folder / "cache", []
    dataset, _ = prepare(spec, seed=0, cache=cache)
    path = dataset.folder / "image.data.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(bytes(data))
    prepare(spec, seed=0, cache=cache, progress=lines.append)
    assert "image.data.npy is not the file that was written: its SHA-256 differs. Preparing again." in lines[0]
    data[-1] ^= 255
    assert path.read_bytes() == bytes(data)


def test_a_cache_that_cannot_be_written_is_one_line(memes):
    (memes.folder / "cache").write_text("a file")
    with pytest.raises(StorageError, match="Cannot write"):
        memes.prepare()


def test_a_frame_in_memory_is_prepared_like_a_file(memes, tmp_path):
    spec = memes.spec()
    frame = pd.DataFrame(memes.rows)
    in_memory = DataSpec(source="frame", image_dir=str(memes.folder))
    first, _ = prepare(spec, seed=0, cache=tmp_path)
    second, _ = prepare(in_memory, seed=0, cache=tmp_path, table=from_frame(frame, in_memory))
    assert first.fingerprint == second.fingerprint
    assert first.ids(first.rows("train")) == second.ids(second.rows("train"))


def test_a_limit_of_rows_is_told(memes):
    _, report = memes.prepare(rows=40)
    assert report.rows_read == 40
    assert "Only 40 of 60 rows are used, as data.rows says." in report.notes


def test_the_report_reads_as_lines(memes):
    memes.rows[5]["text"] = "nul\0"
    _, report = memes.prepare()
    lines = report.lines()
    assert "60 rows read, 59 kept" in lines[0]
    assert "task: classification, because label holds words" in lines
    assert "set aside, text holds NUL bytes: 1" in lines


def test_a_dataset_is_found_by_its_key(memes):
    dataset, _ = memes.prepare()
    assert prepared_folder(memes.folder / "cache", dataset.key) == dataset.folder
