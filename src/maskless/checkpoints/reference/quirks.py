"""What the released code does differently, each by name, for parity only: `verify` uses it, a recipe that names `distill.times: reference`, and a
sampler with `count_registers: false`.

| quirk | evidence (golden file that records it) |
|---|---|
| `LeakyHead`, `LeakyChoice` | the mask logit is put back to 0 before the normaliser (text_mdlm_efficient) |
| `AttendsPadding` | padding is fed, grouped, attended; only the reduction leaves it out (text_pgm_loss) |
| `RoundedLogLinear` | eps = 1e-3 and weights through 1 - alpha(t) in float32 (text_schedule: 99764.5 at t = 1e-5) |
| `CountedIds` | ids that are never drawn stay in the softmax of the loss: BOS (image_loss_pgm), the mask (image_loss_maskgit) |
| `reference_times` | SDTT's teacher steps lie at t s + (1 - t)(t - k dt): 0.91 and 0.11 for t = 0.8, dt = 1/8 (text_sdtt_*: teacher_times) |
| `log_distance` | SDTT's "tvd" is sum of abs(S - Q) of log-probabilities (text_sdtt_mdlm_k2: 9.9 nats, where a distance is below 1) |
| `leaving_out` | the mask counts in the normaliser, and then not in the divergence (text_sdtt_mdlm_k2) |
| `NucleusFirst` | the nucleus is cut before [MASK] is removed and may keep it (text_sampler_pgm_uniform_nucleus) |
| `RoundedChoice` | log-probabilities are rounded to bfloat16 before the float64 race (spec of the text code, 2.7: no golden is on a GPU) |
| `frechet_rounded` | means, covariances and their product in float32 (image_metrics: 12.57196, in float64 12.57086) |
| `UncountedRegisters` (the option `count_registers`) | the lengths leave out the register, which hides the newest token (image_pgm_sample, ref) |
| `RegistersNotAsked` | decoder self-attention samples without the registers it was trained with (image_pgm_variant_interleave) |
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskless.decoding import Canvas, Sites
from maskless.decoding.choice import Choice, nucleus
from maskless.decoding.registers import UncountedRegisters
from maskless.models.partition import Asked, PartitionPredictor, PartitionTransformer
from maskless.schedules import LogLinear


@dataclass(frozen=True)
class RoundedLogLinear(LogLinear):
    """The released schedule: eps = 1e-3, and -alpha' / (1 - alpha) as the subtraction rounds it."""

    eps: float = 1e-3

    def hiding(self, t: Tensor) -> Tensor:
        return 1 - self.alpha(t)

    def weight(self, t: Tensor) -> Tensor:
        return -self.rate(t) / (1 - self.alpha(t))

    def reveal(self, t: Tensor, s: Tensor) -> Tensor:
        return (self.alpha(s) - self.alpha(t)) / (1 - self.alpha(t))


class AttendsPadding:
    """A model that does not know which sites are padding."""

    def __init__(self, model: Any) -> None:
        self.model, self.head, self.allowed, self.registers = model, model.head, model.allowed, getattr(model, "registers", None)

    def hidden(self, tokens: Tensor, known: Tensor, *, cond: Any = None, t: Any = None, present: Any = None) -> Tensor:
        return self.model.hidden(tokens, known, cond=cond, t=t)


class CountedIds:
    """A model in whose softmax some of its forbidden ids count: they take mass from the ids that occur."""

    def __init__(self, model: Any, ids: tuple[int, ...]) -> None:
        self.model, self.head, self.allowed, self.registers = model, model.head, None, getattr(model, "registers", None)
        if left := set(model.config.forbidden) - set(ids):
            self.allowed = torch.ones(model.vocab_size, dtype=torch.bool, device=model.head.weight.device)
            self.allowed[sorted(left)] = False

    def hidden(self, *args: Any, **more: Any) -> Tensor:
        return self.model.hidden(*args, **more)


@dataclass(frozen=True)
class _Affine:
    weight: Tensor
    bias: Tensor


