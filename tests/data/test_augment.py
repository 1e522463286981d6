import numpy as np
import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.data.augment import AugmentSpec, augmented
from chiasma.data.batch import Batch, Tokens
from chiasma.data.signature import ImageInput, Signature, Target, TextInput, TokensInput
from chiasma.data.trivial_augment import OPERATIONS, trivial_augment

B, P, L = 64, 16, 12
SIGNATURE = Signature(
    inputs={
        "image": ImageInput(channels=3, height=P, width=P),
        "text": TextInput(vocabulary=50, length=L),
        "regions": TokensInput(count=3, dim=4),
    },
    target=Target(task="classification", labels=("a", "b")),
)
ALL = {"crop": 0.25, "flip": True, "colour": 0.4, "erase": 0.5, "trivial": True, "word_dropout": 0.2}
EVERYTHING = ALL | {"modality_dropout": 0.4}


def make_batch(count=B, seed=0, image=None, text=None):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 50, (count, L), generator=generator)
    ids[:, 0], ids[:, 8], ids[:, 9:] = 2, 3, 0
    inputs = {"image": torch.rand(count, 3, P, P, generator=generator) if image is None else image, "text": ids}
    present = {name: torch.ones(count, dtype=torch.bool) for name in inputs}
    return Batch(inputs, present, tuple(map(str, range(count))))


def vary(batch, *, seed=0, step=0, **settings):
    return augmented([batch], AugmentSpec(**settings), SIGNATURE, seed=seed, step=step)[0]


def images(batch):
    return batch.inputs["image"]


def parts(batch, start, end):
    inputs = {name: value[start:end] for name, value in batch.inputs.items()}
    return Batch(inputs, {name: mask[start:end] for name, mask in batch.present.items()}, batch.ids[start:end])


def same(one, two):
    inputs = all(torch.equal(one.inputs[name], two.inputs[name]) for name in one.inputs)
    return inputs and all(torch.equal(one.present[name], two.present[name]) for name in one.present)


def test_all_is_off_by_default():
    batch = make_batch()
    assert augmented([batch], AugmentSpec(), SIGNATURE, seed=0, step=0)[0] is batch


@pytest.mark.parametrize("setting", EVERYTHING)
def test_each_setting_varies_its_own_input_and_leaves_the_batch_it_is_given(setting):
    batch = make_batch()
    varied = vary(batch, **{setting: EVERYTHING[setting]})
    assert same(batch, make_batch())
    changed = {name for name in batch.inputs if not torch.equal(batch.inputs[name], varied.inputs[name])}
    expected = {"word_dropout": {"text"}, "modality_dropout": {"image", "text"}}
    assert changed == expected.get(setting, {"image"})
    assert varied.inputs["text"].dtype == torch.int64
    assert 0 <= images(varied).min() <= images(varied).max() <= 1


@pytest.mark.parametrize("setting", EVERYTHING)
def test_what_is_drawn_follows_from_seed_and_step_alone(setting):
    settings = {setting: EVERYTHING[setting]}
    usual = vary(make_batch(), **settings)
    assert same(usual, vary(make_batch(), **settings))
    assert not same(usual, vary(make_batch(), seed=1, **settings))
    assert not same(usual, vary(make_batch(), step=1, **settings))


def test_micro_batches_of_equal_examples_are_varied_differently():
    image = torch.rand(1, 3, P, P).expand(4, 3, P, P)
    batches = [make_batch(4, image=image), make_batch(4, image=image)]
    for setting, value in EVERYTHING.items():
        amount = {"word_dropout": 0.5, "modality_dropout": 0.5}.get(setting, value)
        first, second = augmented(batches, AugmentSpec(**{setting: amount}), SIGNATURE, seed=3, step=0)
        assert not same(first, second), setting


def test_an_example_is_varied_the_same_however_a_step_is_cut():
    batch, spec = make_batch(), AugmentSpec(**EVERYTHING)
    whole = augmented([batch], spec, SIGNATURE, seed=0, step=5)[0]
    first, second = augmented([parts(batch, 0, 20), parts(batch, 20, B)], spec, SIGNATURE, seed=0, step=5)
    assert same(first, parts(whole, 0, 20))
    assert same(second, parts(whole, 20, B))


def test_a_model_of_one_modality_sees_it_varied_as_every_other_model_does():
    batch, spec = make_batch(), AugmentSpec(**ALL)
    both = augmented([batch], spec, SIGNATURE, seed=0, step=0)[0]
    for name in ("image", "text"):
        alone = Batch({name: batch.inputs[name]}, {name: batch.present[name]}, batch.ids)
        assert torch.equal(augmented([alone], spec, SIGNATURE, seed=0, step=0)[0].inputs[name], both.inputs[name])


