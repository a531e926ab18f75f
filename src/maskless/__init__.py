"""maskless: any-order, parallel generation of discrete data without masks.

Names are imported when they are first used, so that `import maskless` is quick and does not load torch.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from maskless.api.image import ImageModel
    from maskless.api.image_files import Film, GeneratedImages
    from maskless.api.load import load
    from maskless.api.text import Completion, TextModel
    from maskless.data.codec import PixelCodec, load_codec
    from maskless.data.images import ImageCodes
    from maskless.data.tokenizer import load_tokenizer, train_bpe
    from maskless.decoding import (
        Adaptive,
        Ancestral,
        Anew,
        Blockwise,
        Canvas,
        Choice,
        CoarseFirst,
        Confidence,
        Corrected,
        DigitCanvas,
        EntropyBound,
        Halton,
        LeftToRight,
        Margin,
        Noise,
        Random,
        Sampler,
        SamplerOptions,
        Scheduled,
        Spaced,
    )
    from maskless.evaluation.conditional import LogProb
    from maskless.models import (
        AutoregressiveConfig,
        CausalPartitionConfig,
        MaskedConfig,
        MaskGITConfig,
        PartitionConfig,
        PrimeConfig,
        PrimePartitionConfig,
        UNetConfig,
        build,
    )
    from maskless.subtokens import SubTokenCode
    from maskless.suites.evaluate import evaluate
    from maskless.training.distill import distill
    from maskless.training.run import train

_HOMES = {
    "maskless.api.image": ("ImageModel",),
    "maskless.api.image_files": ("Film", "GeneratedImages"),
    "maskless.api.load": ("load",),
    "maskless.api.text": ("Completion", "TextModel"),
    "maskless.data.codec": ("PixelCodec", "load_codec"),
    "maskless.data.images": ("ImageCodes",),
    "maskless.data.tokenizer": ("load_tokenizer", "train_bpe"),
    "maskless.decoding": ("Adaptive", "Ancestral", "Anew", "Blockwise", "Canvas", "Choice", "CoarseFirst", "Confidence", "Corrected",
                          "DigitCanvas", "EntropyBound", "Halton", "LeftToRight", "Margin", "Noise", "Random", "Sampler",
                          "SamplerOptions", "Scheduled", "Spaced"),
    "maskless.evaluation.conditional": ("LogProb",),
    "maskless.models": ("AutoregressiveConfig", "CausalPartitionConfig", "MaskedConfig", "MaskGITConfig", "PartitionConfig", "PrimeConfig",
                        "PrimePartitionConfig", "UNetConfig", "build"),
    "maskless.subtokens": ("SubTokenCode",),
    "maskless.suites.evaluate": ("evaluate",),
    "maskless.training.distill": ("distill",),
    "maskless.training.run": ("train",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Adaptive", "Ancestral", "Anew", "AutoregressiveConfig", "Blockwise", "Canvas", "CausalPartitionConfig", "Choice", "CoarseFirst",
    "Completion", "Confidence", "Corrected", "DigitCanvas", "EntropyBound", "Film", "GeneratedImages", "Halton", "ImageCodes", "ImageModel",
    "LeftToRight", "LogProb", "Margin", "MaskGITConfig", "MaskedConfig", "Noise", "PartitionConfig", "PixelCodec", "PrimeConfig",
    "PrimePartitionConfig", "Random", "Sampler", "SamplerOptions", "Scheduled", "Spaced", "SubTokenCode", "TextModel", "UNetConfig",
    "__version__", "build", "distill", "evaluate", "load", "load_codec", "load_tokenizer", "train", "train_bpe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module maskless has no name {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