class LeakyHead:
    """A model whose mask logit is the constant 0 and counts in the normaliser: tokens have less than all the mass."""

    def __init__(self, model: Any, mask_id: int) -> None:
        head: nn.Linear = model.head
        kept = torch.ones(head.weight.shape[0], dtype=head.weight.dtype, device=head.weight.device)
        kept[mask_id] = 0
        self.head = _Affine(head.weight * kept[:, None], head.bias * kept)
        self.model, self.allowed = model, None

    def hidden(self, *args: Any, **more: Any) -> Tensor:
        return self.model.hidden(*args, **more)


def leaky_log_probabilities(logits: Float[Tensor, "... V"], mask_id: int) -> Float[Tensor, "... V"]:
    """log-softmax with the mask logit at 0."""
    column = torch.arange(logits.shape[-1], device=logits.device) == mask_id
    return logits.masked_fill(column, 0.0).log_softmax(-1)


@dataclass(frozen=True)
class LeakyChoice(Choice):
    """Tokens by the leaking law of SDTT's branch; the mask itself keeps probability 0."""

    mask_id: int = -1

    def law(self, logits: Tensor, allowed: Tensor | None) -> Tensor:
        column = torch.arange(logits.shape[-1], device=logits.device) == self.mask_id
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return leaky_log_probabilities(logits, self.mask_id).masked_fill(column, -torch.inf)


@dataclass(frozen=True)
class NucleusFirst(Choice):
    """Nucleus on the raw logits, [MASK] among them, and only then the forbidden ids."""

    def law(self, logits: Tensor, allowed: Tensor | None) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.top_p < 1:
            logits = nucleus(logits, self.top_p)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        return logits.log_softmax(-1)


@dataclass(frozen=True)
class RoundedChoice(Choice):
    """Log-probabilities rounded to bfloat16, which float64 afterwards does not mend: steps of 0.0625 between -8 and -16."""

    def law(self, logits: Tensor, allowed: Tensor | None) -> Tensor:
        return super().law(logits, allowed).bfloat16().float()


def frechet_rounded(fake: Float[Tensor, "N F"], real: Float[Tensor, "M F"]) -> float:
    """The released FID: statistics and the covariances' product in float32; the root of that product, which is not symmetric, in float64."""
    (mean_a, a), (mean_b, b) = ((x.float().mean(0), x.float().T.cov()) for x in (fake, real))
    cross = torch.linalg.eigvals((a @ b).double()).sqrt().real.sum()
    return float((mean_a - mean_b).square().sum() + a.trace() + b.trace() - 2 * cross)


class RegistersNotAsked(PartitionPredictor):
    """Queries of the asked sites alone, where the decoder has self-attention too: not those of its group's registers."""

    def asked(self, canvas: Canvas, sites: Sites, rows: Tensor | None) -> Asked:
        return self._apart(sites, rows)


def released_predictor(model: PartitionTransformer, cond: Tensor | None = None, *, counted: bool = True) -> Any:
    """The predictor of the released image samplers; `counted`: with the register counted in the lengths."""
    predictor = RegistersNotAsked(model, cond)
    return predictor if counted else UncountedRegisters(predictor, model.packed_registers)
def greedy_over_all(model: PartitionTransformer, tokens: Int[Tensor, "B L"], mask_id: int) -> Int[Tensor, "B L"]:
    """PGM's `noise_removal: greedy`: the most probable token of every site, of those that were known as well (spec text.md, section 3.3)."""
    logits = model(tokens, tokens != mask_id)
    return logits.index_fill(-1, torch.tensor([mask_id], device=logits.device), -torch.inf).argmax(-1)


def reference_times(t: Float[Tensor, " B"], steps: int, dt: float) -> Float[Tensor, "K B"]:
    """t s + (1 - t) t_end for s from 1 to 0, where t s + (1 - s) t_end was meant (and would still include its end)."""
    s = torch.linspace(1, 0, steps, dtype=t.dtype, device=t.device)[:, None]
    return (t * s + (1 - t) * (t - steps * dt)).clamp_min(1e-5)


def log_distance(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """sum |S - Q| of log-probabilities: no total variation distance, though named so."""
    apart = student - teacher
    return apart.abs().sum(-1), apart.sign()


def leaving_out(mask_id: int, divergence: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The divergence of laws that leak: the mask has a share of the normaliser and none of the sum."""

    def without(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        column = torch.arange(student.shape[-1], device=student.device) == mask_id
        return divergence(*(law.masked_fill(column, -1e30) for law in (student, teacher)))

    return without
