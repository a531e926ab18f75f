"""Golden files of image losses: masking rates, hidden sites, cross-entropies and gradients of MaskGIT and image PGM.

The released code draws r and hides at the rate arccos(r) 2 / pi; here t = 1 - r and the schedule is `Arccos`.
"""
from __future__ import annotations

import torch
from torch import Tensor

from maskless.checkpoints.reference.quirks import CountedIds
from maskless.data.batch import Batch
from maskless.evaluation.golden.case import Case
from maskless.objectives import Draws, Masked, Partition
from maskless.schedules import Arccos

PUBLISHED_MASKGIT = Masked(Arccos(), weights="unit", targets="all", low=0.0)
PUBLISHED_PGM = Partition(Arccos(), weights="unit", low=0.0)


def check_pgm_loss(case: Case) -> None:
    """image_loss_pgm*: both groups, BOS an anchor of group 0 and no target; its logit counts in the softmax, the mask's does not."""
    bos = int(case.meta["config"]["bos_value"])
    draws, hiding = recorded(case)
    tokens = case.input("in/tokens")
    anchor = torch.arange(tokens.shape[1], device=case.device).expand_as(tokens) == 0
    case.expect("in/group_idxs", ((draws.u < hiding[:, None]) & ~anchor).long())
    case.expect("in/tokens", torch.cat([tokens.new_full((len(tokens), 1), bos), case.input("in/code").flatten(1)], 1))
    batch = Batch(tokens, torch.ones_like(anchor), anchor, labels(case))
    found = PUBLISHED_PGM(CountedIds(case.model, (bos,)), batch, draws)
    expect_losses(case, found.loss / found.tokens.sum(), found.token_loss[:, 1:])


def check_maskgit_loss(case: Case) -> None:
    """image_loss_maskgit*: all cells, hidden or not; the logit of the mask counts in the softmax."""
    mask = int(case.meta["config"]["codebook_size"])
    draws, hiding = recorded(case)
    codes = case.input("in/code")
    hidden = draws.u.view(codes.shape) < hiding[:, None, None]
    case.expect("in/mask", hidden)
    case.expect("in/tokens", torch.where(hidden, mask, codes))
    batch = Batch.of(codes.flatten(1)).labelled(labels(case))
    found = PUBLISHED_MASKGIT(CountedIds(case.model, (mask,)), batch, draws)
    expect_losses(case, found.loss / found.tokens.sum(), found.token_loss)


def recorded(case: Case) -> tuple[Draws, Tensor]:
    """Times and uniforms of the file, and the rate (B,) at which they hide."""
    t, u = 1 - case.input("in/r"), case.input("in/u").flatten(1)
    hiding = Arccos().hiding(t)
    case.expect("mid/rate", hiding)
    return Draws(t, u), hiding


def labels(case: Case) -> Tensor:
    """The classes, and "no class" where the file drops them."""
    null = case.model.null_label
    if null is None:
        raise ValueError(f"{case.path} has classes and its weights have none; fetch it again")
    return case.input("in/y").masked_fill(case.input("in/drop_label"), null)


def expect_losses(case: Case, loss: Tensor, nll: Tensor) -> None:
    case.expect("out/nll", nll)
    case.expect("out/loss", loss)
    case.expect_gradients(loss)
