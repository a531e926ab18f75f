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
from maskless.checkpoints.native import check_weights, load_checkpoint, resolve
from maskless.data.codec import find_codec
from maskless.data.images import ImageCodes
from maskless.data.loader import Loader
from maskless.models import build
from maskless.places import latest
from maskless.training.alone import alone
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
from maskless.training.evaluate import hooks_of
from maskless.training.hooks import Every, Saver, stop_request
from maskless.training.loop import Hook, fit
from maskless.training.optim import optimizer
from maskless.training.recipe import (
    FROM_DATA,
    FROM_TOKENIZER,
    DistillRecipe,
    Recipe,
    complete,
    file_of,
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
    folder = Path(out) if out is not None else _default_folder(recipe, resume)
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
    folder = Path(out) if out is not None else _default_folder(recipe, resume)
    plan, changes = _resumed(folder, recipe, overrides) if resume else (work.read(recipe, *overrides), {})
    _check_folder(folder, resume)
    found = latest(folder) if resume else None
    work.check(plan, fresh=found is None)
    recorded = read_notes(found) if found else {}
    if "training.steps" in changes and plan.training.steps < (made := recorded.get("step", 0)):
        raise ValueError(f"training.steps is {plan.training.steps} and {made} steps are made; give more than {made}, or leave it out")
    machine = start(
        plan.training.device, _chosen(plan.training.precision, recorded.get("precision")), plan.training.strategy
    )
    tokenizer = work.tokenizer(plan, machine, found, relearn=any(key in changes for key in LEARNING))
    plan = work.completed(plan, tokenizer)
    if found is None:
        work.check_beginning(plan, tokenizer)
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
                load_state(found, state)
            if machine.main:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(alone(self.folder))
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
                describe=self.description(state),
            )
            hooks = [journal, *self.hooks(journal), saver]
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
    def check_beginning(cls, recipe: Any, tokenizer: Any) -> None:
        """Raise ValueError if the weights that a new run begins with are of another tokenizer or codec."""
        source = recipe.training.start
        if source is not None and not is_of(tokenizer, resolve(source)):
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
        note = "; ".join([f"{begin}: {size:,} weights on {where}", *self.chosen.notes(), *changes, *over])
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
    def check_beginning(cls, recipe: Any, tokenizer: Any) -> None:
        pass  # a codec is what the run makes

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


def _chosen(wanted: str, recorded: str | None) -> str:
    return recorded if wanted == "auto" and recorded else wanted


def _differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the checkpoint was written, in words."""
    words = {"data": "the data have changed (contents or times of files), and are read in the tokenizer or codec of before"}
    changed = [name for name, value in recorded.items() if name in now and now[name] != value]
    return [words.get(name, f"{name} is {now[name]} (was {recorded[name]})") for name in changed]


def _tag(recipe: Recipe) -> str:
    return recipe_tree(recipe)["objective"]["type"]


# ------------------------------------------------------------------------------------------------------------ folders


def _default_folder(recipe: str | Path | Mapping, resume: bool) -> Path:
    if isinstance(recipe, Mapping):
        raise ValueError("a recipe given as a mapping has no name; say where the run goes with out=")
    if resume and file_of(recipe) is None:
        return Path(recipe)
    return Path("runs") / str(recipe).removesuffix(".yaml").strip("/").replace("/", "-")


def _check_folder(folder: Path, resume: bool) -> None:
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file, the run needs a folder; choose another with --out")
    if not resume and (folder / "config.yaml").exists():
        raise ValueError(
            f"{folder} holds a run already; continue it with --resume, or choose another folder with --out"
        )
    if not resume and (held := [name for name in ("config.json", "checkpoints", "metrics.jsonl") if (folder / name).exists()]):
        raise ValueError(f"{folder} holds {held[0]}, of a model or of another run; choose another folder with --out")


def _resumed(folder: Path, recipe: str | Path | Mapping, overrides: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """The recipe to continue with, and the keys in which it differs from the one the run had, with a sentence on each.

    The run's own config.yaml with the overrides; or, where a recipe is named beside the folder, that recipe.
    """
    stored = folder / "config.yaml"
    if not stored.is_file():
        raise ValueError(f"{folder} is no run folder (it has no config.yaml); give the folder of the run to resume")
    codec = trains_codec(stored)
    load: Callable[..., Any] = load_codec_recipe if codec else load_recipe
    before = load(stored)
    named = not isinstance(recipe, Mapping) and (Path(recipe) == folder)
    after = load(stored if named else recipe, *overrides)
    if not codec and after.model.vocab_size == FROM_TOKENIZER:
        filled = {name: getattr(before.model, name) for name in FROM_DATA if hasattr(before.model, name) and not getattr(after.model, name, True)}
        after = dataclasses.replace(after, model=dataclasses.replace(after.model, **filled))
    old, new = _flat(recipe_tree(before)), _flat(recipe_tree(after))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return after, {key: f"{key} is {new.get(key)} (was {old.get(key)})" for key in changed}


def _flat(tree: Mapping, where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{where}.{key}" if where else key
        flat.update(_flat(value, name) if isinstance(value, Mapping) else {name: value})
    return flat
