"""Pairs from the table to what is found: trained, measured, and searched."""

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.manifest import Columns, DataSpec
from chiasma.data.prepare import prepare
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.evaluate_run import evaluate
from chiasma.experiment.predict import predict_manifest, predict_one
from chiasma.experiment.retrieve import retrieve, write_matches
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.train_run import train
from tests.experiment.small_model import classifier

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220), "white": (230, 230, 230)}
PLACES = ("left", "right", "top")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with 240 pictures of a coloured part, two captions each, and a row without its picture."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    lines = ["id,img,text"]
    for number in range(240):
        pixels = rng.integers(0, 40, (8, 8, 3), dtype=np.uint8)
        colour, place = list(COLOURS)[number % 4], PLACES[number % 3]
        part = {"left": np.s_[:, :4], "right": np.s_[:, 4:], "top": np.s_[:4]}[place]
        pixels[part] = COLOURS[colour]
        pixels[part] += rng.integers(0, 20, pixels[part].shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}a,{number}.png,{colour} at the {place}")
        lines.append(f"{number}b,{number}.png,the {place} is {colour}")
    lines.append("lonely,,nothing to see")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def settings(folder):
    return load_config(
        data=str(folder / "rows.csv"),
        values={
            "data.task": "contrastive",
            "data.near_duplicate_bits": None,
            "model.dim": 32,
            "model.encoders": {"image": {"kind": "pixels"}, "text": {"kind": "ngram", "buckets": 256}},
            "train.epochs": 12,
            "train.batch_size": 64,
            "train.evaluations": 3,
            "optim.lr": 0.01,
            "run.folder": str(folder / "runs"),
            "run.cache": str(folder / "cache"),
            "run.device": "cpu",
            "evaluate.resamples": 100,
        },
    )


@pytest.fixture(scope="module")
def result(folder):
    return train(settings(folder), console=SilentConsole())


@pytest.fixture(scope="module")
def saved(result):
    return SavedModel.load(result.model_path, device="cpu")


def test_pairs_find_each_other_far_above_chance(result):
    chance, winner = result.results.arms
    assert result.results.metric == "recall_at_1"
    assert chance.select["recall_at_1"] < 0.25
    assert winner.select["recall_at_1"] > 0.7
    assert result.results.design["model"]["fusion"] is None


def test_no_label_is_needed_and_a_row_with_one_side_is_set_aside(result, folder):
    assert result.results.data["quarantined"] == {"a pair without its image": 1}
    data, _ = prepare(settings(folder).data, seed=0, cache=folder / "cache")
    rows = data.rows("train")
    labels = data.labels(rows).numpy()
    images = [name[:-1] for name in data.ids(rows)]
    # One number for both captions of a picture, and one for a caption wherever it stands.
    assert len(np.unique(labels[:, 0])) == len(set(images))
    assert len(np.unique(labels[:, 1])) == len(set(data.texts(rows)))


def test_the_saved_model_is_measured_as_it_was(folder, result):
    found = evaluate(result.model_path, None, split="select", console=SilentConsole(), config=settings(folder))
    for name, value in result.results.arms[-1].select.items():
        assert found.metrics[name].value == pytest.approx(value)
    assert found.per_label == ()


def test_a_pair_gets_its_similarity(folder, saved):
    right = predict_one(saved, image=folder / "0.png", text="red at the left")
    wrong = predict_one(saved, image=folder / "0.png", text="blue at the top")
    assert -1 <= wrong.prediction < right.prediction <= 1
    assert right.scores == {"similarity": right.prediction}


def test_one_side_alone_is_no_pair(folder, saved):
    with pytest.raises(DataError, match="compares an image with a text, but only image is given"):
        predict_one(saved, image=folder / "0.png", text=None)
    (folder / "half.csv").write_text("id,img,text\nx,0.png,\ny,0.png,red at the left\n")
    rows = predict_manifest(saved, folder / "half.csv", console=SilentConsole())
    assert [(row.id, row.error) for row in rows] == [("x", "The row has no text."), ("y", None)]


def test_texts_find_images_and_images_find_texts(folder, saved):
    (folder / "gallery.csv").write_text("id,img\n" + "".join(f"{k},{k}.png\n" for k in range(12)) + "12,gone.png\n")
    (folder / "texts.csv").write_text("id,caption\nt,green at the right\ne,\n")
    columns = Columns(text=("caption",))
    quiet = SilentConsole()
    found = retrieve(saved, folder / "texts.csv", against=folder / "gallery.csv", top=2, columns=columns, console=quiet)
    assert found[0].matches[0].id == "1"
    assert found[0].matches[0].similarity > found[0].matches[1].similarity
    assert (found[1].id, found[1].matches) == ("e", ())
    assert found[1].error == "The model reads image and text, but the row has nothing."
    assert write_matches(found, kind="csv", out=None).splitlines()[:2] == [
        "id,rank,match,similarity,error",
        f"t,1,1,{found[0].matches[0].similarity:.6g},",
    ]
    back = retrieve(saved, folder / "gallery.csv", against=folder / "rows.csv", top=1, console=quiet)
    assert len(back) == 13
    assert back[12].error.startswith("The image ")
    named = {row.id: row.matches[0].id for row in back[:12]}
    assert sum(int(match[:-1]) % 12 == int(query) for query, match in named.items()) > 8


def test_queries_with_both_sides_must_say_which(folder, saved):
    with pytest.raises(ConfigError, match="say which of them ask: --image COL or --text COL"):
        retrieve(saved, folder / "rows.csv", against=folder / "rows.csv", top=1, console=SilentConsole())


def test_only_a_contrastive_model_searches(folder):
    with pytest.raises(ConfigError, match=r"trained with data\.task=contrastive, but this is classification"):
        retrieve(classifier(), folder / "rows.csv", against=folder / "rows.csv", top=1, console=SilentConsole())


def test_a_fusion_would_mix_the_sides_and_is_refused(folder):
    data, _ = prepare(settings(folder).data, seed=0, cache=folder / "cache")
    mixing = load_config(values={"model.fusion": {"kind": "concat"}})
    with pytest.raises(ConfigError, match=r"a contrastive head compares the encoders .*fusion mixes them"):
        mixing.design(data.signature)


def test_false_claims_are_no_pairs():
    with pytest.raises(DataError, match="Half of the pairs of digit_claims do not belong together"):
        prepare(DataSpec(task="contrastive"), seed=0, cache="unused")
