"""The models, one file each: masked (MDLM), maskgit, partition (PGM), causal_partition (PGM with an exact cache), autoregressive,
prime and prime_llama (digits of tokens), prime_partition, unet (Prime's images)."""
from numbers import Integral
from typing import Any

from maskless.models.autoregressive import AutoregressiveConfig, AutoregressiveTransformer
from maskless.models.base import Denoiser, check_words
from maskless.models.causal_partition import CausalPartitionConfig, CausalPartitionTransformer
from maskless.models.fold import fold, for_sampling
from maskless.models.masked import MaskedConfig, MaskedTransformer
from maskless.models.maskgit import MaskGITConfig, MaskGITTransformer
from maskless.models.partition import PartitionConfig, PartitionTransformer
from maskless.models.prime import PrimeConfig, PrimeTransformer
from maskless.models.prime_llama import PrimeLlama, PrimeLlamaConfig
from maskless.models.prime_partition import PrimePartitionConfig, PrimePartitionTransformer
from maskless.models.unet import UNet, UNetConfig

ModelConfig = (MaskedConfig | MaskGITConfig | PartitionConfig | CausalPartitionConfig | AutoregressiveConfig | PrimeConfig | PrimeLlamaConfig
               | PrimePartitionConfig | UNetConfig)

MODELS: dict[str, tuple[type, type[Denoiser]]] = {
    "masked": (MaskedConfig, MaskedTransformer),
    "maskgit": (MaskGITConfig, MaskGITTransformer),
    "partition": (PartitionConfig, PartitionTransformer),
    "causal_partition": (CausalPartitionConfig, CausalPartitionTransformer),
    "autoregressive": (AutoregressiveConfig, AutoregressiveTransformer),
    "prime": (PrimeConfig, PrimeTransformer),
    "prime_llama": (PrimeLlamaConfig, PrimeLlama),
    "prime_partition": (PrimePartitionConfig, PrimePartitionTransformer),
    "unet": (UNetConfig, UNet),
}


def kind_of(config: ModelConfig) -> str:
    """The name under which a configuration stands in `MODELS`."""
    return next(name for name, (cls, _) in MODELS.items() if type(config) is cls)


def check_ids(config: ModelConfig) -> None:
    """Raise ValueError for ids that the vocabulary of a configuration does not have."""
    for name, ids in (("forbidden", getattr(config, "forbidden", ())), ("mask_id", (getattr(config, "mask_id", None),))):
        for id in ids:
            if id is not None and not 0 <= id < config.vocab_size:
                raise ValueError(f"{name} has {id}, and ids are 0..{config.vocab_size - 1}; correct it")


def build(config: ModelConfig) -> Denoiser:
    """The model of a configuration, freshly initialised.

    Raises:
        ValueError: if the sizes do not fit each other, or one is below 1, or a word is not one of those to choose from.

    Example:
        >>> build(MaskedConfig(vocab_size=11, length=12, width=8, heads=2, layers=1)).vocab_size
        11
    """
    check_words(config)
    for name in ("vocab_size", "length", "width"):
        size: Any = getattr(config, name)
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name} is {size!r}; give a whole number of at least 1")
    check_ids(config)
    if isinstance(config, UNetConfig):
        return UNet(config)
    even = config.width % config.heads == 0 and (config.width // config.heads) % 2 == 0
    if not even and not isinstance(config, MaskGITConfig):
        raise ValueError(f"width {config.width} with {config.heads} heads gives heads of width {config.width / config.heads:g}; "
                         "it must be an even whole number: change width or heads")
    return MODELS[kind_of(config)][1](config)


__all__ = ["MODELS", "AutoregressiveConfig", "AutoregressiveTransformer", "CausalPartitionConfig", "CausalPartitionTransformer", "Denoiser",
           "MaskGITConfig", "MaskGITTransformer", "MaskedConfig", "MaskedTransformer", "ModelConfig", "PartitionConfig", "PartitionTransformer",
           "PrimeConfig", "PrimeLlama", "PrimeLlamaConfig", "PrimePartitionConfig", "PrimePartitionTransformer", "PrimeTransformer", "UNet",
           "UNetConfig", "build", "fold", "for_sampling", "kind_of"]
