"""An objective, with the attention among groups computed in a chosen way. What is computed stays the same: see `layers.groups`."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Int
from torch import Tensor, nn

from maskless.layers.groups import Grouping
from maskless.objectives.base import Draws, Objective, Terms
from maskless.subtokens import SubTokenCode

if TYPE_CHECKING:
    from maskless.data.batch import Batch


@dataclass(frozen=True)
class GroupedModel:
    """All that an objective sees of a partition model. `grouping` is in use wherever the model attends among groups."""

    model: Any
    grouping: Grouping

    @property
    def head(self) -> nn.Linear:
        return self.model.head

    @property
    def allowed(self) -> Bool[Tensor, " V"] | None:
        return self.model.allowed

    @property
    def code(self) -> SubTokenCode:
        return self.model.code

    @property
    def per_site(self) -> int:
        return self.model.per_site

    @property
    def registers(self) -> Any:
        return self.model.registers

    def hidden(self, *args: Any, **named: Any) -> Tensor:
        return self.model.hidden(*args, **named, grouping=self.grouping)

    def hidden_of_groups(self, *args: Any, **named: Any) -> Tensor:
        return self.model.hidden_of_groups(*args, **named, grouping=self.grouping)

    def hidden_of_digits(self, *args: Any, **named: Any) -> Tensor:
        return self.model.hidden_of_digits(*args, **named, grouping=self.grouping)

    def hidden_of_digit_groups(self, *args: Any, **named: Any) -> Tensor:
        return self.model.hidden_of_digit_groups(*args, **named, grouping=self.grouping)

    def hidden_in_order(self, *args: Any, **named: Any) -> Tensor:
        return self.model.hidden_in_order(*args, **named)


@dataclass(frozen=True)
class Grouped:
    """`objective` of partition models that attend among their groups by `grouping`."""

    objective: Objective
    grouping: Grouping

    @property
    def times(self) -> tuple[float, float]:
        return self.objective.times

    @property
    def bound_times(self) -> tuple[float, float]:
        return self.objective.bound_times

    @property
    def valid(self) -> bool:
        return self.objective.valid

    def count(self, batch: Batch) -> Int[Tensor, " B"]:
        return self.objective.count(batch)

    def reported(self, length: int) -> Mapping[str, Objective]:
        return {name: Grouped(objective, self.grouping) for name, objective in self.objective.reported(length).items()}

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        return self.objective(GroupedModel(model, self.grouping), batch, draws)
