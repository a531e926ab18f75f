"""Micro-batches of one shape: how rows were cut is not seen in any bit."""
from __future__ import annotations

import dataclasses

import pytest
import torch

from maskless.data.batch import Batch
from maskless.evaluation.likelihood import any_order_bound, bound
from maskless.evaluation.micro import micro_batches, micro_rows
from maskless.objectives import own
from tests.tiny import CONFIGS, L, V, tiny

ROWS = torch.randint(V - 1, (11, L), generator=torch.Generator().manual_seed(1))
KINDS = {"masked": "masked", "partition": "partition", "autoregressive": "autoregressive"}


def cut(size: int, rows: torch.Tensor = ROWS) -> list[Batch]:
    return [Batch.of(part) for part in rows.split(size)]


def ragged(size: int) -> list[Batch]:
    valid = torch.arange(L) < (torch.arange(11) % 5 + 6)[:, None]
    whole = Batch(ROWS, valid, torch.zeros_like(valid), torch.arange(11) % 3)
    return [Batch(*(getattr(whole, name)[rows] for name in ("tokens", "valid", "given", "labels"))) for rows in torch.arange(11).split(size)]


@pytest.mark.parametrize("size", (1, 3, 4, 5, 11, 20))
def test_the_same_rows_at_the_same_places(size):
    found = list(micro_batches(ragged(size), 4))
    assert [real for _, real in found] == [4, 4, 3] and {len(batch) for batch, _ in found} == {4}
    for name in ("tokens", "valid", "given", "labels"):
        column = torch.cat([getattr(batch, name)[:real] for batch, real in found])
        assert torch.equal(column, torch.cat([getattr(batch, name) for batch in ragged(11)]))
    assert torch.equal(found[-1][0].tokens[3], ROWS[10])            # a padding row is a copy of the last


@pytest.mark.parametrize("name", KINDS)
def test_not_a_bit_depends_on_the_batch_size(name):
    model = tiny(name, torch.float32)
    found = [bound(model, own(KINDS[name]), cut(size), seed=3, samples=2, micro=4) for size in (1, 2, 3, 5, 11)]
    assert all(dataclasses.asdict(each) == dataclasses.asdict(found[0]) for each in found)
    plain = bound(model, own(KINDS[name]), cut(11), seed=3, samples=2)
    assert found[0].nats == pytest.approx(plain.nats, rel=1e-5) and found[0].tokens == plain.tokens and found[0].rows == 11


def test_nor_do_those_of_orders():
    model = tiny("causal, token", torch.float32)
    found = [any_order_bound(model, cut(size), orders=3, micro=4) for size in (1, 3, 11)]
    assert found[0] == found[1] == found[2]


def test_a_row_is_the_same_beside_others_and_beside_padding():
    model = tiny("partition", torch.float32)
    nats = [bound(model, own("partition"), cut(11, ROWS[:count]), micro=4).nats for count in range(1, 7)]
    alone = [bound(model, own("partition"), cut(1, ROWS[:count]), micro=4).nats for count in range(1, 7)]
    assert nats == alone
    assert torch.tensor(nats).diff().min() > 0                      # each row adds what it adds, and nothing is counted twice


def test_the_usual_shape():
    assert [micro_rows(length) for length in (8, 256, 1024, 8192, 100_000)] == [32, 32, 8, 1, 1]


def test_every_tiny_kind_is_scored():
    assert {config.__class__ for name, config in CONFIGS.items() if name in KINDS}
