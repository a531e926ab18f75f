from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from objective_fakes import Oracle, Tiny

from maskless.data.batch import Batch
from maskless.evaluation.likelihood import bound, times
from maskless.objectives import Autoregressive, Masked, Partition
from maskless.schedules import LogLinear


def rows(count: int) -> torch.Tensor:
    return torch.randint(7, (count, 8), generator=torch.Generator().manual_seed(1))


def cut(tokens: torch.Tensor, size: int) -> list[Batch]:
    return [Batch.of(part) for part in tokens.split(size)]


@pytest.mark.parametrize("objective", [Masked(), Partition(), Autoregressive()])
def test_the_batch_size_does_not_matter(objective):
    torch.manual_seed(0)
    model = Tiny().double()
    found = [bound(model, objective, cut(rows(30), size), seed=4, samples=3) for size in (1, 7, 30)]
    for other in found[1:]:
        assert other.nats == pytest.approx(found[0].nats, rel=1e-6)
        assert other.standard_error == pytest.approx(found[0].standard_error, rel=1e-5)
    assert found[0].rows == 30 and model.training


def test_units():
    found = bound(Tiny().double(), Masked(), cut(rows(10), 5))
    assert found.tokens == 80
    assert found.perplexity == pytest.approx(math.exp(found.nats / 80))
    assert found.bits_per(160) == pytest.approx(found.bits_per_token / 2)
    assert bound(Tiny(), Masked(LogLinear(1e-3)), cut(rows(2), 2)).perplexity is None


def test_times_cover_the_interval_evenly_wherever_the_rows_are():
    t = times(0, torch.arange(10**6, 10**6 + 1000), 0, 1, (0.0, 1.0)).sort().values
    assert t.diff().max() < 4 / 1000 and len(t.unique()) == 1000


def test_times_cover_the_interval_evenly():
    t = torch.cat([times(0, torch.arange(100), k, 4, (0.0, 1.0)) for k in range(4)]).sort().values
    assert (t - (torch.arange(400) + 0.5) / 400).abs().max() < 0.01
    assert t.diff().max() < 0.01


def test_the_error_covers_the_exact_value():
    table = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 3
    table /= table.sum()
    model = Oracle(table)
    generator = torch.Generator().manual_seed(0)
    tokens = model.states[torch.multinomial(table.flatten(), 400, replacement=True, generator=generator)]
    exact = float(torch.special.entr(table).sum()) / 3
    for objective in (Masked(), Partition()):
        found = bound(model, objective, cut(tokens, 100), seed=1)
        assert abs(found.nats_per_token - exact) < 3.5 * found.standard_error
        assert found.standard_error < 0.06


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="no rows"):
        bound(Tiny(), Masked(), [])
    with pytest.raises(ValueError, match="0 target tokens"):
        bound(Tiny(), Masked(), [dataclasses.replace(Batch.of(rows(1)), given=torch.ones(1, 8).bool())])
