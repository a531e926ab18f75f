"""Any recipe at toy size: the same kinds of model, objective and data, a few hundred weights, two updates in bfloat16 and samples after them.
Nothing is downloaded.

A recipe of a new kind of model or data shrinks if its sizes have the names of `SIZES`, or gets a line here.
"""
from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from maskless.config import read
from maskless.training.recipe import find

# a recipe that does not say them does not get them
SIZES: dict[str, Any] = {"length": 16, "width": 16, "heads": 2, "layers": 1, "encoder_layers": 1, "decoder_layers": 1, "grid": [4, 4],
                         "ch": 8, "z_channels": 8, "codebook_size": 16, "codebook_dim": 4, "res_blocks": 1, "groups": 4, "features": 8, "classes": 4}
ALSO = {"cond_dim": 4}                                              # halves of sizes, where they are not 0
WORDS = "\n".join(f"line {n} of a small text, {n * n} letters of no meaning" for n in range(40))
STRINGS = "\n".join("C" * n + end for n in range(1, 9) for end in ("O", "Br", "Cl", "=O", "#N"))
BOARDS = "puzzle,solution\n" + "\n".join(f"0{''.join(rest)},{first}{''.join(rest)}" for first, *rest in permutations("1234"))


def smaller(section: dict[str, Any]) -> dict[str, Any]:
    """Sizes of a model or a codec brought down."""
    sizes = SIZES if "digits" not in section else {**SIZES, "width": 48}  # which every number of digits divides
    small = {key: sizes.get(key, ALSO.get(key) if value and key in ALSO else value) for key, value in section.items()}
    if "planes" in small:                                           # a network of planes of pixels: one lies under the other
        levels, planes = len(small["multipliers"]), small["planes"]
        small |= {"width": 32 * planes, "multipliers": [1] * levels, "blocks": 1, "head_width": 16}
        small |= {"length": 16 * planes, "grid": [4 * planes, 4]} if "grid" in small else {}
    return {key: value for key, value in small.items() if key != "vocab_size"}  # the toy's tokenizer says it


def text(folder: Path, name: str, content: str) -> str:
    path = folder / name
    path.write_text(content)
    return str(path)


def pictures(folder: Path, classes: int, size: int, channels: int) -> str:
    """Random images of every class, as an .npz that any source of arrays reads."""
    path, draw = folder / "images.npz", np.random.default_rng(0)
    count = max(2 * classes, 24)
    pixels = draw.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    labels = np.arange(count) % classes
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels[:classes], y_test=labels[:classes])
    return str(path)


def data(section: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Data of the same kind, made on the spot."""
    kind = section.get("type")
    if kind in ("hub", "prose", "files"):
        packing = {} if "packing" not in section else {"packing": section["packing"]}
        return {"type": "files", "train": text(folder, "text.txt", WORDS), "document": "line", "tokenizer": "bytes", "holdout": 0.2, **packing}
    if kind == "sequences":
        return {**section, "train": text(folder, "strings.txt", STRINGS), "holdout": 0.3}
    if kind == "puzzles":
        return {**section, "train": text(folder, "boards.csv", BOARDS), "holdout": 0.3}
    grid = {"size": 4, "fit": "crop"}
    source = {"type": "arrays", "train": pictures(folder, SIZES["classes"], 4, 1 if section["size"] <= 8 else 3)}
    if kind == "images":
        codec = section["codec"] if isinstance(section["codec"], dict) else {"type": "pixels"}
        return {**section, **grid, "source": source, "codec": {**codec, "levels": 4}}
    channels = section.get("channels", 3)
    return {**section, "size": 16, "fit": "crop", "source": {"type": "arrays", "train": pictures(folder, SIZES["classes"], 16, channels)}}


def shrunk(name: str, folder: Path) -> dict[str, Any]:
    """The tree of a packaged recipe at toy size; what it reads is written into `folder`. A distillation's teacher is to be in folder/teacher."""
    tree = read(find(name))
    for section in ("model", "codec", "classifier"):
        if section in tree:
            tree[section] = smaller(tree[section])
    if "classifier" in tree:
        tree["classifier"]["size"] = 16
        return {**tree, "data": data(tree["data"], folder), "training": {**tree["training"], "epochs": 1}}
    if "codec" in tree:
        tree["codec"]["groups"] = SIZES["groups"]                   # whose default is for wide levels
    tree["data"] = data(tree["data"], folder)
    small = {"steps": 2, "batch_size": 4 * tree["training"].get("accumulate", 1), "warmup": 1, "device": "cpu", "precision": "bf16", "threads": 1}
    tree["training"] = {key: value for key, value in tree["training"].items() if key not in ("start", "length")} | small
    complete = min(tree.get("validation", {}).get("complete", 0), 4)
    tree["validation"] = {"rows": 4, "batch_size": 4, "complete": complete}
    sampling = tree.get("sampling", {})
    if sampling:
        tree["sampling"] = {**sampling, "every": 2, "count": min(sampling.get("count", 0), 1), "sampler": {**sampling.get("sampler", {}), "steps": 2}}
    tree["checkpoints"], tree["log"] = {"every": 0}, {"every": 1}
    if "distill" in tree:
        tree["distill"] = {**tree["distill"], "teacher": str(folder / "teacher"), "round_steps": 1, "grid": 8}
    return tree
