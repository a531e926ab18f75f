"""The released VQ tokenizers of LlamaGen: `vq_ds8_c2i.pt` (VQ-8) and `vq_ds16_c2i.pt` (VQ-16).

The files hold their state under "model", with a buffer of training, `quantize.codebook_used`, that says nothing about
the network.
"""
from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from maskless.checkpoints.reference.facts import Facts
from maskless.checkpoints.reference.names import bare, renamed
from maskless.data.vq import filled, sizes_of
from maskless.data.vqgan import VQConfig

UNUSED = "quantize.codebook_used"


def converted_vq(state: Mapping[str, Tensor], facts: Facts) -> tuple[VQConfig, dict[str, Tensor]]:
    """The configuration, from the shapes, and the tensors by native name; tensors on the meta device will do.

    Raises:
        ValueError: they are no whole VQ tokenizer.
    """
    weights = clean(state)
    config = sizes_of(weights)
    filled(config, {name: value.to("meta") for name, value in weights.items()}, "the file")
    return config, weights


def clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters by bare name: without wrappers in front and without what only training used. Raises ValueError if two become one."""
    return {name: value for name, value in renamed(state, bare).items() if name != UNUSED}
