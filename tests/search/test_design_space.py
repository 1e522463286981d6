import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from signatures import SIGNATURES

from chiasma.core.spec import replace_at
from chiasma.model.cost import example_batch
from chiasma.model.encoders import Bert, Convolution, NGram, Pixels
from chiasma.model.fusion import CrossAttention, Multiplicative
from chiasma.model.multimodal import ModelSpec
from chiasma.search.design_space import DesignSpace
from chiasma.train.design import Design, LoopSpec, TrainingSpec
from chiasma.train.losses import build_loss
from chiasma.train.optim import NamedOptimizer

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(SIGNATURES))
few = settings(max_examples=40, deadline=None)


def space_of(name):
    return DesignSpace(SIGNATURES[name], train_rows=1000)


def train_one_step(design, signature):
    """Build, take one real step on random data, and return the loss."""
    model = design.model.build(signature)
    target = signature.target
    classes = {"classification": torch.zeros(4, dtype=torch.long), "multilabel": torch.ones(4, target.outputs)}
    labels = classes.get(target.task, torch.zeros(4, target.outputs))
    loss = build_loss(
        design.training.loop.loss, target, class_counts=np.full(target.outputs, 10), examples=10 * target.outputs
    )
    value = loss(model(example_batch(signature, 4)).logits, labels)
    optimizer = NamedOptimizer(model, design.training.optim)
    value.backward()
    optimizer.step()
    return float(value.detach())


@few
@given(NAMES, SEEDS)
def test_every_sample_builds_and_trains(name, seed):
    design = space_of(name).sample(np.random.default_rng(seed))
    assert np.isfinite(train_one_step(design, SIGNATURES[name]))


@few
@given(NAMES, SEEDS)
def test_every_edit_differs_builds_and_is_told_in_words(name, seed):
    space, rng = space_of(name), np.random.default_rng(seed)
    design = space.sample(rng)
    for _ in range(4):
        edited, words = space.mutate(design, rng)
        assert edited != design
        assert re.fullmatch(r"(fusion|head|dim|training|(image|text) encoder): \S.* -> \S.*", words), words
        design = edited
    assert np.isfinite(train_one_step(design, SIGNATURES[name]))


@few
@given(NAMES, SEEDS)
def test_every_cross_builds_and_takes_each_part_from_a_parent(name, seed):
    space, rng = space_of(name), np.random.default_rng(seed)
    first, second = space.sample(rng), space.sample(rng)
    child = space.crossover(first, second, rng)
    assert child.training.optim in (first.training.optim, second.training.optim)
    assert child.model.head in (first.model.head, second.model.head)
    for modality, encoder in child.model.encoders.items():
        assert encoder in (first.model.encoders[modality], second.model.encoders[modality])
    assert np.isfinite(train_one_step(child, SIGNATURES[name]))


@few
@given(NAMES, SEEDS)
def test_an_edit_changes_one_part_alone(name, seed):
    space, rng = space_of(name), np.random.default_rng(seed)
    design = space.sample(rng)
    edited, words = space.mutate(design, rng)
    part = words.split(":")[0]
    same_training = edited.training == design.training
    assert same_training is (part != "training")
    changed = {n for n, e in edited.model.encoders.items() if e != design.model.encoders[n]}
    opened = re.search(r"\(all tokens of (.*)\)", words)
    expected = {part.removesuffix(" encoder")} if part.endswith("encoder") else set()
    assert changed == (set(opened[1].split(" and ")) if opened else expected)
    assert (edited.model.fusion != design.model.fusion) is (part == "fusion")
    assert (edited.model.head != design.model.head) is (part == "head")
    assert (edited.model.dim != design.model.dim) is (part == "dim")


def samples(name, count=400):
    space = space_of(name)
    return [space.sample(np.random.default_rng(seed)) for seed in range(count)]


def test_the_space_holds_what_is_known_to_work_and_cheap_things():
    found = samples("image+text classification")
    kinds = {(d.model.encoders["image"].kind, d.model.encoders["text"].kind, d.model.fusion.kind) for d in found}
    for encoder in ("ngram", "bert"):
        assert ("convolution", encoder, "multiplicative") in kinds
        assert ("convolution", encoder, "cross_attention") in kinds
    assert any("pixels" in kind for kind in kinds)
    widths = {d.model.encoders["image"].widths for d in found if d.model.encoders["image"].kind == "convolution"}
    assert (16, 32, 64) in widths


def test_attentive_fusions_are_given_all_tokens():
    attentive = [d for d in samples("image+text classification") if d.model.fusion.kind == "cross_attention"]
    pools = {getattr(e, "pool", "none") for d in attentive for e in d.model.encoders.values()}
    assert len(attentive) > 20
    assert pools == {"none"}


