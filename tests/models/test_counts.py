"""Parameter counts of the published configurations (spec of the released code, section 1.9), on the meta device."""
from __future__ import annotations

import pytest
import torch

from maskless.models import AutoregressiveConfig, MaskedConfig, PartitionConfig, build

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


@pytest.mark.parametrize("config, parameters, tensors", PUBLISHED + NATIVE)
def test_parameters_are_those_of_the_published_models(config, parameters, tensors):
    with torch.device("meta"):
        model = build(config)
    assert model.parameter_count() == parameters
    assert len(list(model.parameters())) == tensors
