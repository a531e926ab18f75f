"""What a model says of every unknown site on its way from one time to an earlier one: the targets of distillation.

B rows, L sites, Q queried sites, D width.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.choice import Choice
from maskless.decoding.decode import Predictor, decode
from maskless.decoding.noise import Noise
from maskless.decoding.order import Order
from maskless.decoding.plan import Step


class Heard:
    """A predictor, and what it last said of each site. A site is not asked again once it is revealed: that is what it was drawn from."""

    def __init__(self, predictor: Predictor):
        self.predictor, self.head, self.allowed = predictor, predictor.head, predictor.allowed
        self.said: Tensor | None = None                             # (B, L + 1, D)

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        hidden = self.predictor(canvas, sites, step)
        if self.said is None:
            self.said = hidden.new_zeros(canvas.rows, canvas.length + 1, hidden.shape[-1])
        place = torch.where(sites.valid, sites.index, canvas.length)
        self.said.scatter_(1, place[..., None].expand_as(hidden), hidden)
        return hidden


@torch.inference_mode()
def rollout(predictor: Predictor, canvas: Canvas, steps: Sequence[Step], *, order: Order, choice: Choice, noise: Noise,
            last: int | None = None) -> Float[Tensor, "B L D"]:
    """Decode `steps`, then ask once about what is still unknown; what was last said of each site.

    Args:
        predictor: a model, opened; guided already where guidance is wanted.
        canvas: where the way begins; changed in place.
        steps: all but the last, at which nothing is drawn.
        last: the index of that one, where idle steps before it have vanished; None: as many as there are steps.

    Returns:
        Hidden states by site; zeros at the sites that are known at the start.
    """
    heard = Heard(predictor)
    for _ in decode(heard, canvas, steps, order=order, choice=choice, noise=noise):
        pass
    rest = Sites.of(canvas.unknown, max(1, canvas.length - canvas.fewest))
    index = len(steps) if last is None else last
    heard(canvas, canvas.lift(rest), Step(index, index + 1, most=rest.index.shape[1]))
    assert heard.said is not None
    return heard.said[:, :-1]
