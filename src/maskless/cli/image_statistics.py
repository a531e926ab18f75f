"""`maskless image-statistics`: the mean and covariance of real images' features, once and for all, in a file."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskless.cli.imaging import ImagesArgument, Part
from maskless.cli.live import passing

if TYPE_CHECKING:
    from torch import Tensor


def image_statistics(
    source: ImagesArgument,
    destination: Annotated[Path, typer.Argument(help="The file: .npz or .safetensors.")],
    features: Annotated[str, typer.Option(help="A protocol of Inception (pgm-val, halton-train, adm), its weights behind a colon where they are "
                                               "not in torch's hub cache; or the folder of a classifier.")] = "pgm-val",
    size: Annotated[int | None, typer.Option(help="Pixels of a side, after scaling the short side and cutting out the middle; 256, or what a "
                                                  "classifier takes.", min=1)] = None,
    fit: Annotated[str | None, typer.Option(help="crop, or pad: black around images that are smaller. For a classifier, where images are not of "
                                                 "its size, it must be given; else crop.")] = None,
    split: Part = "train",
    rows: Annotated[int | None, typer.Option(help="At most so many images, the first ones.", min=2)] = None,
    batch: Annotated[int, typer.Option(help="Images in memory, and seen by the network at once.", min=1)] = 32,
    device: Annotated[str, typer.Option(help="Where the network runs: cpu, cuda, mps, auto.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the file.")] = False,
) -> None:
    """Keep the statistics of real images: maskless evaluate MODEL images images.reference=FILE compares with them."""
    from maskless.data.image_sources import source_called
    from maskless.data.source import one_of
    from maskless.evaluation.feature_statistics import check_ending, save_statistics
    from maskless.evaluation.features import extractor, gathered
    from maskless.evaluation.image_metrics import check_enough
    from maskless.training.distributed import choose_device

    if fit is not None:
        one_of("fit", fit, ("crop", "pad"))
    one_of("split", split, ("train", "valid"))
    check_ending(destination)
    if not destination.parent.is_dir():
        raise ValueError(f"there is no folder {destination.parent}; make it first, or write elsewhere")
    if destination.exists():
        raise ValueError(f"{destination} exists; give another name, or remove it")
    images = source_called(source, split)
    if split == "valid" and not images.divided:
        raise ValueError(f"split is valid, and {source} has no part for validation; leave it out")
    images.identity()                                               # says what is not there, before features are fetched
    network = extractor(features, choose_device(device))
    side = size or network.side or 256
    network.check(network.channels, side, side)
    strict = fit is None and network.side is not None
    with passing("measuring", quiet=quiet) as progress:
        pictures = images.pictures("valid" if split == "valid" else "train")
        found = gathered(network, _batches(pictures, side, network.channels, None if strict else fit or "crop", rows, batch, progress), split=split,
                         prepared=f"{fit or 'crop'} to {side} x {side}")
    check_enough(found.count, split, network.width)
    save_statistics(destination, found)
    if not quiet:
        typer.echo(f"{found.count:,} images of {split}, {side} x {side}, by {found.features} ({found.transform})")
    typer.echo(str(destination))


def _batches(pictures: Iterator[Any], size: int, channels: int, fit: str | None, rows: int | None, batch: int,
             progress: Callable[[int], None]) -> Iterator[Tensor]:
    """Images in [-1, 1], some at a time; without `fit`, of that size only."""
    from itertools import islice

    import numpy as np
    import torch

    from maskless.data.pictures import in_unit_range

    wanted, done = islice(pictures, rows), 0
    while together := list(islice(wanted, batch)):
        fitted = []
        for each in together:
            if fit is None and each.image.size != (size, size):
                width, height = each.image.size
                raise ValueError(f"{each.name} has {height} x {width} pixels and the classifier takes {size} x {size}; say --fit pad or --fit crop")
            fitted.append(each.sized(size, channels, fit or "crop"))
        yield in_unit_range(torch.from_numpy(np.stack(fitted)))
        done += len(together)
        progress(done)
