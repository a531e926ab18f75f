"""Prime models: what they count, and (digits in two groups) what they may see."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.tiny import GRID, SIZES, L, V, opened, ragged_canvas, tiny

from maskless.data.batch import Batch
from maskless.decoding import Ancestral, CoarseFirst, Noise, Sampler, Scheduled, Sites, Step
from maskless.models import PartitionConfig, PrimeConfig, PrimePartitionConfig, PrimePartitionTransformer, build
from maskless.objectives import Partition, PrimePartition, SubNelbo, draws

STEP = Step(0, 1)
EXACT = {"rtol": 0, "atol": 1e-12}
GROUPS = ("prime, groups", "prime, groups, late", "prime, groups, axial")
PUBLISHED = {2: (131_115_089, 86_784), 3: (131_038_033, 9_728), 4: (131_031_377, 3_072), 6: (131_029_329, 1_024), 8: (131_028_785, 480),
             16: (131_028_449, 144)}


@pytest.mark.parametrize("digits", PUBLISHED)
def test_published_sizes(digits):
    with torch.device("meta"):
        model = build(PrimeConfig(vocab_size=50257, digits=digits))
    assert (model.parameter_count(), model.embedding.weight.numel()) == PUBLISHED[digits]


def test_compute_optimal_sizes():
    for digits, want in ((6, 332_011_345), (16, 332_010_245)):
        with torch.device("meta"):
            model = build(PrimeConfig(vocab_size=50257, digits=digits, width=960, heads=16, layers=24))
        assert model.parameter_count() == want


def test_tables_of_digits():
    shared, separate, summed = (build(PrimeConfig(vocab_size=50, width=24, heads=2, layers=1, digits=3, cond_dim=0, **how)) for how in (
        {}, {"tables": "separate"}, {"tables": "separate", "merge": "sum"}))
    assert [tuple(m.embedding.weight.shape) for m in (shared, separate, summed)] == [(5, 8), (15, 8), (15, 24)]
    digits, known = torch.tensor([[1, 2, 3]]), torch.tensor([[True, False, True]])
    rows = shared.embedding.weight
    assert torch.equal(shared.embed(digits, known)[0, 0], torch.cat([rows[1], rows[4], rows[3]]))
    rows = separate.embedding.weight
    assert torch.equal(separate.embed(digits, known)[0, 0], torch.cat([rows[1], rows[5 + 4], rows[10 + 3]]))
    rows = summed.embedding.weight
    torch.testing.assert_close(summed.embed(digits, known)[0, 0], rows[1] + rows[5 + 4] + rows[10 + 3])


def split(model: PrimePartitionTransformer, rows: int = 3, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V - 1, (rows, L), generator=generator)
    return model.code.encode(tokens).flatten(1), torch.rand(rows, L * model.per_site, generator=generator) < 0.5


def strong(name: str) -> PrimePartitionTransformer:
    model = tiny(name)
    assert isinstance(model, PrimePartitionTransformer)
    return model


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("seed", range(10))
def test_no_group_sees_itself(name, seed):
    """All digits of a group are changed: its own queries answer bit for bit as before, the others do not."""
    model = strong(name)
    digits, known = split(model, seed=seed)
    before = model.hidden_of_digit_groups(digits, known)
    has = torch.stack([known.unflatten(1, (L, -1)).any(-1), ~known.unflatten(1, (L, -1)).all(-1)], 2)
    for group, mine in enumerate((known, ~known)):
        other = torch.where(mine, (digits + 1) % model.base, digits)
        after = model.hidden_of_digit_groups(other, known)
        assert torch.equal(after[:, :, group][has[:, :, group]], before[:, :, group][has[:, :, group]])
        assert (after[:, :, 1 - group] - before[:, :, 1 - group])[has[:, :, 1 - group]].abs().max() > 1e-6


@pytest.mark.parametrize("name", GROUPS)
def test_no_gradient_flows_into_the_own_group(name):
    model = strong(name)
    digits, known = split(model, rows=1)
    vectors = model.embedding(digits.unflatten(1, (L, -1)) + model.base * torch.arange(model.per_site)).detach().requires_grad_()
    model.embedding.forward = lambda ids: vectors
    both, own = model.hidden_of_digit_groups(digits, known), known.unflatten(1, (L, -1))[0]
    for site in range(L):
        for group, mine in enumerate((own, ~own)):
            if not bool(mine[site].any()):
                continue
            grad = torch.autograd.grad(both[0, site, group].sum(), vectors, retain_graph=True)[0][0].abs().sum(-1)         # (L, l)
            assert grad[mine].max() == 0 and (name.endswith("late") or grad[~mine].max() > 0)
            if bool((~mine)[site].any()):
                assert grad[site][~mine[site]].min() > 0            # the rest of its own token


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("fusion", ["elements", "late"])
def test_one_digit_is_pgm(registers, fusion, image):
    cells = {"classes": 3, "positions": "axial", **GRID} if image else {}
    sizes = {**SIZES, "encoder_layers": 2, "decoder_layers": 2, "cond_dim": 8, "registers": registers, **cells}
    torch.manual_seed(0)
    plain = build(PartitionConfig(**sizes)).double().eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_(0, 0.3)
    prime = build(PrimePartitionConfig(**sizes, digits=1, fusion=fusion)).double().eval()
    prime.load_state_dict({**prime.state_dict(), **plain.state_dict()})
    tokens, known = torch.randint(V, (4, L)), torch.rand(4, L) < 0.5
    known[0], known[1] = True, False
    present = torch.arange(L) < torch.tensor([L, L, 9, 5])[:, None]
    known = known & present
    with torch.no_grad():
        torch.testing.assert_close(prime(tokens, known), plain(tokens, known), rtol=0, atol=1e-12)         # but for the layout of the queries
        got, want = (model(tokens, known, present=present)[present] for model in (prime, plain))
    torch.testing.assert_close(got, want, **EXACT)
    batch, noise = Batch.of(tokens), draws(0, 0, torch.arange(4), 4, L, low=1e-3, high=1 - 1e-3)
    one, two = PrimePartition()(prime, batch, noise), Partition()(plain, batch, noise)
    for mine, theirs in ((one.loss, two.loss), (one.bound, two.bound), (one.token_loss, two.token_loss)):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-11)
    slow, fast = ragged_canvas(), opened(prime, ragged_canvas())
    for model, canvas in ((plain, slow), (prime, fast)):
        Sampler(Ancestral(6))(model, canvas, Noise.of(1, 4))
    assert torch.equal(slow.tokens[slow.known], fast.by_site().tokens[slow.known])


@pytest.mark.parametrize("name", GROUPS)
def test_groups_of_whole_tokens_give_one_element_a_token(name):
    model = strong(name)
    tokens, known = torch.randint(V, (3, L)), torch.rand(3, L) < 0.5
    both = model.hidden_of_digit_groups(model.code.encode(tokens).flatten(1), known.repeat_interleave(model.per_site, 1))
    torch.testing.assert_close(model.hidden(tokens, known), torch.where(known[..., None], both[:, :, 0], both[:, :, 1]), **EXACT)
    elements = (both != 0).any(-1).sum((1, 2))
    assert torch.equal(elements, torch.full_like(elements, L))


@pytest.mark.parametrize("name", GROUPS)
def test_packed_inference_equals_the_training_forward(name):
    model, canvas = strong(name), opened(strong(name), ragged_canvas())
    sampler = Sampler(Scheduled(6), CoarseFirst())
    records = sampler.records(model, canvas, Noise.of(0, 4))
    for _ in range(4):
        sites = Sites.of(~canvas.by_site().known & canvas.by_site().present, L)
        with torch.no_grad():
            packed, full = (made(canvas, sites, STEP) for made in (model.predictor(), model.full_predictor()))
        torch.testing.assert_close(packed[sites.valid], full[sites.valid], **EXACT)
        next(records)
    assert bool((canvas.known & ~canvas.by_site().known.repeat_interleave(model.per_site, 1)).any())       # half-known tokens were among them


@pytest.mark.parametrize("name", GROUPS)
def test_every_digit_is_supervised_once_and_both_sides_are_bounds(name):
    """Registers give either side a law of its own, and the bound is then of the one that is sampled."""
    model = strong(name)
    tokens, t = torch.randint(V - 1, (3, L)), torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    group = torch.rand(3, L, model.per_site) < t[:, None, None]
    found = PrimePartition(low=0).scored(model, Batch.of(tokens), group, t)
    one = SubNelbo(low=0).scored(model, Batch.of(tokens), group, t).bound
    other = SubNelbo(low=0).scored(Reversed(model), Batch.of(tokens), ~group, 1 - t).bound
    torch.testing.assert_close(found.bound, (one + other) / 2 if model.registers is None else one)
    torch.testing.assert_close(found.token_loss.sum(1), (one + other) / 2)                      # trained on are both


@pytest.mark.parametrize("name", GROUPS)
def test_digits_of_a_token_fall_into_both_groups(name, monkeypatch):
    """Each in group 1 with probability t, independently of its token's other digits."""
    model, rows, found, scored = strong(name), 400, [], PrimePartition.scored
    monkeypatch.setattr(PrimePartition, "scored", lambda self, model, batch, group, t, **named: (found.append(group), scored(
        self, model, batch, group, t, **named))[1])
    noise = draws(0, 0, torch.arange(rows), rows, L, low=0.0)
    PrimePartition(low=0)(model, Batch.of(torch.randint(V - 1, (rows, L))), replace(noise, t=torch.full_like(noise.t, 0.3)))
    together = torch.corrcoef(found[0].float().flatten(0, 1).T)
    assert found[0].shape == (rows, L, model.per_site) and float(found[0].float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float((together - torch.eye(model.per_site)).abs().max()) < 0.08


@pytest.mark.parametrize("name", GROUPS)
def test_batches_of_whole_tokens_are_the_partition_loss(name):
    model, batch = strong(name), Batch.of(torch.randint(V - 1, (4, L)))
    noise = draws(0, 0, torch.arange(4), 4, L, low=1e-3, high=1 - 1e-3)
    torch.testing.assert_close(PrimePartition(token_groups=1.0)(model, batch, noise).bound, Partition()(model, batch, noise).bound)
    assert list(PrimePartition(token_groups=0.5).reported(L)) == ["bound", "bound_of_tokens"] and not PrimePartition(token_groups=0.5).valid


class Reversed:
    """The queries of group 0, for an objective that predicts what is not known."""

    def __init__(self, model: PrimePartitionTransformer):
        self.model = model

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def hidden_of_digits(self, digits, known, **named):
        return self.model.hidden_of_digit_groups(digits, ~known, **named)[:, :, 0]


def test_what_is_refused():
    for change, says in (({"registers": 3}, "an even number"), ({"digits": 0}, "at least 1 digit")):
        with pytest.raises(ValueError, match=says):
            PrimePartitionConfig(vocab_size=50, **change)
    with pytest.raises(ValueError, match="token_groups"):
        PrimePartition(token_groups=1.5)
