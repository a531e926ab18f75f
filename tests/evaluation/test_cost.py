"""Counted costs: against what runs, operation by operation, and against the published arithmetic."""
from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from maskless.decoding import Noise
from maskless.evaluation import cost
from maskless.evaluation.cost import Call, Run, calls_of, total
from maskless.evaluation.speed import even_random, left_to_right, published
from maskless.models import AutoregressiveConfig, CausalPartitionConfig, MaskedConfig, PartitionConfig, build, fold
from tests.evaluation.blank import blank

B, L, STEPS = 3, 12, 4
SIZES = {"vocab_size": 11, "length": L, "width": 16, "heads": 2, "dropout": 0.0}
MODELS = {
    "masked_fair": (MaskedConfig(**SIZES, layers=2), even_random, STEPS),
    "masked_published": (MaskedConfig(**SIZES, layers=2), published, STEPS),
    "partition": (PartitionConfig(**SIZES, encoder_layers=2, decoder_layers=3), even_random, STEPS),
    "partition, many at once": (PartitionConfig(**SIZES | {"heads": 4}, encoder_layers=2, decoder_layers=3), even_random, 1),
    "partition_cached": (CausalPartitionConfig(**SIZES, encoder_layers=2, decoder_layers=3), even_random, STEPS),
    "partition_cached, set": (CausalPartitionConfig(**SIZES, encoder_layers=2, decoder_layers=3, causal="set"), even_random, STEPS),
    "autoregressive": (AutoregressiveConfig(**SIZES, layers=2), left_to_right, L - 1),
}


class Moved(TorchDispatchMode):
    """Bytes of the factors and results of products with a weight."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.linear.default, torch.ops.aten.mm.default):
            self.bytes += sum(x.numel() * x.element_size() for x in (*args[:2], result))
        return result


def built(name: str):
    config, records, steps = MODELS[name]
    torch.manual_seed(0)
    model = fold(build(config).eval())

    def generate() -> None:
        with sdpa_kernel(SDPBackend.MATH):                          # the fused kernels of the CPU are unknown to torch's counter
            for _ in records(model, blank(B, L), Noise.of(0, B), steps):
                pass

    return generate


def counted(name: str) -> cost.Parts:
    config, _, steps = MODELS[name]
    return getattr(cost, name.split(",")[0])(config, Run(B, L, 4), calls_of(L, steps))


@pytest.mark.parametrize("name", MODELS)
def test_operations_are_those_that_run(name):
    generate = built(name)
    with FlopCounterMode(display=False) as counter:
        generate()
    assert total(counted(name)).flops == counter.get_total_flops()


@pytest.mark.parametrize("name", MODELS)
def test_bytes_are_those_that_products_move(name):
    generate = built(name)
    with Moved() as moved:
        generate()
    parts = counted(name)
    assert total(parts).bytes - cost.attention(parts).bytes == moved.bytes


def page(steps: int, length: int) -> list[Call]:
    """The convention of the published table: no BOS, every commit is encoded (the last one too), and looks at earlier commits only."""
    size = length // steps
    return [Call(known=size * i, fresh=size, asked=size) for i in range(steps)]


@pytest.mark.parametrize("length, steps, partition, cached, ar", [
    (1024, 32, 3.7, 27.8, 34.3), (1024, 128, 3.8, 110.9, 137.1), (1024, 1024, 3.8, 887, 1097), (8192, 8192, 4.1, 8907, 11299)])
def test_the_published_table(length, steps, partition, cached, ar):
    """Operations relative to a 12-layer MDLM with its head on all positions; 8/8 layers, width 768; the table leaves the swap out."""
    run, calls, vocab_size = Run(1, length, 2), page(steps, length), 50_257
    two = PartitionConfig(vocab_size)
    reference = total(cost.masked_published(MaskedConfig(vocab_size), run, calls)).flops

    def times(parts: cost.Parts) -> float:
        return reference / sum(part.flops for name, part in parts.items() if not name.startswith("swap"))

    found = [times(cost.partition_published(two, run, calls)), times(cost.partition_cached(two, run, calls)),
             times(cost.autoregressive(AutoregressiveConfig(vocab_size), run, [Call(n + 1, 1, 1) for n in range(length)]))]
    for ratio, published_ratio in zip(found, (partition, cached, ar)):
        digits = 1 if published_ratio < 200 else 0
        assert abs(ratio - published_ratio) <= 0.5 * 10**-digits + 0.001 * published_ratio, (found, published_ratio)


def test_the_arithmetic_of_the_cpu_preset():
    """4.0x, 65.8x, 125 GFLOP, with the swap. How the last two treat a commit's own keys is not stated: within 2%."""
    sizes = {"vocab_size": 8192, "width": 256, "heads": 4}
    two, run, calls = PartitionConfig(**sizes, encoder_layers=6, decoder_layers=6), Run(4, 1024, 2), page(64, 1024)
    fair = total(cost.masked_fair(MaskedConfig(**sizes, layers=12), run, calls)).flops
    cached = total(cost.partition_cached(two, run, calls)).flops
    assert fair / total(cost.partition_published(two, run, calls)).flops == pytest.approx(4.0, abs=0.05)
    assert fair / cached == pytest.approx(65.8, rel=0.02)
    assert cached == pytest.approx(125e9, rel=0.02)


def test_a_cache_of_the_published_model_is_fifty_megabytes_a_row():
    config, run = PartitionConfig(50_257), Run(1, 1024, 2)
    swap = 2 * run.batch * (run.length + 1) * config.width * run.itemsize
    assert cost.partition_cache(config, run) - swap == pytest.approx(50.3e6, rel=0.002)


def test_values_after_mixing_are_counted_where_they_pay():
    config = PartitionConfig(**SIZES | {"heads": 4}, encoder_layers=2, decoder_layers=3)
    run, few, many = Run(B, 64, 4), calls_of(64, 32), calls_of(64, 2)
    assert total(cost.partition(config, run, few)).flops < total(cost.partition_published(config, run, few)).flops
    assert cost.partition(config, run, many) == cost.partition_published(config, run, many)


def test_a_plan_asks_for_every_site_once():
    calls = calls_of(64, 10)
    assert sum(call.asked for call in calls) == 63 and calls[0] == Call(1, 1, 6)
    assert all(after.known - before.known == after.fresh == before.asked for before, after in pairwise(calls))
    assert len(calls_of(5, 100)) == 4                               # idle steps vanish