def test_flips_mirror_about_half_of_the_images():
    batch = make_batch(400)
    varied = vary(batch, flip=True)
    mirrored = (images(varied) == images(batch).flip(-1)).flatten(1).all(1)
    kept = (images(varied) == images(batch)).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_a_crop_moves_an_image_by_whole_pixels_up_to_the_padding():
    positions = torch.arange(P * P).reshape(1, 1, P, P).expand(200, 3, P, P) / (P * P) + 1 / (P * P)
    varied = images(vary(make_batch(200, image=positions), crop=0.125))
    padded = torch.nn.functional.pad(positions, (2, 2, 2, 2))
    windows = {}
    for image in varied:
        fits = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[0, :, y : y + P, x : x + P], image)]
        assert len(fits) == 1
        windows[fits[0]] = True
    assert len(windows) == 25


def test_a_crop_that_would_round_to_nothing_moves_by_a_pixel():
    batch = make_batch()
    assert not torch.equal(images(vary(batch, crop=0.001)), images(batch))


def test_erasing_paints_one_rectangle_in_one_colour():
    batch = make_batch(300)
    varied = images(vary(batch, erase=0.6))
    differs = (varied != images(batch)).any(1)
    touched = differs.flatten(1).any(1)
    assert 0.5 < touched.float().mean() < 0.7
    for place in touched.nonzero()[:, 0].tolist():
        rows, columns = (differs[place].any(axis).nonzero()[:, 0] for axis in (1, 0))
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        painted = varied[place, :, top:bottom, left:right].flatten(1)
        assert (painted == painted[:, :1]).all()
        assert differs[place].sum() == (bottom - top) * (right - left)
    share = differs[touched].float().mean()
    assert 0.02 < share < 0.33


def test_colours_change_and_shapes_stay():
    flat = torch.full((B, 3, P, P), 0.5)
    flat[:, 0] = 0.2
    varied = images(vary(make_batch(image=flat), colour=0.4))
    assert (varied == varied[:, :, :1, :1]).all()
    assert len({tuple(colour) for colour in varied[:, :, 0, 0].tolist()}) > B // 2
    gentle = images(vary(make_batch(image=flat), colour=0.01))
    assert 0 < (gentle - flat).abs().max() < 0.02


def test_words_of_a_published_tokenizer_become_its_own_blank_and_its_special_pieces_stay():
    published = TextInput(vocabulary=50, length=L, tokenizer="0" * 64, blank=49, special=(8, 11, 49))
    signature = SIGNATURE.model_copy(update={"inputs": {**SIGNATURE.inputs, "text": published}})
    batch = make_batch()
    before = batch.inputs["text"]
    after = augmented([batch], AugmentSpec(word_dropout=0.9), signature, seed=0, step=0)[0].inputs["text"]
    changed = after != before
    assert changed.float().mean() > 0.5
    assert set(after[changed].tolist()) == {49}
    assert not (changed & torch.isin(before, torch.tensor((0, 8, 11, 49)))).any()


def test_words_cannot_be_dropped_where_nothing_stands_for_the_unreadable():
    without = TextInput(vocabulary=50, length=L, tokenizer="0" * 64, blank=None, special=(8,))
    signature = SIGNATURE.model_copy(update={"inputs": {**SIGNATURE.inputs, "text": without}})
    with pytest.raises(ConfigError, match=r"train\.augment\.word_dropout: the tokenizer has neither"):
        augmented([make_batch()], AugmentSpec(word_dropout=0.1), signature, seed=0, step=0)


def test_words_become_unknown_and_special_pieces_stay():
    batch = make_batch(500)
    before, after = batch.inputs["text"], vary(batch, word_dropout=0.3).inputs["text"]
    changed = before != after
    assert (after[changed] == 1).all()
    assert (before[changed] > 3).all()
    assert 0.27 < changed.sum() / (before > 3).sum() < 0.33


def test_an_example_loses_one_modality_and_never_both():
    batch = make_batch(1000)
    varied = vary(batch, modality_dropout=0.4)
    image, text = varied.present["image"], varied.present["text"]
    assert (image | text).all()
    assert 0.35 < (~image | ~text).float().mean() < 0.45
    assert 0.15 < (~image).float().mean() < 0.25
    assert not images(varied)[~image].any()
    assert not varied.inputs["text"][~text].any()
    assert torch.equal(images(varied)[image], images(batch)[image])


