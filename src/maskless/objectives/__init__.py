"""One loss per file; `OBJECTIVES` names them for recipes."""
from __future__ import annotations

from maskless.objectives.autoregressive import Autoregressive
from maskless.objectives.base import Draws, Objective, Terms
from maskless.objectives.complementary import Complementary
from maskless.objectives.draws import draws
from maskless.objectives.masked import Masked
from maskless.objectives.partition import Partition

OBJECTIVES = {
    "masked": Masked, "complementary": Complementary, "partition": Partition, "autoregressive": Autoregressive,
}

__all__ = [
    "OBJECTIVES", "Autoregressive", "Complementary", "Draws", "Masked", "Objective", "Partition", "Terms", "draws",
]
