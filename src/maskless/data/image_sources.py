"""Where images come from: folders, arrays, the Hugging Face Hub, the digits of scikit-learn.

A source gives images with their class, if there are classes, in a fixed order; it neither scales nor encodes them.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskless.data.definition import digest
from maskless.data.files import find_files, fingerprint, stamp
from maskless.data.hub import fetched, parts
from maskless.data.npz import names_in, read_npz
from maskless.data.pictures import SUFFIXES, Pixels, from_array, read_picture, sized
from maskless.data.source import Split

if TYPE_CHECKING:
    from PIL.Image import Image


class Picture(NamedTuple):
    """An image, its class (None where there are none), what to call it in a message, and the `stamp` of its file if it has one."""

    image: Image
    label: int | None
    name: str
    stamp: Any = None

    def sized(self, size: int, channels: int, fit: str) -> Pixels:
        """(C, size, size) bytes, as `pictures.sized`. Raises ValueError, with the name, where it does not fit."""
        try:
            return sized(self.image, size, channels, "pad" if fit == "pad" else "crop")
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Image files below a folder; the subfolder they lie in, if they do, is their class.

    Args:
        train: the folder.
        valid: one with the same subfolders, for validation; None holds out a share of `train`.
    """

    train: str
    valid: str | None = None

    @property
    def divided(self) -> bool:
        """Whether there is a validation part of its own."""
        return self.valid is not None

    def identity(self) -> Any:
        return [digest(fingerprint(place, SUFFIXES)) for place in (self.train, self.valid) if place is not None]

    def classes(self) -> tuple[str, ...]:
        """Names of the subfolders of `train`, sorted; () if its images lie in none.

        Raises:
            ValueError: there are images both in subfolders and beside them.
        """
        root, files = _root(self.train), find_files(self.train, SUFFIXES)
        names = {path.relative_to(root).parts[0] for path in files if path.parent != root}
        if names and (beside := next((path for path in files if path.parent == root), None)):
            raise ValueError(f"{beside} has no class, other images of {root} lie in folders that are classes: move it")
        return tuple(sorted(names))

    def pictures(self, split: Split, start: int = 0) -> Iterator[Picture]:
        """The images of a part, by path, from number `start` on; those before are not read."""
        place = self.train if split == "train" or self.valid is None else self.valid
        numbers = {name: number for number, name in enumerate(self.classes())}
        root = _root(place)
        for path in find_files(place, SUFFIXES)[start:]:
            label = numbers.get(path.relative_to(root).parts[0]) if numbers else None
            if numbers and label is None:
                raise ValueError(f"{path} is of no class of {self.train}: the classes are {', '.join(numbers)[:200]}")
            yield Picture(read_picture(path, str(path)), label, str(path), stamp(path, place))


def _root(place: str) -> Path:
    """The folder that paths of images are relative to."""
    path = Path(place).expanduser()
    return path.parent if path.is_file() else path


@dataclass(frozen=True, kw_only=True)
class ImageArrays:
    """Images in a NumPy .npz file without pickles, in one of two layouts; PART is train, valid, val or test.

    Arrays: `x_PART` (or `x` where there are no parts), uint8, n x height x width (x 3), and `y_PART`, integers. JPEG (or any
    files): `PART_bytes`, all files end to end, `PART_offsets`, n + 1, and `PART_labels`. Labels may be missing; `classes`
    may name them.

    Args:
        train: the file; its part "train", or the only one it has, is trained on.
        valid: another file for validation; None: the part valid, val or test of `train`, if it has one.
    """

    train: str
    valid: str | None = None

    @property
    def divided(self) -> bool:
        return self.valid is not None or self._part(self.train, "valid") is not None

    def identity(self) -> Any:
        return [fingerprint(place, (".npz",)) for place in (self.train, self.valid) if place is not None]

    def classes(self) -> tuple[str, ...]:
        path = _file(self.train)
        names = names_in(path)
        if "classes" in names:
            return tuple(map(str, np.atleast_1d(read_npz(path, "classes")["classes"])))
        found = read_npz(path, *(name for name in names if name == "y" or name.startswith("y_") or name.endswith("_labels")))
        if wrong := next((name for name, labels in found.items() if labels.dtype.kind not in "iu"), None):
            raise ValueError(f"{path}: {wrong} holds {found[wrong].dtype}, and labels are whole numbers: correct it")
        return tuple(map(str, range(max((int(labels.max()) for labels in found.values() if labels.size), default=-1) + 1)))

    def pictures(self, split: Split, start: int = 0) -> Iterator[Picture]:
        place = self.valid if split == "valid" and self.valid is not None else self.train
        part = self._part(place, split)
        if part is None:  # a file of one part: all of it, or what `holdout` makes of it
            part = self._part(place, "train")
        assert part is not None
        yield from _pictures(place, part, len(self.classes()), start)

    def _part(self, place: str, split: Split) -> str | None:
        """The name of a part of a file: "" if there are no parts; the only part is for training."""
        names = names_in(_file(place))
        parts = [name[2:] for name in names if name.startswith("x_")] + ["" for name in names if name == "x"]
        parts += [name.removesuffix("_bytes") for name in names if name.endswith("_bytes")]
        if not parts:
            raise ValueError(f"{place} holds no images: it needs x_train (uint8), or train_bytes and train_offsets")
        first = "train" if "train" in parts else parts[0]
        if split == "train":
            return first
        return next((name for name in ("valid", "val", "test") if name in parts and name != first), None)


