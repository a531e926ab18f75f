"""Devices, precision and processes: the one file that says Fabric.

A run is one process, or several started by torchrun (`torchrun --nproc-per-node 2 --no-python maskless train`). Every
process holds the whole model (`ddp`), or a shard of it (`fsdp`, torch's fully_shard over the transformer blocks).
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from maskless.layers.packed import fast_bf16
from maskless.noise import hashed

DROPOUT = 0x44524F50  # the purpose word of the dropout seeds


class Called(nn.Module):
    """Makes a computation with a model its one `forward`, so that DDP and FSDP see every use of the weights:
    `called(compute)` is
    `compute(model)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[nn.Module], Any]) -> Any:
        return compute(self.model)


@dataclass(frozen=True)
class Machine:
    """What one process of a run computes on.

    Attributes:
        fabric: Lightning Fabric, launched.
        precision: "fp32" or "bf16" (matrix products in bfloat16; weights, residuals and losses stay float32).
        sharded: weights are sharded over the processes.
    """

    fabric: Fabric
    precision: str
    sharded: bool

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def rank(self) -> int:
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        return self.fabric.world_size

    @property
    def main(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def setup(self, model: nn.Module, optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> tuple[Any, Any]:
        """The model, wrapped for this machine, and its optimiser (made after sharding, so that it holds the shards)."""
        called = self.fabric.setup_module(Called(model))
        return called, self.fabric.setup_optimizers(optimizer(model))

    def place(self, model: nn.Module) -> None:
        """Put a model that is never trained on the device, sharded as the trained one is."""
        model.to(self.device)
        if self.sharded:
            shard(model, self.fabric.strategy.device_mesh)  # type: ignore[attr-defined]

    def evaluate(self, model: nn.Module, compute: Callable[[Any], Any]) -> Any:
        """compute(model) without gradients, in evaluation mode, in this machine's precision. A sharded model is made
        whole first, since
        samplers use weights outside of any forward."""
        before = model.training
        with torch.no_grad(), self.fabric.autocast():
            try:
                return compute(unsharded(model) if self.sharded else model.eval())
            finally:
                model.train(before)

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on the device."""
        return value if self.world == 1 else self.fabric.all_reduce(value.clone(), reduce_op="sum")  # type: ignore[return-value]

    def any(self, flag: bool) -> bool:
        """True if the flag is up in any process. Waits for the device if there are several."""
        return flag if self.world == 1 else bool(self.total(torch.tensor(int(flag), device=self.device)).item())

    def backward(self, loss: Tensor, called: Any, *, synchronise: bool) -> None:
        """Accumulate gradients. DDP and FSDP average over processes, a global sum is wanted: hence the factor."""
        with self.fabric.no_backward_sync(called, enabled=not synchronise and self.world > 1):
            self.fabric.backward(loss * self.world, model=called)

    def clip(self, called: Any, optimizer: Any, norm: float) -> Tensor:
        """Scale the gradients to a norm of at most `norm` (inf: leave them); returns the norm they had."""
        found = self.fabric.clip_gradients(called, optimizer, max_norm=norm, error_if_nonfinite=False)
        assert found is not None
        return whole(found)

    def seed_dropout(self, seed: int, step: int, micro: int) -> None:
        """Dropout's generator is seeded anew for every (seed, step, rank, micro-batch): nothing sequential has to be
        saved."""
        torch.manual_seed(int(hashed(DROPOUT, seed, step, self.rank, micro)) & (2**63 - 1))

    def barrier(self) -> None:
        self.fabric.barrier()


def start(device: str, precision: str, strategy: Literal["ddp", "fsdp"]) -> Machine:
    """Join the processes of this run and choose device and precision.

    Args:
        device: auto (CUDA, else MPS, else CPU), cpu, cuda or mps.
        precision: auto (bf16 on a CUDA device that has it natively, else fp32), fp32 or bf16.
        strategy: how several processes share the work.

    Raises:
        ValueError: if the device is not there.
    """
    device = choose_device(device)
    precision = choose_precision(precision, device)
    several = torch.distributed.is_torchelastic_launched()
    world, local = (int(os.environ[name]) if several else 1 for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    sharded = strategy == "fsdp" and world > 1
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # no banners
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        strategy=_strategy(world, sharded),
    )
    alone = not torch.distributed.is_initialized()
    fabric.launch()
    if world > 1 and alone:  # groups that the caller joined are the caller's to leave
        atexit.register(leave)
    return Machine(fabric, precision, sharded)


def leave() -> None:
    """Leave the processes of this run, while the interpreter is still whole.

    Left alone, gloo's threads run on while the interpreter is taken down around them, and a process whose work is done
    may die with "terminate called without an active exception". It happens once, at exit, and not after every run: a
    second `train` in the same processes uses the group it finds, and could not join again, since torchrun's store
    still holds the addresses of the first time.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


PATIENCE = timedelta(days=7)                                        # processes wait while the first prepares data, which may take hours


def _strategy(world: int, sharded: bool) -> Any:
    if world == 1:
        return "auto"
    if not sharded:
        return DDPStrategy(gradient_as_bucket_view=True, timeout=PATIENCE)
    return ModelParallelStrategy(
        lambda module, mesh: shard(module, mesh), data_parallel_size=world, tensor_parallel_size=1, timeout=PATIENCE
    )


def shard(model: nn.Module, mesh: Any) -> nn.Module:
    """Fully shard every transformer block (the entries of the model's module lists), then what is left."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = mesh["data_parallel"]
    blocks: list[Any] = [block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module
                         if not isinstance(block, nn.ModuleList)]
    for block in blocks:
        fully_shard(block, mesh=mesh)
        if hasattr(block, "keys_values"):  # a cross-attention block is entered twice
            block.keys_values = _without_views(block.keys_values)
            register_fsdp_forward_method(block, "keys_values")
    fully_shard(model, mesh=mesh)
    return model


def _without_views(method: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """A method whose tensors are their own: FSDP hangs hooks on them, and a view that is changed in place loses its hook."""
    return lambda *inputs: tuple(tensor.clone() if tensor._is_view() else tensor for tensor in method(*inputs))


def choose_device(device: str) -> str:
    """`auto` in words torch knows. Raises ValueError if the device asked for is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(device, False):
        have = ", ".join(name for name, present in there.items() if present)
        raise ValueError(f"training.device is {device}, which this machine does not have; use auto or one of {have}")
    return device


def choose_precision(precision: str, device: str) -> str:
    """`auto` is bf16 where the device multiplies it in hardware, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if fast_bf16(torch.device(device)) else "fp32"


# ----------------------------------------------------------------------------------------------- tensors in shards


def is_shard(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a shard (every process must ask); any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def unsharded(model: Any) -> Any:
    """A whole copy of a sharded model, in evaluation mode (every process must ask)."""
    with torch.device("meta"):
        copy = type(model)(model.config)
    copy = copy.to_empty(device=next(model.parameters()).device).eval()
    for part in (lambda network: network.parameters(), lambda network: network.buffers()):
        for own, shards in zip(part(copy), part(model), strict=True):
            own.copy_(whole(shards))
    return copy


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A full tensor, placed as `reference` is."""
    tensor = tensor.to(reference.device)
    return (
        distribute_tensor(tensor, reference.device_mesh, reference.placements)
        if isinstance(reference, DTensor)
        else tensor
    )


# ------------------------------------------------------------------------------------------------------- numerics

ATTENTION = ("flash", "mem_efficient", "math", "cudnn")


def attention_kernels() -> list[str]:
    """Which implementations scaled_dot_product_attention may choose from."""
    return [name for name in ATTENTION if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()]


@contextmanager
def numerics(*, threads: int | None, attention: list[str] | None, deterministic: bool):
    """What decides the last bits: thread count, attention kernels, deterministic algorithms. Put back afterwards.

    What has no deterministic form warns: cumulative sums on CUDA, which draws are made with.
    """
    strict = torch.are_deterministic_algorithms_enabled()
    before = torch.get_num_threads(), attention_kernels(), strict, torch.is_deterministic_algorithms_warn_only_enabled()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _set_numerics(threads or before[0], attention or before[1], deterministic or strict, before[3] if strict else deterministic)
    try:
        cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        _set_numerics(*before)


def _set_numerics(threads: int, attention: list[str], deterministic: bool, warn_only: bool) -> None:
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    for name in ATTENTION:
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(name in attention)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
