"""Everything a run changes, in one object you can see; and how it goes to disk and comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskless.checkpoints.native import (
    DamagedError,
    check_sum,
    check_sums,
    check_weights,
    read_tensors,
    write_model,
    write_tensors,
)
from maskless.training import ema
from maskless.training.distributed import Machine, like, whole
from maskless.training.optim import moments, restore_moments


@dataclass
class TrainState:
    """What training changes.

    Attributes:
        model: the model that is trained (its weights may be sharded; see `Machine.evaluate`).
        called: the same, wrapped for the machine: the only thing gradients are taken through; None after the run.
        optimizer: AdamW.
        average: the moving average of the weights as a second model, or None.
        step: updates made.
        shapes: of the full weights, on the meta device.
    """

    model: Any
    called: Any
    optimizer: Any
    average: nn.Module | None
    step: int = 0
    shapes: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def best(self) -> Any:
        """The model to evaluate: the averaged one if there is one."""
        return self.model if self.average is None else self.average

    def release(self) -> None:
        """Let go of what ties the model to the other processes: DDP's reducer keeps their threads alive."""
        self.called = None


def new_state(
    model: Any, machine: Machine, optimizer: Callable[[nn.Module], torch.optim.Optimizer], *, average: bool
) -> TrainState:
    """Step 0: the model as initialised, its average equal to it, an optimiser that has seen nothing."""
    shapes = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in model.state_dict().items()}
    copy = ema.averaged(model) if average else None
    called, wrapped = machine.setup(model, optimizer)
    if copy is not None:
        machine.place(copy)
    return TrainState(model, called, wrapped, copy, shapes=shapes)


def collected(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The full weights on the CPU, in the process that keeps them; the others only take part in gathering shards."""
    weights = {}
    for name, tensor in model.state_dict().items():
        full = whole(tensor)
        if keep:
            weights[name] = full.detach().cpu()
    return weights


def save_state(
    folder: Path, state: TrainState, *, main: bool, notes: Mapping[str, Any], describe: Mapping[str, Any]
) -> None:
    """Write a checkpoint's files into a folder. Every process calls this; only the main one writes.

    Args:
        folder: exists and is empty (main process).
        state: what to write.
        main: whether this process writes.
        notes: goes to trainer/state.json, beside the step: what the numbers depend on.
        describe: keyword arguments of `write_model`: vocabulary or tokenizer, extra.
    """
    weights = collected(state.model, keep=main)
    average = None if state.average is None else collected(state.average, keep=main)
    optimizer = {name: whole(tensor) for name, tensor in moments(state.model, state.optimizer).items()}
    if not main:
        return
    write_model(folder, state.model.config, weights, average=average, **describe)
    (folder / "trainer").mkdir()
    moved = folder / "trainer" / "optimizer.safetensors"
    write_tensors(moved, optimizer)
    text = json.dumps({"step": state.step, "crc32": {moved.name: check_sum(moved)}, **notes}, indent=2)
    (folder / "trainer" / "state.json").write_text(text + "\n", encoding="utf-8")


def read_notes(folder: Path) -> dict[str, Any]:
    """trainer/state.json of a checkpoint. Raises ValueError if it cannot be resumed from, DamagedError if another one may."""
    try:
        notes = json.loads((folder / "trainer" / "state.json").read_text(encoding="utf-8"))
        return {**notes, "step": int(notes["step"])}
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no trainer/state.json: it can be sampled from, not resumed; give a run folder"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DamagedError(f"{folder}/trainer/state.json is damaged; use another checkpoint") from None


def load_state(folder: Path, state: TrainState) -> None:
    """Put a checkpoint back, bit for bit. Raises ValueError if its tensors are not the model's, DamagedError if its files are not as written."""
    notes, sums = read_notes(folder), check_sums(folder)
    sums = {**sums, **notes.get("crc32", {})}

    def tensors(file: Path) -> dict[str, Tensor]:
        return read_tensors(file, sums.get(file.name))

    file = folder / "model.safetensors"
    _restore(state.model, tensors(file), state.shapes, str(file))
    if state.average is not None:
        file = folder / "ema.safetensors"
        if not file.exists():
            raise ValueError(f"training.ema is set but {folder} has no ema.safetensors; resume with training.ema=0")
        _restore(state.average, tensors(file), state.shapes, str(file))
    restore_moments(state.model, state.optimizer, tensors(folder / "trainer" / "optimizer.safetensors"))
    state.step = notes["step"]


@torch.no_grad()
def _restore(model: nn.Module, weights: Mapping[str, Tensor], shapes: Mapping[str, Tensor], where: str) -> None:
    check_weights(weights, shapes, where)
    for name, own in model.state_dict().items():
        own.copy_(like(weights[name], own))
