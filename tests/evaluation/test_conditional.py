"""Conditional log-probabilities: equal to the enumerated mean over orders, exact where they can be, the same in any company."""
from __future__ import annotations

import itertools
import math

import pytest
import torch

from maskless.data.batch import Batch
from maskless.evaluation.conditional import conditional_bounds, controlled, greedy, log_probs
from maskless.objectives import AnyOrder
from tests.tiny import CONFIGS, DIGITS, V, tiny

TEXT = ["masked", "partition", "partition, self, plain", "causal, token", "causal, set", "autoregressive"]


def batch_of(rows: list[tuple[list[int], list[int]]], length: int) -> Batch:
    """Rows of given tokens and then targets, padded to `length`."""
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    valid, given = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool)
    for row, (context, targets) in enumerate(rows):
        tokens[row, :len(context) + len(targets)] = torch.tensor([*context, *targets])
        valid[row, :len(context) + len(targets)] = given[row, :len(context)] = True
    return Batch(tokens, valid, given)


def law(model, tokens: torch.Tensor, known: torch.Tensor, site: int) -> torch.Tensor:
    """log p(x_site | known) by the plain call."""
    with torch.no_grad():
        logits = model(tokens[None], known[None], t=torch.full((1,), 0.5))[0, site]
    if model.allowed is not None:
        logits = logits.masked_fill(~model.allowed, -math.inf)
    return logits.log_softmax(-1)


def mean_over_orders(model, tokens: torch.Tensor, given: int) -> float:
    """By enumeration, one call a token."""
    totals = []
    for order in itertools.permutations(range(given, len(tokens))):
        known = torch.arange(len(tokens)) < given
        total = 0.0
        for site in order:
            total += law(model, tokens, known, site)[tokens[site]].item()
            known[site] = True
        totals.append(total)
    return sum(totals) / len(totals)


@pytest.mark.parametrize("name, shuffled", [("causal, token", True), ("causal, set", False), ("causal, reading", False)])
def test_a_prompt_is_read_in_the_order_in_which_it_is_sampled(name, shuffled, monkeypatch):
    kind = "causal, token" if name == "causal, reading" else name
    model = tiny(kind)
    if name == "causal, reading":
        monkeypatch.setattr(type(model), "shuffle_prompt", False)
    logs, inner = [], model.hidden_in_order
    monkeypatch.setattr(model, "hidden_in_order", lambda tokens, log, *rest, **more: logs.append(log) or inner(tokens, log, *rest, **more))
    given = torch.tensor([[True, True, False, True, True, False, True, True]])
    batch = Batch(torch.arange(8)[None] % V, torch.ones_like(given), given)
    conditional_bounds(model, batch, samples=8, seed=1)
    prompts = {tuple(row[:6].tolist()) for row in torch.cat(logs)}
    assert all(sorted(prompt) == [0, 1, 3, 4, 6, 7] for prompt in prompts)
    assert len(prompts) > 4 if shuffled else prompts == {(0, 1, 3, 4, 6, 7)}


PLACES = ("masked", "masked, imported", "partition", "partition, mean", "partition, self", "partition, learned")


@pytest.mark.parametrize("name", PLACES)
def test_the_mean_is_that_over_all_orders(name):
    model, tokens = tiny(name), torch.tensor([1, 5, 3, 7, 2])
    batch = batch_of([([1, 5], [3, 7, 2])], 5)
    values = conditional_bounds(model, batch, samples=600, seed=3)[0]
    error = float(values.std()) / math.sqrt(600)
    assert float(values.mean()) == pytest.approx(mean_over_orders(model, tokens, 2), abs=4 * error + 1e-6)
    assert error < 0.3


