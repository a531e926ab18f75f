"""The autoregressive baseline: a causal transformer over the same blocks, sampled left to right with a KV cache.

B rows, L sites, W fresh tokens, h heads, d head width, D width, V vocabulary.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.decode import Predictor
from maskless.decoding.plan import Step
from maskless.layers.attention import causal, span, under
from maskless.layers.block import FinalNorm, SelfBlock
from maskless.layers.embedding import TokenEmbedding
from maskless.layers.rotary import rotation
from maskless.models.base import Denoiser, FullPredictor, initial_head


@dataclass(frozen=True)
class AutoregressiveConfig:
    """Sizes of an `AutoregressiveTransformer`; the defaults are the published small model (no time, no modulation).

    Example:
        >>> from maskless.models import build
        >>> with torch.device("meta"):
        ...     model = build(AutoregressiveConfig(vocab_size=50257))
        >>> f"{model.parameter_count():,}"
        '162,244,945'
    """

    vocab_size: int
    length: int = 1024
    width: int = 768
    heads: int = 12
    layers: int = 12
    dropout: float = 0.1
    forbidden: tuple[int, ...] = ()


class AutoregressiveTransformer(Denoiser):
    """p(x_i | x_0 .. x_{i-1}). Site 0 holds BOS, an anchor: it is never predicted, and its hidden state is zero.

    Initialisation: embedding uniform in +-1/sqrt(D), head zero, everything else torch's default.
    """

    left_to_right: ClassVar[bool] = True

    def __init__(self, config: AutoregressiveConfig):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.width)
        self.blocks: Any = nn.ModuleList(SelfBlock(config.width, config.heads, cond_dim=0, dropout=config.dropout) for _ in range(config.layers))
        self.final = FinalNorm(config.width, cond_dim=0)
        self.head = initial_head(config.width, config.vocab_size)

    def states(self, tokens: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """State i predicts token i + 1."""
        x = self.embedding(tokens)
        rotate = rotation(torch.arange(tokens.shape[1], device=tokens.device), self.config.width // self.config.heads, x.dtype)
        for block in self.blocks:
            x = block(x, None, rotate, causal)
        return self.final(x, None)

    def hidden(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, cond: Int[Tensor, " B"] | None = None,
               t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        """The state of site i comes from the tokens before it, whatever `known` says."""
        self.labels_of(cond)
        return F.pad(self.states(tokens[:, :-1]), (0, 0, 1, 0))

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        self.labels_of(cond)
        return CachedPredictor(self)

    def full_predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        """A full pass per token, without a cache: the reference that `predictor` equals."""
        return FullPredictor(self, cond, self._continued)

    def _continued(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], **about: Any) -> Float[Tensor, "B L D"]:
        """At every site the state after all known tokens, set close together: what is left of a row whose prompt was forgotten."""
        close = (~known).to(torch.uint8).argsort(dim=1, stable=True)
        last = (known.sum(1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.config.width)
        return self.states(tokens.gather(1, close)).gather(1, last).expand(-1, tokens.shape[1], -1)


class CachedPredictor:
    """Each token passes the network once: keys and values are kept at its place in the log, rotated, in buffers of the canvas's length.

    The log of a row that grows from left to right is its text; without its prompt (guidance), the anchors and what was drawn, close together.
    Rows may have prompts of different lengths: every row has its own cursor, and the host's bounds give the width of what is fresh.
    """

    def __init__(self, model: AutoregressiveTransformer):
        self.model, self.head, self.allowed = model, model.head, model.allowed
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def _open(self, canvas: Canvas) -> None:
        self.model.check_canvas(canvas)
        config, like = self.model.config, self.model.embedding.weight
        shape = (canvas.rows, config.heads, canvas.length + 1, config.width // config.heads)
        self.keys = [like.new_zeros(shape) for _ in self.model.blocks]
        self.values = [like.new_zeros(shape) for _ in self.model.blocks]
        self.last = like.new_zeros(canvas.rows, config.width)               # the newest state of each row
        self.seen = torch.zeros(canvas.rows, dtype=torch.int64, device=like.device)
        self.passed = [0] * canvas.rows                                     # lower bounds of `seen` on the host
        self.revision = canvas.revision

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        if not self.keys:
            self._open(canvas)
        if canvas.revision != self.revision:
            raise ValueError("sites were forgotten under an autoregressive cache; open a new predictor after `canvas.forget`")
        if canvas.fewest == 0:
            raise ValueError("an autoregressive model continues what a row begins with, and there is nothing left of it without its prompt; make its "
                             "first token an anchor, or use no guidance")
        width = max(high - low for high, low in zip(canvas.greatest, self.passed))
        if width > 0:
            self._append(canvas, width)
        return self.last[:, None].expand(-1, sites.index.shape[1], -1)

    def _append(self, canvas: Canvas, width: int) -> None:
        """Pass the tokens that became known since the last look, at most `width` a row."""
        model, end = self.model, canvas.most
        place = self.seen[:, None] + torch.arange(width, device=self.seen.device)              # (B, W)
        fresh = place < canvas.count[:, None]
        bin_or_place = torch.where(fresh, place, canvas.length)
        sites = canvas.log.gather(1, place.clamp(max=canvas.length - 1))
        x = model.embedding(canvas.tokens.gather(1, sites))
        rotate = rotation(place, model.config.width // model.config.heads, x.dtype)
        seen = span(end, canvas.length, self.keys[0])
        uniform = canvas.fewest == seen and width == 1
        mask = None if uniform else (torch.arange(seen, device=place.device) <= place[..., None])[:, None]
        attend = under(mask)
        for block, keys, values in zip(model.blocks, self.keys, self.values):
            q, k, v = block.attention.project(block.norm1(x), rotate)
            at = bin_or_place[:, None, :, None].expand_as(k)
            keys.scatter_(2, at, k.to(keys.dtype))                          # under autocast they may be shorter
            values.scatter_(2, at, v.to(values.dtype))
            x = x + block.attention.out(attend(q, keys[:, :, :seen], values[:, :, :seen]))
            x = x + block.mlp(block.norm2(x))
        newest = (canvas.count - self.seen - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[-1])
        state = model.final(x, None).gather(1, newest)[:, 0]
        self.last = torch.where((canvas.count > self.seen)[:, None], state, self.last)
        self.seen, self.passed = canvas.count.clone(), list(canvas.least)
