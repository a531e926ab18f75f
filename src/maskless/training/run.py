"""A run from a recipe: `train` puts together what the other files of this folder are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maskless import config as configuration
from maskless.alone import LOCK, alone
from maskless.checkpoints.native import check_weights, described, load_checkpoint, resolve
from maskless.data.codec import find_codec
from maskless.data.images import ImageCodes
from maskless.data.loader import Loader
from maskless.models import build
from maskless.places import latest
from maskless.training.alike import unlike
from maskless.training.attention import Chosen, choose
from maskless.training.codec import (
    CodecRecipe,
    Revive,
    codec_of,
    load_codec_recipe,
    measure_codec,
    new_codec,
    trains_codec,
)
from maskless.training.data import Data, is_of, kept_tokenizer, open_rows, open_tokenizer
from maskless.training.distributed import Machine, attention_kernels, numerics, start
from maskless.training.evaluate import hooks_of, rehearse
from maskless.training.folders import check_folder, default_folder, older_named, resumed
from maskless.training.hooks import Every, Saver, stop_request
from maskless.training.loop import Hook, fit
from maskless.training.optim import optimizer
from maskless.training.recipe import (
    DistillRecipe,
    Recipe,
    complete,
    load_recipe,
    recipe_tree,
)
from maskless.training.records import (
    Journal,
    JsonLines,
    Memory,
    Sink,
    check_trackers,
    tensorboard,
    weights_and_biases,
)
from maskless.training.state import TrainState, load_state, new_state, read_notes

LEARNING = ("data.tokenizer", "data.bpe_size", "data.separator", "data.pattern")  # how a tokenizer is learned from texts


@dataclass(frozen=True)
class Run:
    """A run that ended.

    Attributes:
        folder: holds config.yaml, metrics.jsonl and checkpoints/.
        recipe: as it was run, vocabulary filled in.
        metrics: the records of this session, as metrics.jsonl has them.
        state: the last state; `state.model` and `state.average` are the trained and the averaged model.
        tokenizer: of the data.
        interrupted: it was asked to stop (Ctrl-C) before the last step, and saved.
    """

    folder: Path
    recipe: Recipe | CodecRecipe
    metrics: list[dict[str, Any]]
    state: TrainState
    tokenizer: Any
    interrupted: bool

    @property
    def model(self) -> Any:
        """The averaged model, or the trained one if no average was kept; in evaluation mode."""
        return self.state.best.eval()

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint's folder."""
        folder = latest(self.folder)
        assert folder is not None
        return folder


def train(
    recipe: str | Path | Mapping,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Sink] = (),
) -> Run:
    """Train a model.

    Args:
        recipe: path of a YAML file, name of a packaged recipe (`tiny/pgm`), a mapping, or, with `resume`, a run folder.
        overrides: changes such as "training.steps=100".
        out: the run folder; runs/NAME if left out. It must not hold a run yet, unless `resume`.
        resume: continue from the newest complete checkpoint of the run folder (from the start if it has none).
        callbacks: receive every record as it is written: dicts with `step` and `loss`, `bound`, `samples`,
            `checkpoint` or `note`.

    Returns:
        The finished (or interrupted, and saved) `Run`.

    Raises:
        ValueError: for a recipe that cannot be run, a folder that holds a run, a loss that is not finite.
        OSError: if the disk is full; complete checkpoints are untouched.

    Example:
        >>> import maskless
        >>> run = maskless.train("tiny/pgm", "training.steps=100", out="runs/first")  # doctest: +SKIP
    """
    folder = Path(out) if out is not None else default_folder(recipe, resume)
    work = _CodecWork if trains_codec(folder / "config.yaml" if resume else recipe) else Work
    return begin(work, recipe, overrides, out=out, resume=resume, callbacks=callbacks)


