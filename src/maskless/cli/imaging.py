"""What commands do with images: name them, and paint those of a model."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from maskless.api.image import ImageModel
    from maskless.api.image_files import GeneratedImages

    Make = Callable[[ImageModel, Any], GeneratedImages]             # images from a model and a step callback

ImagesArgument = Annotated[str, typer.Argument(help="A folder of images, subfolders are classes; an .npz file of arrays or JPEG files; hub:NAME, a "
                                                    "Hugging Face data set (hub:imagenet, hub:owner/name); or digits, those of scikit-learn.")]
Part = Annotated[str, typer.Option(help="train, or valid: the part for validation of an .npz or a Hugging Face data set.")]


def makes_images(opened: Any) -> bool:
    from maskless.api.image import ImageModel

    return isinstance(opened, ImageModel)


def refuse(what: str, **given: Any) -> None:
    """Raise ValueError for the first option that was given and says nothing to this kind of model."""
    for name, value in given.items():
        if value:
            raise ValueError(f"--{name.replace('_', '-')} is not for models of {what}; leave it out")


def labels_of(given: str | None, n: int, model: ImageModel) -> list[str] | list[int] | None:
    """The class of every image: those named, over and over; "all" names each of the model's."""
    count = model.model.null_label
    if given is None:
        return None
    if given == "all" and count is not None and given not in model.codes.classes:
        return [i % count for i in range(n)]
    if given in model.codes.classes:                                # its name may have a comma
        return [given] * n
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise ValueError(f"--label {given} has an empty name; write 3,7 or shoe")
    if len(names) > n:
        raise ValueError(f"--label {given} names {len(names)} classes for {n} images; make more (-n {len(names)}), or name fewer")
    return [names[i % len(names)] for i in range(n)]


def paint(model: ImageModel, make: Make, out: Path | None, animate: Path | None) -> None:
    """Make images and write them."""
    from maskless.api.image_files import Film, check_ending, check_folder

    path = Path("images.png") if out is None else out
    check_ending(path)
    if animate is not None and animate.suffix != ".gif":
        raise ValueError(f"--animate {animate} is written as a .gif; give a name that ends so")
    if animate is not None:
        check_folder(animate)
    film = None if animate is None else Film(model)
    images = make(model, film)
    images.save(path)
    if film is not None and animate is not None:
        film.save(animate)
    typer.echo(f"{path}: {len(images)} images of {images.pixels.shape[1]} x {images.pixels.shape[2]}, {images.nfe} calls of the model a batch")
    count = model.model.null_label
    if count is not None and set(images.labels or ()) == {count}:
        typer.echo(f"They are of no class; --label all goes through the model's {count}.")


def read_image(path: Path, channels: int) -> Any:
    """(h, w, C) uint8."""
    import numpy as np

    from maskless.data.pictures import MODES, read_picture

    return np.asarray(read_picture(path, str(path)).convert(MODES[channels]))


def read_mask(path: Path) -> Any:
    """(h, w) True where the mask is bright."""
    return read_image(path, 1) >= 128
