"""Speculation changes nothing of the law: enumerated to 1e-12, sampled, and the three usual mistakes are caught."""
from __future__ import annotations

import itertools

import pytest
import torch
from tests.oracle import chi_square
from tests.tiny import L, ragged_canvas, tiny

from maskless.decoding import (
    Canvas,
    Choice,
    Confidence,
    LeftToRight,
    Noise,
    Random,
    Sampler,
    Scheduled,
    Spaced,
    Speculative,
    Step,
)
from maskless.decoding.speculate import acceptance, correction

SITES, V = 3, 3
WORDS = range(V)


class Prefixes:
    """log p(x at a site | the tokens before it in the log, in their order): a table of opinions, no two of which agree."""

    def __init__(self, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.table = {}
        for length in range(SITES):
            for sites in itertools.permutations(range(SITES), length):
                for tokens in itertools.product(WORDS, repeat=length):
                    self.table[tuple(zip(sites, tokens))] = (2 * torch.randn(SITES, V, generator=generator, dtype=torch.float64)).log_softmax(-1)

    def __call__(self, prefix, site: int) -> torch.Tensor:
        return self.table[tuple(prefix)][site]


def sequential(model: Prefixes, order) -> torch.Tensor:
    """The joint law of one site a step."""
    joint = torch.zeros((V,) * SITES, dtype=torch.float64)
    for tokens in itertools.product(WORDS, repeat=SITES):
        prefix, logp = [], 0.0
        for site, token in zip(order, tokens):
            logp += model(prefix, site)[token]
            prefix.append((site, token))
        joint[tuple(token for _, token in sorted(prefix))] = logp.exp()
    return joint


def speculative(model: Prefixes, order, drafts: int, *, resample="rest", accept="ratio", verify="causal") -> torch.Tensor:
    """The joint law of whole generations, every outcome of every round weighted by its probability."""
    joint = torch.zeros((V,) * SITES, dtype=torch.float64)

    def generate(prefix: list, weight: float) -> None:
        ahead = order[len(prefix):]
        if not ahead:
            joint[tuple(token for _, token in sorted(prefix))] += weight
            return
        tried = ahead[:drafts]
        q = [model(prefix, site) for site in tried]
        for tokens in itertools.product(WORDS, repeat=len(tried)):
            chance = weight * float(sum(law[token] for law, token in zip(q, tokens)).exp())
            judge(prefix, chance, ahead, list(zip(tried, tokens)), q)

    def law(prefix, drafted, place, site):
        seen = drafted[:place] if verify == "causal" else [pair for pair in drafted if pair[0] != site]
        return model([*prefix, *seen], site) if len(prefix) + len(seen) < SITES else model(prefix, site)

    def judge(prefix, weight, ahead, drafted, q) -> None:
        for place, (site, token) in enumerate(drafted):
            p = law(prefix, drafted, place, site)
            if accept == "ratio":
                passed = float(acceptance(p[token], q[place][token]))
            else:
                passed = float(p.argmax() == token)
            if passed < 1:
                final = correction(p[None], q[place][None])[0].exp() if resample == "rest" else p.exp()
                for other in WORDS:
                    generate([*prefix, *drafted[:place], (site, other)], weight * (1 - passed) * float(final[other]))
            weight *= passed
            if weight == 0:
                return
        if len(ahead) > len(drafted):
            site = ahead[len(drafted)]
            final = correction(model([*prefix, *drafted], site)[None], torch.full((1, V), -torch.inf, dtype=torch.float64))[0].exp()
            for other in WORDS:
                generate([*prefix, *drafted, (site, other)], weight * float(final[other]))
        else:
            generate([*prefix, *drafted], weight)

    generate([], 1.0)
    return joint


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_law_of_a_generation_is_that_of_one_site_a_step(order, drafts):
    model = Prefixes()
    torch.testing.assert_close(speculative(model, order, drafts), sequential(model, order), rtol=0, atol=1e-12)


MISTAKES = {
    "resampling from p": {"resample": "p"},
    "keeping the most probable": {"accept": "argmax"},
    "bidirectional verification": {"verify": "all"},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_usual_mistakes_change_it(mistake):
    model, order = Prefixes(), (0, 1, 2)
    wrong = speculative(model, order, 3, **MISTAKES[mistake])
    assert (wrong - sequential(model, order)).abs().max() > 1e-3


class Table:
    """The table as a model: hidden states are log-probabilities. It sees what the loop shows it, row by row."""

    shuffle_prompt, null_label, allowed = False, None, None

    def __init__(self):
        self.laws = Prefixes()

    def verifier(self, cond=None):
        return self

    def head(self, hidden):
        return hidden

    def known(self, canvas, row):
        return [(site, int(canvas.tokens[row, site])) for site in canvas.log[row, :canvas.count[row]].tolist()]

    def answer(self, prefix, site):
        seen = {place for place, _ in prefix}
        return self.laws(prefix, site) if len(prefix) < SITES and site not in seen else torch.zeros(V, dtype=torch.float64).log_softmax(-1)

    def __call__(self, canvas, sites, step):
        known = [self.known(canvas, row) for row in range(canvas.rows)]
        return torch.stack([torch.stack([self.answer(seen, site) for site in places]) for seen, places in zip(known, sites.index.tolist())])

    def verify(self, canvas, sites, tokens):
        out = []
        for row, places in enumerate(sites.index.tolist()):
            prefix = self.known(canvas, row)
            drafted = [(site, token) for site, token, fine in zip(places, tokens[row].tolist(), sites.valid[row].tolist()) if fine]
            out.append(torch.stack([self.answer([*prefix, *drafted[:place]], site) for place, site in enumerate(places)]))
        return torch.stack(out)

    def settle(self, canvas):
        pass


@pytest.mark.parametrize("drafts", [1, 2])
def test_the_loop_samples_that_law(drafts):
    model, rows = Table(), 4000
    canvas = Canvas(torch.zeros(rows, SITES, dtype=torch.int64), torch.zeros(rows, SITES, dtype=torch.bool))
    Speculative(drafts, LeftToRight())(model, canvas, Noise.of(1, rows))
    assert canvas.known.all()
    assert chi_square(canvas.tokens, sequential(model.laws, (0, 1, 2))) < 5


class Checked:
    """A token-causal model whose every answer, with and without drafts, is compared with the uncached pass over the log."""

    def __init__(self, model):
        self.model, self.shuffle_prompt, self.null_label = model, model.shuffle_prompt, None

    def verifier(self, cond=None):
        return CheckedPredictor(self.model)


class CheckedPredictor:
    def __init__(self, model):
        self.model, self.fast, self.full = model, model.verifier(), model.full_predictor()
        self.head, self.allowed = model.head, model.allowed

    def compare(self, got, canvas, sites, query):
        want = self.full(canvas, sites, Step(0, 1))
        torch.testing.assert_close(got[query], want[query], rtol=0, atol=1e-12)

    def __call__(self, canvas, sites, step):
        got = self.fast(canvas, sites, step)
        self.compare(got, canvas, sites, sites.valid)
        return got

    def verify(self, canvas, sites, tokens):
        import copy

        got = self.fast.verify(canvas, sites, tokens)
        for place in range(sites.index.shape[1]):
            query = torch.zeros_like(sites.valid)
            query[:, place] = sites.valid[:, place]
            if place:
                canvas = copy.deepcopy(canvas)
                kept = sites.valid & (torch.arange(sites.index.shape[1]) == place - 1)
                canvas.commit(sites, torch.cat([tokens, tokens[:, :1]], 1), kept, None)
            self.compare(got, canvas, sites, query)
        return got

    def settle(self, canvas):
        self.fast.settle(canvas)


@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("name", ["causal, token", "causal, mean", "causal, image"])
def test_the_cache_verifies_what_recomputation_says(name, guidance):
    canvas = ragged_canvas()
    with torch.no_grad():
        calls = Speculative(3, Random(), guidance=guidance)(Checked(tiny(name)), canvas, Noise.of(0, canvas.rows))
    assert torch.equal(canvas.known, canvas.present) and calls < 2 * L


@pytest.mark.parametrize("order", [Random(), LeftToRight(), Spaced()])
def test_greedy_speculation_equals_one_site_a_step(order):
    greedy, model = Choice(temperature=0), tiny("causal, token")
    slow, fast = ragged_canvas(), ragged_canvas()
    with torch.no_grad():
        Sampler(Scheduled(L), order, greedy)(model, slow, Noise.of(2, 4))
        Speculative(4, order, greedy)(model, fast, Noise.of(2, 4))
    assert torch.equal(slow.tokens[slow.known], fast.tokens[slow.known]) and torch.equal(slow.known, fast.known)


def test_a_round_reveals_two_sites_at_least():
    with torch.no_grad():
        rounds = list(Speculative(3).rounds(tiny("causal, token"), ragged_canvas(), Noise.of(0, 4)))
    for round in rounds:
        left = round.sites.valid.sum(1)
        assert (round.kept.sum(1) >= left.clamp(max=2)).all() and (round.kept.sum(1) <= 4).all()
        assert not (round.accepted & ~round.tried).any()


def test_it_is_the_same_alone_and_in_a_batch():
    model = tiny("causal, token")
    together = ragged_canvas()
    with torch.no_grad():
        Speculative(3)(model, together, Noise.of(5, 4))
    for row in range(4):
        canvas, one = ragged_canvas(), slice(row, row + 1)
        alone = Canvas(canvas.tokens[one], canvas.known[one], present=canvas.present[one], anchor=canvas.anchor[one])
        with torch.no_grad():
            Speculative(3)(model, alone, Noise([(5 << 20) + row]))
        assert torch.equal(alone.tokens[alone.known], together.tokens[one][alone.known])


def test_a_row_stops_at_its_first_eos():
    model = tiny("causal, token")
    with torch.no_grad():
        model.head.bias[3] += 3.0
        canvas = Canvas(torch.zeros(6, L, dtype=torch.int64), (torch.arange(L) < 1).expand(6, -1), anchor=(torch.arange(L) < 1).expand(6, -1))
        Speculative(3, LeftToRight(), stop_at=3)(model, canvas, Noise.of(0, 6))
    for row in range(6):
        ends = (canvas.tokens[row, 1:] == 3).nonzero()
        if len(ends):
            last = int(ends[0]) + 1
            assert canvas.present[row].tolist() == [True] * (last + 1) + [False] * (L - last - 1)


def test_what_cannot_be_speculated_is_refused():
    with pytest.raises(ValueError, match="draft is 0"):
        Speculative(0)
    with pytest.raises(ValueError, match="Confidence"):
        Speculative(order=Confidence())
    with pytest.raises(ValueError, match="causal is set"):
        Speculative()(tiny("causal, set"), ragged_canvas(), Noise.of(0, 4))
    with pytest.raises(ValueError, match="cannot verify"):
        Speculative()(tiny("partition"), ragged_canvas(), Noise.of(0, 4))
