"""A tiny saved model, and the command line in this process."""
from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import maskless
from maskless.cli.main import main

LENGTH = 96
SIZES = {"vocab_size": 259, "length": LENGTH, "width": 16, "heads": 2, "dropout": 0.0, "forbidden": (258,)}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Token stores of these tests, away from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder: Path = tmp_path_factory.mktemp("cache")
        patch.setenv("MASKLESS_CACHE", str(folder))
        yield folder


def save(config, folder: Path) -> Path:
    torch.manual_seed(0)
    return maskless.TextModel(maskless.build(config), maskless.load_tokenizer("bytes")).save_pretrained(folder)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A partition model over bytes."""
    return save(maskless.PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, cond_dim=0), tmp_path_factory.mktemp("model") / "pgm")


@pytest.fixture(scope="session")
def left_to_right(tmp_path_factory) -> Path:
    """An autoregressive model over bytes."""
    return save(maskless.AutoregressiveConfig(**SIZES, layers=1), tmp_path_factory.mktemp("model") / "ar")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys):
    """`maskless ARGUMENTS` as a shell sees it, without a new process."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["maskless", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return Ended(int(stop.value.code or 0), printed.out, printed.err)

    return run
