import pytest
import torch

from chiasma.data.batch import Tokens
from chiasma.model.attention import DotProduct, MultiHeadAttention
from chiasma.model.blocks import Transformer, TransformerSpec
from chiasma.model.kernel import Projections
from tests.contracts.inputs import ROWS, tokens

BARE = DotProduct(projections=Projections(q=False, k=False, v=False, o=False))


def test_dot_product_attention_is_the_softmax_of_scaled_products_over_visible_keys():
    queries, keys = tokens(3, dim=8), tokens(5, dim=8, seed=1)
    out = MultiHeadAttention(8, heads=2, attention=BARE)(queries, keys)
    for row in range(ROWS):
        seen = keys.x[row, keys.mask[row]]
        for head in (slice(0, 4), slice(4, 8)):
            weights = torch.softmax(queries.x[row][:, head] @ seen[:, head].T / 2.0, dim=-1)
            expected = (weights @ seen[:, head])[queries.mask[row]]
            torch.testing.assert_close(out[row][queries.mask[row]][:, head], expected, atol=1e-5, rtol=1e-5)


def test_attention_without_projections_has_no_parameters():
    assert list(MultiHeadAttention(8, heads=2, attention=BARE).parameters()) == []


def test_a_row_without_keys_gets_zeros():
    out = MultiHeadAttention(8, heads=2, attention=DotProduct(projections=Projections(o=False)))(
        tokens(3, dim=8), tokens(5, dim=8).only(torch.tensor([True, False, True, True, True]))
    )
    assert out[1].abs().sum() == 0
    assert out[0].abs().sum() > 0


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"dim must be divisible by heads, but dim=8 and heads=3\."):
        MultiHeadAttention(8, heads=3, attention=DotProduct())


@pytest.mark.parametrize("noise", [1e9, float("nan")])
def test_a_transformer_never_lets_padding_reach_its_weights(noise: float):
    torch.manual_seed(0)
    module = Transformer(8, TransformerSpec(depth=2, dropout=0.0))
    clean = tokens(6, dim=8)
    dirty = Tokens(clean.x.masked_fill(~clean.mask[..., None], noise), clean.mask)
    out = module(dirty)
    assert torch.equal(out.x, module(clean).x)
    assert out.x[~out.mask].abs().sum() == 0
    out.x.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    module = MultiHeadAttention(8, heads=2, attention=DotProduct(), dropout=0.5)
    data = tokens(6, dim=8)
    assert not torch.equal(module(data, data), module(data, data))
    module.eval()
    assert torch.equal(module(data, data), module(data, data))
