"""What is reported is of the law that is sampled: registers give either group a law of its own, and scores of digits are those of their bound."""
from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

import maskless
from maskless.data.batch import Batch
from maskless.evaluation.conditional import log_probs
from maskless.objectives import Partition, PrimePartition, draws

SIZES = {"length": 3, "width": 12, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "registers": 2}
MODELS = {
    "partition": (maskless.PartitionConfig(6, **SIZES), Partition()),
    "digits": (maskless.PrimePartitionConfig(6, digits=2, **SIZES), PrimePartition()),
}


def randomised(config, seed: int = 3):
    torch.manual_seed(seed)
    network = maskless.build(config).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5)
        network.head.weight.mul_(0.02)                           # laws that leave every token some probability
    return network


@pytest.mark.parametrize("name", MODELS)
def test_with_registers_the_bound_is_of_the_group_that_is_sampled(name):
    config, objective = MODELS[name]
    model, row, n = randomised(config), torch.tensor([[3, 2, 5]]), 20_000
    drawn = draws(3, 0, torch.arange(n), n, 3, low=0.0, high=1.0)
    drawn = replace(drawn, t=drawn.t.clamp(2.0**-24, 1 - 2.0**-24).double(), u=drawn.u.double())
    with torch.no_grad():
        found = objective(model, Batch.of(row.expand(n, -1)), drawn)
        model.registers.weight.copy_(model.registers.weight.flip(0))                            # as group 1 has them, but for their places
        other = log_probs(model, Batch.of(row), samples=4096)[0]
        model.registers.weight.copy_(model.registers.weight.flip(0))
    sampled = log_probs(model, Batch.of(row), samples=4096)[0]
    error = math.hypot(float(found.bound.std()) / math.sqrt(n), sampled.standard_error)
    assert abs(float(found.bound.mean()) + sampled.nats) < 4 * error
    assert abs(other.nats - sampled.nats) > 6 * error               # so that the mean of both would be seen


def law(model, known: dict[int, int], site: int) -> list[float]:
    """p(v) at a site whose digits and those of others are `known` by slot, filtered by the site's own."""
    code, slots = model.code, model.code.length * 2
    digits = torch.tensor([[known.get(slot, 0) for slot in range(slots)]])
    seen = torch.tensor([[slot in known for slot in range(slots)]])
    with torch.no_grad():
        logits = model.head(model.hidden_of_digits(digits, seen))[0, site]
    for v, own in enumerate(code.table.tolist()):
        if any(known.get(site * code.length + j, digit) != digit for j, digit in enumerate(own)):
            logits[v] = -torch.inf
    return logits.softmax(-1).tolist()


@pytest.mark.parametrize("kind", ["prime", "prime_partition"])
def test_the_score_of_digits_is_their_bound(kind):
    """Against all subsets of four digits of two tokens; and with the error that counts of hidden digits leave."""
    sizes = {"length": 2, "width": 12, "heads": 2, "dropout": 0.0}
    config = (maskless.PrimeConfig(5, digits=2, layers=1, **sizes) if kind == "prime" else
              maskless.PrimePartitionConfig(5, digits=2, encoder_layers=1, decoder_layers=1, registers=2, **sizes))
    model, row = randomised(config), [3, 1]
    digits = model.code.encode(torch.tensor(row)).flatten().tolist()
    exact = 0.0
    for size in range(1, 5):
        for hidden in itertools.combinations(range(4), size):
            known = {slot: digits[slot] for slot in range(4) if slot not in hidden}
            for slot in hidden:
                p, (site, j) = law(model, known, slot // 2), divmod(slot, 2)
                told = sum(p[v] for v, own in enumerate(model.code.table.tolist()) if own[j] == digits[slot])
                exact -= math.log(told) / size / math.comb(4, size)
                assert site == slot // 2
    found = log_probs(model, Batch.of(torch.tensor([row])), samples=2048)[0]
    assert found.kind == "bound" and abs(found.nats + exact) < 4 * found.standard_error + 1e-9
    assert found.standard_error < 0.05 * exact                      # a random time, weighted by its inverse, leaves several times as much
