"""Predictions for a manifest: in order, none lost, a reason for every row that cannot be read."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.manifest import Columns
from chiasma.experiment.answers import write_predictions
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.predict import predict_manifest, predict_one
from tests.experiment.small_model import classifier, token_classifier


def picture(folder: Path, name: str, seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return name


def manifest(folder: Path, *rows: dict | str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def predicted(path: Path, **options):
    return predict_manifest(classifier(), path, console=SilentConsole(), **options)


def test_one_image_and_text_give_a_label_with_probabilities(tmp_path):
    answer = predict_one(classifier(), image=tmp_path / picture(tmp_path, "a.png"), text="a red bird")
    assert answer.prediction in ("no", "yes")
    assert sum(answer.scores.values()) == pytest.approx(1)


def test_one_missing_image_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"The image .*a\.png cannot be read: No such file"):
        predict_one(classifier(), image=tmp_path / "a.png", text=None)


def test_bad_rows_keep_their_place_and_get_a_reason(tmp_path):
    good = picture(tmp_path, "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / good).read_bytes()[:60])
    rows = predicted(
        manifest(
            tmp_path,
            {"id": "1", "img": good, "text": "a red bird"},
            {"id": "2", "img": "cut.png", "text": "a red bird"},
            "{not json",
            {"id": "4", "img": "../outside.png", "text": "a"},
            {"id": "5", "img": "gone.png"},
            {"id": "6"},
            {"id": "7", "text": "only text"},
        )
    )
    assert [row.id for row in rows] == ["1", "2", "line-3", "4", "5", "6", "7"]
    assert [row.answer is not None for row in rows] == [True, False, False, False, False, False, True]
    reasons = [row.error or "" for row in rows]
    for place, words in {1: "damaged image", 2: "line 3", 3: "outside", 4: "cannot be read", 5: "nothing"}.items():
        assert words in reasons[place]


def test_more_rows_than_a_batch_keep_their_order(tmp_path):
    rows = predicted(manifest(tmp_path, *({"id": str(k), "text": "a bird"} for k in range(150))))
    assert [row.id for row in rows] == [str(k) for k in range(150)]


def test_equal_ids_are_not_merged(tmp_path):
    assert len(predicted(manifest(tmp_path, {"id": "a", "text": "x"}, {"id": "a", "text": "y"}))) == 2


def test_columns_can_be_named(tmp_path):
    path = manifest(tmp_path, {"key": "k1", "caption": "a bird"})
    assert predicted(path, columns=Columns(id="key", text=("caption",)))[0].id == "k1"


def test_a_manifest_without_a_column_that_the_model_reads_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no column named img, image or text"):
        predicted(manifest(tmp_path, {"caption": "a bird"}))


def test_csv_has_a_column_for_each_label(tmp_path):
    rows = predicted(manifest(tmp_path, {"id": "1", "text": "a bird"}, {"id": "2", "img": "gone.png"}))
    write_predictions(rows, classifier(), kind="csv", out=tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["no"]) + float(first["yes"]) == pytest.approx(1, abs=1e-5)
    assert float(first["probability"]) == pytest.approx(float(first[first["prediction"]]))
    assert (second["prediction"], second["yes"]) == ("", "")
    assert "gone.png" in second["error"]


def test_json_lines_say_the_same(tmp_path):
    rows = predicted(manifest(tmp_path, {"id": "1", "text": "a bird"}, {"id": "2", "img": "gone.png"}))
    text = write_predictions(rows, classifier(), kind="jsonl", out=None)
    first, second = map(json.loads, text.splitlines())
    assert set(first) == {"id", "prediction", "scores"}
    assert set(second) == {"id", "error"}


def test_a_model_on_ready_made_tokens_takes_them_from_a_file(tmp_path):
    tokens = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float16)
    np.savez(tmp_path / "tokens.npz", tokens=tokens, id=np.array(["a", "b"]))
    path = manifest(
        tmp_path,
        {"id": "1", "img": "a.jpg", "text": "red"},
        {"id": "2", "img": "c.jpg", "text": "red"},
        {"id": "b", "text": "red"},
    )
    saved = token_classifier()
    rows = predict_manifest(saved, path, features={"image": tmp_path / "tokens.npz"}, console=SilentConsole())
    assert [row.error is None for row in rows] == [True, False, True]
    assert "has none for 2 (c.jpg)" in str(rows[1].error)
    assert rows[0].answer != rows[2].answer


def test_a_model_on_ready_made_tokens_says_that_it_needs_them(tmp_path):
    path = manifest(tmp_path, {"id": "1", "img": "a.jpg", "text": "red"})
    with pytest.raises(ConfigError, match="reads ready-made tokens of image, but files are given for nothing"):
        predict_manifest(token_classifier(), path, console=SilentConsole())