def _file(place: str) -> Path:
    return find_files(place, (".npz",))[0]


def _pictures(place: str, part: str, classes: int, start: int) -> Iterator[Picture]:
    """The images of a part of a file of arrays."""
    path = _file(place)
    names = names_in(path)
    files, labelled = f"{part}_bytes" in names, f"{part}_labels" if f"{part}_bytes" in names else f"y_{part}" if part else "y"
    wanted = (f"{part}_bytes", f"{part}_offsets") if files else (f"x_{part}" if part else "x",)
    arrays = read_npz(path, *wanted, *([labelled] if labelled in names else []))
    if flat := next((name for name, array in arrays.items() if array.ndim == 0), None):
        raise ValueError(f"{path}: {flat} is a single value; it must hold a row for every image: correct the file")
    labels, images = arrays.get(labelled), None if files else arrays[wanted[0]]
    content, offsets = (_bytes(arrays[wanted[0]]), arrays[wanted[-1]]) if files else (memoryview(b""), np.zeros(0))
    count = len(offsets) - 1 if images is None else len(images)
    if labels is not None and len(labels) != count:
        raise ValueError(f"{place} has {count} images and {len(labels)} labels in its part {part or 'x'}: correct it")
    for number in range(start, count):
        name = f"image {number} of {place}"
        label = None if labels is None else checked_label(labels[number], classes, name)
        if images is None:
            image = read_picture(bytes(content[int(offsets[number]) : int(offsets[number + 1])]), name)
        else:
            image = from_array(images[number], name)
        yield Picture(image, label, name)


