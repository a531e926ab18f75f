"""Models by folder or by Hugging Face name."""
from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from maskless.api.text import TextModel

FILES = ["config.json", "*.safetensors", "tokenizer.json"]
PACKAGED = Path(__file__).resolve().parents[1] / "pretrained"       # models that come with the package, one folder each


def load(source: str | Path, *, weights: Literal["ema", "raw"] = "ema", device: str = "auto",
         dtype: torch.dtype | Literal["auto"] = "auto") -> TextModel:
    """A trained model with its tokenizer.

    Args:
        source: a run folder (its newest checkpoint), one `step-...` folder, a folder of `save_pretrained`, the name of a model that comes
            with the package ("tiny"), or "organisation/name" on the Hugging Face Hub.
        weights: the moving average where there is one ("ema"), or the weights as trained ("raw").
        device, dtype: see `TextModel`.

    Raises:
        ValueError: if nothing usable is there; the sentence says what is missing.

    Example:
        >>> import maskless
        >>> maskless.load("no/such/folder")
        Traceback (most recent call last):
            ...
        ValueError: no/such/folder does not exist; give a run folder, a step-... folder or a folder with config.json and model.safetensors
    """
    from maskless.checkpoints.native import load_model

    if weights not in ("ema", "raw"):
        raise ValueError(f"weights is {weights!r}; choose ema (the moving average where there is one) or raw")
    folder = _folder_of(source)
    model, tokenizer = load_model(folder, ema=weights == "ema")
    if tokenizer is None:
        raise ValueError(f"{folder} has no tokenizer.json; text models need theirs: copy it into the folder")
    return TextModel(model, tokenizer, device=device, dtype=dtype)


def packaged() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(folder.parent.name for folder in PACKAGED.glob("*/config.json"))


def _folder_of(source: str | Path) -> Path:
    """Where a model lies; what exists on disk goes before names."""
    if Path(source).exists():
        return Path(source)
    if str(source) in packaged():
        return PACKAGED / source
    return _from_hub(str(source)) if str(source).count("/") == 1 else Path(source)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:                                      # offline, unknown, private: one sentence for all
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ValueError(f"{name} is no local folder and could not be fetched from the Hugging Face Hub ({type(error).__name__}: {reason}); "
                         "give a folder, or go online") from None
