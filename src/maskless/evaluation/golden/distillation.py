"""Golden files of SDTT: teacher walks with recorded uniforms through the one decoding loop, divergences, gradients."""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from maskless.checkpoints.reference.quirks import (
    LeakyChoice,
    LeakyHead,
    RoundedLogLinear,
    leaving_out,
    log_distance,
    reference_times,
)
from maskless.checkpoints.reference.replay import LAST_TIME, ReplayNoise, Unmasking, open_steps
from maskless.decoding import Canvas, Choice, Predictor, Sites, Step, rollout
from maskless.evaluation.golden.case import Case
from maskless.models import Denoiser
from maskless.objectives.divergence import DIVERGENCES, Divergence, Targets, distance
from maskless.objectives.rounds import dt_of, round_of
from maskless.schedules import systematic_times


def check_distillation(case: Case) -> None:
    """text_sdtt_mdlm_k*, text_sdtt_pgm_k*: times, the walk, targets, laws at xt, divergences, gradients."""
    teacher, student, xt = case.imported("teacher/"), case.imported("student/"), case.input("xt")
    case.input("x0")
    if case.has("group_idxs"):
        case.expect("group_idxs", (xt == case.mask_id).long())
    races = [case.input(f"rng/uniform_step{i}") for i in range(len(case.names("rng/uniform_step")))]
    choice = LeakyChoice(mask_id=case.mask_id) if case.of_branch else Choice()
    with torch.no_grad():
        targets = walk(case, teacher, xt, races, choice)
        logits = {"student_logprobs": student(xt, xt != case.mask_id), "teacher_logprobs_xt": teacher(xt, xt != case.mask_id)}
        for name, made in logits.items():
            expect_laws(case, name, made, xt, choice)
    check_divergences(case, student, targets, xt)


class Traced:
    """A predictor that keeps what stood on the canvas and what it said, call after call."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.head, self.allowed = predictor, predictor.head, predictor.allowed
        self.calls: list[tuple[Tensor, Sites, Tensor]] = []

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Tensor:
        hidden = self.predictor(canvas, sites, step)
        self.calls.append((torch.where(canvas.known, canvas.tokens, -1), sites, hidden))
        return hidden


def walk(case: Case, teacher: Denoiser, xt: Int[Tensor, "B L"], races: list[Tensor], choice: Choice) -> Targets:
    """The released walk: [MASK] races with the tokens, so who is revealed depends on what is drawn."""
    schedule, dt, known = RoundedLogLinear(), float(case.input("dt")), xt != case.mask_id
    times = reference_times(case.input("t"), len(races), dt)
    case.expect("teacher_times", times)
    now, after = schedule.hiding(times), schedule.hiding(times - dt)                            # (K, B); after may be negative
    noise = ReplayNoise(dict(enumerate(races)), len(xt), reveal=dict(enumerate((now - after) / now)), mask_id=case.mask_id)
    canvas = Canvas(xt.cpu().masked_fill(~known.cpu(), 0), known.cpu()).to(case.device)
    predictor = Traced(teacher.predictor())
    hidden = rollout(predictor, canvas, open_steps(len(races) - 1, xt.shape[1]), order=Unmasking(case.mask_id), choice=choice, noise=noise)
    targets = Targets(hidden, predictor.head, predictor.allowed, choice)
    laws = torch.where(known[..., None], 0.0, targets.law(slice(None)).view(*xt.shape, -1))
    case.expect("teacher_targets", laws, where=beside_mask(case, laws))
    for i, (tokens, sites, said) in enumerate(predictor.calls):
        x = tokens.masked_fill(tokens < 0, case.mask_id)
        case.expect(f"trace/x_before_step{i}", x)
        case.expect(f"trace/q_unnormalised_step{i}", posterior(case, x, sites, predictor.head(said), choice, now[i], after[i]))
    return targets


def posterior(
    case: Case, x: Int[Tensor, "B L"], sites: Sites, logits: Tensor, choice: Choice, now: Float[Tensor, " B"], after: Float[Tensor, " B"],
) -> Float[Tensor, "B L V"]:
    """What races: p (mt - ms) for tokens, ms for the mask; at known sites the token that stands there, in place of p."""
    allowed = torch.arange(logits.shape[-1], device=logits.device) != case.mask_id
    laws = choice.law(logits.flatten(0, 1), allowed).view(logits.shape).exp()
    p = F.one_hot(x, logits.shape[-1]).to(laws)
    index = torch.where(sites.valid, sites.index, x.shape[1])[..., None].expand_as(laws)
    p = torch.cat([p, p[:, :1]], 1).scatter(1, index, laws)[:, :-1] * (now - after)[:, None, None]
    p[..., case.mask_id] = after[:, None]
    return p


def beside_mask(case: Case, laws: Tensor) -> Tensor:
    """Everywhere but in the mask's column, where the released code has whatever it takes for minus infinity."""
    return (torch.arange(laws.shape[-1], device=laws.device) != case.mask_id).expand_as(laws)


def expect_laws(case: Case, name: str, logits: Float[Tensor, "B L V"], xt: Int[Tensor, "B L"], choice: Choice) -> None:
    """Log-probabilities at masked sites; 0 and minus infinity, as the file writes it, at the others."""
    if not case.has(name):
        return
    allowed = torch.arange(logits.shape[-1], device=logits.device) != case.mask_id
    laws = choice.law(logits.flatten(0, 1), allowed).view(logits.shape)
    own = F.one_hot(xt, logits.shape[-1]).bool()
    observed = torch.full_like(laws, -1e7 if case.of_branch else -1e6).masked_fill(own, 0.0)
    laws = torch.where((xt == case.mask_id)[..., None], laws, observed)
    case.expect(name, laws, where=beside_mask(case, laws))


def check_divergences(case: Case, student: Denoiser, targets: Targets, xt: Int[Tensor, "B L"]) -> None:
    """The means over masked sites, and the gradient of kl-bwd."""
    wanted = xt == case.mask_id
    model: Any = LeakyHead(student, case.mask_id) if case.of_branch else student
    states = student.hidden(xt, ~wanted)
    for name, divergence in {**DIVERGENCES, "tvd": log_distance}.items():
        released: Divergence = leaving_out(case.mask_id, divergence) if case.of_branch else divergence
        loss = distance(model, states, targets, torch.ones_like(wanted, dtype=states.dtype), released, wanted=wanted)[0] / wanted.sum()
        case.expect(f"loss/{name}", loss)
        if name == "kl-bwd":
            case.expect_gradients(loss, student)


def check_rounds(case: Case) -> None:
    """text_sdtt_schedule*: systematic times, and the step that doubles from round to round."""
    if case.has("u"):
        case.expect("t", systematic_times(case.input("u"), len(case.tensors["t"]), low=float(case.meta.get("sampling_eps", 1e-5))))
    starts = case.input("step_of_round_start")
    length = int(starts[1] - starts[0]) if len(starts) > 1 else 10_000
    rounds = [round_of(int(step), length) for step in starts]
    case.expect("round", torch.tensor(rounds))
    case.expect("dt", torch.tensor([dt_of(n, 1024, 2, last=LAST_TIME) for n in rounds]))
