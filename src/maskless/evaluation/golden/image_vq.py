"""Golden files of VQ tokenizers: latents, codes, vectors and images of any network of that family, or of half of one."""
from __future__ import annotations

import torch
from torch import Tensor

from maskless.checkpoints.reference.vq import clean
from maskless.data.vq import filled, sizes_of
from maskless.data.vqgan import VQ
from maskless.evaluation.golden.case import TOLERANCES, Case, Tolerance, compare

HALVES = {"encoder": ("encoder.", "quant_conv."), "decoder": ("decoder.", "post_quant_conv.")}
FULL_PRECISION = Tolerance(2e-5)  # of images and latents; codes are equal or not


@torch.no_grad()
def check_vq(case: Case) -> None:
    """image_vq_*: what an image is encoded to and decoded from again, and what codes are decoded to."""
    model, halves = _network(case)
    if case.has("in/image"):
        latents = model.latents(case.input("in/image").to(case.dtype))
        _expect(case, "out/pre_quant", latents)
        codes = model.nearest(latents)
        case.expect("out/codes", codes)
        vectors = model.vectors(codes)
        _expect(case, "out/quant", vectors)
        if "decoder" in halves:
            _expect(case, "out/recon", model.images(vectors))
    if case.has("in/codes"):
        codes = case.input("in/codes").long()
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < model.config.codebook_size:
            raise ValueError(f"{case.path}: in/codes lie outside the {model.config.codebook_size} codes of the codebook")
        _expect(case, "out/decoded", model.images(model.vectors(codes)))


def _network(case: Case) -> tuple[VQ, list[str]]:
    """The network of the file, and which halves of it the file has; the other half is never looked at."""
    prefix = "param/"
    weights = clean({name.removeprefix(prefix): case.input(name) for name in case.names(prefix)})
    try:
        config = sizes_of(weights, normalised=bool(case.settings.get("l2_norm", True)))
        there = [half for half, parts in HALVES.items() if any(name.startswith(parts) for name in weights)]
        absent = tuple(part for half, parts in HALVES.items() if half not in there for part in parts)
        others = {name: value for name, value in VQ(config).state_dict().items() if absent and name.startswith(absent)}
        model = filled(config, {**others, **weights}, "the file")
    except ValueError as error:
        raise ValueError(f"{case.path}: {error}") from None
    needed = {"encoder": "in/image", "decoder": "in/codes"}
    for half, name in needed.items():
        if case.has(name) and half not in there:
            raise ValueError(f"{case.path} has {name} but no weights of the {half}: the file is incomplete")
    return model.to(case.device, case.dtype), there


def _expect(case: Case, name: str, got: Tensor) -> None:
    """As `Case.expect`, but tighter where the network runs in float32 or better."""
    if not case.has(name):
        return
    tight = case.dtype in (torch.float32, torch.float64)
    case.used.add(name)
    case.found.append(compare(name, got, case.tensors[name], FULL_PRECISION if tight else TOLERANCES[case.dtype]))
