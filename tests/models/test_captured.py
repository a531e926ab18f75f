"""Calls of fixed shapes, captured once and replayed, give what a model's own predictor gives: everything but the graph itself, on a CPU."""
from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from tests.models.test_identities import EXACT
from tests.tiny import CAUSAL, CONFIGS, labels_of, ragged_canvas, tiny
from tests.training.runs import environment

from maskless.decoding import (
    Adaptive,
    Ancestral,
    Choice,
    Confidence,
    EntropyBound,
    Noise,
    Random,
    Sampler,
    Scheduled,
    constant,
    decode,
    remask,
)
from maskless.models import captured
from maskless.models.captured import Captured, Rerun, fits, inductor, recorder, reruns

SAMPLERS = {
    "random": Sampler(Scheduled(5), Random()),
    "ancestral": Sampler(Ancestral(6), Random()),
    "confidence": Sampler(Scheduled(4), Confidence()),
    "candidates": Sampler(Adaptive(9), EntropyBound(0.5, candidates=4)),
    "guided": Sampler(Scheduled(5), Random(), guidance=constant(1.0)),
}
FITTING = [name for name in CONFIGS if fits(tiny(name))]


class Side:
    """A captured model and the model itself, asked the same; every answer is compared."""

    def __init__(self, model: Captured):
        self.model, self.left_to_right, self.null_label, self.shuffle_prompt = model, False, model.null_label, model.shuffle_prompt
        self.calls = 0

    def predictor(self, cond=None):
        one, other = self.model.predictor(cond), self.model.model.predictor(cond)

        def both(canvas, sites, step):
            self.calls += 1
            a, b = one(canvas, sites, step), other(canvas, sites, step)
            asked = torch.ones(canvas.rows, dtype=torch.bool) if step.rows is None else torch.zeros(canvas.rows).index_fill(0, step.rows, 1) > 0
            valid = sites.valid & asked[:, None]
            torch.testing.assert_close(a[valid], b[valid], **EXACT)
            return b

        both.head, both.allowed = other.head, other.allowed
        return both


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Roundings that a row of twelve sites notices."""
    monkeypatch.setattr(captured, "LOOK", 4)
    monkeypatch.setattr(captured, "ASK", 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", FITTING)
def test_captured_calls_equal_the_predictor(name, sampler):
    side = Side(Captured(tiny(name), reruns))
    for seed in (1, 2):                                                                     # the second decode replays, over what the first left
        canvas = ragged_canvas(seed)
        labels = labels_of(name, canvas.rows)                                               # the second decode has others
        SAMPLERS[sampler](side, canvas, Noise.of(seed, canvas.rows), cond=None if labels is None else labels.roll(seed))
        assert canvas.known.equal(canvas.present)
    assert side.calls > 3


def test_what_fits():
    assert {"masked", "masked, timed", "partition", "partition, image", "maskgit", *CAUSAL} <= set(FITTING)
    assert not {"autoregressive", "partition, self", "prime", "prime, groups"} & set(FITTING)
    with pytest.raises(ValueError, match="calls of a PartitionTransformer are not captured; use compile=off"):
        Captured(tiny("partition, self"), reruns)
    assert not fits(tiny("causal, token").reencoding(2))                                    # which would lose its encoding afresh


@pytest.mark.parametrize("name", ["causal, token", "partition", "masked"])
def test_a_shape_is_captured_once(name):
    shapes = []

    def record(compute, inputs):
        shapes.append([None if x is None else tuple(x.shape) for x in inputs])
        return Rerun(compute, inputs)

    model = Captured(tiny(name), lambda: record)
    for seed in range(3):
        canvas = ragged_canvas(seed)
        Sampler(Scheduled(6), Random())(model, canvas, Noise.of(seed, canvas.rows))
        if seed == 0:
            first = len(shapes)
    assert len(shapes) == first < 12
    gc.collect()
    assert [len(free) for free in model.free.values()] == [1]                               # given back


def test_decodes_at_the_same_time_do_not_meet():
    model = Captured(tiny("causal, token"), reruns)
    alone = []
    for seed in (1, 2):
        canvas = ragged_canvas(seed)
        Sampler(Scheduled(5), Random())(tiny("causal, token"), canvas, Noise.of(seed, canvas.rows))
        alone.append(canvas.tokens)
    canvases = [ragged_canvas(seed) for seed in (1, 2)]
    running = [Sampler(Scheduled(5), Random()).records(model, canvas, Noise.of(seed, canvas.rows)) for seed, canvas in zip((1, 2), canvases)]
    for _ in zip(*running):
        pass
    for mine, canvas in zip(alone, canvases):
        assert torch.equal(torch.where(canvas.known, mine, 0), torch.where(canvas.known, canvas.tokens, 0))


def test_a_broken_decode_leaves_nothing_to_the_next():
    """NaN in a cache would pass a mask: 0 times NaN."""
    model = Captured(tiny("causal, token"), reruns)
    canvas = ragged_canvas()
    Sampler(Scheduled(5), Random())(model, canvas, Noise.of(1, canvas.rows))
    gc.collect()
    [[calls]] = model.free.values()
    with torch.inference_mode():
        for buffer in (*calls.predictor.encoder, *calls.predictor.decoder):
            buffer.fill_(torch.nan)
    canvas, again = ragged_canvas(), ragged_canvas()
    Sampler(Scheduled(5), Random())(model, canvas, Noise.of(1, canvas.rows))
    Sampler(Scheduled(5), Random())(tiny("causal, token"), again, Noise.of(1, again.rows))
    assert torch.equal(canvas.tokens, again.tokens)


@pytest.mark.parametrize("name", CAUSAL)
def test_forgotten_sites_are_cut_out(name):
    side, canvas = Side(Captured(tiny(name), reruns)), ragged_canvas()
    predictor = side.predictor(labels_of(name, 4))
    with torch.inference_mode():
        for round in range(3):
            run = decode(predictor, canvas, Scheduled(5)(canvas, Noise.of(round, 4)), order=Random(), choice=Choice(), noise=Noise.of(round, 4))
            assert len([*run]) > 1 and canvas.known.equal(canvas.present)
            remask(canvas, 0.4, Noise.of(round, canvas.rows), round=round)


def test_a_long_prompt_is_encoded_as_it_is(monkeypatch):
    monkeypatch.setattr(captured, "MOST", 2)
    test_captured_calls_equal_the_predictor("causal, token", "random")


def test_modes():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert recorder("auto", cpu) is None and recorder("off", cuda) is None
    assert recorder("auto", cuda) is recorder("graphs", cuda) is captured.graphs
    assert recorder("inductor", cpu) is inductor and recorder("inductor", cuda) is captured.graphs_of_inductor
    with pytest.raises(ValueError, match="compile is graphs, which are CUDA's, and the device is cpu; use auto, off or inductor"):
        recorder("graphs", cpu)
    with pytest.raises(ValueError, match="compile is on; choose auto, off, graphs or inductor"):
        recorder("on", cpu)


def test_what_cannot_be_captured_runs_as_it_is(monkeypatch):
    def refuse(compute, inputs, pool):
        raise RuntimeError("no")

    monkeypatch.setattr(captured, "Graph", refuse)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    with pytest.warns(UserWarning, match="could not be captured and runs as it is"):
        made = captured.graphs()(lambda x: (x + 1,), [torch.ones(2)])
    assert torch.equal(made(torch.ones(2))[0], torch.full((2,), 2.0))

    def full(compute, inputs, pool):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(captured, "Graph", full)
    with pytest.raises(torch.OutOfMemoryError):                     # no reason to run it as it is: who waits for room can make some
        captured.graphs()(lambda x: (x + 1,), [torch.ones(2)])


class Streams:
    """CUDA as `Graph` uses it, on a CPU: which device is current, and what a graph replays (`kernels`, or nothing)."""

    def __init__(self, monkeypatch, replays: bool):
        self.current, self.seen, self.last = ["cuda:0"], [], []
        stream = SimpleNamespace(wait_stream=lambda other: None)
        for name, fake in {"device": self.device, "graph": self.graph, "current_stream": lambda: stream,
                           "stream": lambda stream: contextlib.nullcontext(), "CUDAGraph": lambda: SimpleNamespace(replay=self.replay)}.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(captured, "capture_stream", lambda device: stream)
        self.replays = replays

    @contextlib.contextmanager
    def device(self, device):
        self.current.append(str(device))
        yield
        self.current.pop()

    @contextlib.contextmanager
    def graph(self, graph, pool, stream):
        self.seen.append(("capture", self.current[-1]))
        yield
        self.captured = self.last

    def kernel(self, x):
        """x + 1, and in a replay again into the same place."""
        self.last = (x, x + 1)
        return (self.last[1],)

    def replay(self):
        self.seen.append(("replay", self.current[-1]))
        if self.replays:
            torch.add(self.captured[0], 1, out=self.captured[1])


def test_a_graph_is_captured_and_replayed_on_the_device_of_its_inputs(monkeypatch):
    cuda = Streams(monkeypatch, replays=True)
    graph = captured.Graph(cuda.kernel, [torch.ones(1, 2)])
    assert torch.equal(graph(torch.full((1, 2), 4.0))[0], torch.full((1, 2), 5.0))
    assert cuda.seen == [("capture", "cpu"), ("replay", "cpu"), ("replay", "cpu")] and cuda.current == ["cuda:0"]


@pytest.mark.parametrize("example", [torch.arange(3.0)[None], torch.ones(1, 1)])
def test_a_graph_without_kernels_is_found_out(monkeypatch, example):
    """Its output would be that of the capture, which is what the function gives for the inputs that were captured."""
    with pytest.raises(RuntimeError, match="gives other numbers"):
        captured.Graph(Streams(monkeypatch, replays=False).kernel, [example])


@pytest.mark.parametrize("name", FITTING)
def test_the_inputs_of_the_check_do_no_harm(name):
    """Calls compute with them, and what they leave in caches is written over by the call that follows."""
    def record(compute, inputs):
        assert not any(x.isnan().any() for x in compute(*captured.turned(inputs)))
        return Rerun(compute, inputs)

    for sampler in ("random", "ancestral"):
        side, canvas = Side(Captured(tiny(name), lambda: record)), ragged_canvas()
        SAMPLERS[sampler](side, canvas, Noise.of(1, canvas.rows), cond=labels_of(name, canvas.rows))
        assert canvas.known.equal(canvas.present)


def test_what_is_released_is_gone_at_once():
    model = Captured(tiny("causal, token"), reruns)
    canvas = ragged_canvas()
    Sampler(Scheduled(5), Random())(model, canvas, Noise.of(1, canvas.rows))
    gc.collect()
    [[calls]] = model.free.values()
    kept = [weakref.ref(each) for each in (calls, calls.predictor, *calls.kept.values())]
    gc.disable()
    try:
        del calls
        model.release()
        assert len(kept) > 3 and not any(each() for each in kept)   # without a search for cycles
    finally:
        gc.enable()
    test_a_shape_is_captured_once("causal, token")                  # and another decode begins anew


COUNTED = """
import torch
from maskless.models import captured

