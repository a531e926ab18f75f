"""AdamW and its learning rate: linear warm-up, then constant, cosine, or a cosine over the last tenth (spec section 8; of image models: 2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskless.training.distributed import is_shard, like

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


def adamw(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW over all parameters in registration order. Decay falls on all of them alike (`decay: all`, as published), or
    on those of two or more axes: weights of products and embeddings, no norms and no biases (`decay: matrices`)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = all(parameter.device.type in ("cpu", "cuda") and not is_shard(parameter) for parameter in parameters)
    groups = [{"params": parameters}]
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


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by parameter name: `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`."""
    return {
        f"{kind}/{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def restore_moments(model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Put `moments` back. Raises ValueError if they belong to another model."""
    for name, parameter in model.named_parameters():
        own = {kind: saved[f"{kind}/{name}"] for kind in ("exp_avg", "exp_avg_sq", "step") if f"{kind}/{name}" in saved}
        if not own:
            continue  # a parameter that never had a gradient
        if set(own) != {"exp_avg", "exp_avg_sq", "step"} or own["exp_avg"].shape != parameter.shape:
            raise ValueError(
                f"the optimiser state of {name} is not that of a parameter of shape {tuple(parameter.shape)}; "
                "resume with the recipe the run was started with"
            )
        # the counter is a plain tensor also where the moments are sharded, and on the CPU unless AdamW is fused
        counter = own.pop("step").to(parameter.device if optimizer.param_groups[0]["fused"] else "cpu")
        optimizer.state[parameter] = {"step": counter, **{kind: like(value, parameter) for kind, value in own.items()}}
