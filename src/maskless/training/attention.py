"""Which way of attending among groups a run trains with: the fastest on its device, measured once, on a batch of its shape.

All ways compute the same (`layers.groups`); rounding, and the places that dropout hits, are not the same. So the choice is made at the
first step of a run, written into every checkpoint, and used again on resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from maskless.evaluation.attention import Shape, available, measure
from maskless.layers.groups import GROUPINGS
from maskless.models import PartitionConfig, PrimePartitionConfig
from maskless.objectives import AnyOrder, Objective
from maskless.objectives.grouped import Grouped
from maskless.training.distributed import Machine
from maskless.training.recipe import Recipe


@dataclass(frozen=True)
class Chosen:
    """A way of attending among groups.

    Attributes:
        name: in `GROUPINGS`; None: there are no groups, in the model or in the loss (one pass in any order).
        seconds: what a step's attention took by each way that was measured; empty where nothing was.
        failed: a line for each way that failed when it was measured.
    """

    name: str | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    failed: Sequence[str] = ()

    def objective(self, objective: Objective) -> Objective:
        """The objective, attending so."""
        return objective if self.name is None else Grouped(objective, GROUPINGS[self.name])

    def notes(self) -> list[str]:
        """For the first record of a session."""
        if self.name is None:
            return []
        times = ", ".join((*(f"{name} {1000 * seconds:,.1f} ms" for name, seconds in self.seconds.items()), *self.failed))
        return [f"attention among groups: {self.name}" + (f" (measured: {times})" if times else "")]


def choose(recipe: Recipe, machine: Machine, recorded: str | None) -> Chosen:
    """The recipe's way; under `auto` the recorded one, or else the fastest.

    Args:
        recipe: of a partition model, or of one that has no groups.
        machine: where it runs; with several processes the first one measures.
        recorded: the way of the checkpoint that is resumed from, if any.

    Raises:
        ValueError: if the recipe asks for a way that this device, precision or width of heads does not have.
    """
    wanted = recipe.training.attention
    if not isinstance(recipe.model, PartitionConfig | PrimePartitionConfig) or (wanted == "auto" and isinstance(recipe.objective, AnyOrder)):
        return Chosen(None)
    dtype = torch.bfloat16 if machine.precision == "bf16" else torch.float32
    masks_alone = isinstance(recipe.model, PrimePartitionConfig) and recipe.model.masks_alone
    batch = shape(recipe, machine.world)
    names = ["dense"] if masks_alone else available(machine.device, dtype, batch.width)
    if wanted not in ("auto", "math"):
        if wanted not in names:
            where = "late fusion" if masks_alone else f"{machine.precision} on {machine.device.type} with heads of width {batch.width}"
            raise ValueError(f"training.attention is {wanted}, which {where} does not have; use auto or one of {', '.join(names)}")
        return Chosen(wanted)
    if wanted == "math" or len(names) == 1:
        return Chosen("dense")
    if recorded in names:
        return Chosen(recorded)
    failed: list[str] = []
    seconds = measure(names, batch, machine.device, dtype, progress=failed.append) if machine.main else {}
    fastest = names.index(min(seconds, key=seconds.__getitem__)) if seconds else 0
    if machine.world > 1:
        fastest = int(machine.total(torch.tensor(fastest, device=machine.device)))
    return Chosen(names[fastest], seconds, failed)


def shape(recipe: Recipe, processes: int) -> Shape:
    """The shape of a micro-batch of one process."""
    model, training = recipe.model, recipe.training
    rows = max(1, training.batch_size // processes // training.accumulate)
    digits = getattr(model, "digits", 1)
    places = round(recipe.length * 2 * digits / (digits + 1))       # a token whose digits are in both groups has two
    return Shape(rows, model.heads, places, model.width // model.heads, model.encoder_layers, model.decoder_layers + 1)
