"""Images of all kinds to arrays of one size."""
from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from maskless.data.pictures import from_array, read_picture, sized


def content(image: Image.Image, kind: str = "PNG") -> bytes:
    into = io.BytesIO()
    image.save(into, kind)
    return into.getvalue()


def ramp(height: int, width: int) -> np.ndarray:
    return (np.arange(height)[:, None] * 3 + np.arange(width) * 2).astype(np.uint8)


def test_the_middle_is_cut_out_after_the_short_side_is_scaled():
    wide = from_array(ramp(4, 9), "wide")
    assert sized(wide, 4, 1, "crop").tolist() == [ramp(4, 9)[:, 2:6].tolist()]  # round(2.5) is 2, as in the released code
    assert sized(from_array(ramp(9, 4), "tall"), 4, 1, "crop").tolist() == [ramp(9, 4)[2:6].tolist()]
    twice = from_array(np.kron(ramp(4, 6), np.ones((2, 2), np.uint8)), "twice")  # 8 x 12
    scaled = sized(twice, 4, 1, "crop").astype(int)
    assert scaled.shape == (1, 4, 4) and np.abs(scaled[0] - ramp(4, 6)[:, 1:5]).max() <= 1
    odd = Image.effect_noise((301, 200), 60)
    wanted = odd.resize((96, 64), Image.Resampling.BILINEAR).crop((16, 0, 80, 64))  # int(64 * 301 / 200) = 96
    assert (sized(odd, 64, 1, "crop")[0] == np.asarray(wanted)).all()


def test_padding_keeps_every_pixel():
    padded = sized(from_array(ramp(5, 4), "small"), 8, 1, "pad")
    assert (padded[0, 1:6, 2:6] == ramp(5, 4)).all() and padded.sum() == ramp(5, 4).sum()
    with pytest.raises(ValueError, match="an image of 9 x 4 pixels cannot be padded to 8: crop"):
        sized(from_array(ramp(4, 9), "large"), 8, 1, "pad")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "LA"])
def test_any_mode_becomes_grey_or_colour(mode):
    image = Image.new("RGB", (6, 5), (200, 10, 40)).convert(mode) if mode != "LA" else Image.new("LA", (6, 5), (70, 255))
    assert sized(image, 4, 3, "crop").shape == (3, 4, 4) and sized(image, 4, 1, "crop").shape == (1, 4, 4)
    if mode in ("RGB", "RGBA"):
        assert sized(image, 4, 3, "crop")[:, 0, 0].tolist() == [200, 10, 40]


def test_wide_greys_keep_their_high_byte_and_numbers_without_white_are_refused():
    wide = Image.fromarray((np.arange(16, dtype=np.uint16) * 4096).reshape(4, 4))
    assert wide.mode == "I;16" and np.asarray(read_picture(content(wide), "wide")).tolist() == (np.arange(16) * 16).reshape(4, 4).tolist()
    for mode in ("I", "F"):
        with pytest.raises(ValueError, match=f"x holds {mode} .32-bit numbers., of which white is not known"):
            read_picture(content(Image.new(mode, (4, 4)), "TIFF"), "x")


def test_an_image_is_turned_as_its_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6                                                # to be turned by a quarter to the right
    into = io.BytesIO()
    from_array(ramp(4, 6), "wide").save(into, "PNG", exif=exif)
    assert (np.asarray(read_picture(into.getvalue(), "x")) == np.rot90(ramp(4, 6), -1)).all()


def test_what_is_no_image(tmp_path):
    whole = content(Image.effect_noise((40, 40), 60), "JPEG")
    assert read_picture(whole, "whole").size == (40, 40)
    for wrong, message in ((b"no image at all", "it is not an image|x is not an image that can be read"), (b"", "x is not an image"),
                           (whole[: len(whole) // 2], "x is truncated or damaged"),
                           (content(Image.effect_noise((40, 40), 60))[:300], "x is truncated or damaged")):
        with pytest.raises(ValueError, match=message) as caught:
            read_picture(wrong, "x")
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="nowhere"):
        read_picture(tmp_path / "nowhere.png", "x")
    for array in (np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="x is no image but"):
            from_array(array, "x")


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="more pixels than an image should have"):
        read_picture(content(Image.new("L", (40, 40))), "x")


def test_without_pillow(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"Pillow: pip install 'maskless\[images\]'"):
        read_picture(b"", "x")
