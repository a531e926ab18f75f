"""The released samplers' rounding of log-probabilities, by its name and nowhere else."""
import torch

from maskless.checkpoints.reference.quirks import RoundedChoice
from maskless.decoding import Choice


def test_log_probabilities_lie_on_the_grid_of_bfloat16_and_lose_mass():
    torch.manual_seed(0)
    logits = torch.randn(4, 5000)
    exact, rounded = Choice().law(logits, None), RoundedChoice().law(logits, None)
    low = rounded[(rounded < -8) & (rounded > -16)]
    assert len(low) > 1000 and bool((low * 16 == (low * 16).round()).all())
    assert 1e-4 < float((rounded - exact).abs().max()) <= 0.0625 / 2 + 1e-6
    assert float((exact.exp().sum(-1) - 1).abs().max()) < 1e-5 < float((rounded.exp().sum(-1) - 1).abs().max())


def test_what_may_not_be_drawn_stays_out():
    allowed = torch.tensor([True, False, True])
    assert RoundedChoice(top_k=1).law(torch.tensor([[0.0, 5.0, 1.0]]), allowed).exp().tolist() == [[0.0, 0.0, 1.0]]
