"""Images as files: grids, folders, arrays, and films of an image being made.

n images, H and W pixels, h and w cells, C channels.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from maskless.data.pictures import grid_of, picture
from maskless.whole import whole

if TYPE_CHECKING:
    from maskless.api.image import ImageModel
    from maskless.decoding import Canvas, Record

GREY = 96                                                           # of a cell that is not known yet


def check_ending(path: Path) -> Path:
    """The path of images to be written, if they can be.

    Raises:
        ValueError: an ending that is not known, a folder that exists, or a file in a folder that does not.
    """
    if path.suffix:
        check_folder(path)
    if path.suffix not in (".png", ".npz", ""):
        raise ValueError(f"{path} ends in {path.suffix}; give a name ending in .png (a grid), .npz (arrays), or without an ending (a folder)")
    if (not path.suffix and path.exists()) or path.is_dir():
        raise ValueError(f"{path} exists; give the name of a new {'file' if path.suffix else 'folder'}")
    return path


def check_folder(path: Path) -> None:
    """Raises ValueError if the folder that a file shall lie in is not there."""
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}; make it, or give another name")


@dataclass(frozen=True)
class GeneratedImages:
    """A batch of generated images.

    Attributes:
        pixels: (n, H, W, C) uint8.
        codes: (n, h, w) the codes they were decoded from.
        labels: class of each, the number of the model's classes where it has none; None for an unlabelled model.
        nfe: calls of the model that made the batch.

    Example:
        >>> import torch
        >>> images = GeneratedImages(np.zeros((2, 8, 8, 1), np.uint8), torch.zeros(2, 8, 8, dtype=torch.int64), labels=(3, 3), nfe=16)
        >>> len(images)
        2
    """

    pixels: np.ndarray
    codes: Int[Tensor, "n h w"]
    labels: tuple[int, ...] | None
    nfe: int

    def __len__(self) -> int:
        return len(self.pixels)

    def save(self, path: str | Path, *, columns: int | None = None) -> Path:
        """Write a .png (one grid), an .npz (`pixels`, `codes`, `labels`), or, without an ending, a new folder with one PNG each.

        Raises:
            ValueError: another ending, or the folder exists.
        """
        path = check_ending(Path(path))
        if path.suffix == ".png":
            with whole(path) as part:
                picture(grid_of(self.pixels, columns)).save(part)
        elif path.suffix == ".npz":
            arrays: dict[str, Any] = {"pixels": self.pixels, "codes": self.codes.numpy()}
            with whole(path) as part:
                np.savez_compressed(part, **arrays if self.labels is None else {**arrays, "labels": np.array(self.labels)})
        else:
            self._save_each(path)
        return path

    def _save_each(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        for number, each in enumerate(self.pixels):
            picture(each).save(folder / f"{number:05d}.png")


class Film:
    """A step callback that keeps the images after every step; cells that are not known yet are grey.

    Of images made in several batches the first batch is filmed.

    Args:
        enlarge: pixels of a frame for each of the image, along a side.

    Example:
        >>> film = Film(model, enlarge=4)  # doctest: +SKIP
        >>> model.generate(4, watch=film)  # doctest: +SKIP
        >>> film.save("out.gif")  # doctest: +SKIP
    """

    def __init__(self, model: ImageModel, *, enlarge: int = 1):
        self.model, self.enlarge = model, enlarge
        self.frames: list[np.ndarray] = []
        self.canvas: Canvas | None = None

    def __call__(self, canvas: Canvas, record: Record) -> None:
        if self.canvas is None:
            self.canvas = canvas
        if canvas is not self.canvas:
            return
        frame = so_far(self.model, canvas)
        self.frames.append(grid_of(frame.repeat(self.enlarge, 1).repeat(self.enlarge, 2)))

    def save(self, path: str | Path, *, milliseconds: int = 80) -> Path:
        """Write an animated GIF; the last frame stays for a second."""
        path = Path(path)
        if path.suffix != ".gif":
            raise ValueError(f"{path} ends in {path.suffix or 'nothing'}; an animation is written as .gif")
        if not self.frames:
            raise ValueError("the film has no frames; give it to a call that makes images (watch=film) before it is saved")
        first, *rest = [picture(frame) for frame in self.frames]
        times = [*[milliseconds] * len(rest), 1000]
        with whole(path) as part:
            first.save(part, save_all=True, append_images=rest, duration=times, loop=0)
        return path


def so_far(model: ImageModel, canvas: Canvas) -> np.ndarray:
    """(n, H, W, C) uint8 of what is known, grey where nothing is."""
    tokens, seen, _ = canvas.by_site()
    known = model.cells(seen).unflatten(1, (model.codec.planes, -1)).all(1)     # of a pixel in several planes, all
    pixels = model.render(model.cells(tokens))
    return np.where(_enlarged(known, pixels.shape), pixels, GREY).astype(np.uint8)


def _enlarged(cells: Bool[Tensor, "n h w"], shape: Sequence[int]) -> np.ndarray:
    """Cells as a mask of pixels (n, H, W, 1)."""
    array: Any = cells.cpu().numpy()
    return array.repeat(shape[1] // array.shape[1], 1).repeat(shape[2] // array.shape[2], 2)[..., None]
