import time

import pytest
import torch
from torch import nn

from chiasma.core.rng import seed_torch
from chiasma.data.batch import Output, Tokens
from chiasma.data.signature import ImageInput, Signature, Target, TextInput, TokensInput
from chiasma.evaluate.probe import probe
from chiasma.model.encoders import Bert, Convolution, Features, NGram
from chiasma.model.fusion import Concat, CrossAttention, FiLM, Multiplicative
from chiasma.model.multimodal import ModelSpec

TARGET = Target(task="classification", labels=("no", "yes"))
TEXT = TextInput(vocabulary=20, length=6)
SIGNATURE = Signature(inputs={"image": ImageInput(channels=3, height=8, width=8), "text": TEXT}, target=TARGET)
FEATURES = Signature(inputs={"image": TokensInput(count=4, dim=6), "text": TEXT}, target=TARGET)
SPEC = ModelSpec(dim=16, encoders={"image": Convolution(widths=(8,)), "text": Bert(depth=1)}, fusion=Concat())


@pytest.fixture
def model():
    seed_torch(0)
    return SPEC.build(SIGNATURE)


class Meddling(nn.Module):
    """Does something forbidden to the output of a sound module."""

    def __init__(self, sound, meddle):
        super().__init__()
        self.sound = sound
        self.meddle = meddle

    def forward(self, *inputs):
        return self.meddle(self.sound(*inputs), *inputs)


def reason(model, signature=SIGNATURE, **limits):
    rejected = probe(model, signature, **limits)
    assert rejected is not None
    assert rejected.stage == "probe"
    return rejected.reason


@pytest.mark.parametrize("fusion", [Concat(), Multiplicative(), CrossAttention(depth=1), FiLM()], ids=lambda f: f.kind)
def test_sound_models_pass(fusion):
    spec = SPEC.model_copy(update={"fusion": fusion})
    assert probe(spec.build(SIGNATURE), SIGNATURE) is None


def test_ready_made_tokens_and_single_modalities_pass():
    spec = ModelSpec(dim=16, encoders={"image": Features(), "text": NGram()}, fusion=Multiplicative())
    assert probe(spec.build(FEATURES), FEATURES) is None
    alone = ModelSpec(dim=16, encoders={"text": NGram()})
    assert probe(alone.build(FEATURES), FEATURES) is None


def test_too_many_parameters_are_rejected_with_both_numbers(model):
    count = sum(parameter.numel() for parameter in model.parameters())
    assert probe(model, SIGNATURE, max_parameters=count) is None
    assert reason(model, max_parameters=100) == f"the model has {count:,} parameters, but the limit is 100"


def test_an_output_of_the_wrong_shape_is_rejected(model):
    model.head = Meddling(model.head, lambda output, *_: Output(output.logits[:, :1]))
    assert reason(model) == "the output must have shape [3, 2], but has [3, 1]"


def test_an_output_that_is_not_finite_is_rejected(model):
    model.head = Meddling(model.head, lambda output, *_: Output(output.logits / 0))
    assert reason(model) == "the output of the untrained model holds a NaN or an infinity"


@pytest.mark.parametrize("name", ["image", "text"])
def test_a_modality_without_a_gradient_is_rejected(model, name):
    cut = Meddling(model.encoders[name], lambda tokens, *_: Tokens(tokens.x.detach() * 0, tokens.mask))
    model.encoders[name] = cut
    assert reason(model) == f"no gradient reaches the {name}"


def test_a_path_that_starts_at_zero_is_open(model):
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    assert probe(model, SIGNATURE) is None
    assert all(not parameter.any() for parameter in model.head.parameters())


def test_a_fusion_that_looks_at_masked_tokens_is_rejected(model):
    def peek(fused, image, text):
        return Tokens(fused.x + text.x.sum((1, 2))[:, None, None], fused.mask)

    model.fusion = Meddling(model.fusion, peek)
    assert reason(model) == "a masked token changes the output"


def test_a_row_that_depends_on_its_neighbours_is_rejected(model):
    model.head = Meddling(model.head, lambda output, *_: Output(output.logits - output.logits.mean(0)))
    assert reason(model) == "the output of a row depends on the other rows of its batch"


def test_a_row_without_its_text_must_stay_finite(model):
    def divide(fused, image, text):
        return Tokens(fused.x / text.mask.any(1)[:, None, None], fused.mask)

    model.fusion = Meddling(model.fusion, divide)
    assert reason(model) == "the output of a row without its text holds a NaN or an infinity"


def test_a_row_without_any_part_must_stay_finite(model):
    model.head = Meddling(model.head, lambda output, fused, *_: Output(output.logits / fused.mask.any(1, keepdim=True)))
    assert reason(model) == "the output of a row without any part holds a NaN or an infinity"


def test_an_encoder_that_looks_at_absent_parts_is_rejected(model):
    class Peeking(type(model)):
        """Does not zero absent parts."""

        def encode(self, batch):
            tokens = super().encode(batch)
            image = tokens.tokens["image"]
            tokens.tokens["image"] = Tokens(image.x + batch.inputs["image"].mean((1, 2, 3))[:, None, None], image.mask)
            mask = tokens.tokens["image"].mask | True
            tokens.tokens["image"] = Tokens(tokens.tokens["image"].x, mask)
            return tokens

    model.__class__ = Peeking
    assert reason(model) == "an absent image changes the output"


def test_the_model_and_the_generators_are_left_as_they_were(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    model.train()
    assert probe(model, SIGNATURE) is None
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_probe_of_a_small_model_costs_no_more_than_a_few_training_steps(model):
    probe(model, SIGNATURE)
    seconds = []
    for _ in range(5):
        started = time.process_time()
        probe(model, SIGNATURE)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.25
