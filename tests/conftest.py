"""Shapes and types of every annotated function are checked while the tests run (and only then: it costs time)."""
from __future__ import annotations

import os

import torch
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401  (the hook finds the checker by its name)

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)                                            # as many processes run as there are cores (pyproject.toml)

install_import_hook("maskless", "tests.shapes.checked")  # before anything of the package is imported
