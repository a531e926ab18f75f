"""Golden files of losses: through the production objectives, with recorded times and masks."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.checkpoints.reference.quirks import AttendsPadding, LeakyHead, RoundedLogLinear, leaky_log_probabilities
from maskless.checkpoints.reference.replay import GumbelNoise, blank
from maskless.data.batch import Batch
from maskless.decoding import Choice, LeftToRight, Sampler, Scheduled
from maskless.evaluation.golden.case import Case
from maskless.models import MaskedTransformer
from maskless.objectives import Autoregressive, Complementary, Draws, Masked, Partition

REFERENCE = RoundedLogLinear()


def check_masked(case: Case) -> None:
    """text_mdlm_orig*, text_mdlm_efficient*: logits, log-probabilities, losses, gradients."""
    model, xt = case.model_of(MaskedTransformer), case.input("xt")
    known = xt != case.mask_id
    with torch.no_grad():
        logits = model(xt, known)
        case.expect("logits", logits)
        case.expect("log_x_theta", substituted(logits, xt, case))
        if case.has("sigma_nonzero"):
            condition = model.condition(case.input("sigma_nonzero").to(case.dtype))
            case.expect("logits_sigma_nonzero", model.head(model.states(xt, known, condition)))
    quirky = LeakyHead(model, case.mask_id) if case.leaky else model
    check_losses(case, quirky, Masked(REFERENCE), ~known)
    check_bound(case, quirky, ~known)


def check_complementary(case: Case) -> None:
    """text_complement_mdlm*: both masks in one batch; evaluation is plain MDLM on the first."""
    hidden = case.input("xt") == case.mask_id
    if case.has("xt_complement"):
        other = torch.where(hidden, case.input("x0"), case.mask_id)
        case.expect("xt_complement", other)
    check_losses(case, case.model, Complementary(REFERENCE), hidden)
    check_bound(case, case.model, hidden)


def check_partition(case: Case) -> None:
    """text_pgm_loss*: both groups trained, group 1 evaluated."""
    group = case.input("group_idxs") == 1
    with torch.no_grad():
        logits = case.model(case.input("x0"), ~group)
        case.expect("logits", logits)
        column = torch.arange(logits.shape[-1], device=case.device) == case.mask_id
        case.expect("log_x_theta", torch.where(column, logits + case.minus_infinity, logits).log_softmax(-1))
    check_losses(case, case.model, Partition(REFERENCE), group)
    check_bound(case, case.model, group)


def check_autoregressive(case: Case) -> None:
    """text_ar*: logits, token losses, and sampling with recorded Gumbel noise through the decoding loop."""
    model, tokens = case.model, case.input("x")
    with torch.no_grad():
        case.expect("logits", model(tokens, torch.ones_like(tokens, dtype=torch.bool))[:, 1:])
        nothing = Draws(torch.zeros(len(tokens)), torch.zeros(tokens.shape))
        case.expect("token_nll", Autoregressive()(model, Batch.of(tokens), nothing).token_loss[:, 1:])
    if not case.has("sample/gumbel"):
        return
    gumbel = case.input("sample/gumbel")
    rows, steps, _ = gumbel.shape
    bos = int(case.meta["bos"]) if "bos" in case.meta else int(case.tensors["sample/tokens"][0, 0])
    canvas = blank(rows, steps + 1, mask_id=case.mask_id, bos=bos).to(case.device)
    Sampler(Scheduled(steps), order=LeftToRight(), choice=Choice())(model, canvas, GumbelNoise(gumbel))
    case.expect("sample/tokens", canvas.tokens)


def check_losses(case: Case, model: Any, objective: Any, hidden: Bool[Tensor, "B L"]) -> None:
    """Token losses everywhere, then the reduction over valid tokens and its gradients."""
    tokens, draws = case.input("x0"), recorded(case, hidden)
    valid = case.input("valid_tokens").bool() if case.has("valid_tokens") else torch.ones_like(tokens, dtype=torch.bool)
    padded = AttendsPadding(model)
    with torch.no_grad():
        token_loss = objective(padded, Batch.of(tokens), draws).token_loss
        light = replace(objective, weights="unit" if isinstance(objective, Masked) else "half")(padded, Batch.of(tokens), draws).token_loss
    for name in ("train/token_loss_elbo", "train/token_loss"):
        case.expect(name, token_loss)
    case.expect("train/token_loss_low_var", light)
    found = objective(padded, Batch(tokens, valid, torch.zeros_like(valid)), draws)
    for name in ("train/loss", "train/loss_elbo"):
        case.expect(name, found.loss / valid.sum())
    case.expect("train/loss_low_var", (light * valid).sum() / valid.sum())
    case.expect("train/nlls_sum", found.loss)
    case.expect("train/num_tokens", valid.sum())
    case.expect_gradients(found.loss / valid.sum())


@torch.no_grad()
def check_bound(case: Case, model: Any, hidden: Bool[Tensor, "B L"]) -> None:
    """The released evaluation: nll / t of the hidden sites (group 1) alone."""
    tokens = case.input("x0")
    valid = case.input("valid_tokens").bool() if case.has("valid_tokens") else torch.ones_like(tokens, dtype=torch.bool)
    token_loss = Masked(REFERENCE)(AttendsPadding(model), Batch.of(tokens), recorded(case, hidden)).token_loss
    case.expect("eval/token_nelbo", token_loss)
    total = (token_loss * valid).sum()
    case.expect("eval/nlls_sum", total)
    case.expect("eval/num_tokens", valid.sum())
    case.expect("eval/loss", total / valid.sum())


def recorded(case: Case, hidden: Bool[Tensor, "B L"]) -> Draws:
    """The times of the file, and uniforms that hide exactly `hidden`."""
    return Draws(case.input("t"), torch.where(hidden, 0.0, 1 - 2.0**-24))


def substituted(logits: Float[Tensor, "B L V"], xt: Int[Tensor, "B L"], case: Case) -> Float[Tensor, "B L V"]:
    """SUBS of the released MDLM: no mass on the mask at masked sites (unless it leaks), all on the token elsewhere."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    column = torch.arange(logits.shape[-1], device=logits.device) == case.mask_id
    if case.leaky:
        law = leaky_log_probabilities(logits, case.mask_id)
    else:
        law = torch.where(column, logits + case.minus_infinity, logits).log_softmax(-1)
    own = F.one_hot(xt, logits.shape[-1]).bool()
    observed = torch.full_like(law, case.minus_infinity).masked_fill(own, 0.0)
    return torch.where((xt == case.mask_id)[..., None], law, observed)
