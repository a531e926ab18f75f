"""Linear maps for sampling on a CPU in bfloat16: the weight laid out once for the processor's matrix kernels, GELU inside the product.

torch lays a bfloat16 weight out afresh at every product, which is most of the time of a product with few rows, and its GELU (tanh form) takes as
long as the product before it. These are the operators that torch.compile puts in place of a linear map on a CPU (oneDNN's).

N rows, I and O width of input and output.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskless.layers.mlp import MLP

LinearMap = Callable[[Tensor], Tensor]


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def packing_pays(weight: Tensor) -> bool:
    """Whether this is a bfloat16 weight on a CPU that multiplies bfloat16."""
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and fast_bf16(weight.device)


def linear_map(weight: Float[Tensor, "O I"], like: nn.Module) -> LinearMap:
    """x -> x W^T, packed where the module `like` is."""
    return _packed(weight, None) if isinstance(like, Packed) else partial(F.linear, weight=weight)


def _packed(weight: Tensor, bias: Tensor | None, activation: str = "none", form: str = "") -> LinearMap:
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, activation, [], form)


class Packed(nn.Linear):
    """A linear map that shares the weights of another one, beside their packed form; for inference only."""

    def __init__(self, linear: nn.Linear, activation: str = "none", form: str = ""):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.weight, self.bias = linear.in_features, linear.out_features, linear.weight, linear.bias
        self.map = _packed(linear.weight, None if linear.bias is None else linear.bias.detach(), activation, form)

    def forward(self, input: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        return self.map(input)


def pack(module: nn.Module) -> None:
    """Put packed maps in place of every `nn.Linear` and `MLP` inside `module`; its weights are then in memory twice."""
    for name, child in module.named_children():
        if isinstance(child, MLP):
            setattr(module, name, nn.Sequential(Packed(child.up, "gelu", "tanh"), Packed(child.down)))
        elif type(child) is nn.Linear:
            setattr(module, name, Packed(child))
        else:
            pack(child)
