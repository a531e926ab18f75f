"""Parameter counts of the published configurations (spec of the released code, section 1.9), on the meta device."""
from __future__ import annotations

import pytest
import torch

from maskless.models import AutoregressiveConfig, MaskedConfig, MaskGITConfig, PartitionConfig, build

GPT2, BERT = 50_258, 30_522                                         # as imported: with a [MASK] row
WIDE = {"width": 1024, "heads": 16}
IMPORTED = {"mask_id": 50_257, "forbidden": (50_257,)}

PUBLISHED = [
    (MaskedConfig(GPT2, **IMPORTED), 169_627_218, 130),
    (MaskedConfig(BERT, mask_id=103, forbidden=(103,)), 139_292_986, 130),
    (MaskedConfig(GPT2, layers=24, **WIDE, **IMPORTED), 424_477_010, 250),
    (AutoregressiveConfig(GPT2, forbidden=(50_257,)), 162_246_482, 100),
    (AutoregressiveConfig(BERT), 131_912_250, 100),
    (PartitionConfig(GPT2, encoder_layers=6, decoder_layers=6), 171_996_498, 151),
    (PartitionConfig(BERT, encoder_layers=6, decoder_layers=6), 141_662_266, 151),
    (PartitionConfig(GPT2, forbidden=(50_257,)), 202_708_818, 195),
    (PartitionConfig(GPT2, encoder_layers=10, decoder_layers=6), 202_707_282, 191),
    (PartitionConfig(BERT, encoder_layers=10, decoder_layers=6), 172_373_050, 191),
    (PartitionConfig(GPT2, encoder_layers=6, decoder_layers=6, **WIDE), 268_092_754, 151),
]
NATIVE = [
    (PartitionConfig(50_257), 202_707_281, 195),
    (MaskedConfig(50_257), 169_626_449, 131),
    (AutoregressiveConfig(50_257), 162_244_945, 100),
]

CODES, CLASSES = 16_384, {"classes": 1000}
IMAGE = {"length": 1025, **WIDE, **CLASSES, "registers": 2, "grid": (32, 32)}
TINY, SMALL, BASE, LARGE, XLARGE = ((384, 6, 6), (512, 12, 6), (768, 12, 12), (1024, 24, 16), (1152, 28, 16))


def maskgit(size: tuple[int, int, int], side: int, registers: int = 1, imported: bool = True) -> MaskGITConfig:
    width, layers, heads = size
    more = {"mask_id": CODES, "forbidden": (CODES,)} if imported else {}
    return MaskGITConfig(CODES + imported, side * side, width, heads, layers, registers, **CLASSES, **more, grid=(side, side))


IMAGES = [                                                          # as imported: MaskGIT with a mask row, PGM with one of BOS too
    (maskgit(LARGE, 32), 480_443_393, 273),
    (maskgit(LARGE, 32, registers=0), 480_442_369, 272),
    (maskgit(LARGE, 16), 479_656_961, 273),
    (maskgit(LARGE, 24), 479_984_641, 273),
    (maskgit(TINY, 16), 23_031_425, 75),
    (maskgit(SMALL, 16), 69_344_769, 141),
    (maskgit(SMALL, 24), 69_508_609, 141),
    (maskgit(BASE, 16), 142_224_641, 141),
    (maskgit(BASE, 24), 142_470_401, 141),
    (maskgit(XLARGE, 32), 693_003_137, 317),
    (PartitionConfig(CODES + 2, **IMAGE, encoder_layers=12, decoder_layers=12), 494_220_290, 281),
    (PartitionConfig(CODES + 2, **IMAGE, encoder_layers=14, decoder_layers=10), 494_218_242, 277),
]
NATIVE_IMAGES = [                                                   # of codes alone: one input vector for the mask, or none at all
    (maskgit(LARGE, 32, imported=False), 480_443_392, 274),
    (PartitionConfig(CODES, **{**IMAGE, "length": 1024}, encoder_layers=12, decoder_layers=12), 494_216_192, 281),
    (PartitionConfig(CODES, **{**IMAGE, "length": 1024}, encoder_layers=14, decoder_layers=10), 494_214_144, 277),
]


@pytest.mark.parametrize("config, parameters, tensors", PUBLISHED + NATIVE + IMAGES + NATIVE_IMAGES)
def test_parameters_are_those_of_the_published_models(config, parameters, tensors):
    with torch.device("meta"):
        model = build(config)
    assert model.parameter_count() == parameters
    assert len(list(model.parameters())) == tensors
