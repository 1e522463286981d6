import pytest
import torch

from chiasma.data.batch import Tokens
from chiasma.model.attention import zero_padding
from chiasma.model.components import members
from chiasma.model.fusion import Alternating, CrossAttention, FiLM, Gated, Late, Multiplicative
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from tests.contracts.inputs import DIM, ROWS, tokens

# What source does is its author's; the probe asks for gradients to both.
ALONE = ("late", "concat", "generated")
INTERACTING = [member for member in members("fusion") if member.model_fields["kind"].default not in ALONE]


def built(spec: FusionSettings) -> Fusion:
    torch.manual_seed(0)
    return spec.build(DIM).eval()


def absent(part: Tokens) -> Tokens:
    return part.only(torch.zeros(ROWS, dtype=torch.bool))


@pytest.mark.parametrize("member", INTERACTING, ids=lambda member: member.__name__)
def test_image_and_text_interact(member: type[FusionSettings]):
    """A sum of functions of one modality each has no mixed difference."""
    fusion = built(member())
    images, texts = (tokens(4, seed=1), tokens(4, seed=2)), (tokens(4, seed=3), tokens(4, seed=4))
    same = fusion(images[0], texts[0]).mean() + fusion(images[1], texts[1]).mean()
    crossed = fusion(images[0], texts[1]).mean() + fusion(images[1], texts[0]).mean()
    assert (same - crossed).abs().max() > 1e-3


def test_the_gate_closes_to_what_is_absent():
    image, text = tokens(4, seed=1), tokens(4, seed=2)
    fusion = built(Gated())
    torch.testing.assert_close(fusion(image, absent(text)).x[:, 0], image.mean())
    torch.testing.assert_close(fusion(absent(image), text).x[:, 0], text.mean())


def test_a_product_passes_the_factor_that_is_there():
    image, text = tokens(4, seed=1), tokens(4, seed=2)
    fusion = built(Multiplicative(sums=False))
    expected = fusion.mix(fusion.image(image.mean()))
    torch.testing.assert_close(fusion(image, absent(text)).x[:, 0], expected)


def test_late_attention_goes_to_the_modality_that_is_there():
    image, text = tokens(4, seed=1), tokens(4, seed=2)
    fusion = built(Late(method="attention"))
    torch.testing.assert_close(fusion(image, absent(text)).x[:, 0], fusion.image(image.mean()))


def test_late_numbers_begin_even_and_go_to_the_modality_that_is_there():
    image, text = tokens(4, seed=1), tokens(4, seed=2)
    fusion = built(Late(method="weighted"))
    seen, read = fusion.image(image.mean()), fusion.text(text.mean())
    torch.testing.assert_close(fusion(image, text).x[:, 0], (seen + read) / 2)
    torch.testing.assert_close(fusion(absent(image), text).x[:, 0], read)
    with torch.no_grad():
        fusion.trust[1] = -50.0
    torch.testing.assert_close(fusion(image, text).x[:, 0], seen)


def test_alternating_blocks_change_one_modality_at_a_time_and_read_the_other_as_it_is_now():
    image, text = tokens(4, seed=1), tokens(3, seed=2)
    fusion = built(Alternating(depth=3))
    seen = []
    for block in fusion.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    joint = fusion(image, text)
    (pictures, words, first), (asking, context, second), (again, newest, third) = seen
    torch.testing.assert_close(pictures.x, fusion.image(zero_padding(image)))
    assert asking.x is words.x
    assert context.x is first.x
    assert again.x is first.x
    assert newest.x is second.x
    expected = fusion.norm(torch.cat([third.x, second.x], dim=1))
    torch.testing.assert_close(joint.x[joint.mask], expected[joint.mask])
    torch.testing.assert_close(joint.mean()[1], expected[1][joint.mask[1]].mean(0))


def test_both_looks_of_alternating_blocks_use_the_attention_that_is_given():
    image, text = tokens(4, seed=1), tokens(3, seed=2)
    usual, graph, blind = (
        built(Alternating.from_dict({"attention": {"kind": kind}}))(image, text).mean()
        for kind in ("dot_product", "graph", "mean")
    )
    assert torch.equal(usual, graph)
    assert not torch.allclose(usual, blind)


def test_the_direction_says_who_asks():
    image, text = tokens(4, seed=1), tokens(4, seed=2)
    for direction, asking in (("image_to_text", image), ("text_to_image", text)):
        fusion = built(CrossAttention(direction=direction))
        for block in (*fusion.modules(),):
            if isinstance(block, torch.nn.Linear):
                torch.nn.init.zeros_(block.weight)
                torch.nn.init.zeros_(block.bias)
        normed = torch.nn.functional.layer_norm(asking.x, (DIM,))
        torch.testing.assert_close(fusion(image, text).x[:, 0], Tokens(normed, asking.mask).mean())


def test_film_hands_on_every_modulated_token_of_the_image_or_their_mean():
    image, text = tokens(4), tokens(6, seed=1)
    mean, whole = (built(FiLM(pool=pool))(image, text) for pool in ("mean", "none"))
    assert whole.x.shape == (ROWS, 4, DIM)
    torch.testing.assert_close(whole.mask, image.mask)
    torch.testing.assert_close(whole.mean(), mean.x[:, 0])


def test_every_token_that_asked_can_be_handed_on():
    image, text = tokens(4), tokens(6, seed=1)
    out = CrossAttention(heads=2, pool="none").build(DIM)(image, text)
    assert out.x.shape == (ROWS, 10, DIM)
    torch.testing.assert_close(out.mask, torch.cat([image.mask, text.mask], dim=1))
    alone = CrossAttention(heads=2, pool="none", direction="text_to_image").build(DIM)(image, text)
    assert alone.x.shape == (ROWS, 6, DIM)
