"""What a recipe may say: frozen dataclasses that `config.build` fills, and the checks that span sections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch

from maskless.checkpoints.native import check_vocabulary
from maskless.config import Tagged, build, override, read, tree_of
from maskless.data.images import ImageCodes, Images
from maskless.data.shards import Encoded
from maskless.data.sources import SOURCES, Puzzles
from maskless.decoding.noise import check_seed
from maskless.decoding.options import SamplerOptions
from maskless.evaluation.settings import Evaluation
from maskless.models import (
    MODELS,
    MaskedConfig,
    MaskGITConfig,
    PartitionConfig,
    PrimeConfig,
    PrimePartitionConfig,
    UNetConfig,
    check_ids,
    kind_of,
)
from maskless.models import build as construct
from maskless.models.prime import base_of
from maskless.objectives import FITS, OBJECTIVES, AnyOrder, Dial
from maskless.subtokens import enumerable
from maskless.training.distillation import Distillation
from maskless.training.recipes import find
from maskless.vocabulary import Vocabulary

R = TypeVar("R", bound="Recipe")

FROM_TOKENIZER = 0  # model.vocab_size of a recipe that leaves it out; model.length, where the data are images
FROM_DATA = ("vocab_size", "forbidden", "length", "grid", "classes")  # what of a model a recipe may leave to its data
LABELLED = (MaskedConfig, PartitionConfig, MaskGITConfig, PrimeConfig, PrimePartitionConfig, UNetConfig)  # take classes, know of rows and columns


@dataclass(frozen=True)
class Training:
    """How weights are learned. Defaults are those of the published text models (spec section 8).

    Attributes:
        steps: updates in all; warm-up included.
        length: sites of a row, L, BOS and EOS included; null: the model's length.
        batch_size: rows of the GLOBAL batch: all processes, all micro-batches.
        accumulate: micro-batches per process and step.
        seed: of initialisation, shuffling, times, masks and dropout.
        optimizer: adamw, or muon: Muon on the matrices of linear maps, AdamW on the rest, at the same rate.
        lr: highest learning rate; `lr_floor`: where a cosine ends.
        warmup: steps of linear warm-up.
        schedule: of the rate after that: constant, cosine, or cosine_tail, which is constant up to the last tenth of `steps`.
        decay: what `weight_decay` falls on: all, or matrices (no norms, no biases).
        class_dropout: share of rows that are trained without their label; null: 0.1 of a labelled model's, as published.
        clip: largest gradient norm; 0: never clipped.
        ema: decay of the moving average of the weights; 0: none is kept.
        precision: auto: bf16 where the device multiplies it in hardware, else fp32.
        strategy: several processes each hold the model (ddp) or a shard of it (fsdp).
        deterministic: the same bits on CUDA as well, slower. The CPU needs no asking.
        threads: of the CPU; null: torch's choice.
        attention: of partition models among their groups: auto (measured at the first step), dense (masks), segments or
            plain (on a CPU), varlen or flex (on a GPU); of any model: auto, or math: no fused kernel (and masks).
        start: a run, a checkpoint, a model folder or a model in the package (tiny) whose weights the run begins with (names and shapes must be the
            model's; the kind may differ: a partition model's weights start an order-causal one); null: at random.
    """

    steps: int
    length: int | None = None
    batch_size: int = 512
    accumulate: int = 1
    seed: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 3e-4
    lr_floor: float = 0.0
    warmup: int = 2500
    schedule: Literal["constant", "cosine", "cosine_tail"] = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay: Literal["all", "matrices"] = "all"
    class_dropout: float | None = None
    clip: float = 1.0
    ema: float = 0.9999
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    deterministic: bool = False
    threads: int | None = None
    attention: Literal["auto", "dense", "segments", "plain", "varlen", "flex", "math"] = "auto"
    start: str | None = None

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, batch_size=self.batch_size, accumulate=self.accumulate)
        rates = {"lr": self.lr, "clip": self.clip, "weight_decay": self.weight_decay, "lr_floor": self.lr_floor}
        at_least(0, warmup=self.warmup, eps=self.eps, **rates)
        check_seed(self.seed)
        below_one(ema=self.ema, beta1=self.betas[0], beta2=self.betas[1], class_dropout=self.class_dropout or 0.0)
        at_least(1, threads=1 if self.threads is None else self.threads, length=1 if self.length is None else self.length)
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}; choose a divisor of it")
        if self.lr_floor > self.lr:
            raise ValueError(f"lr_floor {self.lr_floor} is above lr {self.lr}; lower it")

    @property
    def labels_dropped(self) -> float:
        """The share of rows that a labelled model is trained on without their label."""
        return 0.1 if self.class_dropout is None else self.class_dropout


@dataclass(frozen=True)
class Validation:
    """When and how the bound of the averaged weights is measured on held-out rows.

    Attributes:
        every: steps between two; 0: at the last step only.
        rows: at most so many rows (the first ones); null: all; 0: no validation, and no rows to complete.
        samples: draws of (time, mask) per row.
        batch_size: rows at once.
        seed: of the draws: every validation sees the same.
        complete: puzzles: fill so many rows from their givens and report the share of cells and of whole rows that are
            right; 0: none.
    """

    every: int = 0
    rows: int | None = None
    samples: int = 1
    batch_size: int = 32
    seed: int = 0
    complete: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        at_least(0, every=self.every, complete=self.complete, rows=self.rows or 0)
        at_least(1, samples=self.samples, batch_size=self.batch_size)


@dataclass(frozen=True)
class Sampling:
    """When texts are generated during training, and how. Puzzles (`validation.complete`) are filled alike.

    Attributes:
        every: steps between two; 0: at the last step only.
        count: texts; 0: none, ever.
        seed: of the sampler's noise: every time the same.
        sampler: steps, order, temperature and the rest, see `SamplerOptions`.
    """

    every: int = 0
    count: int = 0
    seed: int = 0
    sampler: SamplerOptions = field(default_factory=SamplerOptions)

    def __post_init__(self) -> None:
        at_least(0, every=self.every, count=self.count)
        check_seed(self.seed)


@dataclass(frozen=True)
class Checkpoints:
    """When the run is saved (the last step always is) and how many complete checkpoints stay."""

    every: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        at_least(0, every=self.every)
        at_least(1, keep=self.keep)


@dataclass(frozen=True)
class Log:
    """metrics.jsonl is always written; the device is read every so many steps.

    Attributes:
        every: steps between two readings; each step has its line.
        tensorboard: write event files to RUN/tensorboard as well.
        wandb: name of a Weights & Biases project to report to, or null.
    """

    every: int = 10
    tensorboard: bool = False
    wandb: str | None = None

    def __post_init__(self) -> None:
        at_least(1, every=self.every)


@dataclass(frozen=True)
class Recipe:
    """A whole run: model, loss, data and numbers, and what `maskless evaluate` measures of it afterwards. See docs/training.md."""

    model: Annotated[Any, Tagged({name: config for name, (config, _) in MODELS.items()})]
    objective: Annotated[Any, Tagged(OBJECTIVES)]
    data: Annotated[Any, Tagged(SOURCES)]
    training: Training
    validation: Validation = field(default_factory=Validation)
    sampling: Sampling = field(default_factory=Sampling)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    log: Log = field(default_factory=Log)
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    def length(self) -> int:
        """Sites of a row, L."""
        return self.training.length or self.model.length


@dataclass(frozen=True)
class DistillRecipe(Recipe):
    """A run of `maskless distill`. `objective` is not trained on; it is what held-out rows are measured by, the model's own if left out."""

    distill: Distillation = field(kw_only=True)