def _bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array, without another copy of them."""
    return np.ascontiguousarray(array).reshape(-1).data.cast("B")


def checked_label(label: Any, classes: int, name: str) -> int:
    """A label as an int. Raises ValueError unless it is one of 0..classes-1."""
    if not isinstance(label, (int, np.integer)) or not 0 <= label < classes:
        raise ValueError(f"{name} has the label {label}, not one of 0..{classes - 1}: correct it, or take no labels (data.labels=false)")
    return int(label)


@dataclass(frozen=True)
class HubEntry:
    """Where a data set of images is: repository, columns, parts, and how many classes if their names are not said."""

    repository: str
    image: str = "image"
    label: str = "label"
    train: str = "train"
    valid: str | None = "test"
    classes: int = 0


IMAGE_SETS: dict[str, HubEntry] = {
    "mnist": HubEntry("ylecun/mnist"),
    "fashion_mnist": HubEntry("zalando-datasets/fashion_mnist"),
    "cifar10": HubEntry("uoft-cs/cifar10", image="img"),
    "cifar100": HubEntry("uoft-cs/cifar100", image="img", label="fine_label"),
    "tiny-imagenet": HubEntry("zh-plus/tiny-imagenet", valid="valid"),
    "imagenet": HubEntry("timm/imagenet-1k-wds", image="jpg", label="cls", valid="validation", classes=1000),
}


@dataclass(frozen=True, kw_only=True)
class ImageHub:
    """A data set of images on the Hugging Face Hub (`pip install 'maskless[data]'`).

    Args:
        name: a key of `IMAGE_SETS`, or any repository `owner/name`.
        repository: where to read instead, for a mirror or a local folder ("" for the table's place).
        image, label: columns; "" for the table's ("image" and "label" where it has no line).
        valid: the part for validation; "" for the table's (none where it has no line).

    Raises:
        ValueError: the name is neither; when reading: `datasets` is missing, or the data could not be had.
    """

    name: str
    repository: str = ""
    image: str = ""
    label: str = ""
    valid: str = ""

    def __post_init__(self) -> None:
        if self.name not in IMAGE_SETS and "/" not in self.name:
            raise ValueError(f"name is {self.name!r}: it must be one of {', '.join(IMAGE_SETS)}, or owner/name")

    @property
    def entry(self) -> HubEntry:
        """The line of the table, with the recipe's changes."""
        entry = IMAGE_SETS.get(self.name) or HubEntry(self.name, valid=None)
        changes = {"repository": self.repository, "image": self.image, "label": self.label, "valid": self.valid}
        return HubEntry(**{**asdict(entry), **{name: value for name, value in changes.items() if value}})

    @property
    def divided(self) -> bool:
        return self.entry.valid is not None

    def identity(self) -> Any:
        return asdict(self.entry)

    def classes(self) -> tuple[str, ...]:
        entry = self.entry
        features = getattr(self._load(entry.train), "features", None) or {}
        names = getattr(features.get(entry.label), "names", None)
        return tuple(names) if names else tuple(map(str, range(entry.classes)))

    def pictures(self, split: Split, start: int = 0) -> Iterator[Picture]:
        entry, classes = self.entry, len(self.classes())
        records = self._load(entry.train if split == "train" else entry.valid or entry.train)
        for number in range(start, len(records)):
            record, name = records[number], f"image {number} of {self.name}"
            if entry.image not in record:
                raise ValueError(f"{self.name} has no column {entry.image!r} but {', '.join(record)}: set image to one")
            label = checked_label(record[entry.label], classes, name) if classes and entry.label in record else None
            yield Picture(_decoded(record[entry.image], name), label, name)

    def held_out(self) -> str:
        """The data set's part for validation, or for tests; "" if it has neither."""
        there = parts(self.name, self.entry.repository)
        return next((part for part in ("validation", "valid", "test") if part in there), "")

    def _load(self, expression: str) -> Any:
        return fetched(self.name, self.entry.repository, None, expression, None)


def _decoded(value: Any, name: str) -> Any:
    """A column of images gives Pillow's, or the bytes of a file if decoding was turned off."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, bytes):
        return read_picture(content, name)
    if not hasattr(value, "convert"):
        raise ValueError(f"{name} is no image but {type(value).__name__}: set image to the column of images")
    return value


@dataclass(frozen=True, kw_only=True)
class Digits:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, grey: they come with the library, no network is needed."""

    @property
    def divided(self) -> bool:
        return False

    def identity(self) -> Any:
        return "digits"

    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def pictures(self, split: Split, start: int = 0) -> Iterator[Picture]:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise ValueError("the digits need the library scikit-learn: pip install 'maskless[images]'") from None
        found: Any = load_digits()
        shades = np.rint(np.asarray(found.images) * (255 / 16)).astype(np.uint8)  # from 0..16
        for number in range(start, len(shades)):
            name = f"digit {number}"
            yield Picture(from_array(shades[number], name), int(found.target[number]), name)


# A recipe's `source: {type: ...}`.
ImageSource = ImageFolder | ImageArrays | ImageHub | Digits
IMAGE_SOURCES: dict[str, type] = {"folder": ImageFolder, "arrays": ImageArrays, "hub": ImageHub, "digits": Digits}


def source_called(name: str, split: str = "train") -> ImageSource:
    """The images a command line names: a folder, an .npz, hub:NAME, or digits. What lies on the disk by that name comes first.

    Args:
        split: train or valid, which data sets that are not in the table are searched for.
    """
    kind, colon, of = name.partition(":")
    if kind == "hub" and colon and not Path(name).exists():
        source = ImageHub(name=of)
        return source if source.divided or split == "train" else replace(source, valid=source.held_out())
    if name == "digits" and not Path(name).exists():
        return Digits()
    return ImageArrays(train=name) if name.endswith(".npz") else ImageFolder(train=name)
