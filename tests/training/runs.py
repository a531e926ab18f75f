"""A recipe that trains in a blink, and ways to run it: here, in a process that may be killed, in several processes.

As a script: `python -m tests.training.runs RECIPE OUT [--resume] [--die MOMENT STEP] [a.b=c ...]`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
SMALL = {"length": 24, "width": 16, "heads": 2, "cond_dim": 4}
MODELS = {
    "partition": {"type": "partition", **SMALL, "encoder_layers": 1, "decoder_layers": 1},
    "masked": {"type": "masked", **SMALL, "layers": 2},
    "prime": {"type": "prime", "digits": 3, "code": "shuffled", "length": 24, "width": 18, "heads": 3, "cond_dim": 4, "layers": 1},
    "prime_partition": {"type": "prime_partition", "digits": 2, **SMALL, "encoder_layers": 1, "decoder_layers": 1},
    "autoregressive": {"type": "autoregressive", "length": 24, "width": 16, "heads": 2, "layers": 1},
}


def recipe(folder: Path, kind: str = "partition", objective: str | None = None) -> dict[str, Any]:
    """A recipe on a text that is written into `folder`."""
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("\n".join(f"line {n} of a small text, {n * n} letters of no meaning" for n in range(300)))
    attention = "segments" if kind in ("partition", "prime_partition") else "auto"  # pinned: two runs are compared bit for bit
    return {
        "model": {**MODELS[kind], "dropout": 0.1},
        "objective": {"type": objective or kind},
        "data": {"type": "files", "train": str(text), "document": "line", "packing": "stream", "holdout": 0.1},
        "training": {"steps": 10, "batch_size": 8, "warmup": 3, "lr": 3e-3, "threads": 1, "device": "cpu", "precision": "fp32",
                     "attention": attention},
        "validation": {"rows": 8, "batch_size": 4},
        "checkpoints": {"every": 5},
        "log": {"every": 1},
    }


def environment() -> dict[str, str]:
    paths = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "src")))  # this checkout, whatever is installed
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def recipe_file(folder: Path) -> Path:
    """The small recipe as a file in `folder`."""
    source = folder / "recipe.json"  # JSON is YAML
    if not source.exists():
        source.write_text(json.dumps(recipe(folder)))
    return source


def run_process(folder: Path, out: Path, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
    """Train the small recipe in a real process, or in several under torchrun."""
    return several("tests.training.runs", recipe_file(folder), out, *arguments, processes=processes)


def several(module: str, *arguments: str | Path, processes: int = 2) -> subprocess.CompletedProcess:
    """Run a module in so many processes under torchrun (one: without it)."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launcher, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=300)


def losses(run: Path) -> list[tuple[int, float, float]]:
    """(step, loss, gradient norm) of every update in metrics.jsonl."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"], record["grad_norm"]) for record in records if "loss" in record]


def die(moment: str, name: str) -> None:
    """Make this process kill itself `before` a folder of this name is renamed into place, or `after` it was."""
    from maskless.checkpoints import native

    rename = os.rename

    def deadly(source: Any, target: Any) -> None:
        ours = Path(target).name == name
        if ours and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if ours:
            os.kill(os.getpid(), signal.SIGKILL)

    native.os.rename = deadly


def main(arguments: list[str]) -> None:
    from maskless.training.run import train

    source, out, *rest = arguments
    if "--die" in rest:
        place = rest.index("--die")
        die(rest[place + 1], f"step-{int(rest[place + 2]):08d}")
    changes = [argument for argument in rest if "=" in argument]
    train(out if "--resume" in rest else source, *changes, out=out, resume="--resume" in rest)


if __name__ == "__main__":
    main(sys.argv[1:])
