"""Where models lie: in the folders of runs, and in the package.

    pretrained/tiny/                 config.json  model.safetensors  tokenizer.json  README.md (its card)
    RUN/checkpoints/step-00000500/   a complete checkpoint
"""
from __future__ import annotations

import re
from pathlib import Path

PRETRAINED = Path(__file__).resolve().parent / "pretrained"
STEP = re.compile(r"step-(\d{8,})")


def carried() -> dict[str, Path]:
    """The folders of the models in the package, by name; a folder without config.json holds none."""
    return {config.parent.name: config.parent for config in sorted(PRETRAINED.glob("*/config.json"))}


def local(source: str | Path) -> Path:
    """The path of a source: what lies there, else the carried model of that name, else the path all the same."""
    path = Path(source).expanduser()
    return path if path.exists() else carried().get(str(source), path)


def steps_of(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = Path(run) / "checkpoints"
    found = [path for path in folder.iterdir() if STEP.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name[5:]))


def latest(run: str | Path) -> Path | None:
    """The newest complete checkpoint of a run; None if it has none."""
    complete = steps_of(run)  # a crash between rename and `latest` leaves the pointer behind: the folders are the truth
    return complete[-1] if complete else None


def holding(place: str | Path, file: str) -> Path | None:
    """The folder that holds `file`: this one, or the newest checkpoint of this run that does; None if there is none."""
    place = local(place)
    return next((path for path in (place, *reversed(steps_of(place))) if (path / file).is_file()), None)


def no_file_above(folder: Path) -> None:
    """Raise ValueError if a folder cannot be made since it, or what it would lie in, is a file."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file, the run needs a folder; choose another with --out")