graphs, compile = [], torch.compile

def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

def call(span):
    return lambda x: (x + span,)

torch.compile = lambda compute, dynamic: compile(compute, dynamic=dynamic, backend=backend)
record, x = captured.inductor(), torch.zeros(2)
made = [record(call(span), [x]) for span in range(12)]
for _ in range(2):
    assert [int(one(x)[0][0]) for one in made] == [*range(12)]
print(len(graphs))
"""


def test_every_shape_is_compiled():
    """Torch compiles one code object eight times at most. In a process of its own, as below, and without a compiler."""
    ended = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, env=environment(), timeout=600)
    assert ended.stdout.split() == ["12"], ended.stderr[-2000:]


COMPILED = """
import torch
from tests.tiny import ragged_canvas, tiny
from maskless.decoding import Noise, Random, Sampler, Scheduled
from maskless.models.captured import Captured, inductor

def filled(model):
    canvas = ragged_canvas()
    Sampler(Scheduled(3), Random())(model, canvas, Noise.of(1, canvas.rows))
    return torch.where(canvas.known, canvas.tokens, 0)

for name in ("masked", "partition", "causal, token"):
    captured = Captured(tiny(name), inductor)
    assert torch.equal(filled(captured), filled(tiny(name))), name
    [[calls]] = captured.free.values()
    assert len(calls.kept) > 1
    print(name)
"""


@pytest.mark.slow
def test_compiled_calls_give_the_same_tokens():
    """In a process without the type checker of the tests, which torch.compile cannot read."""
    ended = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, env=environment(), timeout=600)
    assert ended.stdout.splitlines() == ["masked", "partition", "causal, token"], ended.stderr[-2000:]
