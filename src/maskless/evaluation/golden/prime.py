"""Golden files of partial masking (text): network, filter, the published loss, the bound, and an ancestral step, through the production parts.

B rows, L sites, l digits, S = L l slots, V classes.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskless.checkpoints.reference.prime import import_prime
from maskless.checkpoints.reference.replay import DigitRace, ReplayNoise, race
from maskless.data.batch import Batch
from maskless.decoding import Choice, DigitCanvas, Step, check, decode
from maskless.evaluation.golden.case import Case
from maskless.models import PrimeTransformer
from maskless.objectives import JointCE, SubNelbo
from maskless.objectives.prime import filtered
from maskless.schedules import LogLinear

REFERENCE = LogLinear(eps=1e-3)
GRID_END = 1e-5                                                     # the last time of the released sampler
GRADIENTS = {"output_layer.linear.bias": "head.bias", "vocab_embed.embedding": "embedding.weight"}


@dataclass(frozen=True)
class AtSigma:
    """A model that is told a noise level instead of a time: what an objective sees of it."""

    model: PrimeTransformer
    sigma: Float[Tensor, " B"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def hidden_of_digits(self, digits: Tensor, known: Tensor, **_: Any) -> Tensor:
        return self.model.through(self.model.embed(digits, known), self.model.condition(self.sigma.to(self.model.head.weight.dtype)))


def check_prime(case: Case) -> None:
    """prime_text_*: with and without the filter, time-conditioned or not."""
    state = {name.removeprefix("param/"): case.input(name) for name in case.names("param/")}
    timed = bool(case.input("in/sigma_net").any())
    model = import_prime(state, {**case.settings, "time_conditioning": timed}, code="digits").to(case.device, case.dtype)
    observed = bool(case.tensors["out/log_p"].isinf().any())        # the reference filters with -inf
    case.expect("code/table", model.table)
    case.expect("in/y0", model.table[case.input("in/x0")].flatten(1))
    t = case.input("in/t")
    case.expect("in/move_chance", REFERENCE.hiding(t))
    case.expect("in/sigma_schedule", -torch.log1p(-REFERENCE.hiding(t)))
    case.expect("in/weight", REFERENCE.weight(t))
    check_laws(case, model, observed)
    check_losses(case, model, observed)
    check_step(case, model, observed)


def check_laws(case: Case, model: PrimeTransformer, observed: bool) -> None:
    code, yt = model.code, case.input("in/yt")
    known = yt != model.base
    digits, seen = (x.unflatten(1, (-1, code.length)) for x in (yt, known))
    case.expect("mask/subtoken_masked", ~seen)
    allowed = code.consistent(digits.flatten(0, 1), seen.flatten(0, 1))
    case.expect("mask/allowed", allowed.view(*digits.shape[:2], -1))
    with torch.no_grad():
        logits = model.head(AtSigma(model, case.input("in/sigma_net")).hidden_of_digits(yt, known))
    case.expect("out/logits", logits)
    flat = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    law = filtered(code, flat, digits.flatten(0, 1), seen.flatten(0, 1)) if observed else flat
    case.expect("out/log_p", law.log_softmax(-1).view(logits.shape))
    truth = code.encode(case.input("in/x0"))
    each = law.logsumexp(-1)[:, None] - code.log_marginals(law).gather(2, truth.flatten(0, 1)[..., None])[..., 0]
    case.expect("valid/nll_subtoken_unweighted", torch.where(seen, 0.0, each.view(seen.shape)))


def check_losses(case: Case, model: PrimeTransformer, observed: bool) -> None:
    """The published loss and the bound, with their gradients."""
    batch, told = Batch.of(case.input("in/x0")), AtSigma(model, case.input("in/sigma_net"))
    unknown = (case.input("in/yt") == model.base).unflatten(1, (-1, model.per_site))
    objectives = {"ref": JointCE(REFERENCE, filter_observed=observed), "valid": SubNelbo(REFERENCE, filter_observed=observed, low=0)}
    for name, objective in objectives.items():
        found = objective.scored(told, batch, unknown, case.input("in/t"))
        case.expect(f"{name}/nll_token", found.token_loss)
        loss = found.loss / found.token_loss.numel()
        case.expect(f"{name}/loss", loss[None])
        parameters = dict(model.named_parameters())
        grads = torch.autograd.grad(loss, [parameters[native] for native in GRADIENTS.values()])
        for key, grad in zip(GRADIENTS, grads):
            case.expect(f"grad_{name}/{key}", grad)


@torch.no_grad()
def check_step(case: Case, model: PrimeTransformer, observed: bool) -> None:
    """One ancestral step from yt, then the final fill, through the loop with recorded uniforms."""
    yt = case.input("in/yt")
    known = yt != model.base
    digits, seen = (x.unflatten(1, (-1, model.per_site)).cpu() for x in (yt, known))
    canvas = DigitCanvas.of_digits(digits, seen, code=model.code.to("cpu"), filter_observed=observed).to(case.device)
    t, dt = float(case.input("step/t")[0]), float(case.input("step/dt")[0])
    last = final_time(case, model, t - dt, observed)
    steps = [Step(0, 2, t, t - dt, most=canvas.length, level=(t,) * canvas.rows),
             Step(1, 2, last, 0.0, most=canvas.length, rest=True, level=(last,) * canvas.rows)]
    noise = ReplayNoise({0: case.input("step/u_x0"), 1: case.input("final/u_x0")}, len(yt))
    laws = [_law(model, canvas.tokens, canvas.known, t, observed)]
    records = decode(model.predictor(), canvas, steps, order=DigitRace(case.input("step/u_reveal"), model.base), choice=Choice(), noise=noise)
    for number, name in enumerate(("step", "final")):
        case.expect(f"{name}/p_x0", laws[-1])
        case.expect(f"{name}/x0_hat", race(laws[-1].cpu(), case.input(f"{name}/u_x0").cpu()))
        next(records, None)
        states = torch.where(canvas.known, canvas.tokens, model.base)
        case.expect("step/ys" if number == 0 else "final/y", states)
        laws.append(_law(model, canvas.tokens, canvas.known, last, observed))
    case.expect("final/x", model.code.number_of(canvas.tokens.unflatten(1, (-1, model.per_site))))
    check(canvas)


def final_time(case: Case, model: PrimeTransformer, after: float, observed: bool) -> float:
    """What the last fill told a time-conditioned model: the time after the step, or the end of the sampler's grid; the one nearer to the file."""
    if not model.config.time_conditioned or not case.has("final/p_x0"):
        return after
    states = case.tensors["step/ys"].to(case.device)               # unfiltered, it may hold digits that no class has
    wanted = case.tensors["final/p_x0"].to(case.device)
    return min((after, GRID_END), key=lambda time: float((_law(model, states, states != model.base, time, observed) - wanted).abs().max()))


def _law(model: PrimeTransformer, digits: Tensor, known: Tensor, t: float, observed: bool) -> Tensor:
    """(B, L, V) probabilities of every site, known or not, given digits (B, L l)."""
    states = model.hidden_of_digits(digits, known, t=torch.full((len(digits),), t, device=digits.device))
    digits, seen = (x.unflatten(1, (-1, model.per_site)).flatten(0, 1) for x in (digits, known))
    logits = model.head(states).flatten(0, 1).float()
    law = filtered(model.code, logits, digits, seen) if observed else logits
    return law.softmax(-1).view(*states.shape[:2], -1)
