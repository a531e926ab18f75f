"""What `maskless bench images` prints and writes."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer


def measure(folders: Sequence[Path], classifier: Path, real: Path, chosen: dict[str, Any], *, count: int, batch: int, seed: int, device: str,
            dtype: str, out: Path | None) -> None:
    """Distances and speeds of trained models; the codec's own distance first, which is their floor."""
    from maskless.api.image import ImageModel
    from maskless.api.image_quality import HEADER, batches_of, compare, reconstructed, ways
    from maskless.data.image_sources import ImageArrays
    from maskless.data.images import PlainPixels
    from maskless.data.labelled import labelled_images
    from maskless.evaluation.bench.setting import dtype_or_auto
    from maskless.evaluation.features import classifier_features, extract, statistics_of
    from maskless.evaluation.image_metrics import frechet_distance
    from maskless.suites.subject import usual_name

    names = [usual_name(folder) for folder in folders]
    if len({*names}) < len(names):
        raise ValueError(f"two of {', '.join(map(str, folders))} would have one name in the table; rename a folder")
    asked, features = ways(**chosen), classifier_features(classifier)
    models = {name: ImageModel.from_pretrained(folder, device=device, dtype=dtype_or_auto(dtype)) for name, folder in zip(names, folders)}
    for model in models.values():
        features.check(model.codec.channels, *model.size)
    first = next(iter(models.values()))
    there = PlainPixels(source=ImageArrays(train=str(real)), size=first.size[1], channels=first.codec.channels, fit="pad")
    images = labelled_images(there, "valid").pixels.permute(0, 2, 3, 1).numpy()
    reference = statistics_of(extract(features, batches_of(images), split="test"))
    floor = frechet_distance(statistics_of(extract(features, batches_of(reconstructed(first, images[:count])), split="codec")), reference)
    typer.echo(f"{floor} (test images through the codec and back)\n{HEADER}")
    rows, made = compare(models, asked, features, reference, count=count, batch=batch, seed=seed, say=typer.echo)
    if out is not None:
        _write(out, rows, made, {"codec": str(floor), "count": count, "seed": seed, "device": device, "dtype": dtype})


def _write(out: Path, rows: Any, made: dict[str, Any], about: dict[str, Any]) -> None:
    from maskless.api.image_quality import draw
    from maskless.data.pictures import grid_of, picture
    from maskless.evaluation.machine import versions

    out.mkdir(parents=True, exist_ok=True)
    found = {"where": versions(), **about, "rows": [row.tree() for row in rows]}
    (out / "images.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    draw(out / "images.png", rows)
    for name, pixels in made.items():
        picture(grid_of(pixels[:40], columns=10)).save(out / f"{name.replace(' ', '-')}.png")
    typer.echo(f"Written to {out}/: images.json, images.png, and a grid of every row")


def speeds(sides: Sequence[int], steps: Sequence[int], batch: int, device: Any, out: Path | None) -> None:
    """Images per second of PGM and MaskGIT with random weights."""
    from maskless.api.image_quality import race
    from maskless.evaluation.machine import versions

    typer.echo(f"{'grid':>7}  {'steps':>5}  {'PGM images/s':>24}  {'MaskGIT images/s':>24}  {'ratio':>6}")
    found = []
    for side in sides:
        for n in steps:
            pgm, maskgit = race(side, steps=n, batch=batch, device=str(device))
            cells = [f"{batch / t.median_seconds:.3g} [{batch / max(t.seconds):.3g} .. {batch / min(t.seconds):.3g}]" for t in (pgm, maskgit)]
            ratio = maskgit.median_seconds / pgm.median_seconds
            typer.echo(f"{side:>3} x {side:<3}  {n:>5}  {cells[0]:>24}  {cells[1]:>24}  {ratio:>5.2f}x")
            found.append({"side": side, "steps": n, "batch": batch, "pgm": pgm.seconds, "maskgit": maskgit.seconds, "ratio": ratio})
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "speeds.json").write_text(json.dumps({"where": versions(), "rows": found}, indent=2) + "\n", encoding="utf-8")
