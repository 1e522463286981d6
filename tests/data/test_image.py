import contextlib
import io
import warnings

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import DataError
from chiasma.data.image import decode, fitted, from_array, quiet_decoding, read_header

LIMIT = 50_000_000


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, max_pixels=LIMIT))


def test_a_16_bit_image_is_scaled_and_not_saturated():
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    out = pixels(encoded(Image.fromarray(ramp)))
    assert out[0, 0, 0] == 0
    assert out[-1, -1, 0] == 255
    assert abs(int(out[8, 0, 0]) - 128) <= 1


def test_cmyk_becomes_rgb_with_the_same_colours():
    red = Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK")
    out = pixels(encoded(red, "JPEG", quality=95))
    assert np.abs(out.reshape(-1, 3).mean(0) - [254, 0, 0]).max() < 6


def test_what_is_transparent_becomes_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (pixels(encoded(clear)) == 255).all()


def test_a_transparent_palette_gives_white_and_no_warning():
    image = Image.new("P", (4, 4))
    image.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    data = encoded(image, transparency=bytes([0, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (pixels(data) == 255).all()


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (6, 6), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_header(data, max_pixels=LIMIT).frames == 2
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_an_image_is_turned_as_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)
    assert decode(data, max_pixels=LIMIT).size == (10, 20)


def test_a_single_pixel_is_an_image():
    assert pixels(encoded(Image.new("RGB", (1, 1), (9, 8, 7)))).tolist() == [[[9, 8, 7]]]


def test_a_large_image_is_refused_by_its_header():
    data = encoded(Image.new("1", (8000, 7000)))
    with pytest.raises(DataError, match=r"too many pixels: 8000 x 7000 is more than data.max_pixels=50,000,000"):
        decode(data, max_pixels=LIMIT)


@pytest.mark.parametrize("keep", [0, 3, 30, 400])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_truncated_file_is_one_error(kind, keep):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with quiet_decoding(), pytest.raises(DataError, match="image"):
        decode(data[:keep], max_pixels=LIMIT)


def test_flipped_bytes_give_an_image_or_one_error_and_never_a_crash():
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG", "GIF", "TIFF"):
        data = encoded(Image.fromarray(noise), kind)
        for _ in range(60):
            spoilt = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                spoilt[place] = rng.integers(256)
            with quiet_decoding(), contextlib.suppress(DataError):
                decode(bytes(spoilt), max_pixels=LIMIT)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_every_way_to_fit_gives_the_wished_shape(fit):
    image = Image.new("RGB", (30, 10), (255, 255, 255))
    out = fitted(image, height=12, width=12, fit=fit)
    assert out.shape == (3, 12, 12)
    assert (out == 255).all() == (fit != "pad")


def test_padding_keeps_the_proportions():
    out = fitted(Image.new("RGB", (30, 10), (255, 255, 255)), height=12, width=12, fit="pad")
    assert (out[:, 4:8] == 255).all()
    assert (out[:, :4] == 0).all()


def test_an_array_of_floats_is_refused():
    with pytest.raises(DataError, match=r"must be H x W x 3 of uint8, but got \(4, 4, 3\) of float64"):
        from_array(np.zeros((4, 4, 3)))
