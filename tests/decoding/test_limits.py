"""Ids that may be drawn at some sites only: `Canvas.limit`, in the loop and under speculation."""
from __future__ import annotations

import pytest
import torch
from tests.decoding.test_speculate import SITES, Prefixes, Table, V, sequential
from tests.oracle import chi_square
from tests.tiny import CONFIGS, opened, ragged_canvas, tiny
from tests.tiny import V as IDS

from maskless.decoding import Canvas, Confidence, LeftToRight, Noise, Random, Sampler, Scheduled, Sites, Speculative
from maskless.decoding.canvas import allowed_at

ONLY = (2, 6)
NAMES = [name for name in CONFIGS if name in ("masked", "masked, imported", "partition", "causal, token", "prime", "prime, bits", "prime, groups")]


def limited(canvas: Canvas, *sites: int) -> Canvas:
    where = torch.zeros_like(canvas.by_site().known)
    where[:, list(sites)] = True
    ids = torch.zeros(IDS, dtype=torch.bool)
    ids[list(ONLY)] = True
    canvas.limit(where, ids)
    return canvas


@pytest.mark.parametrize("order", [Random(), Confidence()])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_drawn_there(name, order):
    model, drawn = tiny(name), []
    for seed in range(6):
        canvas = limited(opened(model, ragged_canvas()), 2, 4)
        fresh = ~canvas.by_site().known & canvas.by_site().present
        Sampler(Scheduled(5), order)(model, canvas, Noise.of(seed, 4))
        tokens = canvas.by_site().tokens
        assert all(set(tokens[:, site][fresh[:, site]].tolist()) <= {*ONLY} for site in (2, 4))
        drawn += tokens[fresh].tolist()
    assert {*drawn} - {*ONLY}                                           # elsewhere others are


def test_the_ids_of_each_site():
    """Both masks; and places of a call that stand for no site are free."""
    canvas = limited(ragged_canvas(), 4)
    sites = Sites(torch.tensor([[4, 2], [9, 4], [3, 4], [4, 4]]), torch.tensor([[True, True], [True, True], [True, False], [True, True]]))
    allowed = torch.arange(IDS) != ONLY[0]
    found = allowed_at(canvas.restrict(allowed, sites), slice(None))
    held = torch.tensor([1, 0, 0, 1, 0, 0, 1, 1]).bool()
    assert torch.equal(found, torch.where(held[:, None], torch.arange(IDS) == ONLY[1], allowed))
    assert torch.equal(allowed_at(canvas.restrict(None, sites), slice(2, 4))[1], torch.isin(torch.arange(IDS), torch.tensor(ONLY)))
    assert torch.equal(canvas.to("cpu").limits[0], canvas.limits[0])


def test_a_half_known_token_keeps_to_both():
    """Digits that are known already, and the limit: what is drawn agrees with both."""
    model = tiny("prime, bits")
    canvas = limited(opened(model, ragged_canvas()), 4)
    whole = canvas.by_site().known
    for record in Sampler(Scheduled(12), Random()).records(model, canvas, Noise.of(1, 4)):
        digits, known = (canvas._of_sites(x)[:, 4] for x in (canvas.tokens, canvas.known))
        fits = ((model.table[list(ONLY)][None] == digits[:, None]) | ~known[:, None]).all(-1)
        assert fits.any(1)[~whole[:, 4]].all() and record is not None


class Limited(Prefixes):
    """The table of opinions, with one token less at site 1."""

    def __call__(self, prefix, site):
        law = super().__call__(prefix, site)
        return law.masked_fill(torch.tensor([False, True, False]), -torch.inf).log_softmax(-1) if site == 1 else law


@pytest.mark.parametrize("drafts", [1, 2])
def test_speculation_samples_the_limited_law(drafts):
    model, rows = Table(), 4000
    canvas = Canvas(torch.zeros(rows, SITES, dtype=torch.int64), torch.zeros(rows, SITES, dtype=torch.bool))
    canvas.limit((torch.arange(SITES) == 1).expand(rows, -1), torch.arange(V) != 1)
    Speculative(drafts, LeftToRight())(model, canvas, Noise.of(1, rows))
    assert not (canvas.tokens[:, 1] == 1).any()
    assert chi_square(canvas.tokens, sequential(Limited(), (0, 1, 2)).clamp(min=1e-12)) < 4       # cells without any probability count as 0
