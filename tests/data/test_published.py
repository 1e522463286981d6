"""Published tokenizers, image processors and names: what is read, kept and refused."""

import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.batch import Sample
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.data.preprocessing import Preprocessing
from chiasma.data.published import SMALL_FILES, Published, published_folder
from chiasma.data.published_images import read_image_processor
from chiasma.data.published_text import read_tokenizer
from tests.published import (
    BERT_NAMES,
    CLIP_NAMES,
    CLIP_PROCESSOR,
    DINO_PROCESSOR,
    PADDING,
    RESNET_PROCESSOR,
    SIDE,
    SIGLIP_PROCESSOR,
    T5_NAMES,
    VIT_PROCESSOR,
    save_processor,
    save_tokenizer,
    vocabulary,
    write_memes,
)

PROCESSORS = {
    "clip": CLIP_PROCESSOR,
    "vit": VIT_PROCESSOR,
    "siglip": SIGLIP_PROCESSOR,
    "dinov2": DINO_PROCESSOR,
    "resnet": RESNET_PROCESSOR,
    "warped": RESNET_PROCESSOR | {"size": {"shortest_edge": 384}},
    "wider than it is": CLIP_PROCESSOR | {"crop_size": {"height": 40, "width": 30}},
    "not rescaled": VIT_PROCESSOR | {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
    "not normalised": VIT_PROCESSOR | {"do_normalize": False},
}


@pytest.fixture(scope="module")
def memes(tmp_path_factory) -> Path:
    return write_memes(tmp_path_factory.mktemp("data") / "hateful_memes")


def processor(folder: Path, name: str) -> Path:
    save_processor(folder, **PROCESSORS[name])
    return folder


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(40, 61), (90, 33), (11, 50), (24, 24)])
def test_a_published_processor_is_repeated_pixel_by_pixel(tmp_path, name, size):
    from transformers import AutoImageProcessor

    folder = processor(tmp_path, name)
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    theirs = AutoImageProcessor.from_pretrained(folder, backend="pil")(Image.fromarray(pixels), return_tensors="np")
    ours = read_image_processor(Published(name=str(folder))).apply(Image.fromarray(pixels))
    np.testing.assert_allclose(ours, theirs["pixel_values"][0], atol=1e-5, rtol=1e-5)


