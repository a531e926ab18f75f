"""`maskless demo`: one command, no network, no GPU, under six minutes on two cores."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    images: Annotated[bool, typer.Option("--images", help="A PGM and a MaskGIT on handwritten digits (needs scikit-learn).")] = False,
    toy: Annotated[bool, typer.Option("--toy", help="Points of a picture, drawn by MDM-Prime in one digit or several (minutes).")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Under one minute instead of under six; with --images about one.")] = False,
    steps: Annotated[int | None, typer.Option(help="Train exactly so many steps (to repeat a run).", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="A folder that does not exist yet (default: maskless-demo, -images, -toy).")] = None,
) -> None:
    """Train a small PGM and a small MDLM on the prose of the standard library; show bounds, texts, filled gaps and speeds."""
    from dataclasses import replace

    from maskless.cli.train import Progress

    if toy:
        return _toy(out or Path("maskless-demo-toy"), images, quick, steps)
    if images:
        from maskless.demo.images import FULL, QUICK
        from maskless.demo.images import demo_images as run
    else:
        from maskless.demo.run import FULL, QUICK
        from maskless.demo.run import demo as run
    folder = out or Path("maskless-demo-images" if images else "maskless-demo")
    run(folder, replace(QUICK if quick else FULL, steps=steps), say=typer.echo, watch=Progress)


def _toy(out: Path, images: bool, quick: bool, steps: int | None) -> None:
    from dataclasses import replace

    from maskless.demo.toy import FULL, QUICK, demo_toy

    if images:
        raise ValueError("--toy and --images are two demos; give one of them")
    scale = QUICK if quick else FULL
    demo_toy(out, replace(scale, steps=steps or scale.steps), say=typer.echo)
