"""Released files by name: what the weights of each cannot tell, as published (spec: text 7.1, image 6, prime 8)."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

TEXT: dict[str, Any] = {"length": 1024, "tokenizer": "gpt2", "dropout": 0.1, "time_conditioned": False}
PGM = {**TEXT, "query": "position"}
LLAMA = {"length": 2048, "heads": 14, "tokenizer": "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"}
SMALL, WIDE = {"heads": 12}, {"heads": 16}

RELEASED: dict[str, dict[str, Any]] = {
    "mdlm.ckpt": {**TEXT, **SMALL},
    "mdlm_sdtt_50k.ckpt": {**TEXT, **SMALL},
    "pgm_8_8.ckpt": {**PGM, **SMALL},
    "pgm_8_8_sdtt_fp32_50k.ckpt": {**PGM, **SMALL},
    "pgm_6_6_dim1024.ckpt": {**PGM, **WIDE},
    "pgm_6_6_dim1024_sdtt_fp32_50k.ckpt": {**PGM, **WIDE},
    "mdlm-owt": {**TEXT, **SMALL},
    "sdtt": TEXT,
    "mdm-prime": TEXT,
    "mdm-prime-v2-3300flops-weight-only.pth": {**LLAMA, "digits": 15},
    "mdm-prime-v2-slimpajama": {**LLAMA, "digits": 15},
    "mdm-1028M-3300e18-rsl-0.01-bs-1024.safetensors": LLAMA,
    "maskgit_100epochs.ckpt": {"heads": 16},
    "images_pgm_12_12_100epochs.ckpt": {"query": "position", "heads": 16},
    "images_pgm_14_10_100epochs.ckpt": {"query": "position", "heads": 16},
    **{f"ImageNet_{side}_{size}.pth": {"heads": heads} for side in (256, 384)
       for size, heads in (("tiny", 6), ("small", 6), ("base", 12), ("large", 16))},
}


def published(source: str) -> Mapping[str, Any]:
    """Defaults for a file or repository of that name: the file itself, else a folder or repository above it."""
    parts = PurePath(source.replace(":", "/").replace("@", "/@")).parts
    return next((RELEASED[part] for part in reversed(parts) if part in RELEASED), {})
