"""A run that distils: rounds of training against a teacher, each round's student the next one's teacher.

    RUN/rounds/0      the teacher it began with
    RUN/rounds/1      the student after round 1, and the teacher of round 2: complete folders, for inference
    RUN/checkpoints/  as in any run; the last step of a round is always saved, before the round's folder is

A checkpoint at the end of a round holds what the round's folder is made of, so a crash between the two loses nothing: the folder
is made when the run is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError

from maskless.checkpoints.native import (
    Checkpoint,
    coding_in,
    guidance_in,
    load_checkpoint,
    load_model,
    put,
    write_model,
)
from maskless.checkpoints.reference.quirks import reference_times
from maskless.decoding import Choice, Confidence, Halton, Margin, Order, Random, Spaced
from maskless.models import CausalPartitionConfig, kind_of
from maskless.objectives.divergence import DIVERGENCES
from maskless.objectives.rounds import round_of
from maskless.objectives.sdtt import SDTT, PartitionSDTT, view_of
from maskless.objectives.teacher import Spent, Teacher, exact_times
from maskless.training.distillation import Distillation
from maskless.training.loop import fit
from maskless.training.recipe import DistillRecipe, Recipe, classes_of
from maskless.training.records import Sink, read_records
from maskless.training.run import Run, Session, Work, begin
from maskless.training.state import TrainState, collected

ORDERS: dict[str, Order] = {"random": Random(), "spaced": Spaced(), "confidence": Confidence(), "margin": Margin()}


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
    """One session of a distillation."""

    spent: Spent = field(default_factory=Spent)

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        if not isinstance(recipe, DistillRecipe):
            raise ValueError("the recipe has no distill section, so there is no teacher; run it with maskless train")

    @property
    def options(self) -> Distillation:
        assert isinstance(self.recipe, DistillRecipe)
        return self.recipe.distill

    def costs(self) -> Mapping[str, Any]:
        taken = self.spent.take()
        return {"teacher_calls": taken.calls, "teacher_tokens": taken.tokens}

    # -- teacher and student ------------------------------------------------------------------------------------------

    def first_teacher(self) -> Checkpoint:
        """The teacher that the recipe names. Raises ValueError unless it fits the student."""
        checkpoint = load_checkpoint(self.options.teacher, ema=self.options.weights == "ema")
        check_teacher(checkpoint, self.recipe, self.data.tokenizer)
        return checkpoint

    def guidance(self) -> Mapping[str, Any] | None:
        """What the student has taken over, or its teacher before it: sampled with guidance, it would be guided twice."""
        if self.options.guides is None:
            first = self.round_folder(0)
            return guidance_in(first if first.exists() else self.options.teacher)
        return {"weight": self.options.guidance, "schedule": self.options.guidance_schedule}

    def description(self, state: TrainState) -> dict[str, Any]:
        described = super().description(state)
        return {**described, "extra": {**described["extra"], **self.noted()}}

    def noted(self) -> dict[str, Any]:
        """What every folder of the student says beside its weights."""
        held = self.guidance()
        return {} if held is None else {"guidance": dict(held)}

    def begin_weights(self, model: Any) -> None:
        """Those of `training.start`; else the teacher's, if it has the same tensors; else random ones."""
        teacher = self.first_teacher()
        if self.recipe.training.start is not None:
            super().begin_weights(model)
        elif same_tensors(model, teacher):
            model.load_state_dict(teacher.weights)

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
            if state.step % length == 0:
                session.saver.save(state)
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
        """At the end of a round (or before the first), make its folder; `missing`: only if it is not there."""
        round, inside = divmod(state.step, self.options.round_steps)
        if inside or (missing and self.round_folder(round).exists()):
            self.machine.barrier()
            return
        write = partial(self.write_first) if round == 0 else self.writer_of(state, round)
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

    def write_first(self, folder: Path) -> None:
        teacher = self.first_teacher()
        held = guidance_in(teacher.folder)
        extra = {"round": 0, "student_steps": self.options.grid, **({} if held is None else {"guidance": held})}
        write_model(folder, teacher.config, teacher.weights, tokenizer=self.data.tokenizer, extra=extra)

    def writer_of(self, state: TrainState, round: int) -> Any:
        """Writes the student of now. Every process takes part in gathering shards."""
        weights = collected(state.model, keep=self.machine.main)
        average = None if state.average is None else collected(state.average, keep=self.machine.main)
        extra = {"round": round, "student_steps": self.options.student_steps(round), "distill": asdict(self.options), **self.noted()}

        def write(folder: Path) -> None:
            extra["cost"] = self.cost(state.step)
            write_model(folder, state.model.config, weights, average=average, tokenizer=self.data.tokenizer, extra=extra)

        return write

    def cost(self, steps: int) -> dict[str, Any]:
        """What the student has cost since round 0, as metrics.jsonl has it; null where lines of that are lost.

        Token passes: sites of all rows that went through an encoder; of the teacher, in the main process.
        """
        updates = [record for record in read_records(self.folder / "metrics.jsonl") if "teacher_calls" in record and record["step"] <= steps]
        teacher = {name: sum(record[name] for record in updates) for name in ("teacher_calls", "teacher_tokens")}
        student = steps * self.recipe.training.batch_size * self.recipe.length
        whole = len(updates) == steps
        return {"updates": steps, "processes": self.machine.world, "student_tokens": student, **(teacher if whole else dict.fromkeys(teacher))}


