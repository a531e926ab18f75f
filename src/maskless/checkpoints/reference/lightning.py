"""Lightning checkpoints of the released code: raw and EMA weights.

Read with `torch.load(weights_only=True)` only; a file that needs Python objects (OmegaConf, tokenizers) is refused.
"""
from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskless.checkpoints.reference.importer import clean, import_state
from maskless.checkpoints.reference.names import BUFFER
from maskless.models import Denoiser


@dataclass(frozen=True)
class LightningFile:
    """A checkpoint that was read.

    Attributes:
        raw: the weights that were trained, by bare reference key, in file order (with the rotary buffer).
        average: their moving average by the same keys, or None.
        settings: the `model` configuration (empty in SDTT files), with `time_conditioning` of its `algo`.
    """

    raw: dict[str, Tensor]
    average: dict[str, Tensor] | None
    settings: dict[str, Any]

    def model(self, *, average: bool = True, mask_id: int | None = None) -> Denoiser:
        """The native model, with averaged weights where the file has them and they are wanted."""
        use_average = average and self.average is not None
        state = {**self.raw, **(self.average or {})} if use_average else self.raw
        return import_state(state, self.settings, mask_id=mask_id)


def read_lightning(path: str | Path) -> LightningFile:
    """Read a .ckpt of the released text code.

    Raises:
        ValueError: not a checkpoint, damaged, in need of unsafe unpickling, or with an EMA list that does not fit.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds Python objects besides tensors and is not read without full trust") from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint or is damaged; fetch it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ValueError(f"{path} has no state_dict: not a checkpoint of the released code")
    raw = clean(content["state_dict"])
    config = (content.get("hyper_parameters") or {}).get("config", {})
    settings = {**config.get("model", {}), "time_conditioning": config.get("algo", {}).get("time_conditioning", False)}
    return LightningFile(raw, _average(path, raw, content.get("ema")), settings)


def _average(path: Path, raw: dict[str, Tensor], ema: Any) -> dict[str, Tensor] | None:
    """EMA weights are an unnamed list: parameters in file order, buffers left out."""
    if not ema:
        return None
    keys, shadow = [key for key in raw if key != BUFFER], ema["shadow_params"]
    if len(keys) != len(shadow) or any(raw[key].shape != value.shape for key, value in zip(keys, shadow)):
        raise ValueError(f"{path}: {len(shadow)} EMA tensors do not match {len(keys)} parameters in number and shape")
    return dict(zip(keys, shadow))
