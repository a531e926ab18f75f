"""Golden files of the released lm-eval harness: the mean-joint score and the greedy flag of LAMBADA."""
from __future__ import annotations

import torch

from maskless.checkpoints.reference.quirks import LeakyHead
from maskless.evaluation.golden.case import Case
from maskless.evaluation.mean_joint import SHORTEST, joint_nats_per_token, released_greedy
from maskless.schedules import stratified_times


def check_harness(case: Case) -> None:
    """text_harness*: rng/000 gives the times, one file of uniforms more for every batch of them."""
    model, prefix, suffix = case.model, case.input("prefix"), case.input("suffix")
    if case.leaky:
        model = LeakyHead(model, case.mask_id)
    first, *others = (case.input(name) for name in case.names("rng/"))
    u = torch.cat(others)
    nats = joint_nats_per_token(model, torch.cat([prefix, suffix]).cpu(), stratified_times(first, SHORTEST).cpu(), u.cpu())
    means = [part.mean() for part in nats.split([len(batch) for batch in others])]
    case.expect("nll", torch.stack(means).mean())
    case.expect("greedy_flag", torch.tensor(int(released_greedy(case.model, prefix.cpu(), suffix.cpu()))))
    if case.has("suffix_greedy_correct"):
        right = case.input("suffix_greedy_correct")
        case.expect("greedy_flag_correct", torch.tensor(int(released_greedy(case.model, prefix.cpu(), right.cpu()))))
    case.expect_number("num_mc_samples", len(first))
