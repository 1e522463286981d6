import pytest
import torch
from signatures import SIGNATURES

from chiasma.data.batch import Batch
from chiasma.data.signature import TokensInput
from chiasma.model.cost import example_batch
from chiasma.search.design_space import DesignSpace
from chiasma.search.floors import floor_designs
from chiasma.train.design import LoopSpec, TrainingSpec


def floors_of(name, **settings):
    signature = SIGNATURES[name]
    return floor_designs(signature, DesignSpace(signature, train_rows=1000, **settings))


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_floor_builds_for_every_kind_of_data_and_linear_ones_come_first(name):
    floors = floors_of(name)
    for floor in floors:
        model = floor.design.model.build(SIGNATURES[name])
        assert torch.isfinite(model(example_batch(SIGNATURES[name], 2)).logits).all()
    linear = [floor.linear for floor in floors]
    assert linear == sorted(linear, reverse=True)
    assert len({floor.name for floor in floors}) == len(floors)
    assert len({floor.design.content_hash() for floor in floors}) == len(floors)


def test_image_and_text_give_six_floors():
    names = [floor.name for floor in floors_of("image+text classification")]
    assert names == ["linear", "image_linear", "text_linear", "image_only", "text_only", "concat"]


def test_one_modality_gives_its_linear_and_its_deep_floor():
    assert [floor.name for floor in floors_of("text regression")] == ["text_linear", "text_only"]


@pytest.mark.parametrize("name", ["image+text classification", "tokens classification"])
def test_linear_floors_are_linear_in_their_inputs(name):
    """Twice the step in an input gives twice the step in the output, which no hidden layer does.

    Ready-made tokens are normalised first, as classical features are.
    """
    signature = SIGNATURES[name]
    for floor in (floor for floor in floors_of(name) if floor.linear and "image" in floor.design.model.encoders):
        model = floor.design.model.build(signature).eval()
        if isinstance(signature.inputs["image"], TokensInput):
            model.encoders["image"].norm = torch.nn.Identity()
        batch = example_batch(signature, 2)

        def output(scale, batch=batch, model=model):
            image = batch.inputs["image"]
            if isinstance(image, torch.Tensor):
                scaled = image * scale
            else:
                scaled = type(image)(image.x * scale, image.mask, image.boxes)
            return model(Batch({**batch.inputs, "image": scaled}, batch.present, batch.ids)).logits

        zero, one, two = output(0.0), output(1.0), output(2.0)
        assert (one - zero).abs().max() > 1e-4
        torch.testing.assert_close(two - zero, 2 * (one - zero), rtol=1e-4, atol=1e-5)


def test_floors_train_as_long_as_the_designs_that_must_beat_them():
    usual = TrainingSpec(loop=LoopSpec(epochs=7.0))
    assert {floor.design.training.loop.epochs for floor in floors_of("text regression", training=usual)} == {7.0}
