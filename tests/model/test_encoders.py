import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.data.batch import Tokens
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.encoders import Bert, Convolution, Features, NGram, Pixels, ViT


def image(height: int, width: int) -> ImageInput:
    return ImageInput(channels=3, height=height, width=width)


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(64, 64, 64), (8, 8, 64), (16, 12, 48), (1, 1, 1), (200, 64, 49 * 0 + 7 * 2), (5, 9, 15)],
)
def test_stages_halve_the_map_only_until_it_fits_the_grid(height, width, count):
    encoder = Convolution(widths=(4, 4, 8)).build(6, image(height, width))
    assert encoder(torch.rand(2, 3, height, width)).x.shape == (2, count, 6)


def test_a_small_image_is_not_halved_at_all():
    strides = [m.stride for m in Convolution().build(6, image(8, 8)).modules() if isinstance(m, torch.nn.Conv2d)]
    assert strides == [(1, 1)] * 3


@pytest.mark.parametrize("pool", ["mean", "max", "flatten"])
def test_a_pooled_convolution_is_one_token(pool):
    assert Convolution(pool=pool).build(6, image(9, 5))(torch.rand(2, 3, 9, 5)).x.shape == (2, 1, 6)


def test_a_convolution_can_tell_places_apart_only_with_positions():
    torch.manual_seed(0)
    dot = torch.zeros(2, 3, 16, 16)
    dot[0, :, 5, 5] = 1.0
    dot[1, :, 9, 9] = 1.0
    told = {}
    for positions in (False, True):
        encoder = Convolution(widths=(8, 8), grid=16, pool="mean", positions=positions).build(6, image(16, 16))
        x = encoder(dot).x
        told[positions] = not torch.allclose(x[0], x[1], atol=1e-6)
    assert told == {False: False, True: True}


@pytest.mark.parametrize("stem", ["patch", "convolution"])
@pytest.mark.parametrize(("height", "width", "count"), [(64, 64, 64), (8, 8, 64), (17, 9, 18), (1, 1, 1)])
def test_a_vision_transformer_has_at_most_grid_patches_a_side(stem, height, width, count):
    encoder = ViT(depth=1, stem=stem).build(8, image(height, width))
    assert encoder(torch.rand(2, 3, height, width)).x.shape == (2, count, 8)


def test_every_pixel_reaches_some_patch():
    encoder = ViT(depth=1, grid=2, dropout=0.0).build(8, image(7, 5))
    pixels = torch.rand(1, 3, 7, 5, requires_grad=True)
    encoder(pixels).x.square().sum().backward()
    assert (pixels.grad.abs() > 0).all()


def test_pixels_never_grow():
    assert Pixels(size=16).build(4, image(3, 40)).project.in_features == 3 * 3 * 16


def test_bert_reads_the_order_of_words():
    torch.manual_seed(0)
    encoder = Bert(depth=1, pool="cls").build(8, TextInput(vocabulary=9, length=3)).eval()
    x = encoder(torch.tensor([[2, 5, 6], [2, 6, 5]])).x
    assert not torch.allclose(x[0], x[1])


def test_bert_ignores_how_long_the_padding_is():
    torch.manual_seed(0)
    encoder = Bert(depth=2).build(8, TextInput(vocabulary=9, length=6)).eval()
    short, long = encoder(torch.tensor([[2, 5, 6]])), encoder(torch.tensor([[2, 5, 6, 0, 0, 0]]))
    torch.testing.assert_close(short.x, long.x[:, :3], atol=1e-6, rtol=1e-6)


def test_kept_features_may_be_float16_and_keep_their_boxes():
    encoder = Features().build(8, TokensInput(count=4, dim=5, boxes=True))
    mask, boxes = torch.ones(2, 4, dtype=torch.bool), torch.rand(2, 4, 5)
    out = encoder(Tokens(torch.randn(2, 4, 5).half(), mask, boxes))
    assert out.x.dtype == torch.float32
    assert out.boxes is boxes
    assert not torch.allclose(
        encoder(Tokens(torch.zeros(2, 4, 5), mask, boxes)).x, encoder(Tokens(torch.zeros(2, 4, 5), mask, boxes * 0)).x
    )


def test_features_without_their_boxes_are_refused():
    encoder = Features().build(8, TokensInput(count=4, dim=5, boxes=True))
    with pytest.raises(ValueError, match="tokens have boxes, but these have none"):
        encoder(Tokens(torch.zeros(2, 4, 5), torch.ones(2, 4, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kernel": 2}, "kernel must be odd, but kernel=2"), ({"widths": [4, 0]}, "every width must be at least 1")],
)
def test_an_impossible_convolution_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Convolution.from_dict(settings)


def test_the_mean_of_ready_made_tokens_is_one_token_that_forgets_places_and_leaves_out_masked_ones():
    encoder = Features(pool="mean").build(8, TokensInput(count=4, dim=5, boxes=False)).eval()
    x, mask = torch.randn(2, 4, 5), torch.tensor([[True] * 4, [True, True, False, False]])
    out = encoder(Tokens(x, mask))
    assert out.x.shape == (2, 1, 8)
    torch.testing.assert_close(encoder(Tokens(x.flip(1), mask.flip(1))).x, out.x)
    torch.testing.assert_close(encoder(Tokens(x[1:, :2], mask[1:, :2])).x, out.x[1:])


def test_the_places_of_averaged_tokens_are_refused():
    with pytest.raises(ConfigError, match="positions need every token"):
        Features.from_dict({"positions": True, "pool": "mean"})


def test_a_bag_of_words_leaves_out_the_special_pieces_of_a_published_tokenizer():
    published = TextInput(vocabulary=30, length=6, tokenizer="0" * 64, blank=9, special=(8, 9, 11))
    bag = NGram(orders=1).build(4, published)
    _, counts = bag.grams(torch.tensor([[8, 20, 9, 2, 11, 0]]), 1)
    assert counts[0].tolist() == [0, 1, 1, 1, 0, 0]
