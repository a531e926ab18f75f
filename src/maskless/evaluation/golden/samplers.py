"""Golden files of samplers: recorded uniforms replayed through the one decoding loop."""
from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from maskless.checkpoints.reference.quirks import LeakyChoice, NucleusFirst, greedy_over_all
from maskless.checkpoints.reference.replay import (
    ReplayNoise,
    Reveals,
    Unmasking,
    blank,
    cached_calls,
    chances,
    grid,
    open_steps,
    reveals,
)
from maskless.decoding import Canvas, Choice, Noise, Order, Predictor, Ranked, Step, check, decode
from maskless.decoding.plan import from_table
from maskless.evaluation.golden.case import Case
from maskless.models import PartitionTransformer


def draws_of(case: Case) -> list[Tensor]:
    """The recorded numbers in the order in which they were drawn."""
    names = sorted(case.names("rng/"), key=lambda name: int(re.findall(r"\d+", name)[0]))
    if not names:
        raise ValueError(f"{case.path} has no recorded uniforms under rng/")
    return [case.input(name) for name in names]


def bos_of(case: Case) -> int | None:
    """BOS where it is put in; not recorded, it is what every sample begins with, or the id before the mask's."""
    if not case.meta.get("sampling", {}).get("inject_bos", True):
        return None
    if "bos" in case.meta:
        return int(case.meta["bos"])
    first = case.tensors["out"][:, 0]
    shared = bool((first == first[0]).all()) and 0 <= int(first[0]) < case.vocab_size
    return int(first[0]) if shared else case.mask_id - 1


def run(
    predictor: Predictor, canvas: Canvas, steps: list[Step], *, order: Order, noise: Noise,
    choice: Choice | None = None,
) -> Tensor:
    """Decode to the end; the tokens, [MASK] where a site stayed unknown."""
    for _ in decode(predictor, canvas, steps, order=order, choice=choice or Choice(), noise=noise):
        pass
    check(canvas)
    return canvas.tokens


class Ending(NamedTuple):
    """What follows the K steps: a last draw of everything left (its uniforms come last), its argmax, or nothing."""

    reveals_rest: bool
    draws: bool


def ending_of(case: Case) -> Ending:
    removal = case.meta.get("sampling", {}).get("noise_removal", "ancestral")
    if removal not in ("ancestral", "greedy", "none"):
        raise ValueError(f"{case.path}: noise_removal {removal!r} is unknown; there are ancestral, greedy and none")
    return Ending(removal != "none", removal == "ancestral")


def check_ancestral(case: Case) -> None:
    """text_sampler_mdlm_ddpm*, ..._mdlm_ddpm_cache*, text_sampler_pgm_naive_*: full-length passes, random reveals."""
    draws, ending = draws_of(case), ending_of(case)
    races, uniforms = draws[0::2], draws[1::2]
    steps = len(uniforms) - ending.draws
    rows, length, _ = races[0].shape
    canvas = blank(rows, length, mask_id=case.mask_id, bos=bos_of(case))
    model = case.model
    over_all = isinstance(model, PartitionTransformer) and ending == Ending(reveals_rest=True, draws=False)
    plan = reveals(uniforms[:steps], chances(grid(steps)), canvas.unknown, rest=ending.reveals_rest and not over_all)
    predictor = model.full_predictor() if isinstance(model, PartitionTransformer) else model.predictor()
    noise = ReplayNoise(dict(enumerate(races)), rows)
    out = run(predictor, canvas.to(case.device), plan.steps, order=plan.order, noise=noise)
    case.expect("out", greedy_over_all(model, out, case.mask_id) if isinstance(model, PartitionTransformer) and over_all else out)
    case.expect_number("network_calls", _calls(case, plan, steps, ending))


def _calls(case: Case, plan: Reveals, steps: int, ending: Ending) -> int:
    """Network calls of the released code, which `ddpm_cache` saves where nothing changed."""
    cached = case.meta.get("sampling", {}).get("predictor", "") == "ddpm_cache" or "ddpm_cache" in case.path.stem
    if not cached:
        return steps + ending.reveals_rest
    if ending.draws:
        return cached_calls(plan.changed)
    return cached_calls(plan.changed[:-1]) + ending.reveals_rest  # the argmax is a call of its own


def check_analytic(case: Case) -> None:
    """text_sampler_mdlm_analytic*: each masked site races its tokens (p * reveal) against the mask (1 - reveal)."""
    races, ending = draws_of(case), ending_of(case)
    steps = len(races) - ending.draws
    rows, length, _ = races[0].shape
    canvas = blank(rows, length, mask_id=case.mask_id, bos=bos_of(case)).to(case.device)
    reveal = dict(enumerate(chances(grid(steps))))  # the last draw, if any, has none: everything is revealed
    noise = ReplayNoise(dict(enumerate(races)), rows, reveal=reveal, mask_id=case.mask_id)
    plan = open_steps(steps + ending.reveals_rest, length)
    out = run(case.model.predictor(), canvas, plan, order=Unmasking(case.mask_id), noise=noise)
    case.expect("out", out)


def check_sdtt(case: Case) -> None:
    """text_sampler_sdtt_ancestral*: the posterior with its mask column, then the argmax of what is left."""
    races = draws_of(case)
    rows, length, _ = races[0].shape
    canvas = blank(rows, length, mask_id=case.mask_id, bos=bos_of(case)).to(case.device)
    reveal = dict(enumerate(chances(grid(len(races)))))
    noise = ReplayNoise(dict(enumerate(races)), rows, reveal=reveal, mask_id=case.mask_id)
    choice = LeakyChoice(mask_id=case.mask_id) if case.of_branch else Choice()
    plan = open_steps(len(races) + 1, length)
    order = Unmasking(case.mask_id)
    case.expect("out", run(case.model.predictor(), canvas, plan, order=order, noise=noise, choice=choice))


