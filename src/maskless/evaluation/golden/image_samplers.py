"""Golden files of image samplers: orders and tables, and whole greedy runs through the one decoding loop."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskless.checkpoints.reference.image_quirks import (
    RecordedConfidence,
    Redrawn,
    RedrawnConfidence,
    Unrestricted,
    every_step,
    released_rate,
)
from maskless.checkpoints.reference.published import Everywhere
from maskless.checkpoints.reference.quirks import released_predictor
from maskless.checkpoints.reference.replay import ReplayNoise, blank
from maskless.decoding import (
    Canvas,
    Choice,
    Guided,
    Order,
    Predictor,
    Ranked,
    Record,
    Sites,
    Step,
    arccos,
    check,
    constant,
    decode,
    halves,
    inverse_linear,
    ramped,
)
from maskless.decoding.ends import SHARES, Ends, arccos_maskgit, arccos_pgm, from_none, one_a_step, one_ahead
from maskless.decoding.guidance import Scale
from maskless.decoding.halton import halton_rank
from maskless.decoding.plan import from_table
from maskless.evaluation.golden.case import Case
from maskless.models import MaskGITTransformer, PartitionTransformer

# -- without a network -------------------------------------------------------------------------------------------------

TABLES: dict[str, Ends] = {"halton_steps": arccos, "conf_maskgit": arccos_maskgit, "conf_pgm": arccos_pgm}


def check_schedules(case: Case) -> None:
    """image_schedules*: Halton orders, tables of counts, masking rates, guidance ramps, inverse temperatures, learning rates."""
    for name in case.names(""):
        part, *rest = name.split("/")
        if part == "halton":
            case.expect(name, _cells(int(rest[0]), case.tensors[name]))
        elif part in TABLES:
            case.expect(name, _counts(TABLES[part], int(rest[0]), int(rest[1]), rest[-1]))
        elif part in ("conf_raw", "conf_modes"):
            mode, side, steps = ("arccos", *rest)[-3:]
            case.expect(name, torch.tensor(from_none(SHARES[mode], int(side) ** 2, int(steps))))
        elif part == "cfg_linear":
            case.expect(name, _by_step(ramped(1.0), int(rest[0])))
        elif part.startswith("inv_temp"):
            case.expect(name, 1 / _by_step(_temperatures(part), int(rest[0])))
    if case.has("mask_rate/r"):
        drawn = case.input("mask_rate/r").double().clamp(0, 1).tolist()
        for mode, share in SHARES.items():
            case.expect(f"mask_rate/{mode}", torch.tensor([1 - share(r) for r in drawn]))
    if case.has("lr/iter"):
        config = case.meta.get("config")
        said = config.get("lr", {}) if isinstance(config, dict) else {}
        rates = [released_rate(step, **said) for step in case.input("lr/iter").tolist()]
        case.expect("lr/value", torch.tensor(rates, dtype=torch.float64))


def _cells(side: int, want: Tensor) -> Tensor:
    """As many cells of the order as the file has (of 64 x 64 the released code has 4090), by number or by row and column."""
    flat = halton_rank(side, side).argsort()[: len(want)]
    return torch.stack([flat // side, flat % side], 1) if want.dim() == 2 else flat


def _counts(ends: Ends, side: int, steps: int, form: str) -> Tensor:
    table = torch.tensor([0, *ends(side * side, steps)])
    return table.diff() if form == "per_step" else table[1:]


def _by_step(of: Scale, steps: int) -> Tensor:
    return torch.tensor([float(of(Step(i, steps))) for i in range(steps)], dtype=torch.float64)


def _temperatures(part: str) -> Callable[[Step], float]:
    """inv_temp_default, or inv_temp_FIRST_LAST_warmSTEPS."""
    said = re.fullmatch(r"inv_temp_([\d.]+)_([\d.]+)_warm(\d+)", part)
    return inverse_linear(float(said[1]), float(said[2]), warmup=int(said[3])) if said else inverse_linear(1, 1, warmup=1)


# -- runs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What the file says of its sampler; a setting it lacks is as published."""

    case: Case
    settings: dict[str, Any]

    @staticmethod
    def of(case: Case) -> Run:
        config = case.meta.get("config")
        settings = config.get("sampler") if isinstance(config, dict) else None
        if not isinstance(settings, dict) or "step" not in settings or "w" not in settings:
            raise ValueError(f"{case.path} does not say how it was sampled; its metadata needs config.sampler with step and w")
        if not case.has("in/rolls") and settings.get("randomize", "linear") not in ("linear", False, True):
            raise ValueError(f"{case.path}: randomize {settings['randomize']!r} cannot be replayed; only linear noise can")
        return Run(case, settings)

    @property
    def steps(self) -> int:
        return int(self.settings["step"])

    @property
    def labels(self) -> Int[Tensor, " B"]:
        return self.case.input("in/labels")

    @property
    def codes(self) -> int:
        """K, how many codes there are; the mask is the id after them."""
        config = self.case.meta["config"]
        return int(config.get("codebook_size", config.get("mask_value", min(self.case.model.config.forbidden))))

    @property
    def side(self) -> int:
        grid = self.case.model.config.grid
        if grid is None:
            raise ValueError(f"{self.case.path}: its model has no square grid of cells, for which the Halton order and the tables are")
        return grid[0]

    @property
    def counted(self) -> bool:
        """Whether the lengths count the register; the released code does not."""
        said = self.settings.get("lengths")
        return "fixed" in self.case.path.stem if said is None else "register counted" in said

    def guided(self, open: Callable[[Tensor], Predictor], *, ramp: bool) -> Predictor:
        """The predictor, guided unless w is 0; w is constant or grows linearly, as the file says or as published."""
        w, labels = float(self.settings["w"]), self.labels
        if w == 0:
            return open(labels)
        scale = ramped if str(self.settings.get("cfg", "linear" if ramp else "constant")).startswith("linear") else constant
        return Asking(open(halves(labels, self.case.model.null_label or 0)), scale(w))

    def ends(self, rule: Callable[[list[int], int], list[int]]) -> list[int]:
        """The table of a confidence sampler."""
        cells = self.side**2
        return rule(from_none(SHARES[self.settings.get("sched_mode", "arccos")], cells, self.steps), cells)

    def decode(self, predictor: Predictor, canvas: Canvas, steps: Sequence[Step], order: Order) -> list[tuple[Seen, Record]]:
        """Greedy: the most probable token. What was known before each step, and what the step did."""
        choice, seen = Choice(1 / float(self.settings.get("sm_temp", 1.0))), []
        before = Seen.of(canvas)
        for record in decode(predictor, canvas, steps, order=order, choice=choice, noise=ReplayNoise({}, canvas.rows)):
            seen.append((before, record))
            before = Seen.of(canvas)
        check(canvas)
        return seen

    def expect_codes(self, canvas: Canvas) -> None:
        """The image, what is left of mask and BOS clamped to a code."""
        self.case.expect("out/codes", image(Seen.of(canvas), self.side, self.codes).clamp(max=self.codes - 1))


