"""The training loop. It draws nothing in sequence, waits for no device, and decides nothing but the order of things.

B rows of this process at one step, b rows of a micro-batch, L sites
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskless.objectives import draws, unlabelled
from maskless.training import ema
from maskless.training.distributed import Machine
from maskless.training.optim import learning_rate, set_rate
from maskless.training.state import TrainState

if TYPE_CHECKING:
    from maskless.data.batch import Batch
    from maskless.data.loader import Loader
    from maskless.objectives import Objective
    from maskless.training.recipe import Training


@dataclass(frozen=True)
class Update:
    """One optimiser step, as hooks see it. The tensors stay on the device: reading one waits for it.

    Attributes:
        step: updates made, this one included.
        loss: () the objective per target token of the global batch, in nats.
        norm: () of the gradient before clipping.
        tokens: () target tokens of the global batch.
        rate: learning rate.
    """

    step: int
    loss: Tensor
    norm: Tensor
    tokens: Tensor
    rate: float


Hook = Callable[[TrainState, Update], None]


def fit(
    state: TrainState,
    machine: Machine,
    training: Training,
    objective: Objective,
    *,
    loader: Loader,
    hooks: Sequence[Hook],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train from `state.step` to `training.steps`.

    Args:
        state: changed in place.
        machine: device, precision and processes.
        training: numbers: batch size, accumulation, rates, clipping, averaging, seed.
        objective: the loss.
        loader: gives the rows of this process at any step.
        hooks: called in this order after every update.
        stop: asked after every update; True ends the loop (Ctrl-C).
    """
    state.model.train()
    while state.step < training.steps:
        update = advance(state, machine, training, objective, loader=loader)
        for hook in hooks:
            hook(state, update)
        if stop():
            return


def forgetful(batch: Batch, dropped: Tensor, null_label: int) -> Batch:
    """The batch with the label "no class" on the `dropped` rows."""
    assert batch.labels is not None
    return batch.labelled(batch.labels.masked_fill(dropped, null_label))


def advance(state: TrainState, machine: Machine, training: Training, objective: Objective, *, loader: Loader) -> Update:
    """One update of the weights and their average, on one global batch.

    The loss is divided by the number of target tokens of the GLOBAL batch, so that how it is cut over processes and
    micro-batches changes nothing but the order of sums.
    """
    step, pieces = state.step, training.accumulate
    batch = loader.batch(step).to(machine.device)  # (B, L)
    rows = loader.rows(step).to(machine.device, non_blocking=True)  # (B,) places in the global batch
    tokens = machine.total(objective.count(batch).sum())
    rate = learning_rate(training, step)
    loss = torch.zeros((), device=machine.device)
    for micro, (part, places) in enumerate(zip(batch.split(pieces), rows.chunk(pieces), strict=True)):
        machine.seed_dropout(training.seed, step, micro)
        low, high = objective.times
        noise = draws(training.seed, step, places, training.batch_size, part.tokens.shape[1], low=low, high=high)
        if part.labels is not None:
            part = forgetful(part, unlabelled(training.seed, step, places, training.labels_dropped), state.model.null_label)
        piece = state.called(
            lambda model, part=part, noise=noise: objective(model, part, noise).loss
        ) / tokens.clamp_min(1)
        machine.backward(piece, state.called, synchronise=micro == pieces - 1)
        loss += piece.detach()
    norm = machine.clip(state.called, state.optimizer, training.clip or torch.inf)
    set_rate(state.optimizer, rate)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step = step + 1
    if state.average is not None:
        ema.update(state.average, state.model, ema.effective_decay(training.ema, state.step))
    return Update(state.step, machine.total(loss), norm, tokens, rate)
