"""Golden files of image samplers: orders, tables and whole greedy runs, through the one decoding loop."""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from maskless.checkpoints.reference.image_quirks import (
    RecordedConfidence,
    Redrawn,
    RedrawnConfidence,
    RegisterUncounted,
    Unrestricted,
    codes_of,
    every_step,
)
from maskless.checkpoints.reference.images import import_images
from maskless.checkpoints.reference.published import Everywhere
from maskless.checkpoints.reference.replay import ReplayNoise, blank
from maskless.decoding import Canvas, Choice, Guided, Order, Predictor, Ranked, Record, Scheduled, Sites, Step, arccos, check, constant, decode
from maskless.decoding import halves, inverse_linear, ramped
from maskless.decoding.ends import SHARES, arccos_maskgit, arccos_pgm, from_none, one_a_step, one_ahead
from maskless.decoding.halton import halton_rank
from maskless.evaluation.golden.case import Case
from maskless.models import Denoiser


# -- without a network ---------------------------------------------------------------------------------------------------------------------


def check_schedules(case: Case) -> None:
    """image_schedules*: the Halton order, tables of counts, masking rates, guidance ramps, inverse temperatures.

    `lr/*` is training's, and is compared in `cli.verify`.
    """
    for name in case.names(""):
        part, *rest = name.split("/")
        if part == "halton":
            check_order(case, name, side=int(rest[0]))
        elif part in TABLES:
            check_table(case, name, TABLES[part](int(rest[-3 if rest[-1] in ("cumulative", "per_step") else -2]), rest))
        elif part == "cfg_linear":
            case.expect(name, by_step(ramped(1.0), int(rest[0])))
        elif part.startswith("inv_temp"):
            case.expect(name, 1 / by_step(temperatures(part), int(rest[0])))
    if case.has("mask_rate/r"):
        drawn = case.input("mask_rate/r").double().tolist()
        for mode, share in SHARES.items():
            case.expect(f"mask_rate/{mode}", torch.tensor([1 - share(r) for r in drawn]))


def check_order(case: Case, name: str, side: int) -> None:
    """Of the points of the order, as many as the file has: the released list of 64 x 64 cells lacks some."""
    want = case.tensors[name]
    flat = halton_rank(side, side).argsort()[: len(want)]
    case.expect(name, torch.stack([flat // side, flat % side], 1) if want.dim() == 2 else flat)
