"""Training a VQ tokenizer on plain pixels: the loop, journal and checkpoints of models, with another loss and two hooks.

    maskless train image/vq_fashion data.source.train=fashion_mnist.npz

A recipe that has a `codec:` section where others have `model:` and `objective:` is one of these.

B  images        C  channels        H, W  pixels        L  C x H x W values of a row        h, w  cells        D  width of a code
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from maskless.checkpoints.native import check_weights
from maskless.config import Tagged, build, override, read
from maskless.data.batch import Batch
from maskless.data.codec import load_codec
from maskless.data.images import ImageCodes, PlainPixels
from maskless.data.loader import Loader, Rows
from maskless.data.vq import VQCodec
from maskless.data.vqgan import VQ, VQConfig
from maskless.noise import hashed
from maskless.objectives.base import Draws, Terms
from maskless.training.distributed import Machine
from maskless.training.evaluate import first_rows
from maskless.training.loop import Update
from maskless.training.recipe import Checkpoints, Log, Training, Validation, at_least
from maskless.training.recipes import find
from maskless.training.state import TrainState

REVIVAL = 0x5245_5649  # the purpose word of the choice of vectors


@dataclass(frozen=True)
class Reconstruction:
    """The loss: squared error of the pixels, and two pulls between the encoder's vectors z and the codes e that stand for them.

        mean (x - decoder(e))^2  +  commitment * mean (z - [e])^2  +  codebook * mean ([z] - e)^2        [.]: no gradient

    The decoder's gradient passes the codebook straight to the encoder.

    Args:
        commitment, codebook: weights of the two pulls.
        revive: steps between two looks for codes that nothing uses; such a code becomes a vector of the encoder's, chosen
            at random, so that the codebook does not collapse. The last fifth of the steps is left alone. 0: never.
        seen: batches of the past that such a look goes over.
    """

    commitment: float = 0.25
    codebook: float = 1.0
    revive: int = 20
    seen: int = 2

    def __post_init__(self) -> None:
        at_least(0, commitment=self.commitment, codebook=self.codebook, revive=self.revive)
        at_least(1, seen=self.seen)

    @property
    def times(self) -> tuple[float, float]:
        """There is no time; these are the bounds of what is drawn and not looked at."""
        return 0.0, 1.0

    def count(self, batch: Batch) -> Int[Tensor, " B"]:
        """Values of each row, L: the loss is reported per value."""
        return torch.full((len(batch),), batch.tokens.shape[1], device=batch.tokens.device)

    def __call__(self, model: VQ, batch: Batch, draws: Draws) -> Terms:
        images = pictures(batch, model.config)
        z = model.quantize.direction(model.latents(images).movedim(1, -1).float())  # (B, h, w, D)
        with torch.autocast(z.device.type, enabled=False):
            codes = model.quantize.nearest(z.detach().flatten(0, 2)).view(z.shape[:3])
            e = F.embedding(codes, model.quantize.codebook)
        seen = model.images((z + (e - z).detach()).movedim(-1, 1)).float()
        pulls = self.commitment * (z - e.detach()).square() + self.codebook * (z.detach() - e).square()
        losses = (seen - images).square().flatten(1) + pulls.mean((1, 2, 3))[:, None]  # (B, L)
        return Terms(losses.sum(), losses.detach().sum(1), self.count(batch), losses.detach())


@dataclass(frozen=True)
class CodecRecipe:
    """A run that trains a codec. `training.length` and `ema` mean nothing to it, nor does `attention`, but for math."""

    codec: Annotated[Any, Tagged({"vq": VQConfig}, default="vq")]
    data: PlainPixels
    training: Training
    objective: Reconstruction = field(default_factory=Reconstruction)
    validation: Validation = field(default_factory=Validation)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    log: Log = field(default_factory=Log)

    @property
    def length(self) -> int:
        """Values of a row, L."""
        return self.data.channels * self.data.size**2


def trains_codec(source: str | Path | Mapping) -> bool:
    """Whether a recipe (a file, a name or a tree) is one of these; False where there is none."""
    if not isinstance(source, Mapping):
        if Path(source).name == "config.yaml" and not Path(source).is_file():
            return False
        source = read(find(source))
    return "codec" in source


def load_codec_recipe(source: str | Path | Mapping, *overrides: str) -> CodecRecipe:
    """A checked recipe of a codec, as `load_recipe` gives those of models.

    Raises:
        ValueError: for anything unknown, of a wrong type or impossible: one sentence with key, value and remedy.
    """
    tree = override(source if isinstance(source, Mapping) else read(find(source)), overrides)
    if isinstance(training := tree.get("training"), dict):
        tree["training"] = {"ema": 0.0, **training}
    recipe = build(CodecRecipe, tree)
    codec, data, training = recipe.codec, recipe.data, recipe.training
    if codec.channels != data.channels:
        raise ValueError(f"codec.channels is {codec.channels} and data.channels {data.channels}; make them equal")
    if data.size % codec.factor:
        raise ValueError(
            f"data.size is {data.size}, no multiple of the {codec.factor} pixels of a cell ({len(codec.ch_mult)} levels); "
            "change data.size or codec.ch_mult"
        )
    unused = {"training.ema": (training.ema, 0.0), "training.length": (training.length, None), "training.strategy": (training.strategy, "ddp"),
              "training.class_dropout": (training.class_dropout, None), "validation.complete": (recipe.validation.complete, 0),
              "validation.samples": (recipe.validation.samples, 1)}
    for name, (value, only) in unused.items():
        if value != only:
            raise ValueError(f"{name} is {value}, which training a codec does not have; leave it out")
    return recipe


def pictures(batch: Batch, config: VQConfig) -> Float[Tensor, "B C H W"]:
    """Rows of bytes as images in [-1, 1]."""
    side = int((batch.tokens.shape[1] // config.channels) ** 0.5)
    return batch.tokens.float().div(127.5).sub(1).view(len(batch), config.channels, side, side)


def codec_of(model: VQ, recipe: CodecRecipe) -> ImageCodes:
    """What goes into a checkpoint beside the weights: the codec as everybody else reads it."""
    side = recipe.data.size // recipe.codec.factor
    return ImageCodes(VQCodec(model), (side, side))


def new_codec(recipe: CodecRecipe, source: str | None) -> VQ:
    """The network at step 0, or with the weights of another codec of the same sizes."""
    model = VQ(recipe.codec)
    if source is not None:
        codec = load_codec(source)
        weights = codec.model.state_dict() if isinstance(codec, VQCodec) else {}
        check_weights(weights, model.state_dict(), f"training.start {source}")
        model.load_state_dict(weights)
    return model


@torch.no_grad()
def measure_codec(model: VQ, rows: Rows, how: Validation) -> dict[str, Any]:
    """How well held-out images come back, and how much of the codebook they use.

    Returns:
        `psnr`: dB, of the mean squared error of all pixels, values from -1 to 1, clamped; `codes_used`: share of the codebook;
        `code_perplexity`: exp of the entropy of codes, at most K; `images`: how many.
    """
    device, squares, values, images = model.quant_conv.weight.device, 0.0, 0, 0
    counts = torch.zeros(model.config.codebook_size, dtype=torch.int64)
    for batch in first_rows(rows, how.rows, how.batch_size):
        image = pictures(batch.to(device), model.config)
        codes = model.codes(image)
        again = model.images(model.vectors(codes)).clamp(-1, 1)
        squares += float((again - image).double().square().sum())
        values, images = values + image.numel(), images + len(image)
        counts += torch.bincount(codes.flatten(), minlength=len(counts)).cpu()
    share = counts[counts > 0].double() / counts.sum()
    error = torch.tensor(squares / values, dtype=torch.float64)
    return {
        "psnr": round(float(10 * torch.log10(4 / error.clamp_min(1e-12))), 3),
        "codes_used": round(len(share) / len(counts), 4),
        "code_perplexity": round(float(torch.exp(-(share * share.log()).sum())), 1),
        "images": images,
    }


class Revive:
    """The hook that looks for unused codes. It is a function of weights, seed and step: nothing has to be saved for it.

    Args:
        loader: of the WHOLE global batch: every process makes the same choice.
    """

    def __init__(self, machine: Machine, objective: Reconstruction, loader: Loader, *, last: int) -> None:
        self.machine, self.objective, self.loader, self.last = machine, objective, loader, last

    def __call__(self, state: TrainState, update: Update) -> None:
        every = self.objective.revive
        if every and update.step % every == 0 and update.step <= 0.8 * self.last:
            self.machine.evaluate(state.model, lambda model: self._revive(model, state, update.step))

    def _revive(self, model: VQ, state: TrainState, step: int) -> None:
        steps = range(max(0, step - self.objective.seen), step)
        vectors = torch.cat([self._vectors(model, past) for past in steps])  # (N, D)
        unused = torch.bincount(model.quantize.nearest(vectors), minlength=model.config.codebook_size) == 0
        numbers = torch.arange(len(vectors), device=vectors.device)
        chosen = hashed(REVIVAL, self.loader.seed, step, numbers).argsort(stable=True)
        wanted = int(unused.sum())
        chosen = chosen.repeat(-(-wanted // len(chosen)))[:wanted]
        weight = model.quantize.embedding.weight
        weight[unused] = vectors[chosen].to(weight.dtype)
        for name, moment in state.optimizer.state.get(weight, {}).items():
            if name != "step":
                moment[unused] = 0.0  # what the old vector did says nothing about the new one

    def _vectors(self, model: VQ, step: int) -> Float[Tensor, "n D"]:
        images = pictures(self.loader.batch(step).to(self.machine.device), model.config)
        return model.quantize.direction(model.latents(images).movedim(1, -1).flatten(0, 2).float())
