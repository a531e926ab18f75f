"""How varied generated text is, and how near its law is to that of real text: entropy, distinct-n, repetition, self-BLEU, MAUVE.

The n-gram measures take rows of anything hashable (token ids, words, characters); MAUVE takes histograms, or features that it
quantises. Formulas and choices: docs/tasks.md.

Letters: N samples, M real ones, F features, D principal directions, K clusters or bins, G groups, P points of a curve.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from maskless.evaluation.feature_statistics import checked
from maskless.evaluation.generative import unigram_entropy
from maskless.noise import uniform

CENTRES = 0x4D415556                                                # purpose word of the first centres
MATCHLESS = 0.1                                                     # what counts as matched of an order of which nothing is
GROUPS = 10                                                         # parts of both sets, for MAUVE's jackknife
SPREAD_KEPT = 0.9                                                   # of the features' variance, before they are clustered

Rows = Sequence[Sequence[Hashable]]
Gram = tuple[Hashable, ...]


@dataclass(frozen=True)
class TextMeasurement:
    """A number about a set of texts.

    Attributes:
        metric: what was measured.
        standard_error: None where there is no estimate of it.
        error_from: how it was estimated, and what it leaves out.
        count: samples.
        better: "higher", "lower", or None where neither is: a value like that of real text is best.
    """

    metric: str
    value: float
    standard_error: float | None
    error_from: str
    count: int
    better: Literal["lower", "higher"] | None = None

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" +- {self.standard_error:.2g}"
        return f"{self.metric} {self.value:.6g}{error}; {self.count} samples"


def _mean(metric: str, values: Sequence[float], better: Literal["lower", "higher"] | None,
          error_from: str = "spread between samples") -> TextMeasurement:
    count, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(count - 1, 1)
    return TextMeasurement(metric, mean, math.sqrt(variance / count) if count > 1 else None, error_from, count, better)


def _refuse_empty(rows: Rows, n: int) -> None:
    if n < 1:
        raise ValueError(f"n is {n}; an n-gram has at least 1 token")
    if not rows:
        raise ValueError("there are no samples; generate some first")
    short = [number for number, row in enumerate(rows) if len(row) < n]
    if short:
        raise ValueError(f"sample {short[0]} has {len(rows[short[0]])} tokens ({len(short)} of {len(rows)} samples have fewer than {n}); "
                         "leave such samples out, and say so, or measure a smaller n")


def _grams(row: Sequence[Hashable], n: int) -> Counter[Gram]:
    return Counter(zip(*(row[start:] for start in range(n))))


# --------------------------------------------------------------------------------------------------------- one sample


def entropy(rows: Rows) -> TextMeasurement:
    """Mean unigram entropy in nats: -sum of (c / L) ln (c / L) over the tokens of a sample.

    Low where samples repeat themselves: a perplexity is read together with it.

    Source: spec of the released code, section 5.3 (Dieleman et al., arXiv 2211.15089).

    Example:
        >>> round(entropy(["aabb", "abcd"]).value, 4)
        1.0397
    """
    _refuse_empty(rows, 1)
    places: dict[Hashable, int] = {}
    numbered = [torch.tensor([[places.setdefault(token, len(places)) for token in row]]) for row in rows]
    return _mean("unigram entropy", [float(unigram_entropy(row)) for row in numbered], None)


def repetition(rows: Rows, n: int = 4) -> TextMeasurement:
    """Mean share of a sample's n-grams that it has had before: 1 - distinct / all.

    Source: seq-rep-n of Welleck et al., arXiv 1908.04319, eq. 11.

    Example:
        >>> round(repetition(["abab", "abcd"], 2).value, 4)         # ab ba ab: one of three
        0.1667
    """
    _refuse_empty(rows, n)
    return _mean(f"repetition-{n}", [1 - len(_grams(row, n)) / (len(row) - n + 1) for row in rows], "lower")


# ---------------------------------------------------------------------------------------------------- all the samples


def distinct(rows: Rows, n: int = 2) -> TextMeasurement:
    """Different n-grams of all samples over all n-grams of all samples; falls with their number, so compare equal numbers only.

    Source: distinct-n of Li et al., arXiv 1510.03055, section 5.3. The standard error is the jackknife's, samples left out one at a time.

    Example:
        >>> distinct(["abab", "abcd"], 2).value                     # ab ba bc cd of six
        0.6666666666666666
    """
    _refuse_empty(rows, n)
    each = [_grams(row, n) for row in rows]
    holders = Counter(gram for grams in each for gram in grams)     # in how many samples
    kinds, total = len(holders), sum(len(row) - n + 1 for row in rows)
    own = [sum(holders[gram] == 1 for gram in grams) for grams in each]
    error = None
    if len(rows) > 1:
        without = [(kinds - lost) / (total - (len(row) - n + 1)) for lost, row in zip(own, rows)]
        error = _jackknifed(without)
    return TextMeasurement(f"distinct-{n}", kinds / total, error, "jackknife over samples", len(rows), "higher")


def _jackknifed(without: Sequence[float]) -> float:
    """The standard error from the values found without each part in turn (Efron & Stein 1981)."""
    mean = math.fsum(without) / len(without)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in without) * (len(without) - 1) / len(without))


def self_bleu(rows: Rows, n: int = 4) -> TextMeasurement:
    """Mean BLEU-n of each sample with all the others as references: 1 where samples repeat each other.

    An order of which nothing matches counts as 0.1 matches; where not even a token does, BLEU is 0.

    Source: Zhu et al., arXiv 1802.01886, section 3 (self-BLEU); Papineni et al. 2002, section 2.3 (BLEU, closest reference length);
    Chen & Cherry 2014, smoothing 1. Samples are each other's references: the error is their spread with the references fixed.

    Raises:
        ValueError: fewer than two samples, or one without tokens.

    Example:
        >>> self_bleu(["abcd", "abcd", "wxyz"]).value
        0.6666666666666666
    """
    _refuse_empty(rows, 1)
    if n < 1 or len(rows) < 2:
        raise ValueError(f"{len(rows)} samples were given for n = {n}; self-BLEU compares at least 2 samples and needs n of at least 1")
    logs = [[0.0] * n for _ in rows]                                # of the precision, by sample and order
    for order in range(1, n + 1):
        each = [_grams(row, order) for row in rows]
        most = _most(each)
        for number, grams in enumerate(each):
            matched = sum(min(count, most[gram][number == most[gram][2]]) for gram, count in grams.items())
            logs[number][order - 1] = _log_precision(matched, max(len(rows[number]) - order + 1, 1), order)
    lengths = Counter(map(len, rows))
    found = [math.exp(_brevity(len(row), lengths) + math.fsum(log) / n) for row, log in zip(rows, logs)]
    return _mean(f"self-BLEU-{n}", found, "lower", "spread between samples, the references fixed")


def _most(each: Sequence[Counter[Gram]]) -> dict[Gram, tuple[int, int, int]]:
    """Of every n-gram: the largest count in a sample, the largest in any other sample, and which sample has the largest."""
    most: dict[Gram, tuple[int, int, int]] = {}
    for number, grams in enumerate(each):
        for gram, count in grams.items():
            first, second, holder = most.get(gram, (0, 0, -1))
            most[gram] = (count, first, number) if count > first else (first, max(second, count), holder)
    return most


def _log_precision(matched: int, of: int, order: int) -> float:
    if matched == 0 and order == 1:
        return -math.inf
    return math.log((matched or MATCHLESS) / of)


def _brevity(length: int, lengths: Counter[int]) -> float:
    """The logarithm of the brevity penalty against the closest length of another sample, the shorter of two as close."""
    others = [other for other, count in lengths.items() if other != length or count > 1]
    closest = min(others, key=lambda other: (abs(other - length), other))
    return min(0.0, 1 - closest / length)


# -------------------------------------------------------------------------------------------------------------- MAUVE


@dataclass(frozen=True)
class DivergenceCurve:
    """Where two laws P (real) and Q (generated) differ: mixtures R = w P + (1 - w) Q, w from 0 to 1.

    Attributes:
        x: exp(-c KL(Q | R)), falling short of 1 where Q has what R has not: text that is not real.
        y: exp(-c KL(P | R)), falling short of 1 where P has what R has not: real text that is never generated.
        scale: c.
    """

    x: Float[Tensor, " P"]
    y: Float[Tensor, " P"]
    scale: float

    @property
    def area(self) -> float:
        """MAUVE: the area under the curve, its ends drawn out to (0, 1) and (1, 0); 1 for equal laws."""
        zero = self.x.new_zeros(1)
        x, y = torch.cat([zero, self.x.flip(0), zero + 1]), torch.cat([zero + 1, self.y.flip(0), zero])
        return float(torch.trapezoid(y, x))


def divergence_curve(
    real: Num[Tensor, " K"], generated: Num[Tensor, " J"], *, scale: float = 5.0, points: int = 25, smoothing: float = 0.0,
) -> DivergenceCurve:
    """The divergence curve of two histograms over the same K bins.

    Args:
        real, generated: counts or probabilities; each is normalised.
        scale: c of the paper, 5.
        points: mixtures, both ends among them.
        smoothing: added to every bin that either has; 0.5 is the Krichevsky-Trofimov estimator (Pillutla et al., arXiv 2212.14578).

    Raises:
        ValueError: bins that do not match, an empty histogram, a negative or infinite count, fewer than 2 points, or a scale that is not positive.

    Source: Pillutla et al., arXiv 2102.01454, section 2, eq. 1.

    Example:
        >>> divergence_curve(torch.tensor([3, 1]), torch.tensor([3, 1])).area
        1.0
    """
    if real.shape != generated.shape:
        raise ValueError(f"the histograms have {len(real)} and {len(generated)} bins; count both over the same bins")
    if points < 2 or not scale > 0 or smoothing < 0:
        raise ValueError(f"points is {points}, scale {scale}, smoothing {smoothing}; use 2 points or more, a positive scale, smoothing of 0 or more")
    used = (real != 0) | (generated != 0)
    p, q = (_law(counts, used, smoothing) for counts in (real, generated))
    w = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
    mixture = torch.lerp(q.expand(points, -1), p.expand(points, -1), w)
    x, y = (torch.exp(-scale * _divergence(law, mixture)) for law in (q, p))
    return DivergenceCurve(x, y, scale)


def _law(counts: Tensor, used: Tensor, smoothing: float) -> Float[Tensor, " K"]:
    counts = counts.detach().cpu().double()
    if not bool((counts.isfinite() & (counts >= 0)).all()) or not bool(counts.sum() > 0):
        raise ValueError("a histogram has a negative or infinite count, or none at all; count at least one sample")
    smoothed = torch.where(used.cpu(), counts + smoothing, 0.0)
    return smoothed / smoothed.sum()


def _divergence(law: Float[Tensor, " K"], mixture: Float[Tensor, "P K"]) -> Float[Tensor, " P"]:
    """KL(law | mixture) in nats; infinite where the mixture lacks what the law has."""
    return (torch.special.xlogy(law, law) - torch.special.xlogy(law, mixture)).sum(1).clamp_min(0)


def clusters_of(real: int, generated: int, *, clusters: int | None = None, groups: int = GROUPS) -> int:
    """K of so many real and generated samples: what was asked for, or a tenth of the smaller set.

    Raises:
        ValueError: a set with fewer samples than groups or clusters, or fewer than 2 groups or clusters.
    """
    fewest = min(real, generated)
    k = max(2, fewest // 10) if clusters is None else clusters
    if groups < 2 or k < 2 or fewest < max(groups, k):
        raise ValueError(f"{real} real and {generated} generated samples are too few for {k} clusters and {groups} groups; "
                         f"each set needs as many samples as clusters and groups, and at least 2 clusters")
    return k


def mauve(real: Float[Tensor, "M F"], generated: Float[Tensor, "N E"], *, clusters: int | None = None, seeds: int = 5,
          scale: float = 5.0, points: int = 25, groups: int = GROUPS) -> TextMeasurement:
    """MAUVE of two sets of features, the mean over `seeds` quantisations.

    Features of both together are scaled to length 1, reduced to the principal directions that hold 0.9 of their variance and clustered by
    k-means, as the authors' package does; the two histograms over the clusters give the curve. Which features (a language model's last
    hidden state in the paper) is the caller's to say: values compare only with equal features, clusters and numbers of samples.

    Args:
        clusters: K; a tenth of the smaller set if None, as in the paper.
        seeds: k-means runs, each from other first centres.
        scale, points: as for `divergence_curve`.
        groups: parts of both sets for the jackknife.

    Returns:
        the value; its standard error is the jackknife's with the clusters fixed, and the spread over seeds is in `error_from`.

    Raises:
        ValueError: features that do not match or are not finite, or fewer samples than groups or clusters.

    Source: Pillutla et al., arXiv 2102.01454, section 2 and appendix on experiments.
    """
    width = real.shape[-1]
    sides = [checked(side, width, "texts") for side in (real, generated)]
    k = clusters_of(len(real), len(generated), clusters=clusters, groups=groups)
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; k-means runs at least once")
    together = directions(torch.cat(sides))
    parts = [torch.arange(len(side)) % groups for side in sides]
    found, without = [], []
    for seed in range(seeds):
        p, q = (_tallied(of, part, k, groups) for of, part in zip(quantised(together, k, seed=seed).split([*map(len, sides)]), parts))
        found.append(divergence_curve(p.sum(0), q.sum(0), scale=scale, points=points).area)
        without.append([divergence_curve(p.sum(0) - p[g], q.sum(0) - q[g], scale=scale, points=points).area for g in range(groups)])
    spread = float(torch.tensor(found, dtype=torch.float64).std()) if seeds > 1 else 0.0
    error = _jackknifed([math.fsum(column) / seeds for column in zip(*without)])
    error_from = f"jackknife over {groups} groups, clusters fixed; standard deviation over {seeds} seeds {spread:.2g}"
    return TextMeasurement(f"MAUVE (c = {scale:g}, {k} clusters)", math.fsum(found) / seeds, error, error_from, len(generated), "higher")


def _tallied(cluster: Int[Tensor, " N"], part: Int[Tensor, " N"], clusters: int, groups: int) -> Int[Tensor, "G K"]:
    return torch.bincount(part.to(cluster) * clusters + cluster, minlength=groups * clusters).view(groups, clusters)


def directions(features: Float[Tensor, "N F"], share: float = SPREAD_KEPT) -> Float[Tensor, "N D"]:
    """Every row scaled to length 1, on the fewest principal components that hold `share` of the variance; float64."""
    scaled = torch.nn.functional.normalize(features.double(), dim=1)
    centred = scaled - scaled.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    held = values.flip(0).clamp_min(0).cumsum(0)
    count = int((held < share * held[-1]).sum()) + 1
    return centred @ vectors.flip(1)[:, :count]


def quantised(points: Float[Tensor, "N D"], clusters: int, *, seed: int = 0, rounds: int = 500) -> Int[Tensor, " N"]:
    """The cluster of every point, by k-means from k-means++ centres (Arthur & Vassilvitskii 2007); a pure function of the seed.

    A cluster that loses all its points keeps its centre. Stops when no point moves, or after `rounds`.
    """
    luck = uniform(seed, CENTRES, torch.arange(clusters)).to(points.device)
    centres = points[(luck[0] * len(points)).long()][None]
    near = (points - centres[0]).square().sum(1)                    # squared distance to the nearest centre so far
    for draw in luck[1:]:
        chosen = int(torch.searchsorted(near.cumsum(0), draw * near.sum()).clamp_max(len(points) - 1))
        centres = torch.cat([centres, points[chosen][None]])
        near = torch.minimum(near, (points - centres[-1]).square().sum(1))
    cluster = torch.full((len(points),), -1, device=points.device)
    for _ in range(rounds):
        moved = torch.cdist(points, centres).argmin(1)
        if torch.equal(moved, cluster):
            break
        cluster = moved
        sums = torch.zeros_like(centres).index_add_(0, cluster, points)
        counts = torch.bincount(cluster, minlength=clusters)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return cluster
