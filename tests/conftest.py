"""Shapes and types of every annotated function are checked while the tests run (and only then: it costs time)."""
from __future__ import annotations

import gc
import os

import torch

from tests.shapes import check_package

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)                                            # as many processes run as there are cores (pyproject.toml)

check_package("maskless")                                           # before anything of the package is imported


def pytest_collection_finish() -> None:
    """What has been imported stays, so no collection of garbage need look at it; `bench` makes one before every repetition."""
    gc.collect()
    gc.freeze()
