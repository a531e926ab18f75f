"""Tiny models with random weights in folders, a text to read, and the command line in this process."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

import maskless
from tests.surface.conftest import call  # noqa: F401  (a fixture)

LENGTH = 24
SIZES = {"vocab_size": 259, "length": LENGTH, "width": 16, "heads": 2, "dropout": 0.0, "forbidden": (258,)}
CONFIGS = {
    "pgm": maskless.PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, cond_dim=0),
    "causal": maskless.CausalPartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, cond_dim=0),
    "ar": maskless.AutoregressiveConfig(**SIZES, layers=1),
}


def randomised(config, seed: int = 0):
    torch.manual_seed(seed)
    network = maskless.build(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2)
    return network


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Token stores of these tests, away from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKLESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with a model folder for each of `CONFIGS`."""
    place = tmp_path_factory.mktemp("models")
    for name, config in CONFIGS.items():
        maskless.TextModel(randomised(config), maskless.load_tokenizer("bytes"), device="cpu").save_pretrained(place / name)
    return place


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """Enough text for 13 rows."""
    path = tmp_path_factory.mktemp("data") / "words.txt"
    path.write_text(" ".join(f"word {n * n}" for n in range(32)))
    return path
