"""The released VQ tokenizers of LlamaGen: `vq_ds8_c2i.pt` (VQ-8) and `vq_ds16_c2i.pt` (VQ-16).

Read with `torch.load(weights_only=True)` only. The files hold their state under "model", with a buffer of training,
`quantize.codebook_used`, that says nothing about the network.
"""
from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from maskless.data.vq import VQCodec, filled, sizes_of

UNUSED = "quantize.codebook_used"
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")


def read_vq(path: str | Path) -> VQCodec:
    """The codec of a released file; sizes come from the shapes.

    Raises:
        ValueError: not such a file, damaged, or in need of unsafe unpickling.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds Python objects besides tensors and is not read without full trust") from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint or is damaged; fetch it again") from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} has no weights under 'model': not a released VQ tokenizer")
    weights = clean(state)
    try:
        return VQCodec(filled(sizes_of(weights), weights, str(path)))
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from None


def clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters by bare name: without wrappers in front and without what only training used."""
    bare = {WRAPPERS.sub("", name): value for name, value in state.items()}
    return {name: value for name, value in bare.items() if name != UNUSED}
