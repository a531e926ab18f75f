"""One loss per file; `OBJECTIVES` names them for recipes."""
from __future__ import annotations

from maskless.objectives.any_order import AnyOrder, Dial, OrderedPartition
from maskless.objectives.autoregressive import Autoregressive
from maskless.objectives.base import Draws, Objective, Terms
from maskless.objectives.complementary import Complementary
from maskless.objectives.draws import draws
from maskless.objectives.masked import Masked
from maskless.objectives.partition import Partition

OBJECTIVES = {
    "masked": Masked, "complementary": Complementary, "partition": Partition, "ordered_partition": OrderedPartition,
    "any_order": AnyOrder, "dial": Dial, "autoregressive": Autoregressive,
}

FITS = {                                                            # the objectives of each kind of model; the first is its own
    "masked": ("masked", "complementary"),
    "maskgit": ("masked", "complementary"),
    "partition": ("partition",),
    "causal_partition": ("any_order", "dial", "ordered_partition", "partition"),
    "autoregressive": ("autoregressive",),
}


def own(kind: str) -> Objective:
    """The objective that a kind of model is scored with."""
    return OBJECTIVES[FITS[kind][0]]()

__all__ = [
    "FITS", "OBJECTIVES", "AnyOrder", "Autoregressive", "Complementary", "Dial", "Draws", "Masked", "Objective", "OrderedPartition",
    "Partition", "Terms", "draws", "own",
]
