"""``chiasma features`` from the command line, with detectors and with what others made; and its page."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from chiasma.data.features import import_file
from chiasma.model.components import members
from tests.cli.conftest import invoke
from tests.published_detectors import GENOME_SMALL, save_genome

PAGE = Path(__file__).parents[2] / "docs" / "features.md"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Return a manifest of three images of two sizes."""
    folder = tmp_path_factory.mktemp("rows")
    lines = ["id,img,text,label"]
    for number, size in enumerate(((60, 40), (60, 40), (30, 50))):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / f"{number}.png")
        lines.append(f"r{number},{number}.png,text {number},{'yes' if number else 'no'}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "rows.csv")


def test_regions_of_a_detector_become_a_file_for_features(rows, tmp_path):
    weights, out = save_genome(tmp_path / "vg.pth"), tmp_path / "regions.safetensors"
    small = [word for name, value in GENOME_SMALL.items() for word in ("--option", f"{name}={value}")]
    words = ["--extractor", "fasterrcnn_vg", "--weights", str(weights), "--regions", "5", *small, "-o", str(out)]
    made = invoke("features", rows, *words)
    assert made.exit_code == 0, made.output
    assert "5 of width 128, with boxes" in made.stdout
    found = import_file(out)
    assert found.ids == ("r0", "r1", "r2")
    assert found.mask is not None
    assert found.mask.all()
    again = invoke("features", rows, *words)
    assert re.search(r"encoded now +0", again.stdout)


def test_regions_of_others_are_checked_and_kept(rows, tmp_path):
    with h5py.File(tmp_path / "others.h5", "w") as file:
        file["image_id"], file["features"] = np.array([0, 2, 7]), np.ones((3, 2, 4), np.float32)
    out = tmp_path / "kept.npz"
    done = invoke("features", rows, "--import", f"image={tmp_path / 'others.h5'}", "-o", str(out))
    assert done.exit_code == 0, done.output
    assert re.search(r"rows of the data without +1", done.stdout)
    assert import_file(out).ids == ("0", "2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--extractor", "pixels"], "--extractor needs -o FILE for the tokens"),
        (["--extractor", "pixels", "--regions", "3", "-o", "t.npz"], "--extractor pixels.regions: unknown key"),
        (["--extractor", "pixels", "--option", "side", "-o", "t.npz"], "--option side: expected KEY=VALUE"),
        (["--import", "image=f.h5", "--weights", "x"], "belong to --extractor, not --import"),
        (["--import", "image=none.h5"], "The feature file none.h5 does not exist"),
        (["--extractor", "fasterrcnn_vgg", "-o", "t.npz"], "Did you mean 'fasterrcnn_vg'?"),
    ],
)
def test_a_wrong_order_is_one_line(rows, words, message):
    result = invoke("features", rows, *words)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())


def test_the_page_names_every_extractor_with_its_weights():
    lines = re.findall(r"^\| `(\w+)` \| (?:`([^`]+)`|none) \|", PAGE.read_text(), re.MULTILINE)
    own = {member.model_fields["kind"].default: member.model_fields.get("weights") for member in members("extractor")}
    assert dict(lines) == {name: "" if field is None else field.default for name, field in own.items()}