def load_recipe(source: str | Path | Mapping, *overrides: str) -> Recipe:
    """A checked recipe from a file, a name (`tiny/pgm`) or a tree, with `a.b=c` changes. With a `distill` section it is a `DistillRecipe`.

    Args:
        source: path of a YAML file, name of a packaged recipe, or a mapping.
        overrides: changes such as `training.steps=100`, made in order.

    Raises:
        ValueError: for anything unknown, of a wrong type or impossible: one sentence with key, value and remedy.
    """
    tree = override(source if isinstance(source, Mapping) else read(find(source)), overrides)
    if "distill" in tree:
        tree = _with_objective(tree)
    recipe = build(DistillRecipe if "distill" in tree else Recipe, _with_vocabulary(_with_weights(tree)))
    _check(recipe, tree)
    return recipe


def recipe_tree(recipe: Any) -> dict:
    """The recipe as plain data with every default filled in: `load_recipe(recipe_tree(recipe)) == recipe`."""
    return tree_of(recipe)


def _with_vocabulary(tree: dict) -> dict:
    """A recipe that leaves `model.vocab_size` out means the tokenizer's, which `complete` fills in once there is a
    tokenizer. So it is with `model.length` if the data are images."""
    model, data = tree.get("model"), tree.get("data")
    if not isinstance(model, dict):
        return tree
    left_out: dict[str, Any] = {"vocab_size": FROM_TOKENIZER}
    if isinstance(data, dict) and data.get("type") in ("images", "encoded"):
        grid = model.get("grid")
        stated = isinstance(grid, list) and len(grid) == 2 and all(isinstance(side, int) for side in grid)
        left_out["length"] = grid[0] * grid[1] if stated and grid else FROM_TOKENIZER
    return {**tree, "model": {**left_out, **model}}


