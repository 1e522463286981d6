import pytest
import torch

from chiasma.data.batch import Tokens
from chiasma.model.components import members
from chiasma.model.fusion import CrossAttention, Gated, Late, Multiplicative
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from tests.contracts.inputs import DIM, ROWS, tokens

INTERACTING = [member for member in members("fusion") if member.model_fields["kind"].default not in ("late", "concat")]


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
