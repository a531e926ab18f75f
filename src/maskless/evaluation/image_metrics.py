"""How near a set of generated images is to real ones: Frechet distance, inception score, kernel distance, precision and recall.

All in float64, from features of any extractor (`evaluation/features.py`). Formulas, choices and protocols: docs/evaluation-images.md.

Letters: N generated images, M real ones, F features, K classes, n images of a subset.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.evaluation.feature_statistics import Gaussian, Statistics, checked
from maskless.noise import uniform

SPLITS, SUBSETS = 0x53504C54, 0x4B494453                            # purpose words of the permutations
NEIGHBOURS = 3                                                      # of precision and recall
SAME = 1e-12                                                        # |a - b|^2 below this share of |a|^2 + |b|^2 is rounding


@dataclass(frozen=True)
class Sample:
    """Features of a set of images, one row an image.

    Attributes:
        name: of the extractor.
        transform: what was done to the images before it.
        split: which images: "generated", "test", ...
    """

    features: Float[Tensor, "N F"]
    name: str
    transform: str
    split: str

    def __post_init__(self) -> None:
        checked(self.features, self.features.shape[-1])


@dataclass(frozen=True)
class Measurement:
    """A number and what it is a number of.

    Attributes:
        metric: what was measured.
        standard_error: None where there is no estimate of it.
        error_from: how it was estimated, and what it leaves out.
        count, reference_count: generated and real images; the second is None where there are no real ones.
        features, transform: the extractor's name, and what was done to the images before it.
        split: which real images.
    """

    metric: str
    value: float
    standard_error: float | None
    error_from: str
    count: int
    reference_count: int | None
    features: str
    transform: str
    split: str | None

    @property
    def label(self) -> str:
        """The metric with its features: a distance is never named without them."""
        return f"{self.metric} ({self.features})"

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" +- {self.standard_error:.2g}"
        against = "" if self.reference_count is None else f" against {self.reference_count} of {self.split}"
        return f"{self.label} {self.value:.6g}{error}; {self.count} images{against}"


def _same_features(generated: Statistics | Sample, reference: Statistics | Sample) -> str:
    """The common extractor's name."""
    names = [each.features if isinstance(each, Statistics) else each.name for each in (generated, reference)]
    if names[0] != names[1]:
        raise ValueError(f"the images were measured with {names[0]!r} and the reference with {names[1]!r}; use one extractor")
    if generated.transform != reference.transform:
        raise ValueError(f"the images went through {generated.transform!r} and the reference through {reference.transform!r}; use one transform")
    return names[0]


# ------------------------------------------------------------------------------------------------ Frechet distance


