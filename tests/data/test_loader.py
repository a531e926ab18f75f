"""The loader is a pure function of (seed, step, rank)."""
from __future__ import annotations

import pytest
import torch

from maskless.data.loader import Loader, permutation
from maskless.data.store import MemoryStore

STORE = MemoryStore(torch.arange(23 * 3).view(23, 3))


def loader(**changes):
    return Loader(STORE, **({"batch_size": 4, "seed": 0} | changes))


def test_every_epoch_is_a_new_order_of_every_row():
    orders = [permutation(1000, 7, epoch) for epoch in range(3)]
    assert all(torch.equal(order.sort().values, torch.arange(1000)) for order in orders)
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])
    assert not torch.equal(permutation(1000, 8, 0), orders[0])
    # no trend is left: about as many rises as falls, and rows end up far from where they were
    assert abs((orders[0].diff() > 0).float().mean() - 0.5) < 0.06
    assert 280 < (orders[0] - torch.arange(1000)).abs().float().mean() < 390


def test_an_epoch_has_each_row_at_most_once_and_drops_the_last():
    it = loader()
    assert it.steps_per_epoch == 5
    for epoch in range(3):
        seen = torch.cat([it.indices(epoch * 5 + step) for step in range(5)])
        assert len(seen.unique()) == 20


def test_any_step_can_be_asked_first():
    forward = [loader().batch(step).tokens for step in range(12)]
    it = loader()
    for step in (11, 0, 7, 7):
        assert torch.equal(it.batch(step).tokens, forward[step])
    assert not torch.equal(loader(seed=1).batch(0).tokens, forward[0])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_make_up_the_global_batch(world):
    for step in (0, 4, 5, 13):
        ranks = [loader(rank=rank, world=world) for rank in range(world)]
        assert torch.equal(torch.cat([it.batch(step).tokens for it in ranks]), loader().batch(step).tokens)
        assert torch.equal(torch.cat([it.rows(step) for it in ranks]), torch.arange(4))


def test_validation_sees_every_row_in_order():
    batches = list(loader(rank=1, world=2).epoch(5))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert torch.equal(torch.cat([batch.tokens for batch in batches]), STORE.read(torch.arange(23)).tokens)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="multiple of the 3"):
        loader(world=3)
    with pytest.raises(ValueError, match="23 sequences"):
        loader(batch_size=24)
    with pytest.raises(ValueError, match="rank 2"):
        loader(rank=2, world=2)
    with pytest.raises(ValueError, match="-1"):
        loader().batch(-1)