@dataclass(frozen=True)
class Asking(Guided):
    """Guidance that asks the unconditional half at every step, as the released code does where w is 0 at the first."""

    def _asked(self, canvas: Canvas, step: Step, alone: bool) -> Tensor | None:
        return None if step.rows is None else torch.cat([step.rows, step.rows + canvas.rows])


@dataclass(frozen=True)
class Seen:
    """A canvas at some moment."""

    tokens: Tensor
    known: Tensor
    log: Tensor
    count: Tensor

    @staticmethod
    def of(canvas: Canvas) -> Seen:
        return Seen(*(x.clone() for x in (canvas.tokens, canvas.known, canvas.log, canvas.count)))


def image(seen: Seen, side: int, mask_id: int) -> Int[Tensor, "B G G"]:
    """The cells, the last sites, as codes; the mask where unknown."""
    codes = torch.where(seen.known, seen.tokens, mask_id)
    return codes[:, codes.shape[1] - side * side:].reshape(-1, side, side)


@dataclass
class Watched:
    """A predictor that keeps the logits of every step."""

    predictor: Predictor
    logits: list[Float[Tensor, "B Q V"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.head, self.allowed = self.predictor.head, self.predictor.allowed

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Tensor:
        hidden = self.predictor(canvas, sites, step)
        self.logits.append(self.head(hidden))
        return hidden


def halton_order(run: Run, before: int) -> Ranked:
    """The Halton order, each row rolled as recorded, of cells behind `before` anchors."""
    rank = halton_rank(run.side, run.side)[None]
    if run.case.has("in/rolls"):
        rank = (rank + run.case.input("in/rolls").cpu().reshape(-1, 1)) % rank.shape[1]
    return Ranked(torch.nn.functional.pad(rank.expand(len(run.labels), -1), (before, 0), value=-1))


# -- partition models --------------------------------------------------------------------------------------------------


def check_pgm_halton(case: Case) -> None:
    """image_sample_pgm_halton_*: the planned order, as released (the register not counted) or corrected."""
    run, model = Run.of(case), case.model_of(PartitionTransformer)
    canvas = _after_bos(run)
    watched: list[Watched] = []

    def opened(labels: Tensor) -> Predictor:
        watched.append(Watched(released_predictor(model, labels, counted=run.counted)))
        return watched[0]

    table = [0, *arccos(run.side**2, run.steps)]
    counts = [b - a for a, b in pairwise(table)]
    steps = from_table([[n] * canvas.rows for n in counts])
    found = run.decode(run.guided(opened, ramp=True), canvas, steps, halton_order(run, 1))
    register = model.config.registers // 2 if run.counted else 0
    case.expect("out/order_positions", torch.cat([record.sites.index for _, record in found], 1))
    case.expect("out/per_step", torch.tensor(counts))
    case.expect("out/lengths_passed", torch.tensor([[1 + known + register] * canvas.rows for known in table[:-1]]))
    logits = torch.cat(watched[0].logits, 1).split(canvas.rows)
    for name, half in zip(("out/logits_cond", "out/logits_uncond"), logits):
        case.expect(name, half)
    run.expect_codes(canvas)


def check_pgm_confidence(case: Case) -> None:
    """image_sample_pgm_confidence_*: recorded Gumbel numbers of the remaining cells, mask and BOS drawn like any code."""
    run, model = Run.of(case), case.model_of(PartitionTransformer)
    canvas, ends, cells = _after_bos(run), run.ends(one_ahead), run.side**2
    steps = from_table([[b - a] * canvas.rows for a, b in pairwise([0, *ends])])
    remaining = [cells - known for known in [0, *ends][:-1]]
    gumbel = case.input("in/gumbel").split(remaining, 1)
    order = RecordedConfidence(float(run.settings.get("r_temp", 5)), gumbel=gumbel)
    opened = lambda labels: Unrestricted(released_predictor(model, labels, counted=run.counted))
    found = run.decode(run.guided(opened, ramp=True), canvas, steps, order)
    case.expect("out/remaining_per_step", torch.tensor(remaining))
    case.expect("out/noisy_positions", torch.cat([record.sites.index for _, record in found], 1))
    last = found[-1][0]
    positions = last.log[:, : int(last.count.max())]
    case.expect("out/clean_positions_last_call", positions)
    case.expect("out/code_last_call", last.tokens.gather(1, positions))
    run.expect_codes(canvas)


def _after_bos(run: Run) -> Canvas:
    config = run.case.meta["config"]
    bos = int(config.get("bos_value", run.codes + 1))
    return blank(len(run.labels), 1 + run.side**2, mask_id=run.codes, bos=bos).to(run.case.device)


# -- MaskGIT -----------------------------------------------------------------------------------------------------------


def check_maskgit_halton(case: Case) -> None:
    """image_sample_maskgit_halton_*: every cell is looked at; `fork` also draws those again that are known."""
    run, model = Run.of(case), case.model_of(MaskGITTransformer)
    canvas = blank(len(run.labels), run.side**2, mask_id=run.codes, bos=None).to(case.device)
    redraws = str(run.settings.get("rewrite", case.path.stem)).startswith("all") or "fork" in case.path.stem
    planned = halton_order(run, 0)
    order = Redrawn(planned) if redraws else Everywhere(planned)
    steps = every_step(arccos(run.side**2, run.steps), canvas.rows)
    found = run.decode(_unrestricted(run, model, ramp=False), canvas, steps, order)
    side = (run.side, run.side)
    case.expect("out/mask_per_step", torch.stack([record.kept.unflatten(1, side) for _, record in found]))
    case.expect("out/pred_per_step", torch.stack([record.draw.token.unflatten(1, side) for _, record in found]))
    case.expect("out/in_codes_per_step", torch.stack([image(seen, run.side, run.codes) for seen, _ in found]))
    run.expect_codes(canvas)


def check_maskgit_confidence(case: Case) -> None:
    """image_sample_maskgit_confidence*: recorded Gumbel numbers of all cells; known ones are drawn again."""
    run, model = Run.of(case), case.model_of(MaskGITTransformer)
    canvas = blank(len(run.labels), run.side**2, mask_id=run.codes, bos=None).to(case.device)
    ends = run.ends(one_a_step)
    order = RedrawnConfidence(case.input("in/gumbel"), float(run.settings.get("r_temp", 5)), tuple(ends), run.codes)
    steps = [Step(i, run.steps, most=canvas.length) for i in range(run.steps)]
    found = run.decode(_unrestricted(run, model, ramp=True), canvas, steps, order)
    case.expect("out/in_codes_per_step", torch.stack([image(seen, run.side, run.codes) for seen, _ in found]))
    run.expect_codes(canvas)


def _unrestricted(run: Run, model: MaskGITTransformer, *, ramp: bool) -> Predictor:
    return run.guided(lambda labels: Unrestricted(model.predictor(cond=labels)), ramp=ramp)
