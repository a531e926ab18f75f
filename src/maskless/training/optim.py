"""AdamW, Muon, and their rate: linear warm-up, then constant, cosine, or a cosine over the last tenth (spec section 8; of image models: 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskless.training.distributed import is_shard, like
from maskless.training.muon import Muon

if TYPE_CHECKING:
    from maskless.training.recipe import Training


def learning_rate(training: Training, step: int) -> float:
    """The rate of update number `step` (from 0): (step+1)/warmup of `lr` at first, then all of it or half a cosine
    down to `lr_floor`.

    `cosine_tail` is constant until the last tenth of all steps; its half cosine ends at 0 and is cut off at `lr_floor`.
    The released image code has the same rates one update later: its first has rate 0 and teaches nothing.
    """
    if step < training.warmup:
        return training.lr * (step + 1) / training.warmup
    if training.schedule == "constant":
        return training.lr
    if training.schedule == "cosine_tail":
        tail = max(0.0, (step + 1 - 0.9 * training.steps) / (0.1 * training.steps))
        return max(training.lr * 0.5 * (1 + math.cos(math.pi * tail)), training.lr_floor)
    done = (step - training.warmup) / max(1, training.steps - training.warmup)
    return training.lr_floor + (training.lr - training.lr_floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """What `training.optimizer` names, over the parameters of a model that are trained."""
    return MuonAdamW(model, training) if training.optimizer == "muon" else adamw(trained(model), training)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn, in registration order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adamw(parameters: Sequence[nn.Parameter], training: Training) -> torch.optim.AdamW:
    """AdamW. Decay falls on all parameters alike (`decay: all`, as published), or on those of two or more axes: weights of
    products and embeddings, no norms and no biases (`decay: matrices`)."""
    fused = all(parameter.device.type in ("cpu", "cuda") and not is_shard(parameter) for parameter in parameters)
    groups = [{"params": list(parameters)}]
    if training.decay == "matrices":
        spared = [parameter for parameter in parameters if parameter.ndim < 2]
        groups = [{"params": [parameter for parameter in parameters if parameter.ndim >= 2]}]
        groups += [{"params": spared, "weight_decay": 0.0}] if spared else []
    return torch.optim.AdamW(
        groups,
        lr=training.lr,
        betas=training.betas,
        eps=training.eps,
        weight_decay=training.weight_decay,
        fused=fused,
    )


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the matrices of linear maps, AdamW on the rest: embeddings, head, norms, biases; one rate serves both.

    Raises:
        ValueError: for a model without linear maps besides its head, or one whose weights are sharded.
    """

    def __init__(self, model: nn.Module, training: Training):
        head = getattr(model, "head", None)
        maps = {module.weight for module in model.modules() if isinstance(module, nn.Linear) and module is not head}
        tied = {embedding.weight for embedding in model.modules() if isinstance(embedding, nn.Embedding)}
        matrices, rest = [], []
        for parameter in trained(model):
            (matrices if parameter in maps and parameter not in tied else rest).append(parameter)
        if not matrices:
            raise ValueError("training.optimizer is muon and the model has no linear maps; use adamw")
        if any(is_shard(parameter) for parameter in matrices):
            raise ValueError("training.optimizer is muon, which needs whole matrices, and strategy fsdp shards them; use ddp or adamw")
        self.muon = Muon(matrices, training.lr, weight_decay=training.weight_decay)
        self.adamw = adamw(rest, training)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self.muon.state = self.adamw.state = self.state

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        found = None if closure is None else closure()
        self.muon.step()
        self.adamw.step()
        return found


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by parameter name: `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`; Muon's `momentum_buffer/NAME`."""
    return {
        f"{kind}/{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


ADAMW, MUON = {"exp_avg", "exp_avg_sq", "step"}, {"momentum_buffer"}


def restore_moments(model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Put `moments` back. Raises ValueError if they belong to another model or another optimiser."""
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        own = {kind: saved[f"{kind}/{name}"] for kind in ADAMW | MUON if f"{kind}/{name}" in saved}
        if not own:
            continue  # a parameter that never had a gradient
        group = groups.get(parameter, {})
        if set(own) != (ADAMW if "betas" in group else MUON) or any(
            value.shape != parameter.shape for kind, value in own.items() if kind != "step"
        ):
            raise ValueError(
                f"the optimiser state of {name} is not that of a parameter of shape {tuple(parameter.shape)}; "
                "resume with the recipe the run was started with"
            )
        # the counter is a plain tensor also where the moments are sharded, and on the CPU unless AdamW is fused
        counter = {"step": own.pop("step").to(parameter.device if group["fused"] else "cpu")} if "step" in own else {}
        optimizer.state[parameter] = {**counter, **{kind: like(value, parameter) for kind, value in own.items()}}
