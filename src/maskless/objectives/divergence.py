"""How far a student's law is from its teacher's, site by site, without a (B, L, V) tensor.

n sites of a chunk, V vocabulary, B rows, L sites, D and T widths of student and teacher. S and Q are log-probabilities of
student and teacher, p and q their exponentials.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from maskless.decoding.choice import Choice, Head
from maskless.objectives.chunks import sites_per_chunk, weighted_sum

LEAST = -1e30  # in place of log 0: its product with a probability of 0 is 0, and what is NaN stays NaN

Law = Float[Tensor, "n V"]
Divergence = Callable[[Law, Law], tuple[Tensor, Tensor]]
"""(S, Q) -> the divergences (n,), and their derivatives by S (n, V)."""


def kl_backward(student: Law, teacher: Law) -> tuple[Tensor, Tensor]:
    """KL(student || teacher) = sum p (S - Q): the student keeps to what the teacher finds likely. SDTT's default."""
    p, apart = student.exp(), student - teacher
    return (p * apart).sum(-1), p * (apart + 1)


def kl_forward(student: Law, teacher: Law) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) = sum q (Q - S): the student covers all that the teacher finds possible."""
    q = teacher.exp()
    return (q * (teacher - student)).sum(-1), -q


def mean_square(student: Law, teacher: Law) -> tuple[Tensor, Tensor]:
    """The mean of (S - Q)^2 over the vocabulary: rare tokens count as much as likely ones."""
    apart = student - teacher
    return apart.square().mean(-1), apart * (2 / apart.shape[-1])


def total_variation(student: Law, teacher: Law) -> tuple[Tensor, Tensor]:
    """1/2 sum |p - q|, between 0 and 1: the most by which the probability of any set of tokens differs."""
    p, q = student.exp(), teacher.exp()
    return 0.5 * (p - q).abs().sum(-1), 0.5 * p * (p - q).sign()


DIVERGENCES: dict[str, Divergence] = {
    "kl-bwd": kl_backward, "kl-fwd": kl_forward, "mse": mean_square, "tvd": total_variation,
}
INFINITE_AT_ZERO = ("kl-bwd", "mse")  # where the teacher's law is cut to a nucleus, these are infinite


@dataclass(frozen=True)
class Targets:
    """Laws to be learned, as the hidden states from which they are made a chunk at a time.

    Attributes:
        hidden: (B, L, T) by site.
        head: (n, T) -> (n, V).
        allowed: (V,) False on ids never drawn, or None.
        choice: temperature, top-k and nucleus of the law.
    """

    hidden: Float[Tensor, "B L T"]
    head: Head
    allowed: Bool[Tensor, " V"] | None
    choice: Choice

    def law(self, at: Tensor | slice) -> Law:
        """Log-probabilities at some of the B * L sites."""
        logits = self.head(self.hidden.flatten(0, 1)[at])
        return self.choice.law(logits, self.allowed).clamp(min=LEAST)


def distance(
    model: Any, hidden: Float[Tensor, "B L D"], targets: Targets, weights: Float[Tensor, "B L"], divergence: Divergence, *,
    wanted: Bool[Tensor, "B L"] | None = None, chunk: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B L"]]:
    """sum of weights * divergence over the wanted sites, and the divergence of each; arguments and results are `weighted_sum`'s.

    Laws and losses are float32 at least; the products with both heads are made in the dtype they come in. With D = dS the
    derivative by S, that by the logits is D - p sum(D).
    """

    def piece(logits: Float[Tensor, "n V"], at: Tensor | slice, slope: bool) -> tuple[Tensor, Tensor | None]:
        student = logits.log_softmax(-1).clamp_(min=LEAST)
        values, by_student = divergence(student, targets.law(at).to(student))
        if not slope:
            return values, None
        return values, by_student.addcmul_(student.exp_(), by_student.sum(-1, keepdim=True), value=-1)

    size = sites_per_chunk(4 * model.head.weight.shape[0], hidden.device) if chunk is None else chunk
    return weighted_sum(model, hidden, weights, piece, wanted=wanted, chunk=size)