def begin(
    work: type[Work],
    recipe: str | Path | Mapping,
    overrides: Sequence[str],
    *,
    out: str | Path | None,
    resume: bool,
    callbacks: Sequence[Sink],
) -> Run:
    """Decide everything about a session of a run, and run it; arguments and errors are those of `train`."""
    folder = Path(out) if out is not None else default_folder(recipe, resume)
    plan, changes = resumed(folder, recipe, overrides) if resume else (work.read(recipe, *overrides), {})
    check_folder(folder, resume)
    found = latest(folder) if resume else None
    work.check(plan, fresh=found is None)
    with older_named(folder, found):
        recorded = read_notes(found) if found else {}
    if "training.steps" in changes and plan.training.steps < (made := recorded.get("step", 0)):
        raise ValueError(f"training.steps is {plan.training.steps} and {made} steps are made; give more than {made}, or leave it out")
    machine = start(
        plan.training.device, _chosen(plan.training.precision, recorded.get("precision")), plan.training.strategy
    )
    check_pieces(plan.training, machine)
    tokenizer = work.tokenizer(plan, machine, found, relearn=any(key in changes for key in LEARNING))
    plan = work.completed(plan, tokenizer)
    work.check_beginning(plan, tokenizer, found)
    data = open_rows(plan, tokenizer, machine)
    attention = ["math"] if plan.training.attention == "math" else recorded.get("attention")
    with numerics(
        threads=plan.training.threads or recorded.get("threads"),
        attention=attention,
        deterministic=plan.training.deterministic,
    ):
        chosen = work.choose(plan, machine, recorded.get("groups", "dense") if found else None)
        session = work(folder, plan, machine, data, chosen, tuple(callbacks))
        return session.run(found, [*changes.values(), *_differences(recorded, session.facts())])


@dataclass(frozen=True)
class Session:
    """What a run works with once its folder is open: the arguments of `fit`, and who writes what."""

    loader: Loader
    journal: Journal
    saver: Saver
    hooks: list[Hook]
    stop: Callable[[], bool]