def test_samples_are_the_same_for_the_same_randomness():
    assert samples("text classification", 5) == samples("text classification", 5)


def test_settings_that_are_not_searched_come_from_the_usual_training():
    usual = TrainingSpec(loop=LoopSpec(epochs=8.0, patience=3, evaluations=7))
    space = DesignSpace(SIGNATURES["text classification"], train_rows=1000, training=usual)
    loops = [space.sample(np.random.default_rng(seed)).training.loop for seed in range(30)]
    assert {loop.patience for loop in loops} == {3}
    assert {loop.evaluations for loop in loops} == {7}
    assert {loop.epochs for loop in loops} == {4.0, 8.0, 16.0}


def test_batches_stay_small_where_there_are_few_examples():
    space = DesignSpace(SIGNATURES["text classification"], train_rows=200)
    assert {space.sample(np.random.default_rng(seed)).training.loop.batch_size for seed in range(30)} == {32}


def test_an_incumbent_of_one_modality_can_grow_the_other():
    space, rng = space_of("image+text classification"), np.random.default_rng(0)
    floor = Design(model=ModelSpec(dim=32, encoders={"image": Pixels(size=4)}))
    edits = dict(reversed(space.mutate(floor, rng)) for _ in range(60))
    grown = [design for words, design in edits.items() if words.startswith("modalities: text added (")]
    assert grown
    assert all(set(design.model.encoders) == {"image", "text"} for design in grown)
    assert all(np.isfinite(train_one_step(design, space.signature)) for design in grown[:3])


def test_crossing_a_floor_with_a_whole_design_still_builds():
    space, rng = space_of("image+text classification"), np.random.default_rng(0)
    floor = Design(model=ModelSpec(dim=30, encoders={"image": Pixels(size=4)}))
    whole = space.sample(rng)
    for first, second in ((floor, whole), (whole, floor)):
        for _ in range(20):
            child = space.crossover(first, second, rng)
            assert set(child.model.encoders) == set(first.model.encoders)
            assert space.validate(child) is None


def test_a_design_for_other_data_is_refused_with_the_reason():
    design = Design(model=ModelSpec(encoders={"text": Convolution()}))
    space = space_of("text classification")
    assert "kind 'convolution' does not read text inputs" in space.validate(design)
    assert space.validate(replace_at(design, "model.encoders.text", NGram())) is None
    assert space.lower(design, design) == design


def test_an_edit_to_attention_opens_pooled_encoders_and_says_so():
    space = space_of("image+text classification")
    encoders = {"image": Convolution(pool="mean"), "text": Bert(pool="cls")}
    design = Design(model=ModelSpec(encoders=encoders, fusion=Multiplicative()))
    found = [space.mutate(design, np.random.default_rng(seed)) for seed in range(300)]
    crossed = [(d, words) for d, words in found if isinstance(d.model.fusion, CrossAttention)]
    assert crossed
    for edited, words in crossed:
        assert words == "fusion: multiplicative -> cross_attention (all tokens of image and text)"
        assert {encoder.pool for encoder in edited.model.encoders.values()} == {"none"}


def test_a_space_without_examples_is_refused():
    with pytest.raises(ValueError, match="train_rows must be at least 1, but got 0"):
        DesignSpace(SIGNATURES["text classification"], train_rows=0)


AUGMENTATIONS = {
    "image+text classification": {
        *("crop", "colour", "erase", "flip", "trivial"),
        *("word dropout", "modality dropout"),
    },
    "text classification": {"word dropout"},
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_examples_are_varied_only_in_ways_that_suit_what_the_design_reads(name):
    space, rng = space_of(name), np.random.default_rng(0)
    design = space.sample(rng)
    told = [space.mutate(design, rng)[1] for _ in range(1500)]
    found = {re.fullmatch(r"training: augment (.*) (off|0) -> \S+", words) for words in told}
    assert {match[1] for match in found if match} == AUGMENTATIONS[name]


def test_a_design_that_reads_text_alone_is_not_given_other_images():
    space, rng = space_of("image+text classification"), np.random.default_rng(0)
    design = space.sample(rng)
    alone = Design(model=ModelSpec(dim=32, encoders={"text": design.model.encoders["text"]}), training=design.training)
    told = [space.mutate(alone, rng)[1] for _ in range(600)]
    found = {words.split(" -> ")[0] for words in told if words.startswith("training: augment")}
    assert found == {"training: augment word dropout 0"}