def check_uniform(case: Case) -> None:
    """text_sampler_pgm_uniform*: a permutation and k sites a step; nucleus before [MASK] is removed."""
    permutation, *races = draws_of(case)
    counts = [[race.shape[1]] * len(race) for race in races]
    _check_permuted(case, permutation, counts, dict(enumerate(races)))


def check_nonuniform(case: Case) -> None:
    """text_sampler_pgm_nonuniform*: recorded binomial counts, clamped to what remains, then the rest."""
    permutation, *draws = draws_of(case)
    left = torch.full((len(permutation),), permutation.shape[1])
    counts, races = [], {}
    while draws:
        cleans_up = draws[0].dim() == 3
        drawn = left if cleans_up else torch.minimum(draws.pop(0).cpu().long(), left)
        if cleans_up or (draws and draws[0].dim() == 3 and draws[0].shape[1] == int(drawn.max())):
            races[len(counts)] = draws.pop(0)
        counts.append(drawn.tolist())
        left = left - drawn
    _check_permuted(case, permutation, counts, races)


def _check_permuted(case: Case, permutation: Tensor, counts: list[list[int]], races: dict[int, Tensor]) -> None:
    """Sites 1..L-1 in the order of their recorded keys, `counts[i][b]` of them at step i, uniforms by queried place."""
    rows, open_sites = permutation.shape
    rank = torch.cat([torch.full((rows, 1), -1), permutation.cpu().argsort(1).argsort(1)], 1)
    canvas = blank(rows, open_sites + 1, mask_id=case.mask_id, bos=bos_of(case)).to(case.device)
    nucleus = float(case.meta.get("sampling", {}).get("p_nucleus", 1.0))
    out = run(
        case.model.predictor(), canvas, from_table(counts), order=Ranked(rank),
        noise=ReplayNoise(races, rows, by_slot=True), choice=NucleusFirst(top_p=nucleus),
    )
    case.expect("out", out)


class Windows(NamedTuple):
    """Sliding windows: `strides` more after the first, each `stride` on, of `inner` steps of `dt`."""

    stride: int
    strides: int
    inner: int
    dt: float


def check_semi_autoregressive(case: Case) -> None:
    """text_sampler_mdlm_semi_ar*: a decode per window, begun with the tail of the one before."""
    draws = draws_of(case)
    best = min((_slide(case, draws, windows) for windows in windows_of(case, draws)), key=lambda found: found[0])
    _, text, calls = best
    case.expect("out", text)
    case.expect("network_calls", torch.tensor(calls))
    eos = int(case.meta.get("eos", case.mask_id - 1))
    case.expect("sequence_lengths", ((text[:, 1:] == eos).cumsum(1) == 0).sum(1))


def windows_of(case: Case, draws: list[Tensor]) -> list[Windows]:
    """The windows the file records (in its note); else all that fit its shapes, of which the closest is meant."""
    pairs, beyond = len(draws) // 2, case.tensors["out"].shape[1] - draws[0].shape[1]
    note = {**dict(re.findall(r"(\w+) ([\d.]*\d)", str(case.meta.get("note", "")))), **case.meta}
    if "stride_length" in note and "num_strides" in note:
        strides = int(note["num_strides"])
        inner = pairs // (strides + 1)
        return [Windows(int(note["stride_length"]), strides, inner, float(note.get("dt", 1 / max(inner - 1, 1))))]
    length = draws[0].shape[1]
    fits = [n for n in range(1, pairs) if pairs % (n + 1) == 0 and beyond % n == 0 and beyond // n < length]
    if not fits:
        raise ValueError(f"{case.path}: {pairs} recorded steps and {beyond} tokens past a window fit no windows")
    return [Windows(beyond // n, n, pairs // (n + 1), 1 / max(pairs // (n + 1) - 1, 1)) for n in fits]


def _slide(case: Case, draws: list[Tensor], windows: Windows) -> tuple[int, Tensor, int]:
    """(tokens that differ, text, steps that changed anything)."""
    parts, calls, prefix = [], 0, None
    for first in range(0, len(draws), 2 * windows.inner):
        tokens, called = _window(case, draws[first:first + 2 * windows.inner], windows, prefix)
        parts.append(tokens[:, :windows.stride])
        prefix, calls = tokens[:, windows.stride:], calls + called
    assert prefix is not None
    text = torch.cat([*parts, prefix], 1).cpu()
    want = case.tensors["out"]
    return (int((text != want).sum()) if text.shape == want.shape else want.numel()), text, calls


def _window(case: Case, draws: list[Tensor], windows: Windows, prefix: Tensor | None) -> tuple[Tensor, int]:
    races, uniforms = draws[0::2], draws[1::2]
    rows, length, _ = races[0].shape
    times = [(1 - i * windows.dt, 1 - i * windows.dt - windows.dt) for i in range(windows.inner)]
    canvas = blank(rows, length, mask_id=case.mask_id, bos=None, prefix=prefix)
    plan = reveals(uniforms, chances(times), canvas.unknown, rest=True)
    noise = ReplayNoise(dict(enumerate(races)), rows)
    tokens = run(case.model.predictor(), canvas.to(case.device), plan.steps, order=plan.order, noise=noise)
    return tokens, sum(plan.changed)  # the released counter: steps that changed anything in the batch