@dataclass(frozen=True)
class Work:
    """One session of a run, everything decided."""

    folder: Path
    recipe: Any  # a Recipe; of a codec, a CodecRecipe
    machine: Machine
    data: Data
    chosen: Chosen
    callbacks: tuple[Sink, ...]

    def run(self, found: Path | None, changes: list[str]) -> Run:
        recipe, training, machine = self.recipe, self.recipe.training, self.machine
        loader = Loader(
            self.data.train, batch_size=training.batch_size, seed=training.seed, rank=machine.rank, world=machine.world
        )
        memory = Memory()
        with ExitStack() as stack:
            state = self.initial(fresh=found is None)
            stack.callback(state.release)
            if found is not None:
                with older_named(self.folder, found):
                    load_state(found, state)
            self.rehearse(state)
            if machine.main:
                self.folder.mkdir(parents=True, exist_ok=True)
                busy = f"another process trains in {self.folder}; stop it before you resume the run, or choose another folder with --out"
                stack.enter_context(alone(self.folder / LOCK, busy))
            if found is None or state.step < training.steps:
                self.open_folder()
            journal = Journal(
                self.sinks(memory, state.step, stack),
                every=recipe.log.every,
                last=training.steps,
                advice=self.advice,
                more=self.costs,
            )
            journal.write(self.opening(state, found, changes))
            saver = Saver(
                self.folder,
                machine,
                journal,
                when=recipe.checkpoints,
                last=training.steps,
                notes=self.facts(),
                describe=self.description,
            )
            hooks = [journal, saver, *self.hooks(journal)]  # first what was learned, then what it is worth
            stop = stack.enter_context(stop_request(machine, recipe.log.every))
            begun = state.step
            self.learn(state, Session(loader, journal, saver, hooks, stop))
            if state.step > begun:
                saver.save(state)
            machine.barrier()  # nobody leaves before all are done
        return Run(self.folder, recipe, list(memory), state, self.coding(state), state.step < training.steps)

    def objective(self) -> Any:
        """The loss, attending as was chosen."""
        return self.chosen.objective(self.recipe.objective)

    def hooks(self, journal: Journal) -> list[Hook]:
        """What is done after an update, before it may be saved."""
        measured = dataclasses.replace(self.recipe, objective=self.objective())
        return [*hooks_of(measured, self.data, journal, self.machine, self.folder)]

    def rehearse(self, state: TrainState) -> None:
        """Raise ValueError if samples are wanted that this model cannot give, before it is trained."""
        self.machine.evaluate(state.best, lambda model: rehearse(model, self.recipe, self.data))

    def coding(self, state: TrainState) -> Any:
        """What the rows are written in."""
        return self.data.tokenizer

    @classmethod
    def read(cls, recipe: str | Path | Mapping, *overrides: str) -> Any:
        """A recipe of this kind of run."""
        return load_recipe(recipe, *overrides)

    @classmethod
    def tokenizer(cls, recipe: Any, machine: Machine, found: Path | None, *, relearn: bool) -> Any:
        """Of the data; errors and `relearn` are those of `kept_tokenizer`, where there is a checkpoint to go on from."""
        return open_tokenizer(recipe, machine) if found is None else kept_tokenizer(recipe, machine, found, relearn=relearn)

    @classmethod
    def completed(cls, recipe: Any, tokenizer: Any) -> Any:
        """With what the data decide about the model."""
        return complete(recipe, tokenizer.vocabulary, tokenizer if isinstance(tokenizer, ImageCodes) else None)

    @classmethod
    def choose(cls, recipe: Any, machine: Machine, recorded: str | None) -> Chosen:
        """How groups attend."""
        return choose(recipe, machine, recorded)

    @classmethod
    def check(cls, recipe: Any, *, fresh: bool) -> None:
        """Raise ValueError for a recipe of another kind of run, and for what it names and is not there: all that is known before data are read."""
        if isinstance(recipe, DistillRecipe):
            raise ValueError("the recipe has a distill section, so it distils a teacher; run it with maskless distill")
        check_trackers(recipe.log)
        if fresh and recipe.training.start is not None:
            resolve(recipe.training.start)

    @classmethod
    def check_beginning(cls, recipe: Any, tokenizer: Any, found: Path | None) -> None:
        """Raise ValueError if the weights that a run begins with are of another tokenizer or codec, or those it goes on with of another function."""
        source = recipe.training.start
        if found is not None:
            if apart := unlike(described(found / "config.json")[0].model, recipe.model, "before"):
                raise ValueError(f"the weights of {found} would be another function: {', '.join(apart)}; leave the model as it was, or begin another "
                                 "run with training.start")
        elif source is not None and not is_of(tokenizer, resolve(source)):
            own = "use its own (data.tokenizer, data.codec)"
            raise ValueError(f"training.start {source} was trained with another tokenizer or codec than this recipe's data; {own}")

    def learn(self, state: TrainState, session: Session) -> None:
        """From `state.step` to the last step, or until it is asked to stop."""
        fit(
            state, self.machine, self.recipe.training, self.objective(), loader=session.loader, hooks=session.hooks,
            stop=session.stop,
        )

    def costs(self) -> Mapping[str, Any]:
        """What an update cost beside the training itself, for its record."""
        return {}

    def initial(self, *, fresh: bool) -> TrainState:
        """The model at step 0, the same in every process; with the weights it begins with, if the run is `fresh`."""
        training = self.recipe.training
        torch.manual_seed(training.seed)
        model = build(self.recipe.model)
        if fresh:
            self.begin_weights(model)
        return new_state(model, self.machine, lambda model: optimizer(model, training), average=training.ema > 0)

    def beginning(self) -> list[str]:
        """With which weights the run begins, in words, if not random ones; and in what that model is another."""
        if (source := self.recipe.training.start) is None:
            return []
        apart = unlike(described(resolve(source) / "config.json")[0].model, self.recipe.model, "there")
        return [f"begins with the weights of {source}" + (f", which were another function there: {', '.join(apart)}" if apart else "")]

    def begin_weights(self, model: Any) -> None:
        """Give a model at step 0 the weights it begins with, if not random ones."""
        if (source := self.recipe.training.start) is not None:
            begin_with(model, source)

    def open_folder(self) -> None:
        if self.machine.main:
            configuration.write(self.folder / "config.yaml", recipe_tree(self.recipe))
        self.machine.barrier()

    def opening(self, state: TrainState, found: Path | None, changes: list[str]) -> dict[str, Any]:
        """The first record of a session: what is about to happen."""
        size = sum(state.shapes[name].numel() for name, _ in state.model.named_parameters())            # of the full weights, though they be sharded
        now = self.facts()
        where = f"{now['device']}, {now['precision']}, processes: {now['processes']}"
        begin = f"resumed from {found.name}" if found else "started"
        steps = self.recipe.training.steps
        over = [f"nothing is left to do: {state.step} of {steps} steps are made, raise training.steps to go on"] if state.step >= steps else []
        started = [] if found else self.beginning()
        note = "; ".join([f"{begin}: {size:,} weights on {where}", *self.chosen.notes(), *changes, *over, *started])
        return {"step": state.step, "steps": steps, "note": note}

    def facts(self) -> dict[str, Any]:
        """What the last bits depend on: recorded with every checkpoint, reused or announced on resume."""
        return {
            "threads": torch.get_num_threads(),
            "precision": self.machine.precision,
            "attention": attention_kernels(),
            "groups": self.chosen.name,
            "device": self.machine.device.type,
            "processes": self.machine.world,
            "torch": torch.__version__,
            "data": self.data.identity,
        }

    def sinks(self, memory: Memory, step: int, stack: ExitStack) -> list[Sink]:
        """Who reads the records: in the main process everybody, in the others nobody but memory."""
        if not self.machine.main:
            return [memory]
        lines = JsonLines(self.folder / "metrics.jsonl", upto=step)
        stack.callback(lines.close)
        sinks: list[Sink] = [memory, lines]
        if self.recipe.log.tensorboard:
            sinks.append(tensorboard(self.folder / "tensorboard"))
        if self.recipe.log.wandb is not None:
            sinks.append(weights_and_biases(self.recipe.log.wandb, self.folder))
        return [*sinks, *self.callbacks]

    def description(self, state: TrainState) -> dict[str, Any]:
        return {"tokenizer": self.data.tokenizer, "extra": {"objective": _tag(self.recipe)}}

    def advice(self) -> str:
        good = latest(self.folder)
        where = f"the last good checkpoint is {good}" if good else "no checkpoint was written yet"
        how = f"continue from it with --resume {self.folder} and" if good else "start again with"
        rate = f"a lower training.lr (now {self.recipe.training.lr:g})"
        return f"{where}: {how} {rate}, a longer training.warmup or training.precision=fp32"


