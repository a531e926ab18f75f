"""`maskless encode-images`: images become shards of codes that training maps into memory."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maskless.cli.imaging import ImagesArgument, Part
from maskless.cli.live import passing


def encode_images(
    source: ImagesArgument,
    destination: Annotated[Path, typer.Argument(help="Where the codes go: a new folder, or one that was begun before.")],
    codec: Annotated[str, typer.Option(help="Folder of a codec or of the run that trained it, a released .pt, "
                                            "or pixels:LEVELS (pixels:8:rgb for colour).")],
    size: Annotated[int, typer.Option(help="Pixels of a side, after scaling the short side and cutting out the middle.")] = 256,
    fit: Annotated[str, typer.Option(help="crop, or pad: black around images that are smaller.")] = "crop",
    batch: Annotated[int, typer.Option(help="Images in memory, and seen by the codec at once.")] = 32,
    split: Part = "train",
    mirror: Annotated[bool, typer.Option("--mirror", help="Encode mirror images: data={type: encoded, train: ..., mirrored: DESTINATION}.")] = False,
    shard: Annotated[int, typer.Option(help="Images a shard; what is lost at most if the work is stopped.")] = 4096,
    device: Annotated[str, typer.Option(help="Where the codec runs: cpu, cuda, mps, auto.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the folder.")] = False,
) -> None:
    """Encode images for training: data={type: encoded, train: DESTINATION}. Stopped work goes on where it was."""
    from maskless.data.codec import code_grid
    from maskless.data.image_sources import source_called
    from maskless.data.images import ImageCodes
    from maskless.data.shards import Encoding
    from maskless.data.shards import encode_images as encode
    from maskless.data.source import one_of
    from maskless.training.distributed import choose_device

    one_of("fit", fit, ("crop", "pad"))
    one_of("split", split, ("train", "valid"))
    images, device = source_called(source, split), choose_device(device)
    opened = _codec(codec, device, batch)
    if size < 1 or size % opened.factor:
        raise ValueError(f"size is {size}: it must be a multiple of the {opened.factor} pixels of a cell of {codec}")
    codes = ImageCodes(opened, code_grid(opened, size), images.classes())
    with passing("encoding", quiet=quiet) as progress:
        encoding = Encoding(images, codes, size, "pad" if fit == "pad" else "crop", shard, batch, "valid" if split == "valid" else "train", mirror)
        shards = encode(encoding, destination, progress)
    if not quiet:
        typer.echo(f"{len(shards):,} images, {codes.grid[0]} x {codes.grid[1]} codes out of {opened.vocab_size:,}, {len(codes.classes):,} classes")
    typer.echo(str(destination))


def _codec(name: str, device: str, batch: int) -> Any:
    from maskless.data.codec import PixelCodec, load_codec
    from maskless.data.vq import VQCodec

    kind, *numbers = name.split(":")
    if kind == "pixels":
        if not numbers or not numbers[0].isdigit() or numbers[1:] not in ([], ["rgb"]):
            raise ValueError(f"codec is {name!r}: write pixels:LEVELS for grey or pixels:LEVELS:rgb for colour")
        return PixelCodec(int(numbers[0]), 3 if numbers[1:] else 1)
    if name.endswith((".pt", ".pth")):
        from maskless.checkpoints.reference.foreign import read_vq

        found = read_vq(name)
    else:
        found = load_codec(name)
    if not isinstance(found, VQCodec):
        return found
    return VQCodec(found.model.to(device), batch=batch)
