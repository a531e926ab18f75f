"""Models that the package carries, found by their names.

    pretrained/tiny/     config.json  model.safetensors  tokenizer.json  README.md (its card)
"""
from __future__ import annotations

from pathlib import Path

PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained"


def carried() -> dict[str, Path]:
    """The folders of the models in the package, by name; a folder without config.json holds none."""
    return {config.parent.name: config.parent for config in sorted(PRETRAINED.glob("*/config.json"))}


def local(source: str | Path) -> Path:
    """The path of a source: what lies there, else the carried model of that name, else the path all the same."""
    path = Path(source)
    return path if path.exists() else carried().get(str(source), path)
