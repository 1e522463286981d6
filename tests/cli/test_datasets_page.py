"""``docs/datasets.md``: its commands run on small data in the layouts that it names, and it names all there are."""

import re
import shlex
import zipfile
from pathlib import Path

import pytest

from chiasma.data.fetch import PUBLIC
from chiasma.data.layouts import LAYOUTS, layout_of
from tests import small_layouts
from tests.cli.conftest import invoke

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("chiasma ")
]
CHECKS = [words for line in COMMANDS if (words := shlex.split(line))[1:3] == ["data", "check"] and words[3] != "DATA"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write every layout where the page has it."""
    place = tmp_path_factory.mktemp("datasets")
    for name, write in small_layouts.LAYOUTS.items():
        write(place / name)
    (place / "other_copy").mkdir()
    with zipfile.ZipFile(place / "more_memes.zip", "w") as archive:
        archive.writestr("img/01350.png", small_layouts.picture(1350))
    return place


@pytest.mark.parametrize("words", CHECKS, ids=" ".join)
def test_a_command_of_the_page_checks_its_data(place, monkeypatch, words):
    monkeypatch.chdir(place)
    words = [f"hf:{place / 'moods'}" if word.startswith("hf:") else word for word in words]
    result = invoke(*words[1:])
    assert result.exit_code == 0, result.output
    assert re.search(r"[\d,]+ rows read, [\d,]+ kept", result.stdout)
    if any("image_fallbacks" in word for word in words):
        assert "images found in more_memes.zip, because they were missing: 1" in result.stdout


def test_every_place_of_the_page_is_in_a_known_layout(place):
    found = {layout.name for name in small_layouts.LAYOUTS if (layout := layout_of(place / name)) is not None}
    assert found == {layout.name for layout in LAYOUTS} - {
        "ScienceQA",
        "CIFAR-10 (Parquet)",
        "CIFAR-10 (folders)",
        "IMDB (table)",
    }


def test_the_page_has_every_layout_and_every_dataset_that_can_be_fetched():
    for layout in LAYOUTS:
        assert layout.name.partition(" (")[0].casefold().rstrip("s") in PAGE.casefold(), layout.name
    for name, dataset in PUBLIC.items():
        assert f"| `{name}` |" in PAGE
        for remote in dataset.files:
            known = remote.checksum is None or remote.checksum.partition(":")[2] in PAGE
            assert known, remote.url
    fetched = {shlex.split(line)[3] for line in COMMANDS if line.startswith("chiasma data fetch")}
    assert fetched <= {*PUBLIC, "NAME"}


def test_show_prints_a_few_samples_of_each_layout(place, monkeypatch):
    monkeypatch.chdir(place)
    for name, said in {"data/science_qa": "(A) choice", "ILSVRC/Data/CLS-LOC": "n01440764"}.items():
        result = invoke("data", "show", name)
        assert result.exit_code == 0, result.output
        assert said in result.stdout
