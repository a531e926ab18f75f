"""Ten steps of each tiny recipe, shrunken, on made-up data that no Python version changes.

After a numeric change that is meant: `python -m tests.training.golden` writes golden_losses.json anew; commit it by
itself and say why.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from maskless.models import PartitionConfig, UNetConfig
from maskless.noise import hashed
from maskless.training.recipe import load_recipe
from maskless.training.recipes import recipe_names
from maskless.training.run import train

FILE = Path(__file__).with_name("golden_losses.json")
NAMES = [name for name in recipe_names() if name.startswith("tiny/")]
SHRUNK = (
    "training.steps=10",
    "training.batch_size=8",
    "training.warmup=4",
    "training.threads=1",
    "training.device=cpu",
    "training.precision=fp32",
    "validation.rows=0",
    "sampling.count=0",
    "checkpoints.every=0",
    "model.width=32",
)
LAYERS = {
    "partition": ("model.heads=2", "model.encoder_layers=1", "model.decoder_layers=1", "training.attention=dense"),
    "groups of digits": ("model.heads=2", "model.encoder_layers=1", "model.decoder_layers=1", "training.attention=dense"),
    "other": ("model.heads=2", "model.layers=2"),
    "unet": ("model.width=8", "model.head_width=8"),
}
WORDS = ("the", "of", "to", "and", "in", "is", "it", "we", "you", "site", "token", "model", "group", "step", "order")


def pick(seed: int, n: int, count: int) -> list[int]:
    """`count` numbers below n, the same everywhere."""
    return [int(hashed(seed, i)) % n for i in range(count)]


def prose(folder: Path) -> tuple[str, ...]:
    words = [WORDS[i] for i in pick(1, len(WORDS), 6000)]
    text = "\n".join(" ".join(words[i : i + 60]) + "." for i in range(0, len(words), 60))
    (folder / "prose.txt").write_text(text)
    return (f"data={{type: files, train: {folder / 'prose.txt'}, document: line, tokenizer: bytes, packing: stream}}",)


def molecules(folder: Path) -> tuple[str, ...]:
    atoms = ["C", "O", "N", "[nH]", "=", "1"]
    lines = ["".join(atoms[i] for i in pick(2 + n, len(atoms), 3 + n % 9)) for n in range(200)]
    (folder / "molecules.txt").write_text("\n".join(lines))
    return (f"data.train={folder / 'molecules.txt'}",)


def boards(folder: Path) -> tuple[str, ...]:
    """Rows of a Latin square, shifted; a third of the cells given."""
    lines = ["puzzle,solution"]
    for n in range(100):
        solution = "".join(
            str((3 * (row % 3) + row // 3 + column + n) % 9 + 1) for row in range(9) for column in range(9)
        )
        given = [i % 3 == 0 for i in pick(500 + n, 9, 81)]
        lines.append("".join(c if keep else "0" for c, keep in zip(solution, given, strict=True)) + "," + solution)
    (folder / "boards.csv").write_text("\n".join(lines) + "\n")
    return (f"data.train={folder / 'boards.csv'}",)


def digits(folder: Path) -> tuple[str, ...]:
    """Images of ten classes, a bright column for each; not scikit-learn's, whose version is not ours."""
    count = 200
    columns = torch.arange(count) % 10
    shade = (hashed(9, torch.arange(count * 64)) % 128).abs().view(count, 8, 8)
    bright = torch.arange(8).expand(count, 8, 8) == (columns % 8)[:, None, None]
    np.savez(folder / "digits.npz", x_train=(shade + 127 * bright).to(torch.uint8).numpy(), y_train=columns.numpy())
    return (f"data.source={{type: arrays, train: {folder / 'digits.npz'}}}",)


def losses(name: str, folder: Path) -> list[float]:
    """The losses of ten steps of a recipe."""
    data = (digits if name.endswith("_digits") else {"tiny/qm9": molecules, "tiny/sudoku": boards}.get(name, prose))(folder)
    model = load_recipe(name).model
    others = "groups of digits" if hasattr(model, "encoder_layers") else "unet" if isinstance(model, UNetConfig) else "other"
    kind = "partition" if isinstance(model, PartitionConfig) else others
    start = ("training.start=null",) if name == "tiny/pgm_to_causal" else ()
    run = train(name, *data, *SHRUNK, *LAYERS[kind], *start, out=folder / name.replace("/", "-"))
    return [record["loss"] for record in run.metrics if "loss" in record]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MASKLESS_CACHE"] = folder
        golden = {name: losses(name, Path(folder)) for name in NAMES}
    FILE.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
