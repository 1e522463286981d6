"""Captions from a column or a file become a part of the text."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.captions import Captions, read_captions
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare


@pytest.fixture
def place(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["id,img,text,shown,label"]
    for k in range(40):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"p{k}.png")
        lines.append(f"r{k},p{k}.png,a joke number {k},{'a red bird' if k % 2 else ''},{'ab'[k % 2]}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def texts(place: Path, **captions) -> list[str]:
    spec = DataSpec(source=str(place / "rows.csv"), captions=Captions(**captions) if captions else None)
    dataset, _ = prepare(spec, seed=0, cache=place / "cache")
    rows = np.sort(np.concatenate([dataset.rows(split) for split in ("train", "steer", "select")]))
    return sorted(dataset.texts(rows))


def test_a_column_of_captions_stands_behind_the_text(place):
    found = texts(place, column="shown")
    assert sum(text.endswith(" [SEP] a red bird") for text in found) == sum(int(text.split()[3]) % 2 for text in found)
    assert all("[SEP]" not in text for text in texts(place))


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv", "captions.json"])
@pytest.mark.parametrize("key", ["r{}", "p{}", "p{}.png", "img/p{}.png"])
def test_a_file_of_captions_is_found_by_id_or_by_the_name_of_the_image(place, name, key):
    known = {key.format(k): f"caption {k}" for k in range(0, 40, 2)}
    if key.startswith("img"):
        known = {Path(each).name: caption for each, caption in known.items()}
    rows = [{"id": each, "caption": caption} for each, caption in known.items()]
    content = {
        "captions.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "captions.csv": "id,caption\n" + "".join(f"{row['id']},{row['caption']}\n" for row in rows),
        "captions.json": json.dumps(known),
    }[name]
    (place / name).write_text(content)
    found = texts(place, file=str(place / name))
    for text in found:
        number = int(text.split()[3])
        assert text == f"a joke number {number}" + ("" if number % 2 else f" [SEP] caption {number}")


def test_rows_without_a_caption_are_counted_and_a_changed_file_is_read_again(place):
    (place / "c.json").write_text(json.dumps({"r1": "a cat"}))
    spec = DataSpec(source=str(place / "rows.csv"), captions=Captions(file=str(place / "c.json")))
    first, report = prepare(spec, seed=0, cache=place / "cache")
    assert report.counts["rows without a caption"] == 39
    (place / "c.json").write_text(json.dumps({"r1": "a cat", "r2": "a dog"}))
    second, report = prepare(spec, seed=0, cache=place / "cache")
    assert report.counts["rows without a caption"] == 38
    assert first.key != second.key


def test_captions_come_from_exactly_one_place():
    for given in ({}, {"column": "a", "file": "b"}):
        with pytest.raises(ConfigError, match="one of column, file and model"):
            Captions.from_dict(given)


def test_what_cannot_be_used_is_one_line(place):
    with pytest.raises(DataError, match=r"data.captions.column is 'show', but .* Did you mean 'shown'"):
        texts(place, column="show")
    with pytest.raises(DataError, match=r"captions .*gone.json do not exist"):
        texts(place, file=str(place / "gone.json"))
    (place / "c.csv").write_text("key,words\n1,a\n")
    with pytest.raises(DataError, match=r"must have a column of ids .* but has: key, words"):
        read_captions(place / "c.csv")
    with pytest.raises(DataError, match="needs a writer of captions"):
        texts(place, model="blip")
