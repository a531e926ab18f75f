"""One loss per file; `OBJECTIVES` names them for recipes."""
from __future__ import annotations

from dataclasses import replace

from maskless.objectives.any_order import AnyOrder, Dial, OrderedPartition
from maskless.objectives.autoregressive import Autoregressive
from maskless.objectives.base import Draws, Objective, Terms
from maskless.objectives.complementary import Complementary
from maskless.objectives.draws import draws, unlabelled
from maskless.objectives.masked import Masked
from maskless.objectives.partition import Partition
from maskless.objectives.prime import FiniteSteps, JointCE, SubNelbo
from maskless.objectives.prime_partition import PrimePartition

OBJECTIVES = {
    "masked": Masked, "complementary": Complementary, "partition": Partition, "ordered_partition": OrderedPartition,
    "any_order": AnyOrder, "dial": Dial, "autoregressive": Autoregressive, "sub_nelbo": SubNelbo, "joint_ce": JointCE, "finite_steps": FiniteSteps,
    "prime_partition": PrimePartition,
}

FITS = {                                                            # the objectives of each kind of model; the first is its own
    "masked": ("masked", "complementary"),
    "maskgit": ("masked", "complementary"),
    "partition": ("partition",),
    "causal_partition": ("any_order", "dial", "ordered_partition", "partition"),
    "autoregressive": ("autoregressive",),
    "prime_partition": ("prime_partition", "sub_nelbo", "joint_ce", "finite_steps"),
    "prime": ("sub_nelbo", "joint_ce", "finite_steps", "masked", "complementary"),
    "prime_llama": ("sub_nelbo", "joint_ce", "finite_steps", "masked", "complementary"),
    "unet": ("sub_nelbo", "joint_ce", "finite_steps", "masked", "complementary"),
}


def own(kind: str, *, anchor: bool = True) -> Objective:
    """The objective that a kind of model is scored with; `anchor` as in `AnyOrder`, which reads it."""
    objective = OBJECTIVES[FITS[kind][0]]()
    return replace(objective, anchor=anchor) if isinstance(objective, AnyOrder) else objective


__all__ = [
    "FITS", "OBJECTIVES", "AnyOrder", "Autoregressive", "Complementary", "Dial", "Draws", "FiniteSteps", "JointCE", "Masked", "Objective",
    "OrderedPartition", "Partition", "PrimePartition", "SubNelbo", "Terms", "draws", "own", "unlabelled",
]
