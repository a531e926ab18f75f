"""What only an accelerator can show: `python -m pytest -m gpu tests/test_gpu.py` on a CUDA machine. The same paths run on the CPU elsewhere."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskless.data.batch import Batch
from maskless.decoding import (
    Ancestral,
    Blockwise,
    Canvas,
    Confidence,
    LeftToRight,
    Margin,
    Noise,
    Random,
    Sampler,
    Scheduled,
    Spaced,
)
from maskless.evaluation.conditional import greedy, log_probs
from maskless.evaluation.golden import verify
from maskless.models.captured import Captured, graphs
from tests.tiny import L, prefix_canvas, ragged_canvas, tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

GOLDEN = sorted(path for path in (Path(__file__).parent / "golden").glob("text_*.safetensors") if "ema" not in path.name)
SAMPLERS = {
    "random": Sampler(Scheduled(5), Random()),
    "spaced": Sampler(Scheduled(4), Spaced()),
    "ancestral": Sampler(Ancestral(6), Random()),
    "confidence": Sampler(Scheduled(4), Confidence()),
    "margin": Sampler(Scheduled(4), Margin()),
    "blocks": Sampler(Blockwise(5, lambda window: Scheduled(2, window=window)), Confidence()),
    "guided": Sampler(Scheduled(5), Random(), guidance=lambda step: 1.0),
}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files_agree(path):
    assert verify(path, device="cuda").passed


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("model", ["masked", "partition", "partition, mean"])
def test_texts_equal_those_of_the_cpu_in_float64(name, model):
    texts = []
    for device in ("cpu", "cuda"):
        canvas: Canvas = ragged_canvas().to(device)
        SAMPLERS[name](tiny(model).to(device), canvas, Noise.of(3, canvas.rows, device))
        texts.append(torch.where(canvas.known, canvas.tokens, 0).cpu())
    assert torch.equal(*texts)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("model", ["masked", "partition", "partition, mean", "causal, token", "causal, mean", "causal, set", "maskgit"])
@pytest.mark.filterwarnings("error")                                                        # a call that could not be captured warns
def test_graphs_give_the_texts_of_the_model(name, model):
    plain = tiny(model).to("cuda")
    replayed, texts = Captured(plain, graphs), []
    for seed in (3, 3, 4, 4):                                                               # the second decode of a seed only replays
        for network in (replayed, plain):
            canvas = ragged_canvas(seed).to("cuda")
            SAMPLERS[name](network, canvas, Noise.of(seed, canvas.rows, "cuda"))
            texts.append(torch.where(canvas.known, canvas.tokens, 0).cpu())
    assert all(torch.equal(*pair) for pair in zip(texts[::2], texts[1::2]))


@pytest.mark.parametrize("name", ["masked", "partition", "causal, token", "autoregressive"])
def test_scores_equal_those_of_the_cpu_in_float64(name):
    tokens = torch.tensor([[1, 5, 3, 7, 2, 0], [4, 2, 9, 8, 6, 3]])
    valid, given = torch.arange(6) < torch.tensor([[5], [6]]), torch.arange(6) < torch.tensor([[2], [3]])
    batch, found = Batch(tokens, valid, given), []
    for device in ("cpu", "cuda"):
        model = tiny(name).to(device)
        found.append((log_probs(model, batch, samples=6, chunk=5), greedy(model, batch, chunk=2).tolist()))
    assert [score.nats for score in found[0][0]] == pytest.approx([score.nats for score in found[1][0]], abs=1e-5)
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_loop_never_waits(name):
    sampler, model = SAMPLERS[name], tiny("partition", torch.float32).cuda()
    canvas = ragged_canvas().to("cuda")
    noise = Noise.of(0, canvas.rows, "cuda")
    records = sampler.records(model, canvas, noise)
    next(records)                                                   # the first step places the plan on the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in records:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_autoregressive_cache_never_waits():
    canvas = prefix_canvas((1, 1)).to("cuda")
    records = Sampler(Scheduled(L - 1), LeftToRight()).records(tiny("autoregressive", torch.float32).cuda(), canvas, Noise.of(0, 2, "cuda"))
    next(records)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in records:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("default")                              # it may choose FlexAttention: torch.compile warns
def test_a_recipe_trains_in_bfloat16(tmp_path):
    import maskless

    run = maskless.train("tiny/pgm", "training.steps=10", "training.device=cuda", "training.precision=bf16", out=tmp_path / "run")
    losses = [record["loss"] for record in run.metrics if "loss" in record]
    assert len(losses) == 10 and losses[-1] < losses[0]


def test_bench_runs(tmp_path):
    from maskless.evaluation.bench import sampling
    from maskless.evaluation.bench.contenders import USUAL, Networks
    from maskless.evaluation.bench.setting import PRESETS

    networks = Networks(PRESETS["toy"].setting, torch.device("cuda"))
    found = sampling.run(PRESETS["toy-best"], USUAL, networks, repeats=2, progress=lambda line: None)
    assert [row.contender for row in found.at("headline")] == list(USUAL)
    assert all(row.tokens_per_second > 0 and row.peak_bytes for row in found.rows)
