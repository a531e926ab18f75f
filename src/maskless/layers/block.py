"""Transformer blocks: pre-norm, residual, with or without adaLN.

B rows, N positions, D model width, C width of the condition.
"""
from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskless.layers.attention import Attend, CrossAttention, SelfAttention, everywhere
from maskless.layers.mlp import MLP
from maskless.layers.modulation import AdaLN, Condition, Modulation, modulations
from maskless.layers.norm import LayerNorm
from maskless.layers.rotary import Rotation


class SelfBlock(nn.Module):
    """x += gate * drop(attention(modulate(norm1 x))); x += gate * drop(mlp(modulate(norm2 x)))."""

    def __init__(self, width: int, count: int, *, cond_dim: int, dropout: float, norm_bias: bool = False):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(width, norm_bias), LayerNorm(width, norm_bias)
        self.attention, self.mlp = SelfAttention(width, count), MLP(width)
        self.ada = AdaLN(cond_dim, width, branches=2) if cond_dim else None
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Float[Tensor, "B N D"], cond: Condition | None, rotate: Rotation,
                attend: Attend = everywhere) -> Float[Tensor, "B N D"]:
        first, second = modulations(self.ada, cond, 2)
        x = x + first.out_of(self.drop(self.attention(first.into(self.norm1(x)), rotate, attend)))
        return x + second.out_of(self.drop(self.mlp(second.into(self.norm2(x)))))

    def folded(self, cond: Float[Tensor, "1 C"]) -> dict[str, Tensor]:
        """The weights of the unconditional block that does the same under the constant `cond`."""
        assert self.ada is not None
        first, second = self.ada.modulations(cond)
        return {"attention.qkv.weight": self.attention.qkv.weight,
                **_fold_branch("norm1", self.norm1, "attention.out", self.attention.out, first),
                "mlp.up.weight": self.mlp.up.weight, "mlp.up.bias": self.mlp.up.bias,
                **_fold_branch("norm2", self.norm2, "mlp.down", self.mlp.down, second)}


class CrossBlock(nn.Module):
    """A decoder layer of the partition transformer: cross-attention to the encoder's output, no self-attention (PGM, section 4)."""

    def __init__(self, width: int, count: int, *, cond_dim: int, dropout: float, norm_bias: bool = False):
        super().__init__()
        self.norm_q, self.norm_kv, self.norm2 = LayerNorm(width, norm_bias), LayerNorm(width), LayerNorm(width, norm_bias)
        self.attention, self.mlp = CrossAttention(width, count), MLP(width)
        self.ada = AdaLN(cond_dim, width, branches=2) if cond_dim else None
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def keys_values(self, memory: Float[Tensor, "B M D"], rotate: Rotation) -> tuple[Tensor, Tensor]:
        return self.attention.keys_values(self.norm_kv(memory), rotate)

    def forward(self, x: Float[Tensor, "B N D"], cond: Condition | None, rotate: Rotation, keys_values: tuple[Tensor, Tensor],
                attend: Attend = everywhere) -> Float[Tensor, "B N D"]:
        first, second = modulations(self.ada, cond, 2)
        x = x + first.out_of(self.drop(self.attention(first.into(self.norm_q(x)), rotate, keys_values, attend)))
        return x + second.out_of(self.drop(self.mlp(second.into(self.norm2(x)))))

    def folded(self, cond: Float[Tensor, "1 C"]) -> dict[str, Tensor]:
        """The weights of the unconditional block that does the same under the constant `cond`."""
        assert self.ada is not None
        first, second = self.ada.modulations(cond)
        return {"attention.q.weight": self.attention.q.weight, "attention.kv.weight": self.attention.kv.weight,
                "norm_kv.weight": self.norm_kv.weight,
                **_fold_branch("norm_q", self.norm_q, "attention.out", self.attention.out, first),
                "mlp.up.weight": self.mlp.up.weight, "mlp.up.bias": self.mlp.up.bias,
                **_fold_branch("norm2", self.norm2, "mlp.down", self.mlp.down, second)}


class FinalNorm(nn.Module):
    """The modulated norm before the head. The head itself stays affine, so guidance on hidden states is guidance on logits."""

    def __init__(self, width: int, *, cond_dim: int, norm_bias: bool = False):
        super().__init__()
        self.norm = LayerNorm(width, norm_bias)
        self.ada = AdaLN(cond_dim, width, branches=1, gated=False) if cond_dim else None

    def forward(self, x: Float[Tensor, "B N D"], cond: Condition | None) -> Float[Tensor, "B N D"]:
        return modulations(self.ada, cond, 1)[0].into(self.norm(x))

    def folded(self, cond: Float[Tensor, "1 C"]) -> dict[str, Tensor]:
        assert self.ada is not None
        return _fold_norm("norm", self.norm, self.ada.modulations(cond)[0])


def _fold_norm(name: str, norm: LayerNorm, by: Modulation) -> dict[str, Tensor]:
    return {f"{name}.weight": norm.weight * (1 + by.scale.flatten()), f"{name}.bias": by.shift.flatten()}


def _fold_branch(norm_name: str, norm: LayerNorm, out_name: str, out: nn.Linear, by: Modulation) -> dict[str, Tensor]:
    assert by.gate is not None
    gate = by.gate.flatten()
    folded = {**_fold_norm(norm_name, norm, by), f"{out_name}.weight": out.weight * gate[:, None]}
    return folded if out.bias is None else {**folded, f"{out_name}.bias": out.bias * gate}
