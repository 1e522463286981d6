import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chiasma.data.batch import Tokens
from chiasma.data.signature import Signature
from chiasma.model.components import members
from chiasma.model.cost import cost, example_batch, latency_seconds, parameters
from chiasma.model.flops import count_flops
from chiasma.model.fusion import Generated
from chiasma.model.multimodal import ModelSpec
from tests.contracts.inputs import REGIONS, TEXT, signature

SMALL = {
    "dim": 16,
    "encoders": {"image": {"kind": "convolution"}, "text": {"kind": "ngram"}},
    "fusion": {"kind": "concat"},
}


def designs() -> list[tuple[ModelSpec, Signature]]:
    """Return one design for each encoder and each fusion."""
    both, regions = signature(), signature(image=REGIONS, text=TEXT)
    images = [({"kind": kind}, both) for kind in ("convolution", "vit", "pixels")] + [({"kind": "features"}, regions)]
    texts = [{"kind": "bert"}, {"kind": "ngram"}]
    # Source has no defaults; what it costs is counted where it may run.
    fusions = [{"kind": each.model_fields["kind"].default} for each in members("fusion") if each is not Generated]
    first = [(image, text, fusions[0], data) for image, data in images for text in texts]
    second = [(images[0][0], texts[0], fusion, both) for fusion in fusions]
    return [
        (ModelSpec.from_dict({"dim": 16, "encoders": {"image": image, "text": text}, "fusion": fusion}), data)
        for image, text, fusion, data in first + second
    ]


@pytest.mark.parametrize(
    ("design", "data"), designs(), ids=lambda part: part.fusion.kind if isinstance(part, ModelSpec) else ""
)
def test_matrix_operations_agree_with_torchs_own_counter_and_everything_is_counted(design, data):
    model, batch = design.build(data).eval(), example_batch(data, 1)
    ours = count_flops(model, batch)
    with FlopCounterMode(display=False) as theirs, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(batch)
    assert ours.matrix == theirs.get_total_flops()
    assert ours.pointwise > 0
    assert ours.uncounted == ()


def test_attention_counts_alike_on_every_backend():
    attention = nn.functional.scaled_dot_product_attention
    call = nn.Module()
    call.forward = lambda q, k, v: attention(q, k, v)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    fused = count_flops(call, q, k, v)
    with sdpa_kernel(SDPBackend.MATH):
        plain = count_flops(call, q, k, v)
    assert fused.matrix == plain.matrix == 2 * 2 * 2 * 3 * 5 * 7 * 8


@pytest.mark.parametrize(
    ("module", "shape", "matrix", "pointwise"),
    [
        (nn.Linear(5, 7), (3, 5), 2 * 3 * 5 * 7, 3 * 7),
        (nn.Linear(5, 7, bias=False), (3, 5), 2 * 3 * 5 * 7, 0),
        (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 5, 5), 2 * 6 * 9 * 2 * 9, 6 * 9),
        (nn.ConvTranspose2d(4, 6, 2, bias=False), (1, 4, 5, 5), 2 * 100 * 6 * 4, 0),
        (nn.ReLU(), (3, 5), 0, 15),
        (nn.ReLU(inplace=True), (3, 5), 0, 15),
        (nn.Softmax(-1), (3, 5), 0, 5 * 15),
        (nn.Flatten(), (3, 5, 2), 0, 0),
    ],
    ids=str,
)
def test_each_operation_costs_what_arithmetic_says(module, shape, matrix, pointwise):
    count = count_flops(module, torch.randn(shape))
    assert (count.matrix, count.pointwise) == (matrix, pointwise)


def test_attention_that_sorts_its_scores_pays_for_the_comparisons():
    class Sorted(nn.Module):
        def forward(self, x):
            return x.sort(dim=-1).values

    count = count_flops(Sorted(), torch.randn(4, 8))
    assert (count.matrix, count.pointwise, count.uncounted) == (0, 32 * 3, ())


def test_an_operation_that_cannot_be_counted_is_named():
    class Sorted(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x.sort().values)

    assert count_flops(Sorted(), torch.randn(3, 3)).uncounted == ("_linalg_svd",)


def test_cost_is_a_function_of_the_spec_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = cost(ModelSpec.from_dict(SMALL), signature())
    assert torch.equal(torch.rand(1), expected)
    assert first == cost(ModelSpec.from_dict(SMALL), signature())
    assert first.parameters == parameters(ModelSpec.from_dict(SMALL).build(signature()))


def test_a_larger_model_costs_more():
    small = cost(ModelSpec.from_dict(SMALL), signature())
    large = cost(ModelSpec.from_dict({**SMALL, "dim": 32}), signature())
    assert large.parameters > small.parameters
    assert large.flops > small.flops


def test_shared_and_frozen_parameters_are_counted_once_and_never():
    layer = nn.Linear(3, 3)
    frozen = nn.Linear(3, 3).requires_grad_(False)
    assert parameters(nn.Sequential(layer, layer, frozen)) == 12


def test_latency_is_measured_and_grows_with_the_batch():
    model = ModelSpec.from_dict(SMALL).build(signature()).train()
    one = latency_seconds(model, signature(), repeats=5)
    many = latency_seconds(model, signature(), batch_size=256, repeats=5)
    assert 0 < one < many
    assert model.training


def test_an_example_batch_looks_like_the_data_and_is_the_same_every_time():
    data = signature(image=REGIONS, text=TEXT)
    batch = example_batch(data, 4)
    text, image = batch.inputs["text"], batch.inputs["image"]
    assert isinstance(text, torch.Tensor)
    assert isinstance(image, Tokens)
    assert text.shape == (4, TEXT.length)
    assert int(text.max()) < TEXT.vocabulary
    assert (text[0] != 0).all()
    assert image.x.shape == (4, REGIONS.count, REGIONS.dim)
    assert image.boxes is not None
    again, other = example_batch(data, 4).inputs["text"], example_batch(data, 4, seed=1).inputs["text"]
    assert torch.equal(text, again)
    assert not torch.equal(text, other)