def _with_weights(tree: dict) -> dict:
    """Run folders of version 0.1 say `low_var` where `weights` stands now: their runs can still be resumed."""
    objective = tree.get("objective")
    if not isinstance(objective, dict):
        return tree
    changed = _renamed(objective, "unit" if objective.get("type") == "masked" else "half")
    if isinstance(objective.get("two_group"), dict):
        changed["two_group"] = _renamed(objective["two_group"], "half")
    return {**tree, "objective": changed}


def _renamed(objective: Mapping, light: str) -> dict:
    rest = {key: value for key, value in objective.items() if key != "low_var"}
    return rest if objective.get("low_var") not in (True, False) else {"weights": light if objective["low_var"] else "bound", **rest}


def _with_objective(tree: dict) -> dict:
    """A distillation that says nothing else is measured by the bound of its kind of model."""
    model = tree.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    return {"objective": {"type": FITS[kind][0]}, **tree} if kind in FITS else tree


def complete(recipe: R, vocabulary: Vocabulary, images: ImageCodes | None = None) -> R:
    """The recipe with the model's vocabulary filled in, or checked if the recipe states it; padding is never predicted, and rows without
    a BOS have no anchor.

    Args:
        recipe: as loaded.
        vocabulary: of the data.
        images: what images are written in, if the data are images: the model's length, grid and classes come from it.

    Raises:
        ValueError: if the stated `model.vocab_size` is not the tokenizer's, or the model does not fit the images.
    """
    if images is not None:
        recipe = dataclasses.replace(recipe, model=_fitting(recipe.model, images))
        _check_steps(recipe)
        _check_commits(recipe)
    if vocabulary.bos is None and isinstance(recipe.objective, AnyOrder | Dial):
        recipe = dataclasses.replace(recipe, objective=dataclasses.replace(recipe.objective, anchor=False))
    if recipe.model.vocab_size != FROM_TOKENIZER:
        check_vocabulary(vocabulary.size, recipe.model, "the tokenizer of the recipe")
    _check_dropout(recipe)
    size = recipe.model.vocab_size or vocabulary.size
    forbidden = tuple(sorted({*recipe.model.forbidden, *vocabulary.forbidden}))
    model = dataclasses.replace(recipe.model, vocab_size=size, forbidden=forbidden)
    check_ids(model)
    if hasattr(model, "digits"):
        enumerable(size, model.digits, base_of(model))
    return dataclasses.replace(recipe, model=model)


