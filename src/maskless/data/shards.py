"""Images encoded once and for all: a folder of shards, each a store, that training maps into memory.

    maskless encode-images photos/ codes/ --codec vq_ds8_c2i/ --size 256

    codes/
      manifest.json         what was encoded, with what, how many images there are; written when all shards are there
      plan.json             the same before: what a run that was stopped continues
      codec.json ...        the codec, the grid and the names of the classes (`ImageCodes`)
      shard-00000/ ...      stores of `shard` images each, in the order of the source; their manifests name the images
      lock                  while a process is at work there; another one is refused

A shard appears complete or not at all, so that whatever stops the work (kill -9, power, a full disk), running it again goes on
after the last complete shard, also if images of a folder that are in no shard yet were repaired, removed or added. One batch of
images is in memory, of a file of arrays the arrays of its part too.

N  images        h, w  cells        L  h x w
"""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from maskless.alone import LOCK, alone
from maskless.data.batch import Batch
from maskless.data.definition import canonical, read_json, write_json
from maskless.data.files import fingerprint
from maskless.data.image_sources import ImageFolder, ImageSource, Picture
from maskless.data.images import ImageCodes, load_image_codes
from maskless.data.loader import Rows
from maskless.data.pack import Row
from maskless.data.pictures import SUFFIXES, Fit, in_unit_range
from maskless.data.source import Source, Split
from maskless.data.store import Store, build_store
from maskless.noise import uniform

FORMAT = 1
HELD = 0x48454C44  # the purpose word of the choice of held-out rows


@dataclass(frozen=True)
class Encoding:
    """What to encode, and how.

    Args:
        source: of the images.
        codes: the codec, the grid it gives, the classes.
        size, fit: of `Pictures`.
        shard: images a shard.
        batch: images in memory, and seen by the codec at once.
        split: the part of the source, train or valid.
        mirror: encode the mirror image of every image in its place.
    """

    source: ImageSource
    codes: ImageCodes
    size: int
    fit: Fit = "crop"
    shard: int = 4096
    batch: int = 32
    split: Split = "train"
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.split != "train" and not self.source.divided:
            raise ValueError("split is valid, and this source has no part for validation; leave it out, or encode another file or folder for that")
        for name, value in (("size", self.size), ("shard", self.shard), ("batch", self.batch)):
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")

    def plan(self) -> dict[str, Any]:
        """All that the shards depend on, as JSON gives it back."""
        kind = type(self.source).__name__
        return {
            "format": FORMAT,
            "codec": self.codes.codec.hash,
            "transform": {"size": self.size, "fit": self.fit, "channels": self.codes.codec.channels, **({"mirror": True} if self.mirror else {})},
            "source": json.loads(canonical([kind, self.source.identity()])),
            "split": self.split,
            "shard": self.shard,
            "classes": len(self.codes.classes),
        }


def encode_images(encoding: Encoding, folder: Path | str, progress: Callable[[int], None] = lambda done: None) -> Shards:
    """Encode all images of a source into `folder`, or what is missing there.

    Args:
        encoding: what, and how.
        folder: new, empty, or that of the same work begun before.
        progress: called with the number of images done, after each batch.

    Raises:
        ValueError: the folder holds something else, or another process is at work there; an image is damaged, or has no such class.
            Complete shards stay.
        OSError: the disk is full. Complete shards stay.
    """
    folder, plan = Path(folder), encoding.plan()
    if not (folder / "manifest.json").is_file():
        begun = (folder / "plan.json").is_file()
        if folder.exists() and not begun and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
            raise ValueError(f"{folder} exists and holds something else: choose a new folder")
        if begun and (folder / "shard-00000").exists():
            differ = _differing(folder / "plan.json", plan)
            _refuse(folder, [] if differ == ["source"] and _unchanged(encoding, folder) else differ)
        folder.mkdir(parents=True, exist_ok=True)
        busy = f"another process encodes images into {folder}: wait until it is done, or choose a new folder"
        with alone(folder / LOCK, busy):
            if not (folder / "manifest.json").is_file():            # nobody has finished it in this moment
                _encode(encoding, folder, plan, progress)
    _refuse(folder, _differing(folder / "manifest.json", plan))
    return Shards(folder)


