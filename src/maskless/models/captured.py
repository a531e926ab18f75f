"""A model whose calls have few shapes, each captured once and replayed: CUDA graphs, with or without torch.compile before them.

A call of an eager model costs a launch for each of its hundreds of small kernels; beyond about thirty times fewer products than MDLM's the
launches are what takes the time (exact cache, section 4). Here a call is a function of tensors: what it looks at is rounded up to a
multiple of 64 entries, what is asked and what is fresh to a multiple of 8, and what a row does not have is masked. So a decode of 1,024 sites has
at most 16 shapes a width, and the next decode replays the same ones.

B rows, N entries looked at, W fresh ones, Q queried sites, D width.
"""
from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.decode import Predictor
from maskless.decoding.plan import Step
from maskless.decoding.registers import packed_registers
from maskless.layers.attention import Masked, rounded_up
from maskless.layers.compiled import compiled
from maskless.models.base import Denoiser, FullPredictor
from maskless.models.causal_partition import CachedPredictor, Place
from maskless.models.maskgit import MaskGITPredictor
from maskless.models.partition import PartitionPredictor

Inputs = Sequence[Tensor | None]
Compute = Callable[..., tuple[Tensor, ...]]
Recorder = Callable[[Compute, Inputs], Compute]
"""(a function of tensors of fixed shapes, an example of them) -> the same function; what it returns lasts until the recorder's next call."""

Recorders = Callable[[], Recorder]      # one for each decode that goes on at the same time

LOOK, ASK, MOST = 64, 8, 64             # multiples of what is looked at and of what is asked; fresh entries that are captured at most
SHAPES = 4                              # numbers of (rows, sites) whose captured calls are kept


# ------------------------------------------------------------------------------------------------------------------------------- recorders


class Rerun:
    """The function itself, under the rules of a graph: inputs are copied to where they were, and the output stays where it was."""

    def __init__(self, compute: Compute, inputs: Inputs):
        self.compute = compute
        self.inputs = [None if x is None else x.clone() for x in inputs]
        self.output = tuple(x.clone() for x in compute(*self.inputs))

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        self.take(inputs)
        for own, new in zip(self.output, self.compute(*self.inputs), strict=True):
            own.copy_(new)
        return self.output

    def take(self, inputs: Inputs) -> None:
        for own, new in zip(self.inputs, inputs, strict=True):
            if own is not None and new is not None:
                own.copy_(new)


