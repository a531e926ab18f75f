"""As a script under torchrun: two runs and one that fails, in the same processes; then what is left of them at exit.

`python -m tests.training.leaving RECIPE OUT` writes OUT/left-RANK: the native threads of the process after everything that
`maskless` does at exit.
"""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path


def threads() -> list[str]:
    """Names of this process's threads that are not Python's."""
    names = [Path(task, "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return sorted(name for name in names if not name.startswith("python"))


def main(source: str, out: str) -> None:
    # registered first, hence called last
    atexit.register(lambda: Path(out, f"left-{os.environ['RANK']}").write_text(" ".join(threads())))
    from maskless.training.run import train

    first = train(source, "training.steps=1", out=f"{out}/run")
    second = train(f"{out}/run", "training.steps=2", out=f"{out}/run", resume=True)
    assert first.state.step == 1 and second.state.step == 2
    train(source, "training.lr=1e30", "training.clip=0", "training.warmup=1", out=f"{out}/spoiled")


if __name__ == "__main__":
    main(*sys.argv[1:])