def same_tensors(model: Any, checkpoint: Checkpoint) -> bool:
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return own == {name: tensor.shape for name, tensor in checkpoint.weights.items()}


def check_teacher(checkpoint: Checkpoint, recipe: Recipe, tokenizer: Any) -> None:
    """Raise ValueError unless a student of this recipe can learn from the teacher."""
    teacher, student = checkpoint.config, recipe.model
    where = f"distill.teacher {checkpoint.folder}"
    if kind_of(teacher) == "autoregressive":
        raise ValueError(f"{where} is autoregressive, which reveals one site a step in one order; take a masked or partition model")
    for name, remedy in {
        "vocab_size": "use the teacher's tokenizer or codec (data.tokenizer, data.codec)",
        "length": f"set model.length={teacher.length}",
        "forbidden": "use the teacher's tokenizer (data.tokenizer)",
        "classes": f"set model.classes={classes_of(teacher)}",
        "grid": "set model.grid and data.size to the teacher's",
    }.items():
        theirs, ours = (getattr(config, name, 0) or 0 for config in (teacher, student))
        if theirs != ours and not (name == "grid" and 0 in (theirs, ours)):
            raise ValueError(f"{where} has {name} {theirs} and the student {ours}; both must speak of the same sites, tokens and classes: {remedy}")
    coding = coding_in(checkpoint.folder)
    if checkpoint.vocabulary not in (None, tokenizer.vocabulary) or (coding is not None and coding.hash != tokenizer.hash):
        raise ValueError(f"{where} was trained with another tokenizer or codec than this recipe's data; use its own (data.tokenizer, data.codec)")
    for who, config in ((where, teacher), ("the student", student)):
        if getattr(config, "time_conditioned", False):
            raise ValueError(f"{who} is time-conditioned, and rows of a walk are at different times; take a model without time_conditioned")
    assert isinstance(recipe, DistillRecipe)
    check_walk(checkpoint, recipe.distill, where)


def check_walk(checkpoint: Checkpoint, options: Distillation, where: str) -> None:
    """Raise ValueError unless the teacher can walk as the recipe says."""
    held = guidance_in(checkpoint.folder)
    if options.guidance and not classes_of(checkpoint.config):
        raise ValueError(f"distill.guidance is {options.guidance:g} and {where} has no classes to guide by; leave it out, or take a labelled teacher")
    if options.guidance and held is not None:
        raise ValueError(f"{where} holds guidance {held['weight']:g} already; distill.guidance={options.guidance:g} would come on top: leave it out")
    if options.refresh and not isinstance(checkpoint.config, CausalPartitionConfig):
        raise ValueError(f"distill.refresh is {options.refresh} and {where} keeps no cache; leave it out (only order-causal models have two modes)")
