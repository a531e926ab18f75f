"""Golden files of image losses: masking rates, hidden sites, cross-entropies and gradients of MaskGIT and image PGM.

The released code draws r and hides at the rate arccos(r) 2 / pi; here t = 1 - r and the schedule is `Arccos`.
"""
from __future__ import annotations

import torch
from torch import Tensor

from maskless.checkpoints.reference.importer import reference_names
from maskless.checkpoints.reference.quirks import CountedIds
from maskless.data.batch import Batch
from maskless.evaluation.golden.case import TOLERANCES, Case, compare
from maskless.models import MaskGITTransformer, PartitionTransformer
from maskless.objectives import Draws, Masked, Partition
from maskless.schedules import Arccos

PUBLISHED_MASKGIT = Masked(Arccos(), weights="unit", targets="all", low=0.0)
PUBLISHED_PGM = Partition(Arccos(), weights="unit", low=0.0)


def check_pgm_loss(case: Case) -> None:
    """image_loss_pgm*: both groups, BOS an anchor of group 0 and no target; its logit counts in the softmax, the mask's does not."""
    model, tokens = case.model_of(PartitionTransformer), case.input("in/tokens")
    bos = max(model.config.forbidden)
    draws, hiding = recorded(case)
    anchor = torch.arange(tokens.shape[1], device=case.device).expand_as(tokens) == 0
    case.expect("in/group_idxs", ((draws.u < hiding[:, None]) & ~anchor).long())
    if case.has("in/code"):
        case.expect("in/tokens", torch.cat([tokens.new_full((len(tokens), 1), bos), case.input("in/code").flatten(1)], 1))
    batch = Batch(tokens, torch.ones_like(anchor), anchor, case.labels())
    found = PUBLISHED_PGM(CountedIds(model, (bos,)), batch, draws)
    expect_losses(case, found.loss / found.tokens.sum(), found.token_loss[:, 1:])


def check_maskgit_loss(case: Case) -> None:
    """image_loss_maskgit*: all cells, hidden or not; the logit of the mask counts in the softmax."""
    model, codes = case.model_of(MaskGITTransformer), case.input("in/code")
    mask = model.config.mask_id
    assert mask is not None, "imported weights have a row for it"
    draws, hiding = recorded(case)
    hidden = draws.u.view(codes.shape) < hiding[:, None, None]
    case.expect("in/mask", hidden)
    case.expect("in/tokens", torch.where(hidden, mask, codes))
    found = PUBLISHED_MASKGIT(CountedIds(model, (mask,)), Batch.of(codes.flatten(1)).labelled(case.labels()), draws)
    expect_losses(case, found.loss / found.tokens.sum(), found.token_loss)


def recorded(case: Case) -> tuple[Draws, Tensor]:
    """Times and uniforms of the file, and the rate (B,) at which they hide."""
    t, u = 1 - case.input("in/r"), case.input("in/u").flatten(1)
    hiding = Arccos().hiding(t)
    case.expect("mid/rate", hiding)
    return Draws(t, u), hiding


def expect_losses(case: Case, loss: Tensor, nll: Tensor) -> None:
    """The loss of every cell, their mean, its recorded gradients, and the norm of the gradient of each parameter and of all."""
    case.expect("out/nll", nll)
    case.expect("out/loss", loss)
    about = case.meta.get("config", {})
    norms = about.get("grad_norms", {})
    keys = sorted({*norms, *(name.removeprefix("grad/") for name in case.names("grad/"))})
    if not keys and "grad_norm_total" not in about:
        return
    parameters, native = dict(case.model.named_parameters()), reference_names(case.model, keys)
    every = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)))
    found = {key: every[native[key]] for key in keys}
    for name in case.names("grad/"):
        case.expect(name, found[name.removeprefix("grad/")])
    for key, want in norms.items():
        expect_number(case, f"grad_norms {key}", found[key].norm(), want)
    if "grad_norm_total" in about:
        total = torch.stack([grad.norm() for grad in every.values() if grad is not None]).norm()
        expect_number(case, "grad_norm_total", total, about["grad_norm_total"])


def expect_number(case: Case, name: str, got: Tensor, want: float) -> None:
    case.found.append(compare(f"metadata {name}", got, torch.tensor(want), TOLERANCES[case.dtype]))