@pytest.mark.parametrize("name", [name for name in CONFIGS if "timed" not in name and name not in DIGITS])
def test_one_token_is_exact(name):
    """Every draw is log p(x | given) itself, whatever the order and the number of draws; of a prompt that is shuffled, in one of its orders."""
    model, batch = tiny(name), batch_of([([1, 5, 8], [3])], 4)
    values = conditional_bounds(model, batch, samples=4)[0]
    if model.shuffle_prompt:
        assert near(values, [in_order(model, batch, [0, *prompt, 3], 3) for prompt in itertools.permutations([1, 2])])
        return
    assert torch.allclose(values, values[:1].expand(4), atol=1e-5)
    if not name.startswith("causal"):
        assert values[0].item() == pytest.approx(law(model, batch.tokens[0], batch.given[0], 3)[3].item(), abs=1e-5)


def in_order(model, batch: Batch, log: list[int], given: int) -> float:
    """log p of the sites behind the first `given` of a log, along it."""
    order = torch.tensor([log])
    with torch.no_grad():
        logits = model.head(model.hidden_in_order(batch.tokens, order, AnyOrder().commits(batch.in_order(order)), cond=batch.labels))[0]
    if model.allowed is not None:
        logits = logits.masked_fill(~model.allowed, -math.inf)
    return sum(logits.log_softmax(-1)[r, batch.tokens[0, site]].item() for r, site in enumerate(log) if r >= given)


def near(values: torch.Tensor, each: list[float]) -> bool:
    return bool(((values[:, None] - torch.tensor(each)).abs().min(1).values < 1e-4).all())


@pytest.mark.parametrize("name", ["causal, token", "causal, set"])
def test_an_order_causal_draw_is_a_whole_order(name):
    model, batch = tiny(name), batch_of([([1, 5], [3, 7, 2])], 5)
    values = conditional_bounds(model, batch, samples=600, seed=1)[0]
    orders = [in_order(model, batch, [0, 1, *order], 2) for order in itertools.permutations([2, 3, 4])]
    assert near(values, orders)
    assert values.mean().item() == pytest.approx(sum(orders) / len(orders), abs=5 * values.std().item() / math.sqrt(600))



def test_left_to_right_is_the_chain_rule():
    model, tokens, total = tiny("autoregressive"), torch.tensor([1, 5, 3, 7, 2]), 0.0
    for site in (2, 3, 4):
        total += law(model, tokens, torch.arange(5) < site, site)[tokens[site]].item()
    found = log_probs(model, batch_of([([1, 5], [3, 7, 2])], 8), samples=50)[0]
    assert found.nats == pytest.approx(total, abs=1e-5) and found.kind == "exact" and found.standard_error == 0


@pytest.mark.parametrize("name", TEXT)
def test_rows_are_scored_alike_in_any_company(name):
    model = tiny(name)
    rows = [([1, 5], [3, 7, 2]), ([4], [2]), ([1, 2, 3, 4], [5, 6]), ([2], [9, 8, 7, 6, 5])]
    together = log_probs(model, batch_of(rows, 8), samples=7, keys=[5, 6, 7, 8], chunk=5)
    for row, key, found in zip(rows, [5, 6, 7, 8], together):
        alone = log_probs(model, batch_of([row], 10), samples=7, keys=[key], chunk=16)[0]
        assert alone.nats == pytest.approx(found.nats, abs=1e-5)
        assert alone.standard_error == pytest.approx(found.standard_error, abs=1e-5)
        assert alone.tokens == len(row[1])


@pytest.mark.parametrize("name", ["masked", "partition", "causal, token"])
def test_equal_keys_draw_equal_noise(name):
    """Contexts of two lengths, the same number of targets: the same targets are hidden."""
    model, seen = tiny(name), []
    batch = batch_of([([1, 5], [3, 7, 2]), ([1, 5, 8], [3, 7, 2])], 6)
    if name != "causal, token":
        original = model.hidden
        model.hidden = lambda tokens, known, **more: (seen.append(known.clone()), original(tokens, known, **more))[1]
        conditional_bounds(model, batch, samples=6, keys=[4, 4], chunk=12)
        assert torch.equal(seen[0][:6, 2:5], seen[0][6:, 3:6])
        assert sorted({int(row.sum()) for row in ~seen[0]}) == [1, 2, 3]
    else:
        twice = Batch(batch.tokens[:1].expand(2, -1), batch.valid[:1].expand(2, -1), batch.given[:1].expand(2, -1))
        values = conditional_bounds(model, twice, samples=6, keys=[4, 4])
        assert torch.equal(values[0], values[1])
        assert not torch.equal(values[0], conditional_bounds(model, twice, samples=6, keys=[4, 5])[1])


