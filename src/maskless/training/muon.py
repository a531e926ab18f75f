"""Muon: momentum made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; arXiv 2502.16982).

torch.optim.Muon is this in bfloat16 always, which a processor without bfloat16 multiplies many times more slowly than float32
(docs/performance.md).
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskless.layers.packed import fast_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)                            # of x, x^3, x^5: steep at zero


class Muon(torch.optim.Optimizer):
    """W <- (1 - lr decay) W - 0.2 lr sqrt(max(A, B)) orthogonal(momentum), the factor giving updates the size of AdamW's (arXiv 2502.16982,
    equation 4).

    Args:
        matrices: parameters of two axes.
        lr: the rate, shared with AdamW.
        weight_decay: decoupled from the gradient.
        momentum: of the running mean of gradients, looked ahead by one more step of it (Nesterov).
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, *, weight_decay: float = 0.1, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every matrix that has a gradient."""
        found = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    rate = 0.2 * group["lr"] * max(matrix.shape) ** 0.5
                    direction = orthogonal(self._ahead(matrix, group["momentum"]))
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)
        return found

    def _ahead(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """The running mean of gradients, moved on, and one step of it ahead."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        return matrix.grad.lerp(state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum), momentum)


def orthogonal(matrix: Float[Tensor, "A B"], steps: int = 5) -> Float[Tensor, "A B"]:
    """U V^T of U S V^T, nearly: five steps of Newton-Schulz bring all but the least singular values to 0.7 .. 1.2; in bfloat16 where it is fast."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if fast_bf16(matrix.device) else matrix.float()
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)                                # no singular value above 1
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
