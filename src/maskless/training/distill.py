"""A run that distils: rounds of training against a teacher, each round's student the next one's teacher.

    RUN/rounds/0      the teacher it began with
    RUN/rounds/1      the student after round 1, and the teacher of round 2: complete folders, for inference
    RUN/checkpoints/  as in any run; the last step of a round is always saved, before the round's folder is

A checkpoint at the end of a round holds what the round's folder is made of, so a crash between the two loses nothing: the folder
is made when the run is resumed. A run keeps the teacher it began with, and each checkpoint says what teachers have cost so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError

from maskless.checkpoints.native import (
    Checkpoint,
    check_weights,
    described,
    guidance_in,
    intact,
    load_checkpoint,
    load_model,
    put,
    write_model,
)
from maskless.checkpoints.reference.quirks import reference_times
from maskless.decoding import Choice, Confidence, Halton, LeftToRight, Margin, Order, Random, Spaced
from maskless.objectives.divergence import DIVERGENCES
from maskless.objectives.rounds import round_of
from maskless.objectives.sdtt import SDTT, PartitionSDTT, view_of
from maskless.objectives.teacher import Spent, Teacher, exact_times
from maskless.training.alike import unlike
from maskless.training.distillation import Distillation
from maskless.training.loop import fit
from maskless.training.recipe import DistillRecipe, Recipe
from maskless.training.records import Sink, check_trackers
from maskless.training.rounds import check_kind, check_teacher, config_of, teacher_in, with_ids
from maskless.training.run import Run, Session, Work, begin
from maskless.training.state import TrainState, collected, read_notes

ORDERS: dict[str, Order] = {
    "random": Random(), "left-to-right": LeftToRight(), "spaced": Spaced(), "confidence": Confidence(), "margin": Margin(),
}
KEPT = ("teacher", "weights", "round_steps", "grid", "teacher_steps", "guidance", "guidance_schedule")  # what round folders are made by
COSTS = ("teacher_calls", "teacher_tokens")


def distill(
    recipe: str | Path | Mapping,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Sink] = (),
) -> Run:
    """Distil a teacher into a student that takes larger steps, round after round.

    Args:
        recipe: as for `train`, with a `distill` section.
        overrides: changes such as "distill.teacher=runs/tiny-pgm".
        out, resume, callbacks: as for `train`.

    Returns:
        The finished (or interrupted, and saved) `Run`.

    Raises:
        ValueError: as `train`; also for a teacher that does not fit the student.

    Example:
        >>> import maskless
        >>> run = maskless.distill("distill/tiny_pgm", out="runs/distilled")  # doctest: +SKIP
    """
    return begin(Distilling, recipe, overrides, out=out, resume=resume, callbacks=callbacks)


@dataclass(frozen=True)
class Distilling(Work):
    """One session of a distillation.

    Attributes:
        spent: what this process's teacher has cost since the last update.
        since: the same, since the session began.
        past: what the session goes on from: the notes of its checkpoint; at step 0 the teacher's guidance, and no costs.
    """

    spent: Spent = field(default_factory=Spent)
    since: Spent = field(default_factory=Spent)
    past: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def check(cls, recipe: Recipe, *, fresh: bool) -> None:
        if not isinstance(recipe, DistillRecipe):
            raise ValueError("the recipe has no distill section, so there is no teacher; run it with maskless train")
        check_trackers(recipe.log)
        if fresh:
            check_kind(config_of(recipe.distill.teacher), f"distill.teacher {recipe.distill.teacher}")

    @classmethod
    def check_beginning(cls, recipe: Any, tokenizer: Any, found: Path | None) -> None:
        if found is None:
            check_teacher(recipe, tokenizer)
        super().check_beginning(recipe, tokenizer, found)

    @classmethod
    def completed(cls, recipe: Any, tokenizer: Any) -> Any:
        return super().completed(with_ids(recipe, tokenizer.vocabulary), tokenizer)

    @property
    def options(self) -> Distillation:
        assert isinstance(self.recipe, DistillRecipe)
        return self.recipe.distill

    def costs(self) -> Mapping[str, Any]:
        taken = self.spent.take()
        self.since.add(taken)
        return dict(zip(COSTS, (taken.calls, taken.tokens), strict=True))

    def run(self, found: Path | None, changes: list[str]) -> Run:
        if found is None:
            self.past.update({"guidance": guidance_in(teacher_in(self.options.teacher)), "cost": dict.fromkeys(COSTS, 0)})
        else:
            self.check_resumed(read_notes(found)["step"])
            self.past.update(described(found / "config.json")[1].get("extra", {}))
        return super().run(found, changes)

    def check_resumed(self, step: int) -> None:
        """Raise ValueError unless the run can go on with the teachers it has."""
        stored = self.read(self.folder / "config.yaml").distill
        for name in KEPT:
            now, before = getattr(self.options, name), getattr(stored, name)
            if now != before:
                raise ValueError(f"distill.{name} is {now} and was {before} for {step} steps; a run keeps its teacher and its rounds: "
                                 f"leave distill.{name} as it was, or begin another run with --out")
        round, inside = divmod(step, self.options.round_steps)
        if inside and step < self.recipe.training.steps and not self.is_complete(round):
            raise ValueError(f"{self.round_folder(round)} is gone or damaged, the teacher of round {round + 1}, and step {step} lies inside that "
                             "round; put the folder back, or begin another run with --out")

    # -- teacher and student ------------------------------------------------------------------------------------------

    def first_teacher(self) -> Checkpoint:
        """The teacher that the recipe names."""
        return load_checkpoint(teacher_in(self.options.teacher), ema=self.options.weights == "ema")

    def guidance(self) -> Mapping[str, Any] | None:
        """What the student has taken over, or its teacher before it: sampled with guidance, it would be guided twice."""
        if self.options.guides is None:
            return self.past.get("guidance")
        return {"weight": self.options.guidance, "schedule": self.options.guidance_schedule}

    def description(self, state: TrainState) -> dict[str, Any]:
        whole = super().description(state)
        return {**whole, "extra": {**whole["extra"], **self.noted(), "cost": self.cost(state.step)}}

    def noted(self) -> dict[str, Any]:
        """What every folder of the student says beside its weights."""
        held = self.guidance()
        return {} if held is None else {"guidance": dict(held)}

    def begin_weights(self, model: Any) -> None:
        """Those of `training.start`; else the teacher's, if they are the same function in the student; else random ones."""
        teacher = self.first_teacher()
        if self.recipe.training.start is not None:
            super().begin_weights(model)
        elif not unlike(teacher.config, model.config, "teacher"):
            check_weights(teacher.weights, model.state_dict(), f"distill.teacher {teacher.folder}")
            model.load_state_dict(teacher.weights)

    def beginning(self) -> list[str]:
        """With which weights the student begins, in words."""
        if self.recipe.training.start is not None:
            return [f"student {said}" for said in super().beginning()]
        apart = unlike(config_of(self.options.teacher), self.recipe.model, "teacher")
        return [f"student begins at random: {', '.join(apart)}" if apart else "student begins with the teacher's weights"]

    def teacher(self, round: int) -> Teacher:
        """What a round is taught by, from its folder."""
        options, coding = self.options, cast(Any, self.data.tokenizer)
        model, _ = load_model(self.round_folder(round), ema=options.next_teacher == "ema")
        return Teacher(
            model.to(self.machine.device).requires_grad_(False),
            steps=options.teacher_steps,
            dt=options.dt(round),
            order=Halton(coding.grid) if options.order == "halton" else ORDERS[options.order],
            choice=Choice(top_p=options.top_p),
            times=reference_times if options.times == "reference" else exact_times,
            schedule=options.hiding,
            guidance=options.guides if round == 0 else None,  # a student has taken it over, and would be guided twice
            refresh=options.refresh if round == 0 else 0,
            spent=self.spent,
        )

    def lesson(self, round: int) -> Any:
        """The loss of a round."""
        kind = PartitionSDTT if self.options.groups == "both" else SDTT
        view, reading = view_of(self.recipe.model)
        divergence, begun = DIVERGENCES[self.options.loss], self.data.tokenizer.vocabulary.bos is not None
        anchor = self.options.anchor and begun
        return self.chosen.objective(kind(self.teacher(round), divergence, view, anchor=anchor, from_nothing=not begun, reading=reading))

    # -- rounds -------------------------------------------------------------------------------------------------------

    def learn(self, state: TrainState, session: Session) -> None:
        """Round after round: `fit` pauses at the end of each, which is always saved."""
        length, last, asked = self.options.round_steps, self.recipe.training.steps, False

        def stop() -> bool:
            nonlocal asked
            asked = session.stop() or asked
            return asked or state.step % length == 0

        self.settle(state, missing=True)
        while state.step < last and not asked:
            round = round_of(state.step, length)
            if state.step == round * length:
                self.open_round(round, state, session)
            fit(state, self.machine, self.recipe.training, self.lesson(round), loader=session.loader, hooks=session.hooks, stop=stop)
            session.saver.save(state)
            if state.step == (round + 1) * length:
                self.settle(state, missing=False)

    def open_round(self, round: int, state: TrainState, session: Session) -> None:
        if round and self.options.optimizer == "reset":
            state.optimizer.state.clear()
        rounds = self.options.rounds(self.recipe.training.steps)
        note = (
            f"round {round + 1} of {rounds}: taught by rounds/{round}, {self.options.teacher_steps} steps of {self.options.dt(round):.6g}; "
            f"the student is meant for {self.options.student_steps(round + 1)} steps"
        )
        session.journal.write({"step": state.step, "round": round + 1, "note": note})

    def settle(self, state: TrainState, *, missing: bool) -> None:
        """At the end of a round (or before the first), make its folder; `missing`: only if it is not there. At step 0 it is made in any case:
        what is there may be of another teacher."""
        round, inside = divmod(state.step, self.options.round_steps)
        if inside or (missing and round and self.is_complete(round)):
            self.machine.barrier()
            return
        write = self.write_first if round == 0 else self.writer_of(state, round)
        if self.machine.main:
            try:
                put(self.round_folder(round), write)
            except (OSError, SafetensorError) as error:
                raise OSError(
                    f"{self.round_folder(round)} could not be written ({error}); make room, then continue with --resume"
                ) from error
        self.machine.barrier()

    def round_folder(self, round: int) -> Path:
        return self.folder / "rounds" / str(round)

    def is_complete(self, round: int) -> bool:
        """Whether the folder of a round holds a model, and what it held when it was written."""
        folder = self.round_folder(round)
        return (folder / "config.json").is_file() and intact(folder)

    def write_first(self, folder: Path) -> None:
        teacher = self.first_teacher()
        held = guidance_in(teacher.folder)
        extra = {"round": 0, "student_steps": self.options.grid, **({} if held is None else {"guidance": held})}
        write_model(folder, teacher.config, teacher.weights, tokenizer=self.data.tokenizer, extra=extra)

    def writer_of(self, state: TrainState, round: int) -> Any:
        """Writes the student of now. Every process takes part in gathering shards."""
        weights = collected(state.model, keep=self.machine.main)
        average = None if state.average is None else collected(state.average, keep=self.machine.main)
        extra = {"round": round, "student_steps": self.options.student_steps(round), "distill": asdict(self.options), **self.noted(),
                 "cost": self.cost(state.step)}

        def write(folder: Path) -> None:
            write_model(folder, state.model.config, weights, average=average, tokenizer=self.data.tokenizer, extra=extra)

        return write

    def cost(self, step: int) -> dict[str, Any]:
        """What the student has cost since round 0, in all processes, each of which must ask; null where the past does not say.

        Token passes: sites of all rows that went through an encoder.
        """
        since = self.machine.total(torch.tensor([self.since.calls, self.since.tokens], device=self.machine.device)).tolist()
        before = self.past.get("cost", dict.fromkeys(COSTS))
        teacher = {name: None if before[name] is None else before[name] + more for name, more in zip(COSTS, since, strict=True)}
        student = step * self.recipe.training.batch_size * self.recipe.length
        return {"updates": step, "processes": self.machine.world, "student_tokens": student, **teacher}
