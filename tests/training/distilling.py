"""A distillation in a blink; as a script, in a process that may be killed.

`python -m tests.training.distilling FOLDER OUT [--resume] [--die NAME before|after] [a.b=c ...]`: FOLDER holds teacher/ and distill.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.training.runs import die, recipe


def distillation(folder: Path, kind: str = "partition", **more: Any) -> dict[str, Any]:
    """A recipe of two rounds of four updates, taught by the run in `folder`/teacher."""
    tree = recipe(folder, kind)
    del tree["objective"]
    options = {"teacher": str(folder / "teacher"), "round_steps": 4, "grid": 8, "teacher_steps": 2, **more}
    training = {**tree["training"], "steps": 8, "ema": 0.8}
    return {**tree, "training": training, "distill": options, "validation": {"rows": 0}, "checkpoints": {"every": 2, "keep": 9}}


def teach(folder: Path, kind: str = "partition") -> None:
    """A teacher that knows a little."""
    from maskless.training.run import train

    train(recipe(folder, kind), "training.steps=12", "training.lr=0.02", "training.ema=0.7", "validation.rows=0", out=folder / "teacher")


def main(arguments: list[str]) -> None:
    from maskless.training.distill import distill

    folder, out, *rest = arguments
    if "--die" in rest:
        place = rest.index("--die")
        die(rest[place + 2], rest[place + 1])
    changes = [argument for argument in rest if "=" in argument]
    distill(out if "--resume" in rest else str(Path(folder) / "distill.json"), *changes, out=out, resume="--resume" in rest)


def write(folder: Path, **more: Any) -> None:
    (folder / "distill.json").write_text(json.dumps(distillation(folder, **more)))  # JSON is YAML


if __name__ == "__main__":
    main(sys.argv[1:])