def _fitting(model: Any, images: ImageCodes) -> Any:
    """The configuration with length, grid and classes of the images, where it leaves them out."""
    rows, columns = images.grid
    if model.length not in (FROM_TOKENIZER, images.length):
        raise ValueError(
            f"model.length is {model.length} and an image has {rows} x {columns} codes; set model.length={images.length}, or change data.size"
        )
    classes = len(images.classes)
    if not isinstance(model, LABELLED):
        if classes:
            raise ValueError(
                f"the images have {classes} classes and a model of type {kind_of(model)} takes none; "
                "set data.labels=false, or use another model, such as partition or maskgit"
            )
        return dataclasses.replace(model, length=images.length)
    if model.grid not in (None, images.grid):
        raise ValueError(f"model.grid is {list(model.grid)} and an image has {rows} x {columns} codes; set model.grid=[{rows},{columns}]")
    planes = images.codec.planes
    if isinstance(model, UNetConfig) and model.planes != planes:
        raise ValueError(f"model.planes is {model.planes} and the codec writes {planes} codes a pixel; set model.planes={planes}")
    if (model.classes and model.classes < classes) or (model.classes and not classes):
        raise ValueError(
            f"model.classes is {model.classes} and the images have {classes or 'none'}; set model.classes={classes}, or correct data.labels"
        )
    return dataclasses.replace(model, length=images.length, grid=images.grid, classes=model.classes or classes)


def _check(recipe: Recipe, tree: Mapping) -> None:
    """Combinations that no section can judge alone."""
    model, objective = (tree[section]["type"] for section in ("model", "objective"))
    if objective not in FITS[model]:
        raise ValueError(
            f"objective.type is {objective} and model.type is {model}, which do not fit; "
            f"use objective.type={' or '.join(FITS[model])}, or another model"
        )
    if recipe.length > recipe.model.length and not _open_length(recipe):
        raise ValueError(
            f"training.length is {recipe.length}, beyond the model's length {recipe.model.length}; "
            f"lower training.length or set model.length={recipe.length}"
        )
    _check_sizes(_with_some_length(recipe) if _open_length(recipe) else recipe.model)
    if not isinstance(recipe.data, (Images, Encoded)):  # whose classes may be the model's
        _check_dropout(recipe)
    if isinstance(recipe, DistillRecipe):
        _check_distillation(recipe, model)
    if recipe.validation.complete and not isinstance(recipe.data, Puzzles):
        raise ValueError(f"validation.complete is {recipe.validation.complete} and the data are no puzzles, which alone have givens; leave it out")
    attention = recipe.training.attention
    if attention not in ("auto", "math") and not isinstance(recipe.model, PartitionConfig | PrimePartitionConfig):
        raise ValueError(
            f"training.attention is {attention} and model.type is {model}, which has no groups to attend among; "
            "use auto or math"
        )
    order = recipe.sampling.sampler.order
    if model == "autoregressive" and order not in (None, "left-to-right"):
        raise ValueError(
            f"sampling.sampler.order is {order} and model.type is autoregressive, which only goes left to right; "
            "leave the order out, or use a masked or partition model"
        )
    if model == "autoregressive" and recipe.sampling.sampler.plan != "even":
        raise ValueError(
            f"sampling.sampler.plan is {recipe.sampling.sampler.plan} and model.type is autoregressive, which reveals one "
            "site at a time; leave the plan out"
        )
    sampler = recipe.sampling.sampler
    of_digits = sampler.digits is not None or sampler.chunk_point != 1 or sampler.order in ("coarse-first", "token-by-token")
    if of_digits and not hasattr(recipe.model, "digits"):
        raise ValueError(
            f"sampling.sampler has factorised_digits, filter_observed, chunk_point or an order of digits and model.type is {model}, which writes "
            "no tokens in digits; leave them out, or use a Prime model"
        )
    if not sampler.count_registers and not (type(recipe.model) is PartitionConfig and recipe.model.registers):
        raise ValueError(
            f"sampling.sampler.count_registers is false and this model of type {model} packs no registers with its known tokens; leave it out"
        )
    if not _open_length(recipe):
        _check_steps(recipe)
        _check_commits(recipe)