def _encode(encoding: Encoding, folder: Path, plan: dict[str, Any], progress: Callable[[int], None]) -> None:
    """Whatever is missing in a folder that is this process's alone."""
    write_json(folder / "plan.json", plan)
    for leftover in folder.glob("shard-*.tmp"):
        shutil.rmtree(leftover)
    encoding.codes.save(folder)
    images = _write_shards(encoding, folder, progress)
    if not images:
        raise ValueError("the source has no images: there is nothing to encode")
    write_json(folder / "manifest.json", {**plan, "images": images, "shards": -(-images // encoding.shard)})
    (folder / "plan.json").unlink()


def _write_shards(encoding: Encoding, folder: Path, progress: Callable[[int], None]) -> int:
    """The shards that are not there yet; returns the number of all images."""
    done = sum(map(len, _finished(folder)))
    progress(done)
    pictures = encoding.source.pictures(encoding.split, done)
    codes = encoding.codes
    while done % encoding.shard == 0 and (first := next(pictures, None)) is not None:
        identity: dict[str, list] = {"images": [], "files": []}  # filled while the rows are written
        rows = _rows(encoding, chain([first], islice(pictures, encoding.shard - 1)), identity, done, progress)
        place = folder / f"shard-{done // encoding.shard:05d}"
        build_store(place, rows, length=codes.length, vocabulary=codes.vocabulary.size, identity=identity)
        done += len(identity["images"])
    return done


def _finished(folder: Path) -> list[Store]:
    """The shards that are there."""
    stores: list[Store] = []
    while (place := folder / f"shard-{len(stores):05d}").exists():
        stores.append(Store(place))
    return stores


def _unchanged(encoding: Encoding, folder: Path) -> bool:
    """Whether the images of the shards that are there are still the first of the source, as they were; so it is while there is no shard."""
    stores = _finished(folder)
    if not stores:
        return True
    if not isinstance(encoding.source, ImageFolder):
        return False
    done, files = sum(map(len, stores)), [tuple(file) for store in stores for file in store.manifest.identity.get("files", ())]
    now = fingerprint(encoding.source.train, SUFFIXES)
    return len(files) == done and files == now[:done] and done in (len(now), len(stores) * encoding.shard)


def _rows(
    encoding: Encoding, pictures: Iterator[Picture], identity: dict[str, list], done: int, progress: Callable[[int], None]
) -> Iterator[Row]:
    """The rows of one shard; what each image is called, and the stamp of its file if it has one, go to `identity`."""
    codec, source = encoding.codes.codec, encoding.source
    root = f"{source.train}/" if isinstance(source, ImageFolder) else ""
    while together := list(islice(pictures, encoding.batch)):
        pixels = np.stack([_sized(picture, encoding) for picture in together])
        codes = codec.encode(in_unit_range(torch.from_numpy(pixels))).flatten(1).numpy()
        identity["images"] += [picture.name.removeprefix(root) for picture in together]
        identity["files"] += [picture.stamp for picture in together if picture.stamp is not None]
        for code, picture in zip(codes, together, strict=True):
            yield Row(code, label=picture.label)
        progress(done + len(identity["images"]))


def _sized(picture: Picture, encoding: Encoding) -> Any:
    pixels = picture.sized(encoding.size, encoding.codes.codec.channels, encoding.fit)
    return pixels[..., ::-1] if encoding.mirror else pixels


def _differing(path: Path, plan: dict[str, Any]) -> list[str]:
    """In what a folder differs from `plan`, by its plan.json or manifest.json."""
    found = read_json(path)
    return [key for key in plan if not isinstance(found, dict) or {"split": "train", **found}.get(key) != plan[key]]


def _refuse(folder: Path, differ: list[str]) -> None:
    """Raise ValueError if anything differs."""
    if differ:
        raise ValueError(f"{folder} was encoded from something else ({', '.join(differ)} differ): choose a new folder")


class Shards:
    """The rows of a folder that `encode_images` finished.

    Raises:
        ValueError: it did not finish, or a shard is missing or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        if not path.is_file():
            begun = (self.folder / "plan.json").is_file()
            remedy = "encode the images again, it goes on where it stopped" if begun else "give a folder of encode-images"
            raise ValueError(f"{folder} {'is not finished' if begun else 'holds no encoded images'}: {remedy}")
        self.manifest = read_json(path)
        if not isinstance(self.manifest, dict) or self.manifest.get("format") != FORMAT:
            raise ValueError(f"{path} is not a manifest of format {FORMAT}: encode the images again")
        self.stores = [Store(self.folder / f"shard-{number:05d}") for number in range(self.manifest["shards"])]
        if len(self) != self.manifest["images"]:
            raise ValueError(f"{folder} has {len(self)} images, not {self.manifest['images']}: encode the images again")

    @property
    def length(self) -> int:
        """L."""
        return self.stores[0].length

    def __len__(self) -> int:
        """N."""
        return sum(map(len, self.stores))

    def read(self, rows: Int[Tensor, " B"]) -> Batch:
        """The rows with these numbers, in this order."""
        shard, place = rows // self.manifest["shard"], rows % self.manifest["shard"]
        tokens = torch.zeros(len(rows), self.length, dtype=torch.int64)
        labels = torch.zeros(len(rows), dtype=torch.int64)
        labelled = True
        for number in shard.unique().tolist():
            here = shard == number
            part = self.stores[number].read(place[here])
            tokens[here] = part.tokens
            labelled = labelled and part.labels is not None
            if part.labels is not None:
                labels[here] = part.labels
        return replace(Batch.of(tokens), labels=labels if labelled else None)


class Joined:
    """The rows of one folder, then those of another."""

    def __init__(self, first: Shards, second: Shards) -> None:
        self.first, self.second = first, second

    @property
    def length(self) -> int:
        """L."""
        return self.first.length

    def __len__(self) -> int:
        """N."""
        return len(self.first) + len(self.second)

    def read(self, rows: Int[Tensor, " B"]) -> Batch:
        """The rows with these numbers, in this order."""
        there = rows >= len(self.first)
        first, second = self.first.read(rows[~there]), self.second.read(rows[there] - len(self.first))
        place = torch.cat([(~there).nonzero(), there.nonzero()]).argsort(0)[:, 0]
        labels = None if first.labels is None or second.labels is None else torch.cat([first.labels, second.labels])[place]
        return replace(Batch.of(torch.cat([first.tokens, second.tokens])[place]), labels=labels)


class Selected:
    """Some of the rows of others, with their labels or without."""

    def __init__(self, rows: Rows, numbers: Int[Tensor, " N"], *, labels: bool) -> None:
        self.rows, self.numbers, self.labels = rows, numbers, labels

    @property
    def length(self) -> int:
        """L."""
        return self.rows.length

    def __len__(self) -> int:
        """N."""
        return len(self.numbers)

    def read(self, rows: Int[Tensor, " B"]) -> Batch:
        """The rows with these numbers, in this order."""
        batch = self.rows.read(self.numbers[rows])
        return batch if self.labels else replace(batch, labels=None)


@dataclass(frozen=True, kw_only=True)
class Encoded(Source):
    """Images that `maskless encode-images` encoded: nothing is copied, the shards are read where they lie.

    Args:
        train: the folder.
        valid: one of the same codec and size for validation; None holds out a share of `train` by the numbers of its rows.
        mirrored: the folder of the mirror images of `train` (`encode-images --mirror`): rows to train on as well.
        labels: whether rows carry classes, if they have any.
    """

    train: str
    valid: str | None = None
    mirrored: str | None = None
    labels: bool = True

    @property
    def learned(self) -> str:
        return ""

    def identity(self) -> Any:
        return [Shards(place).manifest for place in (self.train, self.valid, self.mirrored) if place is not None]

    def make_tokenizer(self) -> ImageCodes:
        codes = load_image_codes(self.train)
        return codes if self.labels else replace(codes, classes=())

    def stored(self, split: Split, length: int) -> Rows:
        place = self.train if split == "train" or self.valid is None else self.valid
        shards, codes = Shards(place), load_image_codes(self.train)
        if place != self.train and load_image_codes(place).hash != codes.hash:
            raise ValueError(f"{place} was encoded by another codec than {self.train}: encode one of them again")
        if self.labels and (other := load_image_codes(place).classes) != codes.classes:
            raise ValueError(f"{place} has the classes {', '.join(other) or 'none'} and {self.train} {', '.join(codes.classes) or 'none'}: "
                             "encode folders with the same subfolders, or set labels=false")
        if length != shards.length:
            raise ValueError(f"an image is {codes.grid[0]} x {codes.grid[1]} codes: length is {shards.length}, not {length}")
        numbers = torch.arange(len(shards))
        if self.valid is None:
            held = uniform(HELD, self.seed, numbers) < self.holdout
            numbers = numbers[held if split == "valid" else ~held]
        if not len(numbers):
            raise ValueError("no image is left: use more data or another holdout")
        if split == "train" and self.mirrored is not None:
            shards, numbers = Joined(shards, self._mirror(shards)), torch.cat([numbers, len(shards) + numbers])
        return Selected(shards, numbers, labels=self.labels)

    def _mirror(self, shards: Shards) -> Shards:
        """The mirror images of all rows.

        Raises:
            ValueError: they are of other images, or no mirror images.
        """
        assert self.mirrored is not None
        mirror = Shards(self.mirrored)
        expected = {**shards.manifest, "transform": {**shards.manifest["transform"], "mirror": True}}
        if differ := [name for name in ("codec", "source", "split", "images", "transform") if mirror.manifest.get(name) != expected.get(name)]:
            raise ValueError(f"{self.mirrored} does not hold the mirror images of {self.train} ({', '.join(differ)} differ); "
                             "encode them from the same images with --mirror")
        return mirror