def frechet(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2): the squared Frechet distance of two Gaussians.

    The trace of the root is that of (R S_a R)^(1/2) with R = S_b^(1/2): the roots of the eigenvalues of a symmetric matrix.
    """
    return _frechet(a, b, _root(b.covariance))


def _root(covariance: Float[Tensor, "F F"]) -> Float[Tensor, "F F"]:
    values, vectors = torch.linalg.eigh(covariance.double())
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _frechet(a: Gaussian, b: Gaussian, root: Float[Tensor, "F F"]) -> float:
    inner = root @ a.covariance.to(root) @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    shift = (a.mean.to(root) - b.mean.to(root)).square().sum()
    return max(0.0, float(shift + a.covariance.trace() + b.covariance.trace() - 2 * cross))


def _jackknife(whole: Statistics, other: Gaussian) -> float | None:
    """The variance of the distance due to the images of `whole`: each of its groups left out in turn."""
    if len(whole.leave_out) < 2:
        return None
    root, groups = _root(other.covariance), len(whole.leave_out)
    found = torch.tensor([_frechet(part, other, root) for part in whole.leave_out], dtype=torch.float64)
    return float((found - found.mean()).square().sum()) * (groups - 1) / groups


def check_enough(count: int, split: str, width: int) -> None:
    """Raise ValueError for too few images for a covariance of `width` features."""
    if count <= width:
        raise ValueError(f"{count} images of {split} are too few for a covariance of {width} features; "
                         f"give at least {width + 1}, or use the kernel distance")


def frechet_distance(generated: Statistics, reference: Statistics) -> Measurement:
    """The Frechet distance of two sets of images ("FID" with Inception's features), with its jackknife error.

    Raises:
        ValueError: other features or transform; or no more images than features, whose covariance is singular.
    """
    name, width = _same_features(generated, reference), len(reference.mean)
    if generated.mean.shape != reference.mean.shape:
        raise ValueError(f"the images have {len(generated.mean)} features and the reference {width}; use one extractor")
    for each in (generated, reference):
        check_enough(each.count, each.split, width)
    parts = {"generated": _jackknife(generated, reference), "reference": _jackknife(reference, generated)}
    known = {who: variance for who, variance in parts.items() if variance is not None}
    error = math.sqrt(sum(known.values())) if known else None
    how = f"jackknife over groups of the {' and the '.join(known)} images" if known else ""
    metric = "FID" if name.startswith("inception-v3-compat") else "Frechet distance"
    value = frechet(generated, reference)
    return Measurement(metric, value, error, how, generated.count, reference.count, name, generated.transform, reference.split)


# ------------------------------------------------------------------------------------------------- inception score


def split_scores(logits: Float[Tensor, "N K"], order: Int[Tensor, " N"], splits: int) -> Float[Tensor, " splits"]:
    """exp of the mean KL divergence from a split's mean class law to each image's, for every split of a permutation."""
    found = []
    for part in logits[order].tensor_split(splits):
        law = part.double().log_softmax(1)
        mean = law.logsumexp(0) - math.log(len(part))
        found.append((law.exp() * (law - mean)).sum(1).mean().exp())
    return torch.stack(found)


def check_splits(count: int, splits: int) -> None:
    """Raise ValueError for images that cannot be cut into so many splits."""
    if splits < 2 or count < splits:
        raise ValueError(f"{count} images cannot be cut into {splits} splits; give more images, or 2 to {count} splits")


def inception_score(
    logits: Float[Tensor, "N K"], sample: Sample, *, splits: int = 10, order: Int[Tensor, " N"] | None = None, seed: int = 0,
) -> Measurement:
    """The mean over splits; its spread over splits is what is published beside it, and the error is that over root of splits.

    Args:
        logits: of the classes, such as `features.logits(sample.features)`; Inception's without their bias.
        sample: whose logits they are.
        splits: parts of equal size, up to one.
        order: a permutation of the images; None: one drawn with `seed`.

    Raises:
        ValueError: fewer images than splits, no permutation, or logits that are not finite.
    """
    count = len(logits)
    check_splits(count, splits)
    checked(logits, logits.shape[-1])
    if order is None:
        order = uniform(seed, SPLITS, torch.arange(count)).argsort(stable=True)
    if not torch.equal(order.cpu().sort().values, torch.arange(count)):
        raise ValueError(f"the order of {len(order)} images is no permutation of 0 to {count - 1}; leave it out to have one drawn")
    found = split_scores(logits, order.to(logits.device), splits)
    error = float(found.std()) / math.sqrt(splits)
    return Measurement("inception score", float(found.mean()), error, f"spread over {splits} splits / {splits}^(1/2)",
                       count, None, sample.name, sample.transform, None)


# -------------------------------------------------------------------------------------------------- kernel distance


def unbiased_mmd(x: Float[Tensor, "n F"], y: Float[Tensor, "n F"]) -> Float[Tensor, ""]:
    """The unbiased estimate of the squared maximum mean discrepancy under k(a, b) = (a . b / F + 1)^3."""
    width, n = x.shape[1], len(x)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / width + 1) ** 3

    def within(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.trace()) / (n * (n - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


def kernel_distance(generated: Sample, reference: Sample, *, size: int = 1000, subsets: int = 100, seed: int = 0) -> Measurement:
    """The kernel distance ("KID"): the mean of `unbiased_mmd` over subsets of `size` images from each side.

    Subsets are drawn in rounds; those of one round share no image, so that their spread over the root of their number is an honest standard
    error of their mean. More rounds only average over the cut: the error of one round is reported, its variance averaged over all rounds, which
    is an upper estimate. A round of one subset has no spread, and its error is not known.

    Raises:
        ValueError: other features or transform, fewer images than `size`, or a size below 2.
    """
    name = _same_features(generated, reference)
    x, y = checked(generated.features, reference.features.shape[1]), checked(reference.features, reference.features.shape[1])
    fewest = min(len(x), len(y))
    if size < 2 or subsets < 1 or fewest < size:
        raise ValueError(f"{fewest} images cannot be cut into {subsets} subsets of {size}; give more images, or a size between 2 and {fewest}")
    each = fewest // size
    found = torch.stack([_subset(x, y, size, index, each, seed) for index in range(subsets)])
    rounds = [part for part in found.split(each) if len(part) > 1]
    error = math.sqrt(float(torch.stack([part.var() for part in rounds]).mean()) / min(each, subsets)) if rounds else None
    how = f"spread within rounds of {min(each, subsets)} subsets that share no image" if rounds else "not known: two subsets share images"
    metric = "KID" if name.startswith("inception-v3-compat") else "kernel distance"
    return Measurement(metric, float(found.mean()), error, how, len(x), len(y), name, generated.transform, reference.split)


def _subset(x: Tensor, y: Tensor, size: int, index: int, each: int, seed: int) -> Tensor:
    """The estimate from subset `index`: part index mod each of round index // each."""
    turn, part = divmod(index, each)
    rows = (uniform(seed, SUBSETS, side, turn, torch.arange(len(z))).argsort(stable=True) for side, z in enumerate((x, y)))
    a, b = (z[order[part * size:(part + 1) * size].to(z.device)] for z, order in zip((x, y), rows))
    return unbiased_mmd(a, b)


# --------------------------------------------------------------------------------------------- precision and recall


def check_neighbours(count: int, split: str, k: int = NEIGHBOURS) -> None:
    """Raise ValueError for images that have no k neighbours among them."""
    if count <= k:
        raise ValueError(f"{count} images of {split} cannot have {k} neighbours each; give at least {k + 1}")


def precision_recall(generated: Sample, reference: Sample, *, k: int = NEIGHBOURS, block: int = 1024) -> tuple[Measurement, Measurement]:
    """Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991).

    The manifold of a set is the union of balls around its images, each as large as the distance to its k-th nearest neighbour in the set.
    Precision is the share of generated images in the real manifold, recall that of real images in the generated one.

    Args:
        k: neighbours, the image itself not counted.
        block: images a side of the distances that exist at a time.

    Raises:
        ValueError: other features or transform, no more images than k, or k or block below 1.
    """
    name = _same_features(generated, reference)
    x, y = checked(generated.features, reference.features.shape[1]), checked(reference.features, reference.features.shape[1])
    if k < 1 or block < 1:
        raise ValueError(f"k is {k} and block {block}; both must be at least 1")
    for each in (generated, reference):
        check_neighbours(len(each.features), each.split, k)
    shares = {"precision": inside(x, y, radii(y, k, block), block), "recall": inside(y, x, radii(x, k, block), block)}
    found = []
    for metric, flags in shares.items():
        share = float(flags.double().mean())
        error = math.sqrt(share * (1 - share) / len(flags))
        found.append(Measurement(metric, share, error, "binomial, the manifold held fixed", len(x), len(y), name, generated.transform,
                                 reference.split))
    return found[0], found[1]


def _squared_distances(a: Float[Tensor, "n F"], b: Float[Tensor, "m F"]) -> Float[Tensor, "n m"]:
    sizes = a.square().sum(1)[:, None] + b.square().sum(1)
    found = sizes - 2 * (a @ b.T)
    return torch.where(found < SAME * sizes, 0.0, found)            # equal images are at distance 0, whatever the block


def radii(x: Float[Tensor, "N F"], k: int, block: int) -> Float[Tensor, " N"]:
    """The squared distance of each image to its k-th nearest neighbour, itself not counted."""
    found = []
    for start in range(0, len(x), block):
        rows, nearest = x[start:start + block], x.new_full((len(x[start:start + block]), k), math.inf)
        for other in range(0, len(x), block):
            distances = _squared_distances(rows, x[other:other + block])
            if start == other:
                distances.fill_diagonal_(math.inf)
            nearest = torch.cat([nearest, distances], 1).topk(k, largest=False).values
        found.append(nearest.amax(1))
    return torch.cat(found)


def inside(x: Float[Tensor, "N F"], centres: Float[Tensor, "M F"], squared: Float[Tensor, " M"], block: int) -> Bool[Tensor, " N"]:
    """Whether each image lies in any of the balls."""
    found = []
    for rows in x.split(block):
        flags = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
        for middle, radius in zip(centres.split(block), squared.split(block)):
            flags |= (_squared_distances(rows, middle) <= radius).any(1)
        found.append(flags)
    return torch.cat(found)