@pytest.mark.parametrize("name", TEXT)
def test_greedy_is_what_decoding_from_left_to_right_writes(name):
    model, context = tiny(name), [1, 5]
    tokens = torch.tensor([*context, 0, 0, 0])
    for site in (2, 3, 4):
        known = torch.arange(5) < site
        if name.startswith("causal"):
            with torch.no_grad():
                log = torch.arange(5)[None]
                commits = torch.tensor([[0, 1, 2, 3, 4]])                # the anchor, the rest of the context, the targets
                logits = model.head(model.hidden_in_order(tokens[None], log, commits))[0, site]
        else:
            logits = law(model, tokens, known, site)
        tokens[site] = logits.argmax()
    best = tokens[2:].tolist()
    rows = [(context, best)] + [(context, [*best[:i], (best[i] + 1) % V, *best[i + 1:]]) for i in range(3)]
    assert greedy(model, batch_of(rows, 7), chunk=3).tolist() == [True, False, False, False]


@pytest.mark.parametrize("name", ["masked", "partition", "causal, token"])
def test_greedy_together_is_the_argmax_of_each(name):
    model, given = tiny(name), torch.arange(5) < 2
    best = [law(model, torch.tensor([1, 5, 0, 0, 0]), given, site).argmax().item() for site in (2, 3, 4)]
    rows = [([1, 5], best), ([1, 5], [best[0], best[1], (best[2] + 1) % V])]
    assert greedy(model, batch_of(rows, 5), together=True).tolist() == [True, False]


def test_which_sites_a_draw_hides_is_no_noise():
    """Sites of fixed nlls 1, 5, 30: every draw is their sum where the other draws have seen each, and the mean is right where they have not."""
    fixed, means = torch.tensor([0.0, 1.0, 5.0, 30.0, 0.0], dtype=torch.float64), []
    targets = torch.tensor([[False, True, True, True, False]])
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        samples = 24 if seed == 0 else 4
        rank = torch.rand(1, samples, 3, generator=generator).argsort(2).argsort(2)
        count = 1 + (torch.arange(samples) * 3) // samples if seed == 0 else torch.randint(1, 4, (samples,), generator=generator)
        hidden = torch.nn.functional.pad(rank < count[:, None], (1, 1))
        values = controlled(torch.where(hidden, fixed, 0.0), hidden * (3 / count[:, None]).double(), targets)
        if seed == 0:
            assert torch.allclose(values, torch.full_like(values, 36.0))
        means.append(values.mean().item())
    error = torch.tensor(means).std().item() / math.sqrt(len(means))
    assert sum(means) / len(means) == pytest.approx(36.0, abs=4 * error) and 0 < error < 1.5


def test_the_error_is_of_the_size_of_the_spread():
    model, batch = tiny("partition"), batch_of([([1, 5], [3, 7, 2, 9, 4])], 7)
    found = [log_probs(model, batch, samples=32, seed=seed)[0] for seed in range(24)]
    spread = torch.tensor([each.nats for each in found]).std().item()
    assert spread / 2 < sum(each.standard_error for each in found) / len(found) < 3 * spread


def test_numbers_that_are_not_finite_are_refused():
    model = tiny("partition")
    with torch.no_grad():
        model.head.bias[3] = math.nan
    with pytest.raises(ValueError, match="of 1 of 1 texts are not finite"):
        log_probs(model, batch_of([([1], [3])], 2), samples=2)