class _CodecWork(Work):
    """A run that trains a codec: the same, but for the network, its loss and what is measured."""

    @classmethod
    def read(cls, recipe: str | Path | Mapping, *overrides: str) -> Any:
        return load_codec_recipe(recipe, *overrides)

    @classmethod
    def tokenizer(cls, recipe: Any, machine: Machine, found: Path | None, *, relearn: bool) -> Any:
        return open_tokenizer(recipe, machine)  # of pixels: checkpoints hold the codec that is trained

    @classmethod
    def completed(cls, recipe: Any, tokenizer: Any) -> Any:
        return recipe

    @classmethod
    def check(cls, recipe: Any, *, fresh: bool) -> None:
        check_trackers(recipe.log)
        if fresh and recipe.training.start is not None:
            find_codec(recipe.training.start)

    @classmethod
    def check_beginning(cls, recipe: Any, tokenizer: Any, found: Path | None) -> None:
        pass  # a codec is what the run makes

    def beginning(self) -> list[str]:
        start = self.recipe.training.start
        return [] if start is None else [f"begins with the weights of {start}"]

    def rehearse(self, state: TrainState) -> None:
        pass  # nothing is drawn

    @classmethod
    def choose(cls, recipe: Any, machine: Machine, recorded: str | None) -> Chosen:
        return Chosen(None)

    def initial(self, *, fresh: bool) -> TrainState:
        training = self.recipe.training
        torch.manual_seed(training.seed)
        source = training.start if fresh else None
        return new_state(new_codec(self.recipe, source), self.machine, lambda model: optimizer(model, training), average=False)

    def objective(self) -> Any:
        return self.recipe.objective

    def hooks(self, journal: Journal) -> list[Hook]:
        recipe, last = self.recipe, self.recipe.training.steps
        whole = Loader(self.data.train, batch_size=recipe.training.batch_size, seed=recipe.training.seed)
        hooks: list[Hook] = [Revive(self.machine, recipe.objective, whole, last=last)]
        if (rows := self.data.validation) is not None:
            measure = lambda model, step: measure_codec(model, rows, recipe.validation)
            hooks.append(Every(journal, self.machine, measure, every=recipe.validation.every, last=last))
        return hooks

    def coding(self, state: TrainState) -> Any:
        return codec_of(state.model, self.recipe)

    def description(self, state: TrainState) -> dict[str, Any]:
        return {"tokenizer": self.coding(state), "extra": {"objective": "reconstruction"}}


def begin_with(model: Any, source: str) -> None:
    """Give a new model the averaged weights of a checkpoint, of any kind with the same tensors. Raises ValueError if names or shapes differ."""
    checkpoint = load_checkpoint(source)
    check_weights(checkpoint.weights, model.state_dict(), f"training.start {source}")
    model.load_state_dict(checkpoint.weights)


def check_pieces(training: Any, machine: Machine) -> None:
    """Raise ValueError unless every process has as many rows of a batch, in as many micro-batches."""
    if training.batch_size % (machine.world * training.accumulate):
        raise ValueError(f"training.batch_size is {training.batch_size}, not a multiple of {machine.world} processes times training.accumulate "
                         f"{training.accumulate}; change one of them")


def _chosen(wanted: str, recorded: str | None) -> str:
    return recorded if wanted == "auto" and recorded else wanted


def _differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the checkpoint was written, in words."""
    words = {"data": "the data have changed (contents or times of files), and are read in the tokenizer or codec of before"}
    changed = [name for name, value in recorded.items() if name in now and now[name] != value]
    return [words.get(name, f"{name} is {now[name]} (was {recorded[name]})") for name in changed]


def _tag(recipe: Recipe) -> str:
    return recipe_tree(recipe)["objective"]["type"]
