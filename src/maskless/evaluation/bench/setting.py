"""What a bench is run on: sizes of models and of a run, and the presets.

B rows, L sites, V vocabulary.
"""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch

from maskless.models import MODELS

SIZES = ("vocab_size", "length", "width", "heads", "layers", "encoder_layers", "decoder_layers")


@dataclass(frozen=True)
class Setting:
    """Sizes of the models (random weights, where the cost does not depend on them) and of the run."""

    batch: int
    length: int
    steps: int
    vocab_size: int
    width: int
    heads: int
    layers: int                         # of the masked and autoregressive models
    encoder_layers: int                 # of the partition models
    decoder_layers: int
    dtype: torch.dtype

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def config(self, kind: str) -> Any:
        """The configuration of a model of this size."""
        cls = MODELS[kind][0]
        wanted = {field.name for field in dataclasses.fields(cls)} & set(SIZES)
        return cls(**{name: getattr(self, name) for name in wanted})

    def described(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"dtype": name_of(self.dtype)}


@dataclass(frozen=True)
class Preset:
    """A setting, the steps and lengths to either side of it that make the curves, and how often each is repeated.

    Args:
        best_batch: the setting's batch is where the search for each contender's best one starts.
        minutes: no repetition, and no point of the curves, is begun after that time.
        sizes, scaling: tokens a call, and lengths, of `bench scaling`.
        training: lengths of `bench training`.
        training_batch: its rows at the setting's length; None: the setting's batch.
    """

    setting: Setting
    steps: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    repeats: int = 5
    best_batch: bool = False
    minutes: float = float("inf")
    sizes: tuple[int, ...] = (16, 8, 4, 2, 1)
    scaling: tuple[int, ...] = (512, 1024, 2048, 4096)
    training: tuple[int, ...] = (1024, 128)
    training_batch: int | None = None


CPU_SMALL = Setting(batch=4, length=1024, steps=64, vocab_size=8192, width=256, heads=4, layers=12, encoder_layers=6, decoder_layers=6,
                    dtype=torch.bfloat16)
TOY = Setting(batch=2, length=64, steps=8, vocab_size=64, width=32, heads=2, layers=4, encoder_layers=2, decoder_layers=2, dtype=torch.float32)
PUBLISHED = Setting(batch=1, length=1024, steps=128, vocab_size=50_258, width=768, heads=12, layers=12, encoder_layers=8, decoder_layers=8,
                    dtype=torch.bfloat16)

# batches of the best-batch presets are where the search begins; `memory` is the configuration whose peak has a limit
PRESETS = {
    "cpu-small": Preset(CPU_SMALL, steps=(16, 256), lengths=(256, 512)),
    "toy": Preset(TOY, steps=(4, 32), lengths=(32, 128), scaling=(32, 64, 128), training=(64, 16)),
    "toy-best": Preset(dataclasses.replace(TOY, batch=1), steps=(4, 32), lengths=(32, 128), best_batch=True),
    "gpu": Preset(PUBLISHED, steps=(32, 512), lengths=(512, 2048), repeats=3, best_batch=True, minutes=6, training_batch=32),
    "memory": Preset(dataclasses.replace(PUBLISHED, batch=32), steps=(), lengths=()),
    "gpu-long": Preset(dataclasses.replace(PUBLISHED, length=8192, steps=8192), repeats=2, minutes=4),
}


def preset(name: str) -> Preset:
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name}; choose from {', '.join(PRESETS)}")
    return PRESETS[name]


DTYPES = {name_of_dtype: getattr(torch, name_of_dtype) for name_of_dtype in ("float32", "bfloat16", "float16")}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"there is no dtype {name}; choose from {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_or_auto(name: str) -> torch.dtype | Literal["auto"]:
    """`dtype_of`, or "auto": the one that the model samples in on its device."""
    return "auto" if name == "auto" else dtype_of(name)
