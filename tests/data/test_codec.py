"""Codecs: codes and pixels, what they say to images and codes that are not theirs, and codecs on disk."""
from __future__ import annotations

import pytest
import torch

from maskless.data.codec import Codec, PixelCodec, code_grid, load_codec


@pytest.mark.parametrize(("levels", "channels"), [(2, 1), (3, 1), (16, 1), (256, 1), (65536, 1), (2, 3), (8, 3), (40, 3)])
def test_every_code_comes_back(levels, channels):
    codec = PixelCodec(levels, channels)
    assert isinstance(codec, Codec) and codec.vocab_size == levels**channels and codec.factor == 1
    codes = torch.arange(codec.vocab_size)[:65536].view(1, 1, -1)
    images = codec.decode(codes)
    assert images.shape == (1, channels, 1, codes.numel()) and images.abs().max() <= 1
    assert torch.equal(codec.encode(images), codes)


def test_the_nearest_level_each_and_channels_in_order():
    grey = PixelCodec(2)
    assert grey.encode(torch.tensor([127.0, 128.0]).view(1, 1, 1, 2) / 255 * 2 - 1).tolist() == [[[0, 1]]]
    colour = PixelCodec(4, 3)
    red, blue = (torch.full((1, 3, 1, 1), -1.0).index_fill(1, torch.tensor([channel]), 1.0) for channel in (0, 2))
    assert colour.encode(red).item() == 3 * 16 and colour.encode(blue).item() == 3
    image = torch.rand(2, 3, 5, 4) * 2 - 1
    assert (colour.decode(colour.encode(image)) - image).abs().max() <= 1 / 3 + 1e-6
    assert torch.equal(colour.encode(image * 3), colour.encode((image * 3).clamp(-1, 1)))


@pytest.mark.parametrize(("levels", "planes", "codes"), [(256, 3, 256), (256, 2, 4096), (4, 2, 8), (16, 3, 16)])
def test_a_pixel_in_several_codes(levels, planes, codes):
    codec, images = PixelCodec(levels, 3, planes), torch.randint(levels, (2, 3, 4, 5)) / (levels - 1) * 2 - 1
    assert codec.vocab_size == codes and code_grid(codec, 32) == (planes * 32, 32)
    found = codec.encode(images)
    assert found.shape == (2, planes * 4, 5) and int(found.max()) < codes
    torch.testing.assert_close(codec.decode(found), images)
    if planes == 3:                                                 # the channels, one under the other
        torch.testing.assert_close(found.unflatten(1, (3, 4)), ((images + 1) / 2 * (levels - 1)).round().long())


def test_the_super_token_of_a_colour():
    image = torch.tensor([18.0, 52.0, 86.0]).view(1, 3, 1, 1) / 127.5 - 1
    assert PixelCodec(256, 3, 2).encode(image).flatten().tolist() == [0x123, 0x456]        # of 0x12, 0x34, 0x56


def test_bytes_are_exact():
    codec, image = PixelCodec(256), torch.arange(256).view(1, 1, 16, 16)
    assert torch.equal(codec.encode(image / 255 * 2 - 1)[0], image[0, 0])


def test_what_is_no_image_and_no_code():
    with pytest.raises(ValueError, match="the images have 3 channels and the codec has 1"):
        PixelCodec(4).encode(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"the code 4 is outside 0\.\.3: these codes are of another codec"):
        PixelCodec(4).decode(torch.tensor([[[0, 4]]]))
    with pytest.raises(ValueError, match="the code -1 is outside"):
        PixelCodec(4).decode(torch.tensor([[[0, -1]]]))
    for arguments, message in (((1, 1), "levels is 1: use 2 to 65536"), ((41, 3), "levels is 41: use 2 to 40"),
                               ((4, 2), "channels is 2"), ((4, 3, 0), "planes is 0"), ((3, 3, 2), "no 2-fold power, so some codes"),
                               ((65537, 3, 3), "use 2 to 65536 with 3 channels in 3 planes")):
        with pytest.raises(ValueError, match=message):
            PixelCodec(*arguments)


def test_to_disk_and_back(tmp_path):
    codec = PixelCodec(8, 3)
    codec.save(tmp_path)
    assert load_codec(tmp_path) == codec and load_codec(tmp_path).hash == codec.hash != PixelCodec(8, 1).hash
    step = tmp_path / "run" / "checkpoints" / "step-00000012"
    for number, levels in ((9, 4), (12, 5), (100, 6)):
        folder = step.with_name(f"step-{number:08d}" + (".tmp" if number == 100 else ""))
        folder.mkdir(parents=True)
        PixelCodec(levels).save(folder)
    assert load_codec(tmp_path / "run") == PixelCodec(5)


def test_what_is_no_codec(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist: give a folder with codec\.json"):
        load_codec(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no codec"):
        load_codec(tmp_path)
    for content, message in (("{", "is not valid JSON"), ('{"kind": "jpeg"}', "of no kind known here"), ("[]", "no kind"),
                             ('{"kind": "pixels", "levels": 4}', "is damaged"), ('{"kind": "vq"}', "is damaged")):
        (tmp_path / "codec.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_codec(tmp_path)
