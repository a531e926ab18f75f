"""Golden files of image metrics: distance and score from given features and logits, and the resize before Inception."""
from __future__ import annotations

import torch

from maskless.checkpoints.reference.quirks import frechet_rounded
from maskless.evaluation.feature_statistics import Moments
from maskless.evaluation.golden.case import Case
from maskless.evaluation.image_metrics import frechet, split_scores
from maskless.evaluation.image_transform import bicubic, to_255, truncated


def check_image_metrics(case: Case) -> None:
    """image_metrics*: the Frechet distance (ours and as released), the inception score, the resized image before and after truncation."""
    if case.has("in/real") and case.has("in/fake"):
        real, fake = case.input("in/real"), case.input("in/fake")
        case.expect("out/fid_fp64", torch.tensor(_distance(fake, real), dtype=torch.float64))
        case.expect("out/fid_ref_fp32", torch.tensor(frechet_rounded(fake, real), dtype=torch.float64))
    if case.has("in/logits") and case.has("in/perm"):
        splits = int(dict(case.meta.get("config") or {}).get("chunks", 10))
        case.expect("out/inception_score", split_scores(case.input("in/logits"), case.input("in/perm"), splits).mean())
    if case.has("in/images"):
        images, shape = case.input("in/images"), case.tensors["out/resized_float"].shape
        resized = bicubic(to_255(images), *shape[-2:])
        case.expect("out/resized_float", resized)
        case.expect("out/resized_uint8", truncated(resized))


def _distance(fake: torch.Tensor, real: torch.Tensor) -> float:
    sides = [Moments(x.shape[1], "given", "", "given", groups=1) for x in (fake, real)]
    for moments, x in zip(sides, (fake, real)):
        moments.add(x)
    return frechet(*(moments.statistics() for moments in sides))
