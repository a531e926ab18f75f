"""The checker of annotations that all other tests run under."""
from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskless.decoding import Canvas, Sites
from tests.shapes import jaxtyped


def test_the_package_is_checked():
    with pytest.raises(TypeError, match="index"):
        Sites(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(TypeError, match="known"):
        Canvas(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool))


def test_sizes_of_one_name_agree_within_a_call_and_in_what_it_returns():
    @jaxtyped
    def cut(x: Float[Tensor, "n m"], y: Float[Tensor, " m"], keep: int = 3) -> Float[Tensor, "n m"]:
        return x[:, :keep]

    assert cut(torch.ones(2, 3), torch.ones(3)).shape == (2, 3)
    assert cut(torch.ones(4, 2), torch.ones(2)).shape == (4, 2)     # the sizes of the call before are forgotten
    with pytest.raises(TypeError, match="y"):
        cut(torch.ones(2, 3), torch.ones(2))
    with pytest.raises(TypeError, match="return"):
        cut(torch.ones(2, 3), torch.ones(3), keep=2)


def test_a_call_within_a_call_has_sizes_of_its_own():
    @jaxtyped
    def inner(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return x

    @jaxtyped
    def outer(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        inner(torch.ones(7))
        return x

    assert outer(torch.ones(2)).shape == (2,)


def test_dataclasses_methods_and_whole_numbers():
    @jaxtyped
    @dataclass
    class Pair:
        x: Int[Tensor, " n"]
        y: Int[Tensor, " n"]
        scale: float = 1

        @property
        @jaxtyped
        def total(self) -> Float[Tensor, " n"]:
            return self.x * self.scale + self.y

    with pytest.raises(TypeError, match="y"):
        Pair(torch.arange(2), torch.arange(3))
    with pytest.raises(TypeError, match="scale"):
        Pair(torch.arange(2), torch.arange(2), "one")               # type: ignore[arg-type]
    assert Pair(torch.arange(2), torch.arange(2), 0.5).total.shape == (2,)
    with pytest.raises(TypeError, match="return"):
        _ = Pair(torch.arange(2), torch.arange(2), 2).total          # whole numbers, where floats are promised