def test_an_example_of_one_modality_keeps_it():
    batch = make_batch()
    batch.present["image"][::2] = False
    batch.present["text"][1::2] = False
    varied = vary(batch, modality_dropout=0.9)
    assert torch.equal(varied.present["image"], batch.present["image"])
    assert torch.equal(varied.present["text"], batch.present["text"])


def test_a_batch_of_one_modality_loses_nothing():
    batch = make_batch()
    alone = Batch({"image": images(batch)}, {"image": batch.present["image"]}, batch.ids)
    assert vary(alone, modality_dropout=0.9).present["image"].all()


def test_an_absent_image_stays_black():
    batch = make_batch()
    batch.present["image"][::2] = False
    images(batch)[::2] = 0
    varied = vary(batch, **ALL | {"erase": 1.0})
    assert not images(varied)[::2].any()


def test_ready_made_tokens_are_only_dropped():
    batch = make_batch()
    tokens = Tokens(torch.rand(B, 4, 6), torch.ones(B, 4, dtype=torch.bool), torch.rand(B, 4, 5))
    ready = Batch({**batch.inputs, "image": tokens}, batch.present, batch.ids)
    assert vary(ready, **ALL).inputs["image"] is tokens
    varied = vary(ready, **EVERYTHING)
    lost = ~varied.present["image"]
    assert lost.any()
    assert not varied.inputs["image"].mask[lost].any()
    assert not varied.inputs["image"].x[lost].any()
    assert torch.equal(varied.inputs["image"].x[~lost], tokens.x[~lost])


def middle_of(place):
    return (place + 0.5) / len(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_trivial_operation_changes_an_image_and_keeps_it_in_range(name):
    place = list(OPERATIONS).index(name)
    x = images(make_batch(2)) * 0.5 + 0.2
    numbers = torch.tensor([[middle_of(place), 0.95], [middle_of(place), 0.1]])
    varied = trivial_augment(x, numbers)
    assert varied.shape == x.shape
    assert 0 <= varied.min() <= varied.max() <= 1
    assert torch.equal(varied, x) is (name == "identity")


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize"}))
def test_an_operation_of_no_strength_leaves_the_image(name):
    x = (images(make_batch(2)) * 255).round() / 255
    place = list(OPERATIONS).index(name)
    numbers = torch.tensor([[middle_of(place), 0.5]] * 2)
    torch.testing.assert_close(trivial_augment(x, numbers), x, rtol=0, atol=2e-5)


def test_contrast_and_equalisation_spread_the_values():
    narrow = images(make_batch(2)) * 0.2 + 0.4
    for name in ("autocontrast", "equalize"):
        varied = OPERATIONS[name](narrow, torch.zeros(2))
        assert varied.amin((2, 3)).max() == 0
        assert varied.amax((2, 3)).min() == pytest.approx(1)
    plain = torch.full((2, 3, P, P), 0.3)
    for name in ("autocontrast", "equalize"):
        assert torch.equal(OPERATIONS[name](plain, torch.zeros(2)), plain)


def test_equalisation_agrees_with_pillow():
    from PIL import Image, ImageOps

    pixels = np.random.default_rng(0).integers(40, 120, (64, 64, 3), dtype=np.uint8)
    # Pillow divides by whole numbers, which costs it up to a sixteenth of the range here.
    expected = np.asarray(ImageOps.equalize(Image.fromarray(pixels))).astype(float)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    found = OPERATIONS["equalize"](x, torch.zeros(1))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(found - expected).max() <= 20


def test_trivial_operations_are_drawn_evenly():
    x = torch.rand(1, 3, P, P).expand(2000, 3, P, P) * 0.5 + 0.2
    varied = images(vary(make_batch(2000, image=x), trivial=True))
    unchanged = (varied == x).flatten(1).all(1).float().mean()
    assert 0.05 < unchanged < 0.12


@pytest.mark.parametrize("settings", [{"crop": 0.6}, {"colour": -0.1}, {"word_dropout": 1.0}, {"erase": 2}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        AugmentSpec.from_dict(settings)


def test_what_is_varied_in_one_way_is_varied_in_another_independently():
    varied = vary(make_batch(600, image=torch.ones(600, 3, P, P)), crop=0.5, modality_dropout=0.4)
    lost = ~varied.present["text"]
    moved_down = (images(varied)[:, :, 0] == 0).flatten(1).all(1)
    assert 0.35 < moved_down[lost].float().mean() < 0.6