def _check_dropout(recipe: Recipe) -> None:
    if recipe.training.class_dropout is not None and not classes_of(recipe.model):
        raise ValueError(
            f"training.class_dropout is {recipe.training.class_dropout} and the model has no classes; leave it out, or set model.classes"
        )


def _check_steps(recipe: Recipe) -> None:
    steps, most = recipe.sampling.sampler.steps, recipe.length * getattr(recipe.model, "digits", 1)
    if steps is not None and steps > most and recipe.sampling.sampler.plan != "ancestral":
        what = "sites" if most == recipe.length else "digits"
        raise ValueError(f"sampling.sampler.steps is {steps}, more than the {most} {what} of a row; lower it")


def _check_commits(recipe: Recipe) -> None:
    if isinstance(recipe.objective, AnyOrder | Dial):
        recipe.objective.check_length(recipe.length, "objective.")


def classes_of(model: Any) -> int:
    """How many classes a configuration of a model tells apart; 0 where it knows none."""
    return getattr(model, "classes", 0)


def _open_length(recipe: Recipe) -> bool:
    """Whether the length is the data's to say, and not said yet."""
    return isinstance(recipe.data, (Images, Encoded)) and recipe.model.length == FROM_TOKENIZER


def _with_some_length(recipe: Recipe) -> Any:
    """The model with a length that it can be built with before its own is known."""
    model = recipe.model
    if not isinstance(model, LABELLED):
        return dataclasses.replace(model, length=1)
    grid = model.grid or (getattr(model, "planes", 1), 1)
    return dataclasses.replace(model, length=grid[0] * grid[1], grid=grid)


def _check_distillation(recipe: DistillRecipe, model: str) -> None:
    recipe.distill.rounds(recipe.training.steps)
    if model == "autoregressive":
        raise ValueError("model.type is autoregressive, which cannot reveal several sites in one step; distil a masked or partition model")
    if hasattr(recipe.model, "digits"):
        raise ValueError(f"model.type is {model}, and teachers walk over whole tokens; distil a masked or partition model")
    if recipe.distill.groups == "both" and model in ("masked", "maskgit"):
        raise ValueError(f"distill.groups is both and model.type is {model}, which predicts one side of a split in a pass; use distill.groups=one")
    if recipe.distill.order == "halton" and not isinstance(recipe.data, (Images, Encoded)):
        raise ValueError("distill.order is halton, the order of the cells of an image, and the data are texts; choose another")
    if recipe.distill.next_teacher == "ema" and recipe.training.ema == 0:
        raise ValueError("distill.next_teacher is ema and training.ema is 0, so there is no average; use distill.next_teacher=raw")


def _check_sizes(model: Any) -> None:
    """Sizes no model can have, said before any data is read: the numbers one by one, then together, on the meta device."""
    given = {f"model.{field.name}": getattr(model, field.name) for field in dataclasses.fields(model)}
    at_least(1, **{key: given[key] for key in ("model.width", "model.heads", "model.length") if key in given})
    counts = ("model.layers", "model.encoder_layers", "model.decoder_layers", "model.classes")
    at_least(0, **{key: given[key] for key in counts if key in given})
    below_one(**{"model.dropout": given["model.dropout"]})
    with torch.device("meta"):
        construct(dataclasses.replace(model, vocab_size=model.vocab_size or max(model.forbidden, default=0) + 2))


# ------------------------------------------------------------------------------------------------------------- ranges


def at_least(low: float, **values: float) -> None:
    """Raise ValueError naming the first value below `low`."""
    for name, value in values.items():
        if value < low:
            raise ValueError(f"{name} is {value}; it must be at least {low}")


def below_one(**values: float) -> None:
    """Raise ValueError naming the first value outside [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1)")
