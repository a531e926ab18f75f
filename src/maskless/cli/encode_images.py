"""`maskless encode-images`: images become shards of codes that training maps into memory."""
from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from maskless.cli.live import live_line


def encode_images(
    source: Annotated[str, typer.Argument(help="A folder of images, subfolders are classes; an .npz file of arrays or JPEG files; hub:NAME, a "
                                               "Hugging Face data set (hub:imagenet, hub:owner/name); or digits, those of scikit-learn.")],
    destination: Annotated[Path, typer.Argument(help="Where the codes go: a new folder, or one that was begun before.")],
    codec: Annotated[str, typer.Option(help="Folder of a codec or of the run that trained it, a released .pt, "
                                            "or pixels:LEVELS (pixels:8:rgb for colour).")],
    size: Annotated[int, typer.Option(help="Pixels of a side, after scaling the short side and cutting out the middle.")] = 256,
    fit: Annotated[str, typer.Option(help="crop, or pad: black around images that are smaller.")] = "crop",
    batch: Annotated[int, typer.Option(help="Images in memory, and seen by the codec at once.")] = 32,
    split: Annotated[str, typer.Option(help="train, or valid: the part for validation of an .npz or a Hugging Face data set.")] = "train",
    shard: Annotated[int, typer.Option(help="Images a shard; what is lost at most if the work is stopped.")] = 4096,
    device: Annotated[str, typer.Option(help="Where the codec runs: cpu, cuda, mps, auto.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the folder.")] = False,
) -> None:
    """Encode images for training: data={type: encoded, train: DESTINATION}. Stopped work goes on where it was."""
    from maskless.data.codec import code_grid
    from maskless.data.images import ImageCodes
    from maskless.data.shards import Encoding
    from maskless.data.shards import encode_images as encode
    from maskless.data.source import one_of

    one_of("fit", fit, ("crop", "pad"))
    one_of("split", split, ("train", "valid"))
    images = _source(source)
    opened = _codec(codec, device, batch)
    if size < 1 or size % opened.factor:
        raise ValueError(f"size is {size}: it must be a multiple of the {opened.factor} pixels of a cell of {codec}")
    codes = ImageCodes(opened, code_grid(opened, size), images.classes())
    with nullcontext(lambda done: None) if quiet else _Progress() as progress:
        encoding = Encoding(images, codes, size, "pad" if fit == "pad" else "crop", shard, batch, "valid" if split == "valid" else "train")
        shards = encode(encoding, destination, progress)
    if not quiet:
        typer.echo(f"{len(shards):,} images, {codes.grid[0]} x {codes.grid[1]} codes out of {opened.vocab_size:,}, {len(codes.classes):,} classes")
    typer.echo(str(destination))


def _source(name: str) -> Any:
    """Where the images are. What lies on the disk by that name comes first."""
    from maskless.data.image_sources import Digits, ImageArrays, ImageFolder, ImageHub

    kind, colon, of = name.partition(":")
    if kind == "hub" and colon and not Path(name).exists():
        return ImageHub(name=of)
    if name == "digits" and not Path(name).exists():
        return Digits()
    return ImageArrays(train=name) if name.endswith(".npz") else ImageFolder(train=name)


def _codec(name: str, device: str, batch: int) -> Any:
    from maskless.data.codec import PixelCodec, load_codec
    from maskless.data.vq import VQCodec
    from maskless.training.distributed import choose_device

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
    return VQCodec(found.model.to(choose_device(device)), batch=batch)


class _Progress:
    """A live line with the number of images and the speed."""

    def __enter__(self) -> _Progress:
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self.bar = live_line(SpinnerColumn(), TextColumn("{task.completed:,.0f} images"), TextColumn("{task.fields[speed]}"), TimeElapsedColumn())
        self.bar.start()
        self.task = self.bar.add_task("encoding", total=None, speed="")
        self.begun: int | None = None
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def __call__(self, done: int) -> None:
        self.begun = done if self.begun is None else self.begun
        seconds = self.bar.tasks[0].elapsed or 0.0
        speed = f"{(done - self.begun) / seconds:,.1f} images/s" if seconds > 1 else ""
        self.bar.update(self.task, completed=done, speed=speed)
