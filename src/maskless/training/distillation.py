"""What a recipe may say of distillation: the teacher, its walk, and the rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from maskless.decoding import Choice
from maskless.objectives.divergence import INFINITE_AT_ZERO
from maskless.objectives.rounds import dt_of
from maskless.objectives.teacher import Guidance
from maskless.schedules import SCHEDULES, Schedule


@dataclass(frozen=True)
class Distillation:
    """The `distill` section of a recipe. Defaults are those of the published runs, but for the released code's mistakes.

    Attributes:
        teacher: a run, a checkpoint or a model folder; of the student's vocabulary and length, of any kind that decodes in
            any order. It is copied to RUN/rounds/0.
        round_steps: updates of a round; `training.steps` is a multiple of it.
        grid: steps in which the first teacher goes all the way from 1 to 0.
        teacher_steps: k, steps of the teacher for one of the student's; a round's dt is k times that of the round before.
        loss: kl-bwd, kl-fwd, mse (of log-probabilities) or tvd (of probabilities).
        groups: both groups of a split in one pass, from two walks (students with two sides), or one, as published.
        anchor: site 0 (BOS) is known to the walk that begins with less, as when sampling; false: hidden as any other (the
            released code).
        order: which sites the teacher reveals; left-to-right: of images the raster of cells; halton: the cells of an image.
        schedule: how much is known at which time, of teacher and student: linear is what the plan `even` follows, arccos the plan `arccos`.
        guidance: strength w of the first teacher's guidance by label, which the student takes over: one pass of it, without guidance, says what
            (1 + w) conditional - w unconditional did. Later teachers have it in them.
        guidance_schedule: constant, or linear: from 0 at the first step to `guidance` at the last, as when sampling.
        refresh: the first teacher, if it is order-causal, encodes all that is known afresh at every so many calls (its bidirectional mode, for which
            it must have been trained); 0: it keeps its cache.
        top_p: nucleus of the teacher: of what it draws, and of its laws as targets.
        times: exact: t, t - dt, ...; reference: those of the released code.
        weights: of the first teacher: the moving average where it has one, or as trained.
        next_teacher: what a round hands on: the student's moving average, or its weights as trained (the released code).
        optimizer: keep: AdamW's moments go on into the next round; reset: they begin anew.
    """

    teacher: str
    round_steps: int = 10_000
    grid: int = 1024
    teacher_steps: int = 2
    loss: Literal["kl-bwd", "kl-fwd", "mse", "tvd"] = "kl-bwd"
    groups: Literal["both", "one"] = "both"
    anchor: bool = True
    order: Literal["random", "left-to-right", "spaced", "halton", "confidence", "margin"] = "random"
    schedule: Literal["linear", "arccos", "cosine", "square", "root"] = "linear"
    guidance: float = 0.0
    guidance_schedule: Literal["constant", "linear"] = "constant"
    refresh: int = 0
    top_p: float = 1.0
    times: Literal["exact", "reference"] = "exact"
    weights: Literal["ema", "raw"] = "ema"
    next_teacher: Literal["ema", "raw"] = "ema"
    optimizer: Literal["keep", "reset"] = "keep"

    def __post_init__(self) -> None:
        for name in ("round_steps", "grid", "teacher_steps"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.refresh < 0:
            raise ValueError(f"refresh is {self.refresh}; give the number of calls between two encodings, or 0 to keep the cache")
        if self.teacher_steps > self.grid:
            raise ValueError(f"teacher_steps is {self.teacher_steps} and grid {self.grid}: a step of the first student would be longer than the "
                             f"whole way; have at most {self.grid} teacher steps, or a finer grid")
        Choice(top_p=self.top_p)
        Guidance(self.guidance)
        if self.guidance_schedule != "constant" and not self.guidance:
            raise ValueError(f"guidance_schedule is {self.guidance_schedule} and guidance 0, so there is nothing to schedule; "
                             "give distill.guidance, or leave its schedule out")
        if self.times == "reference" and self.schedule != "linear":
            raise ValueError(f"times is reference and schedule {self.schedule}: the released code knows the linear one only; use times=exact")
        if self.top_p < 1 and self.loss in INFINITE_AT_ZERO:
            raise ValueError(
                f"loss is {self.loss} and top_p {self.top_p}: it is infinite where the teacher's law is cut to 0; use loss=kl-fwd or tvd"
            )

    def rounds(self, steps: int) -> int:
        """Rounds of a run of so many updates.

        Raises:
            ValueError: if they are no whole number, or a walk of the last would be longer than the way from 1 to 0.
        """
        if steps % self.round_steps:
            raise ValueError(
                f"training.steps is {steps}, not a multiple of distill.round_steps {self.round_steps}; a run has whole rounds: change one of them"
            )
        rounds = steps // self.round_steps
        if self.teacher_steps**rounds > self.grid:
            most = int(math.log(self.grid, self.teacher_steps) + 1e-9)
            raise ValueError(
                f"after {rounds} rounds of {self.teacher_steps} teacher steps a step would be longer than the whole way of distill.grid {self.grid}; "
                f"have at most {most} rounds (training.steps={most * self.round_steps}), or a finer grid"
            )
        return rounds

    @property
    def guides(self) -> Guidance | None:
        """How the first teacher is guided."""
        return Guidance(self.guidance, self.guidance_schedule == "linear") if self.guidance else None

    @property
    def hiding(self) -> Schedule:
        """The schedule of teacher and student."""
        return SCHEDULES[self.schedule]()

    def dt(self, round: int) -> float:
        """The teacher's step in a round (0, 1, ...)."""
        return dt_of(round, self.grid, self.teacher_steps)

    def student_steps(self, rounds: int) -> int:
        """In how many steps the student is meant to sample after so many rounds."""
        return max(1, round(1 / self.dt(rounds)))