def test_a_processor_that_does_more_is_refused(tmp_path):
    save_processor(
        tmp_path, **VIT_PROCESSOR | {"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True}
    )
    with pytest.raises(ConfigError, match=r"\(EfficientNetImageProcessor\) does more than resizing"):
        read_image_processor(Published(name=str(tmp_path)))


def test_images_of_no_fixed_size_are_refused(tmp_path):
    save_processor(tmp_path, **CLIP_PROCESSOR | {"do_center_crop": False})
    with pytest.raises(ConfigError, match=r"its images have no fixed size"):
        read_image_processor(Published(name=str(tmp_path)))


def test_a_folder_without_a_processor_says_what_it_has(tmp_path):
    save_tokenizer(tmp_path, BERT_NAMES)
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json is missing; it holds tokenizer\.json"):
        read_image_processor(Published(name=str(tmp_path)))


def test_a_folder_without_a_tokenizer_says_what_it_has(tmp_path):
    save_processor(tmp_path, **VIT_PROCESSOR)
    with pytest.raises(ConfigError, match=r"must hold tokenizer\.json; it holds preprocessor_config\.json"):
        read_tokenizer(Published(name=str(tmp_path)))


def test_a_vocabulary_without_tokenizer_json_is_converted(tmp_path):
    words = sorted(vocabulary(BERT_NAMES).items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    found = read_tokenizer(Published(name=str(tmp_path)))
    assert found.rules.vocabulary == len(words)
    assert found.rules.padding == PADDING


def test_a_tokenizer_in_another_folder_is_the_same_by_its_content(tmp_path):
    for name in ("one", "two"):
        save_tokenizer(tmp_path / name, BERT_NAMES)
    save_tokenizer(tmp_path / "three", T5_NAMES)
    one, two, three = (read_tokenizer(Published(name=str(tmp_path / name))).sha256 for name in ("one", "two", "three"))
    assert one == two != three


def test_a_tokenizer_that_has_changed_is_refused(tmp_path):
    save_tokenizer(tmp_path, BERT_NAMES)
    known = Published(name=str(tmp_path))
    known = known.checked(read_tokenizer(known).sha256, what="tokenizer")
    save_tokenizer(tmp_path, T5_NAMES)
    with pytest.raises(ConfigError, match=r"The tokenizer of .* is not the one that was used before"):
        read_tokenizer(known)


@pytest.mark.parametrize(("names", "blank"), [(BERT_NAMES, "[MASK]"), (T5_NAMES, "<unk>"), (CLIP_NAMES, "<unk>")])
def test_words_that_are_dropped_become_the_mask_or_else_the_unknown_piece(tmp_path, names, blank):
    ids = save_tokenizer(tmp_path, names)
    assert read_tokenizer(Published(name=str(tmp_path))).rules.blank == ids[blank]


def test_a_tokenizer_whose_unknown_piece_ends_texts_has_nothing_to_drop_words_into(tmp_path):
    save_tokenizer(tmp_path, CLIP_NAMES | {"unk": "<end>"})
    assert read_tokenizer(Published(name=str(tmp_path))).rules.blank is None


def prepared(memes: Path, tmp_path: Path, **settings):
    spec = DataSpec.from_dict({"source": str(memes), **settings})
    return prepare(spec, seed=0, cache=tmp_path / "cache")[0]


def test_texts_get_the_ids_of_the_published_tokenizer_plus_one(memes, tmp_path):
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path / "bert", BERT_NAMES)
    dataset = prepared(memes, tmp_path, tokenizer=str(tmp_path / "bert"), text_length=9)
    rows = dataset.rows("train")
    expected = AutoTokenizer.from_pretrained(tmp_path / "bert")(
        dataset.texts(rows), truncation=True, max_length=9, padding="max_length", return_tensors="np"
    )
    given = dataset.batch(rows).inputs["text"].numpy()
    assert np.array_equal(given != 0, expected["attention_mask"] == 1)
    assert np.array_equal(given[given != 0], expected["input_ids"][given != 0] + 1)


def test_prediction_repeats_the_preparation_without_the_folder(memes, tmp_path):
    folder = tmp_path / "clip"
    save_tokenizer(folder, BERT_NAMES)
    save_processor(folder, **CLIP_PROCESSOR)
    dataset = prepared(memes, tmp_path, tokenizer=str(folder), image_processor=str(folder))
    saved = dataset.preprocessing()
    for file in folder.iterdir():
        file.unlink()
    again = Preprocessing.load(saved.documents(), saved.files())
    rows = dataset.rows("select")
    paths, texts = dataset.image_paths(rows), dataset.texts(rows)
    samples = [
        Sample(str(n), {"image": str(path), "text": text})
        for n, (path, text) in enumerate(zip(paths, texts, strict=True))
    ]
    batch, stored = again.encode(samples), dataset.batch(rows)
    assert all(np.array_equal(batch.inputs[name], stored.inputs[name]) for name in ("image", "text"))
    assert stored.inputs["image"].shape[-2:] == (SIDE, SIDE)


def test_what_was_prepared_is_opened_again_after_the_folder_is_gone(memes, tmp_path):
    from chiasma.data.prepare import with_published

    save_tokenizer(tmp_path / "bert", BERT_NAMES)
    spec = with_published(DataSpec.from_dict({"source": str(memes), "tokenizer": str(tmp_path / "bert")}))
    first, _ = prepare(spec, seed=0, cache=tmp_path / "cache")
    for file in (tmp_path / "bert").iterdir():
        file.unlink()
    second, _ = prepare(spec, seed=0, cache=tmp_path / "cache")
    assert first.key == second.key


def test_joined_columns_are_separated_in_the_tokenizers_own_way(tmp_path):
    save_tokenizer(tmp_path / "t5", T5_NAMES)
    save_tokenizer(tmp_path / "bert", BERT_NAMES)
    rows = ["id,question,text,label"] + [f"r{k},look {k},a cat {k},{k % 2}" for k in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    columns = {"text": ["question", "text"]}
    ids = vocabulary(BERT_NAMES)
    bert = prepared(tmp_path / "rows.csv", tmp_path, columns=columns, tokenizer=str(tmp_path / "bert"))
    separated = bert.batch(bert.rows("train")).inputs["text"]
    assert (separated == ids["[SEP]"] + 1).sum(1).tolist() == [2] * len(separated)
    t5 = prepared(tmp_path / "rows.csv", tmp_path, columns=columns, tokenizer=str(tmp_path / "t5"))
    unknown = vocabulary(T5_NAMES)["<unk>"] + 1
    assert not (t5.batch(t5.rows("train")).inputs["text"] == unknown).any()


def test_texts_may_not_be_longer_than_the_tokenizer_allows(memes, tmp_path):
    save_tokenizer(tmp_path / "bert", BERT_NAMES, longest=16)
    with pytest.raises(DataError, match=r"allows texts of 16 ids at most, but data.text_length=17"):
        prepared(memes, tmp_path, tokenizer=str(tmp_path / "bert"), text_length=17)


def test_a_size_and_an_image_processor_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match=r"an image processor decides the size, but image_size=32"):
        DataSpec.from_dict({"image_processor": str(tmp_path), "image_size": 32})


def test_hateful_memes_is_not_mistaken_for_built_in_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"is not built in, .* as DATA, such as /path/to/hateful_memes"):
        prepare(DataSpec(source="hateful_memes"), seed=0, cache=tmp_path / "cache")


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does where it knows no name, wants a login, or has the model."""

    files: Path

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if "unknown" in parts:
            self.refuse(404, "RepoNotFound")
        elif "gated" in parts:
            self.refuse(403, "GatedRepo")
        elif "tree" in parts:
            found = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "b" * 40}
                for p in self.files.iterdir()
            ]
            self.give(json.dumps(found).encode(), body=body)
        elif parts[0] == "api":
            names = [{"rfilename": path.name} for path in self.files.iterdir()]
            self.give(json.dumps({"id": "some/model", "sha": "a" * 40, "siblings": names}).encode(), body=body)
        else:
            self.give((self.files / parts[-1]).read_bytes(), body=body)

    def give(self, content: bytes, *, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"' + "b" * 40 + '"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        """Keep quiet."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serve a hub on this machine, and return the folder of what it has."""
    files = tmp_path / "served"
    files.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("ThisHub", (Hub,), {"files": files}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "".join((constants.ENDPOINT, *template[1:])))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield files
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_name_is_fetched_from_the_hub(hub):
    (hub / "config.json").write_text("{}")
    (hub / "model.safetensors").write_text("not wanted")
    folder = published_folder("some/model", files=SMALL_FILES)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("unknown/model", "the Hugging Face hub knows no such model. Check its spelling"),
        ("gated/model", "it is gated: accept its terms at https://huggingface.co/gated/model"),
        ("not a name!", "it cannot be a name of the Hugging Face hub, which looks like owner/model"),
    ],
)
def test_a_name_that_the_hub_does_not_give_is_explained(hub, name, told):
    with pytest.raises(ConfigError) as error:
        published_folder(name, files=SMALL_FILES)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_network_it_says_how_to_bring_the_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match=r"`hf download some/model --local-dir FOLDER`; bring the folder here"):
        published_folder("some/model", files=SMALL_FILES)