class Graph(Rerun):
    """The function's kernels as one CUDA graph, on the device of its inputs.

    Args:
        pool: where its memory comes from; graphs that are never replayed at the same time share one.

    Raises:
        RuntimeError: if it cannot be captured, or if the graph does not give what the function gives.
    """

    def __init__(self, compute: Compute, inputs: Inputs, pool: Any = None):
        self.inputs = [None if x is None else x.clone() for x in inputs]
        self.device = next(x.device for x in inputs if x is not None)
        with torch.cuda.device(self.device):
            here, beside = torch.cuda.current_stream(), capture_stream(self.device)
            beside.wait_stream(here)
            with torch.cuda.stream(beside):
                compute(*self.inputs)                                                           # kernels are chosen, workspaces made
            here.wait_stream(beside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(here), torch.cuda.graph(self.graph, pool=pool, stream=beside):   # a failed capture does not go back by itself
                self.output = compute(*self.inputs)
            self.check(compute, turned(inputs))

    def check(self, compute: Compute, inputs: Inputs) -> None:
        """On inputs that were not captured, and over an output that is erased: a graph without kernels would leave both as they are."""
        expected = [x.clone() for x in compute(*inputs)]
        for x in self.output:
            x.fill_(torch.nan)
        if not all(torch.allclose(*pair, rtol=0.02, atol=0.02) for pair in zip(self(*inputs), expected, strict=True)):
            raise RuntimeError("the captured graph gives other numbers than the function it was captured from")

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        self.take(inputs)
        with torch.cuda.device(self.device):
            self.graph.replay()
        return self.output


@cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device that calls are captured on: one, so that graphs can share their memory."""
    return torch.cuda.Stream(device)


def turned(inputs: Inputs) -> Inputs:
    """Other inputs of the same shapes, each from its end: ids, sites and columns of the cache stay what a row has."""
    return [None if x is None else x.flip(-1) for x in inputs]


def graphs() -> Recorder:
    """Graphs in one pool of memory; the function as it is, with a warning, where it cannot be captured. The end of memory is an error still."""
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Compute, inputs: Inputs) -> Compute:
        try:
            return Graph(compute, inputs, pool)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warnings.warn(f"a call of the model could not be captured and runs as it is ({error}); compile=off does so without trying", stacklevel=2)
            return compute
    return record


def reruns() -> Recorder:
    """No graphs, and their rules: for tests."""
    return Rerun


def inductor() -> Recorder:
    """torch.compile at fixed shapes."""
    return lambda compute, inputs: compiled(compute)


def graphs_of_inductor() -> Recorder:
    """Graphs of what torch.compile makes."""
    record = graphs()
    return lambda compute, inputs: record(compiled(compute), inputs)


def recorder(mode: str, device: torch.device) -> Recorders | None:
    """What `compile` asks for on a device; None: nothing.

    Args:
        mode: auto: graphs on CUDA, nothing elsewhere; graphs; inductor: torch.compile, and graphs of what it makes on CUDA; off.

    Raises:
        ValueError: for graphs without CUDA, or an unknown word.
    """
    cuda = device.type == "cuda"
    if mode == "graphs" and not cuda:
        raise ValueError(f"compile is graphs, which are CUDA's, and the device is {device.type}; use auto, off or inductor")
    if mode not in ("auto", "off", "graphs", "inductor"):
        raise ValueError(f"compile is {mode}; choose auto, off, graphs or inductor")
    if mode == "inductor":
        return graphs_of_inductor if cuda else inductor
    return graphs if mode != "off" and cuda else None


# ------------------------------------------------------------------------------------------------------------------- calls of fixed shapes


class Fixed(Protocol):
    """A predictor whose call is a function of tensors: `compute(*inputs)` is (states, what else it keeps)."""

    def begin(self, canvas: Canvas, labels: Int[Tensor, " B"] | None) -> None:
        """Forget the decode before this one; its buffers stay where they are."""
        ...

    def inputs(self, canvas: Canvas, sites: Sites, step: Step) -> tuple[int, Inputs]:
        """How far the call looks, and its tensors."""
        ...

    def compute(self, span: int, *inputs: Tensor | None) -> tuple[Tensor, ...]: ...

    def keep(self, canvas: Canvas, others: tuple[Tensor, ...]) -> None:
        """Note what a call has done, and what it gave beside the states."""
        ...


def few_widths(number: int, most: int) -> int:
    """How many sites are asked or fresh, rounded up; few are left as they are."""
    return number if number <= ASK else rounded_up(number, ASK, most)


def widened(x: Int[Tensor, "B Q"], length: int) -> Int[Tensor, "B Q2"]:
    """With columns of zeros up to the rounded width."""
    return F.pad(x, (0, few_widths(x.shape[1], length) - x.shape[1]))


class FixedFull(FullPredictor):
    """A masked model: every call has one shape, but for the number of sites asked."""

    def begin(self, canvas: Canvas, labels: Int[Tensor, " B"] | None) -> None:
        self.labels = labels

    def inputs(self, canvas: Canvas, sites: Sites, step: Step) -> tuple[int, Inputs]:
        self.model.check_canvas(canvas)
        times = step.noise_level(None, canvas.tokens)
        return canvas.length, (canvas.tokens, canvas.known, None if canvas.whole else canvas.present, self.labels, times,
                               widened(sites.index, canvas.length))

    def compute(self, span: int, *inputs: Any) -> tuple[Tensor, ...]:
        tokens, known, present, labels, times, asked = inputs
        hidden = self.read(tokens, known, cond=labels, t=times, present=present)
        return (Sites(asked, asked >= 0).take(hidden),)

    def keep(self, canvas: Canvas, others: tuple[Tensor, ...]) -> None:
        pass


class FixedPartition(PartitionPredictor):
    """A partition model: the known tokens, rounded up, always under a mask."""

    def begin(self, canvas: Canvas, labels: Int[Tensor, " B"] | None) -> None:
        self.labels = labels
        self.rotations = self.rotations or self._open(canvas)

    def inputs(self, canvas: Canvas, sites: Sites, step: Step) -> tuple[int, Inputs]:
        width = rounded_up(max(1, canvas.most), LOOK, canvas.length)
        where, count = canvas.log[:, :width], canvas.count
        visible = F.pad(torch.arange(width, device=count.device) < count[:, None], (self.ahead, 0), value=True)
        ids, positions = self.known(canvas.tokens.gather(1, where), where)
        condition = self.model.condition_at(step.noise_level(None, canvas.tokens), self.labels)
        return width, (ids, positions, visible, widened(sites.index, canvas.length) + 2 * self.ahead, condition)

    def compute(self, span: int, *inputs: Any) -> tuple[Tensor, ...]:
        ids, positions, visible, asked, condition = inputs
        return (self.states(ids, positions, visible, visible[:, None, None], asked, condition),)

    def keep(self, canvas: Canvas, others: tuple[Tensor, ...]) -> None:
        pass


class FixedCached(CachedPredictor):
    """An order-causal model: fresh entries go to their columns of the cache, and the queries look at all of it up to a multiple of 64."""

    def begin(self, canvas: Canvas, labels: Int[Tensor, " B"] | None) -> None:
        self.labels = labels
        if self.calls == 0:
            self._open(canvas)
        else:
            for buffer in (*self.encoder, *self.decoder):
                buffer.zero_()                                      # a mask hides numbers, and not NaN
            self._restart(canvas)
            self.revision = canvas.revision
        self.calls, self.condition = 1, self.model.condition_at(None, labels)

    def inputs(self, canvas: Canvas, sites: Sites, step: Step) -> tuple[int, Inputs]:
        self._follow(canvas)
        fresh = self.ahead + max(high - low for high, low in zip(canvas.greatest, self.passed))
        if fresh > MOST or (fresh > 0 and self.model.config.causal == "set"):
            self.conditions = lambda rows: self.condition
            self.append(canvas)                                     # a prompt is long once
            fresh = 0
        index = self.seen[:, None] + torch.arange(few_widths(max(0, fresh), MOST), device=self.seen.device)     # (B, W)
        ids, positions = self._entries(canvas, index)
        known = self.ahead + canvas.count[:, None]
        span = rounded_up(self._end(canvas), LOOK, self.ahead + canvas.length)
        return span, (ids, positions, index, known, self.summary, widened(sites.index, canvas.length), self.condition)

    def compute(self, span: int, *inputs: Any) -> tuple[Tensor, ...]:
        ids, positions, index, known, summary, asked, condition = inputs
        entry = torch.arange(span, device=index.device)
        self.conditions = lambda rows: condition                    # what is made of it is made in every call: labels change between decodes
        if index.shape[1]:
            fresh = index < known
            where = Place(index, fresh, None, span, span)
            x = self._encode(ids, self.rotations.at(positions), where, Masked((entry <= index[..., None])[:, None], blind=False))
            if self.model.swap.reads_memory:
                summary = self._running(x.masked_fill(~fresh[..., None], self._nothing), summary)[:, -1]
        looks = Masked((entry < known)[:, None, None])
        return self._answer(asked, looks, self._decoded(span), summary[:, None], known), summary

    def keep(self, canvas: Canvas, others: tuple[Tensor, ...]) -> None:
        self.summary = others[0].clone()
        self._seen(canvas)


# ---------------------------------------------------------------------------------------------------------------------------- the model


@dataclass(eq=False)
class Calls:
    """A predictor of fixed shapes with what was captured of it, for decodes of so many rows and sites, one at a time."""

    predictor: Any                      # a Fixed
    record: Recorder

    def __post_init__(self) -> None:
        self.kept: dict[Any, Compute] = {}

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        span, inputs = self.predictor.inputs(canvas, sites, step)
        shapes = (span, *(None if x is None else tuple(x.shape) for x in inputs))
        if shapes not in self.kept:
            predictor = self.predictor                              # not `self`: buffers go when these calls go, without a search for cycles
            self.kept[shapes] = self.record(lambda *tensors: predictor.compute(span, *tensors), inputs)
        states, *others = self.kept[shapes](*inputs)
        self.predictor.keep(canvas, tuple(others))
        return states[:, :sites.index.shape[1]]


class Captured:
    """A model, its calls captured by a recorder: a `Model` as samplers know them.

    Rows that reveal nothing in a step pass the network with the others. Captured calls, and the caches they write to, stay for the next decode
    of as many rows and sites, until `release`; decodes that go on at the same time get their own.

    Args:
        model: folded and in its dtype; its weights must stay where they are.
        recorders: see `recorder`.

    Raises:
        ValueError: for a kind of model whose calls are not captured; `fits` says which are.
    """

    left_to_right: ClassVar[bool] = False

    def __init__(self, model: Denoiser, recorders: Recorders):
        if not fits(model):
            raise ValueError(f"calls of a {type(model).__name__} are not captured; use compile=off")
        self.model, self.recorders = model, recorders
        self.free: dict[tuple[int, int], list[Calls]] = {}

    @property
    def shuffle_prompt(self) -> bool:
        return self.model.shuffle_prompt

    @property
    def null_label(self) -> int | None:
        return self.model.null_label

    @property
    def packed_registers(self) -> int:
        return packed_registers(self.model)

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        return Opened(self, cond)

    def parameter_count(self) -> int:
        return self.model.parameter_count()

    def calls_for(self, rows: int, length: int) -> tuple[Calls, list[Calls]]:
        """Calls that nobody uses, and where they go afterwards; those of the shape that came first are dropped where there are too many."""
        free = self.free.setdefault((rows, length), [])
        if len(self.free) > SHAPES:
            del self.free[next(iter(self.free))]
        return (free.pop() if free else Calls(self.fixed(), self.recorders())), free

    def release(self) -> None:
        """Forget all captured calls and the caches they write to; decodes that go on keep theirs until they end."""
        self.free.clear()

    def fixed(self) -> Any:
        """A new predictor of fixed shapes."""
        return FIXED[type(self.model.predictor())](self.model)


def _full(model: Any) -> FixedFull:
    """What the canvas holds is read as the model's own predictor reads it."""
    return FixedFull(model, read=model.predictor().read)


FIXED: dict[type, Callable[..., Any]] = {FullPredictor: _full, MaskGITPredictor: _full, PartitionPredictor: FixedPartition,
                                         CachedPredictor: FixedCached}


def fits(model: Any) -> bool:
    """Whether a model's calls can be captured: those of masked and partition models of whole tokens, whose queries do not see each other."""
    whole = isinstance(model, Denoiser) and model.per_site == 1 and not getattr(model.config, "self_layers", ())
    return whole and type(model.predictor()) in FIXED


class Opened:
    """A captured model on one decode."""

    def __init__(self, source: Captured, cond: Int[Tensor, " B"] | None):
        self.source, self.head, self.allowed = source, source.model.head, source.model.allowed
        self.labels = source.model.labels_of(cond)
        self.calls: Calls | None = None

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        if self.calls is None:
            self.calls, free = self.source.calls_for(canvas.rows, canvas.length)
            self.calls.predictor.begin(canvas, self.labels)
            weakref.finalize(self, free.append, self.calls)
        return self.calls(canvas, sites, step)
