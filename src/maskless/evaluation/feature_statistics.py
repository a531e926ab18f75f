"""Mean and covariance of features, gathered batch by batch, over processes, or once and for all in a file.

    moments = Moments(features.width, features.name, features.transform, split="test")
    for images in batches:
        moments.add(features(images))
    statistics = moments.statistics()              # or moments.summed(machine.total).statistics() over processes

Letters: B rows of a batch, F features, G groups of rows for the standard error.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maskless.data.npz import names_in, read_npz

GROUPS = 10
CONTENT = ("mu", "sigma", "count", "features", "transform", "split")
PREPARED = "prepared"                                               # not in every file


@dataclass(frozen=True)
class Gaussian:
    """A mean and an unbiased covariance, float64."""

    mean: Float[Tensor, " F"]
    covariance: Float[Tensor, "F F"]


@dataclass(frozen=True)
class Statistics(Gaussian):
    """What a Frechet distance needs to know of a set of images.

    Attributes:
        count: images.
        features: the name of the extractor.
        transform: what was done to the images before it.
        split: which images.
        prepared: how they were brought to one size, where that is known.
        leave_out: the same without each of G groups, for the jackknife; empty if read from a file.
    """

    count: int
    features: str
    transform: str
    split: str
    leave_out: tuple[Gaussian, ...] = ()
    prepared: str = ""


class Moments:
    """Sums of features and of their products in float64, for G groups of rows.

    Row i belongs to group (i + i // G) mod G, so that no group is a class where labels go round.

    Args:
        width: F.
        features, transform, split: as in `Statistics`.
        groups: G; the jackknife needs at least 2, and each costs F^2 numbers.
    """

    def __init__(self, width: int, features: str, transform: str, split: str, *, groups: int = GROUPS) -> None:
        if groups < 1:
            raise ValueError(f"groups is {groups}; at least 1 is needed (a standard error needs 2)")
        self.features, self.transform, self.split = features, transform, split
        self.count = torch.zeros(groups, dtype=torch.float64)
        self.total = torch.zeros(groups, width, dtype=torch.float64)
        self.products = torch.zeros(groups, width, width, dtype=torch.float64)

    def add(self, features: Float[Tensor, "B F"]) -> None:
        """Raises: ValueError for features of another width, or that are not finite."""
        rows = checked(features, self.total.shape[1])
        if self.total.device != rows.device:
            self.count, self.total, self.products = (sums.to(rows.device) for sums in (self.count, self.total, self.products))
        groups = len(self.count)
        seen = int(self.count.sum())
        place = seen + torch.arange(len(rows), device=rows.device)
        belongs = (place + place // groups) % groups
        for group in range(groups):
            part = rows[belongs == group]
            self.count[group] += len(part)
            self.total[group] += part.sum(0)
            self.products[group].addmm_(part.T, part)

    def merge(self, other: Moments) -> None:
        """Add what another one has seen. Raises ValueError if it is of other features, another transform or split."""
        for what in ("features", "transform", "split"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise ValueError(f"moments of {what} {theirs!r} cannot be added to those of {mine!r}; gather both the same way")
        if self.products.shape != other.products.shape:
            raise ValueError(f"moments of shape {tuple(other.products.shape)} cannot be added to {tuple(self.products.shape)}; use equal groups")
        self.count, self.total, self.products = (
            mine + theirs.to(mine.device) for mine, theirs in
            ((self.count, other.count), (self.total, other.total), (self.products, other.products))
        )

    def summed(self, total: Callable[[Tensor], Tensor]) -> Moments:
        """Over processes: `total` is the sum of a tensor over all of them, such as `Machine.total`."""
        whole = Moments(0, self.features, self.transform, self.split, groups=len(self.count))
        whole.count, whole.total, whole.products = total(self.count), total(self.total), total(self.products)
        return whole

    def statistics(self) -> Statistics:
        """Mean and covariance of all rows, and without each group.

        Raises:
            ValueError: fewer than two rows.
        """
        count, total, products = self.count.sum(), self.total.sum(0), self.products.sum(0)
        whole = _gaussian(count, total, products, self.split)
        groups = [] if len(self.count) == 1 or bool((self.count < 1).any()) or count - self.count.max() < 2 else range(len(self.count))
        without = tuple(_gaussian(count - self.count[g], total - self.total[g], products - self.products[g], self.split) for g in groups)
        return Statistics(whole.mean, whole.covariance, int(count), self.features, self.transform, self.split, without)


def checked(features: Float[Tensor, "B F"], width: int, of: str = "images") -> Float[Tensor, "B F"]:
    """Features in float64. Raises ValueError if they are of another width or not finite; `of` says what they are features of."""
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(f"features of shape {tuple(features.shape)} were given where ({of}, {width}) is needed; use one extractor for all {of}")
    if not bool(features.isfinite().all()):
        bad = int((~features.isfinite()).any(1).sum())
        raise ValueError(f"features of {bad} of {len(features)} {of} are not finite; look for NaN in the {of} or the extractor's weights")
    return features.detach().cpu().double() if features.device.type == "mps" else features.detach().double()


def _gaussian(count: Tensor, total: Tensor, products: Tensor, split: str) -> Gaussian:
    if count < 2:
        raise ValueError(f"{int(count)} images of {split} were given; a covariance needs at least 2 (and a Frechet distance more than features)")
    mean = total / count
    covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
    return Gaussian(mean, (covariance + covariance.T) / 2)


# ------------------------------------------------------------------------------------------------------------ files


def save_statistics(path: str | Path, statistics: Statistics) -> None:
    """Write mu, sigma, count, features, transform, split and prepared as .npz or .safetensors, by the suffix; a file that is complete or absent.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    check_ending(path)
    partial = path.with_name(f"{path.name}.tmp")
    arrays = {"mu": statistics.mean.cpu(), "sigma": statistics.covariance.cpu()}
    notes = {name: getattr(statistics, name) for name in (*CONTENT[2:], PREPARED)}
    try:
        if path.suffix == ".safetensors":
            meta = {name: json.dumps(value) for name, value in notes.items()}
            safetensors.torch.save_file({name: array.contiguous() for name, array in arrays.items()}, partial, meta)
        else:
            with open(partial, "wb") as file:
                np.savez(file, **{name: array.numpy() for name, array in arrays.items()}, **notes)  # type: ignore[arg-type]
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class Origin:
    """What a file that holds a mean and a covariance alone is of, as its user says.

    Attributes:
        count: images.
        transform, split: as in `Statistics`.
    """

    count: int
    transform: str
    split: str


def load_statistics(path: str | Path, *, features: str, origin: Origin | None = None) -> Statistics:
    """Read what `save_statistics` wrote; or a file of others: mu and sigma (.npz), mu and cov (.pt).

    Args:
        features: the name of the extractor that the other images are measured with.
        origin: what a file of others is of; its features are taken to be `features`.

    Raises:
        ValueError: the file is missing, damaged, incomplete, or of other features.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise ValueError(f"{path.name} ends in {path.suffix or 'nothing'}; statistics are read from {', '.join(READERS)} files")
    found = READERS[path.suffix](path)
    if missing := [name for name in ("mu", "sigma") if name not in found]:
        raise ValueError(f"{path} has no {' and no '.join(missing)} but {', '.join(found) or 'nothing'}; it is another kind of file")
    if unsaid := [name for name in CONTENT if name not in found]:
        if origin is None or "features" in found:
            raise ValueError(f"{path} has no {', '.join(unsaid)}; make it with maskless image-statistics, or, for Inception's features alone, "
                             "say how many images it is of: images.reference_count=50000")
        found |= {"features": features, "count": origin.count, "transform": origin.transform, "split": origin.split}
    elif origin is not None and (origin.count, origin.split) != (found["count"], found["split"]):
        raise ValueError(f"{path} is of {found['count']} images of {found['split']}, and {origin.count} of {origin.split} were said; leave "
                         "images.reference_count out")
    if found["features"] != features:
        raise ValueError(f"{path} holds statistics of {found['features']!r} and the images are measured with {features!r}; use one extractor")
    try:
        mean, covariance, count = torch.as_tensor(found["mu"]).double(), torch.as_tensor(found["sigma"]).double(), int(found["count"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no statistics ({error}); make the file again") from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path} has mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)}, which do not fit; make the file again")
    if not bool(mean.isfinite().all() and covariance.isfinite().all()):
        raise ValueError(f"{path} holds numbers that are not finite; make the file again")
    return Statistics(mean, covariance, count, features, str(found["transform"]), str(found["split"]), prepared=str(found.get(PREPARED, "")))


def _read_npz(path: Path) -> dict[str, Any]:
    arrays = read_npz(path, *(name for name in names_in(path) if name in (*CONTENT, PREPARED)))
    return {name: array.item() if array.ndim == 0 else array for name, array in arrays.items()}


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            meta = {name: json.loads(value) for name, value in (file.metadata() or {}).items() if name in (*CONTENT, PREPARED)}
    except FileNotFoundError:
        raise ValueError(f"{path} cannot be read (no such file); correct the path") from None
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); make it again") from None
    return {**tensors, **meta}


def _read_pickled(path: Path) -> dict[str, Any]:
    """The {"mu", "cov"} of the released image evaluations; nothing in the file is run."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path} cannot be read (no such file); correct the path") from None
    except Exception as error:  # what a damaged pickle raises is open-ended
        raise ValueError(f"{path} is damaged or holds no tensors ({type(error).__name__}); get it again") from None
    found = found if isinstance(found, dict) else {}
    return {"sigma" if name == "cov" else str(name): value for name, value in found.items() if isinstance(value, Tensor)}


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _read_npz, ".safetensors": _read_safetensors, ".pt": _read_pickled, ".pth": _read_pickled,
}


def check_ending(path: Path) -> None:
    """Raise ValueError for a file that `save_statistics` does not write."""
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path.name} ends in {path.suffix or 'nothing'}; statistics are kept in .npz or .safetensors files")
