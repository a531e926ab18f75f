"""What every model is: hidden states for training, a predictor for decoding, one affine head.

B rows, L sites, Q queried sites, D width, V vocabulary (without [MASK]), C width of the condition.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.decode import Predictor
from maskless.decoding.plan import Step
from maskless.layers.embedding import NormalEmbedding, TimeEmbedding
from maskless.layers.modulation import Condition, Kept
from maskless.layers.rotary import Positions, cells


class Denoiser(nn.Module):
    """A network that predicts sites from other sites.

    `model(tokens, known)` is the plain call for users and tests; objectives use `hidden` and `head`, samplers use `predictor`.
    """

    left_to_right: ClassVar[bool] = False       # can only be sampled from left to right
    config: Any
    embedding: nn.Embedding
    head: nn.Linear

    @property
    def shuffle_prompt(self) -> bool:
        """Whether a sampler should log prompts in a seeded random order, as in training, instead of in reading order."""
        return False

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def per_site(self) -> int:
        """Slots of a site on this model's canvas: its digits in a Prime model, 1 elsewhere."""
        return 1

    def canvas(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, present: Bool[Tensor, "B L"] | None = None,
               anchor: Bool[Tensor, "B L"] | None = None) -> Canvas:
        """A canvas that this model decodes; arguments and errors are those of `Canvas`."""
        return Canvas(tokens, known, present=present, anchor=anchor)

    def check_canvas(self, canvas: Canvas) -> None:
        """Raise ValueError for a canvas with another number of slots a site."""
        if canvas.per_site != self.per_site:
            raise ValueError(f"the canvas has {canvas.per_site} slots a site and this {type(self).__name__} decodes {self.per_site}; "
                             "make the canvas with model.canvas(tokens, known)")

    @property
    def null_label(self) -> int | None:
        """The label that means "no class", one past the last; None for a model without labels."""
        return getattr(self.config, "classes", 0) or None

    def labels_of(self, cond: Int[Tensor, " B"] | None) -> Int[Tensor, " B"] | None:
        """`cond`, if the model can use it.

        Raises:
            ValueError: labels for a model without any, or (looked at on the CPU only) one that it does not have.
        """
        if cond is None:
            return None
        if self.null_label is None:
            raise ValueError(f"labels were given, and this {type(self).__name__} was built without any; leave them out, or set model.classes")
        if cond.device.type == "cpu" and not bool(((cond >= 0) & (cond <= self.null_label)).all()):
            raise ValueError(f"labels {cond.tolist()} are not all in 0..{self.null_label} ({self.null_label} is \"no class\"); correct them")
        return cond

    @property
    def allowed(self) -> Bool[Tensor, " V"] | None:
        """False on forbidden ids (an imported [MASK] row); None where every id may be drawn."""
        if not self.config.forbidden:
            return None
        mask = torch.ones(self.vocab_size, dtype=torch.bool)
        mask[list(self.config.forbidden)] = False
        return mask.to(self.head.weight.device, non_blocking=True)

    def hidden(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, cond: Int[Tensor, " B"] | None = None,
               t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        """The state from which `head` gives each site's logits.

        Args:
            tokens: ids in [0, V); what stands at unknown sites is not read by a masked model.
            known: True where the model may look (a partition model predicts both sides of the split from each other).
            cond: labels (B,), `null_label` for no class; None: no class anywhere. A model without labels refuses any.
            t: diffusion time in (0, 1]; read by time-conditioned models only.
            present: False on sites a row does not have; nothing attends to them.
        """
        raise NotImplementedError

    def forward(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, cond: Int[Tensor, " B"] | None = None,
                t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L V"]:
        """Logits of every site; see `hidden`."""
        return self.head(self.hidden(tokens, known, cond=cond, t=t, present=present))

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        """The model opened on one decode, of rows with these labels."""
        raise NotImplementedError

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def check_grid(config: Any, kinds: tuple[str, ...] = ("line", "axial")) -> None:
    """Raises ValueError for `positions` of no kind, or if a configuration's `grid` is no fit for its length, or `positions` for grid and heads.

    A length of 0 is not known yet, and a grid that is left out then is not missed.
    """
    if config.positions not in kinds:
        raise ValueError(f"positions {config.positions!r} is not known; choose {' or '.join(kinds)}")
    if config.heads < 1:
        raise ValueError(f"heads is {config.heads}; give at least one")
    if config.grid is None:
        if config.positions == "axial" and config.length:
            raise ValueError("positions is axial and there is no grid; set model.grid to the rows and columns of the image, or use other positions")
        return
    rows, columns = config.grid
    beside = config.length - rows * columns                         # 1: the BOS of imported weights
    if min(rows, columns) < 1 or beside not in ((0,) if config.positions == "axial" else (0, 1)):
        raise ValueError(f"grid {rows} x {columns} has {rows * columns} cells and length is {config.length}; set length to {rows * columns}")
    width = config.width // config.heads
    if config.positions == "axial" and width % 4:
        raise ValueError(f"positions is axial and heads have width {width}; it must be a multiple of 4: change width or heads")


def check_words(config: Any) -> None:
    """Raises ValueError if a field that names one of a few things names another."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in (words := get_args(hint)):
            raise ValueError(f"{name} is {getattr(config, name)!r}; choose {' or '.join(map(str, words))}")


def check_conditions(config: Any) -> None:
    """Raises ValueError if a configuration asks for labels and time, of which a block can have one."""
    if config.cond_dim < 0:
        raise ValueError(f"cond_dim is {config.cond_dim}; give the width of the condition, or 0 for none")
    if config.classes < 0 or (config.classes and config.time_conditioned):
        raise ValueError(f"classes is {config.classes} and time_conditioned is {config.time_conditioned}; classes cannot be negative, "
                         "and a block has one condition: unset one of the two")


def condition_width(config: Any) -> int:
    """C, of what modulates the blocks."""
    return config.width if config.classes else config.cond_dim


def on_grid(config: Any, sites: Int[Tensor, " N"]) -> Positions:
    """The positions of sites: along the line, or on the grid of the configuration."""
    return sites if config.positions == "line" else cells(sites, config.grid[1])


def initial_head(width: int, vocab_size: int) -> nn.Linear:
    """The output projection, weight and bias zero: every law is uniform at first."""
    head = nn.Linear(width, vocab_size)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class Conditioned(Denoiser):
    """A model whose blocks are modulated (adaLN): by a label's vector; or by the noise level; or by a constant where it has neither."""

    time: TimeEmbedding | None
    labels: NormalEmbedding | None

    def add_conditions(self, config: Any) -> None:
        """Make `labels` or `time`, whichever the configuration asks for."""
        self.labels = NormalEmbedding(config.classes + 1, config.width) if config.classes else None
        self.time = TimeEmbedding(config.cond_dim) if config.cond_dim and not config.classes else None

    def condition(self, sigma: Float[Tensor, " B"]) -> Float[Tensor, "B C"] | None:
        """The condition vector of noise level sigma = -ln alpha(t); None where the model has no modulation at all."""
        return None if self.time is None else self.time(sigma)

    def condition_at(self, t: Float[Tensor, " B"] | None, cond: Int[Tensor, " B"] | None = None) -> Float[Tensor, "#B C"] | None:
        """The condition of labels (None: no class); or of a training time; or, without either, the published constant (sigma = 0)."""
        if self.labels is not None:
            return self.labels.weight[-1:] if cond is None else self.labels(self.labels_of(cond))
        self.labels_of(cond)
        weight = self.head.weight
        if not self.config.time_conditioned:
            return self.condition(torch.zeros(1, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32)))
        if t is None:
            raise ValueError("this model is time-conditioned and was given no t; pass t of shape (B,) with values in (0, 1]")
        return self.condition(-torch.log1p(-(1 - 1e-3) * t))


def on_rows(step: Step, canvas: Canvas, sites: Sites, run: Callable[[Tensor | None], Tensor]) -> Float[Tensor, "B Q D"]:
    """run(rows) -> (R, Q, D) for the rows with anything to reveal; the other rows get zeros."""
    if step.rows is None:
        return run(None)
    some = run(step.rows)
    return some.new_zeros(canvas.rows, *some.shape[1:]).index_copy(0, step.rows, some)


def pick_rows(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.index_select(0, rows)


def pick_labels(labels: Tensor | None, rows: Tensor | None) -> Tensor | None:
    return None if labels is None else pick_rows(labels, rows)


class Conditions:
    """The condition of every call of a decode whose rows keep theirs (their labels, or one for all): modulations are made once, not at each call.

    Rows that are asked for without the others are the exception, as a product of fewer rows has other last bits.

    Args:
        make: labels (B,), or None, to a condition.
    """

    def __init__(self, make: Callable[[Tensor | None], Tensor | None], labels: Int[Tensor, " B"] | None):
        self.make, self.labels = make, labels
        self.kept: Kept | None = None

    def __call__(self, rows: Int[Tensor, " R"] | None) -> Condition | None:
        if rows is not None and self.labels is not None:
            return self.make(pick_rows(self.labels, rows))
        if self.kept is None and (vector := self.make(self.labels)) is not None:
            self.kept = Kept(vector)
        return self.kept


class FullPredictor:
    """Any model by its full-length training forward: MDLM's only way, and for the others the reference their fast predictors equal.

    Only rows with something to reveal pass the network: where a row does not change, its last prediction would be the same.

    Args:
        read: the forward, from what the canvas holds slot by slot; `model.hidden` if None.
    """

    def __init__(self, model: Denoiser, cond: Int[Tensor, " B"] | None = None, read: Callable[..., Tensor] | None = None):
        self.read = model.hidden if read is None else read
        self.model, self.head, self.allowed, self.labels = model, model.head, model.allowed, model.labels_of(cond)

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        self.model.check_canvas(canvas)

        def run(rows: Tensor | None) -> Tensor:
            tokens, known = pick_rows(canvas.tokens, rows), pick_rows(canvas.known, rows)
            present = None if canvas.whole else pick_rows(canvas.present, rows)
            t = step.noise_level(rows, tokens)
            hidden = self.hidden(rows, tokens, known, t, present)
            return Sites(pick_rows(sites.index, rows), pick_rows(sites.valid, rows)).take(hidden)
        return on_rows(step, canvas, sites, run)

    def hidden(self, rows: Tensor | None, tokens: Tensor, known: Tensor, t: Tensor, present: Tensor | None) -> Float[Tensor, "R L D"]:
        return self.read(tokens, known, cond=pick_labels(self.labels, rows), t=t, present=present)
