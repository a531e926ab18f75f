"""Rows that know their BOS only."""
from __future__ import annotations

import torch

from maskless.decoding import Canvas
from maskless.evaluation.speed import from_start


def blank(batch: int, length: int) -> Canvas:
    return from_start(batch, length, torch.device("cpu"))
