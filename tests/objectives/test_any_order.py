"""One-pass any-order losses, enumerated: over all orders, all sets and all rows of a small table."""
from __future__ import annotations

import itertools
import math

import pytest
import torch
from objective_fakes import Opinions
from tests.tiny import CAUSAL, tiny

from maskless.data.batch import Batch
from maskless.decoding import Canvas, Sites, Step
from maskless.evaluation.likelihood import any_order_bound
from maskless.objectives import AnyOrder, Dial, Draws, OrderedPartition, Partition, draws
from maskless.objectives.base import Terms

L, V = 4, 3
ROW = torch.tensor([[2, 0, 1, 1]])


def uniforms(order: tuple[int, ...]) -> torch.Tensor:
    """Uniforms that put the sites in `order`."""
    u = torch.zeros(1, len(order), dtype=torch.float64)
    u[0, list(order)] = torch.arange(len(order), dtype=torch.float64) / len(order)
    return u


def over_orders(objective, model, row=ROW) -> list[float]:
    t = torch.full((1,), 0.5, dtype=torch.float64)
    return [float(objective(model, Batch.of(row), Draws(t, uniforms(order))).bound) for order in itertools.permutations(range(L))]


def nelbo(model: Opinions, row: torch.Tensor) -> float:
    """E_t (1/t) sum over hidden sites, each hidden with probability t, of -log p: the integral over t of every mask is a Beta function."""
    total = 0.0
    for size in range(1, L + 1):
        weight = math.factorial(size - 1) * math.factorial(L - size) / math.factorial(L)
        for hidden in itertools.combinations(range(L), size):
            seen = torch.ones(L, dtype=torch.bool)
            seen[list(hidden)] = False
            opinion = model.opinion(row[0], seen)
            total -= weight * sum(float(opinion[site, row[0, site]]) for site in hidden)
    return total


def sampler_law(model: Opinions, row: torch.Tensor, size: int) -> list[float]:
    """log p of the row under the sampler that reveals `size` sites a step, for every order: an independent enumeration."""
    laws = []
    for order in itertools.permutations(range(L)):
        seen, logp = torch.zeros(L, dtype=torch.bool), 0.0
        for start in range(0, L, size):
            opinion, step = model.opinion(row[0], seen), list(order[start:start + size])
            logp += sum(float(opinion[site, row[0, site]]) for site in step)
            seen[step] = True
        laws.append(logp)
    return laws


def test_commits_of_one_are_the_nelbo():
    model = Opinions(L, V)
    found = over_orders(AnyOrder(anchor=False), model)
    assert sum(found) / len(found) == pytest.approx(nelbo(model, ROW), abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_larger_commits_bound_the_sampler_that_reveals_as_many(size):
    model = Opinions(L, V)
    for row in (ROW, torch.tensor([[0, 0, 2, 1]])):
        found, laws = over_orders(AnyOrder(size, anchor=False), model, row), sampler_law(model, row, size)
        assert found == pytest.approx([-law for law in laws], abs=1e-12)
        marginal = math.log(sum(math.exp(law) for law in laws) / len(laws))
        assert sum(found) / len(found) > -marginal                  # a bound on it, and not tight


def test_an_anchor_opens_every_order_and_stays_a_target():
    model = Opinions(L, V)
    anchored = over_orders(AnyOrder(), model)
    free = dict(zip(itertools.permutations(range(L)), over_orders(AnyOrder(anchor=False), model)))
    for order, value in zip(itertools.permutations(range(L)), anchored):
        assert value == pytest.approx(free[(0, *(site for site in order if site))], abs=1e-12)


def test_a_commit_of_the_whole_row_is_refused():
    with pytest.raises(ValueError, match="predicted from nothing"):
        over_orders(AnyOrder(L), Opinions(L, V))
    with pytest.raises(ValueError, match="commit is 0"):
        AnyOrder(0)
    with pytest.raises(ValueError, match="left_to_right is 2"):
        AnyOrder(left_to_right=2)


def test_token_losses_stand_at_their_sites():
    model = Opinions(L, V)
    order = (3, 1, 0, 2)
    found: Terms = AnyOrder(anchor=False)(model, Batch.of(ROW), Draws(torch.zeros(1), uniforms(order)))
    seen = torch.zeros(L, dtype=torch.bool)
    for site in order:
        assert float(found.token_loss[0, site]) == pytest.approx(-float(model.opinion(ROW[0], seen)[site, ROW[0, site]]), abs=1e-6)
        seen[site] = True


def test_givens_come_first_padding_last_and_some_rows_go_left_to_right():
    valid, given = torch.ones(4, 8, dtype=torch.bool), torch.zeros(4, 8, dtype=torch.bool)
    valid[0, 6:] = False
    given[1, [3, 5]] = True
    batch = Batch(torch.zeros(4, 8, dtype=torch.int64), valid, given)
    found = draws(0, 0, torch.arange(4), 4, 8)
    log = AnyOrder(left_to_right=0.5).order(batch, found)
    assert sorted(log[0, 6:].tolist()) == [6, 7] and log[1, 0] == 0 and set(log[1, 1:3].tolist()) == {3, 5}
    straight = found.t < 0.5
    assert straight.sum() == 2
    free = [row for row in range(4) if straight[row] and row > 1]
    assert all(log[row].tolist() == list(range(8)) for row in free)
    assert log[:, 0].tolist() == [0, 0, 0, 0]
    commits = AnyOrder(2).commits(batch.in_order(log))
    assert commits[1].tolist() == [0, 1, 1, 2, 2, 3, 3, 4] and commits[0].tolist() == [0, 2, 2, 3, 3, 4, 4, 5]
    assert AnyOrder(1).commits(Batch.of(batch.tokens)) is None
    assert AnyOrder(3).commits(Batch.of(batch.tokens)).tolist() == [[0, 2, 2, 2, 3, 3, 3, 4]]


def test_commits_of_a_row_do_not_depend_on_its_batch():
    """Beside a row with a prompt, a row without one keeps the commit of its anchor."""
    tokens, given = torch.zeros(2, 5, dtype=torch.int64), torch.tensor([[True, True, False, False, False], [False] * 5])
    objective = AnyOrder(commit=2)
    alone = objective.commits(Batch.of(tokens[1:]))
    both = objective.commits(Batch(tokens, torch.ones_like(given), given))
    assert both.tolist() == [[0, 1, 2, 2, 3], alone[0].tolist()] and alone.tolist() == [[0, 2, 2, 3, 3]]


@pytest.mark.parametrize("anchor", [True, False])
@pytest.mark.parametrize("name", CAUSAL)
def test_a_row_with_a_prompt_is_scored_by_the_law_that_samples_it(name, anchor):
    """Commit by commit on a canvas: the anchor, the prompt, then site after site of the objective's order."""
    model, length = tiny(name), 12
    torch.manual_seed(1)
    tokens, given = torch.randint(11, (1, length)), torch.zeros(1, length, dtype=torch.bool)
    given[0, [0, 3, 5, 8] if anchor else [2, 3, 8]] = True
    batch, objective = Batch(tokens, torch.ones_like(given), given), AnyOrder(anchor=anchor)
    found = Draws(torch.full((1,), 0.5), torch.where(given, torch.arange(length) / length, torch.rand(1, length)))     # the prompt in reading order
    canvas = Canvas(tokens, given, anchor=given & (torch.arange(length) < int(anchor)))
    predictor, chain, one = model.full_predictor(), 0.0, torch.ones(1, 1, dtype=torch.bool)
    with torch.no_grad():
        for site in objective.order(batch, found)[0].tolist()[int(given.sum()):]:
            here = Sites(torch.tensor([[site]]), one)
            logits = model.head(predictor(canvas, here, Step(0, 1))[0, 0])
            logits = logits if model.allowed is None else logits.masked_fill(~model.allowed, -math.inf)
            chain -= float(logits.log_softmax(-1)[tokens[0, site]])
            canvas.commit(here, tokens[:, [site]], one, [1])
        assert float(objective(model, batch, found).bound) == pytest.approx(chain, abs=1e-10)


def test_a_model_that_reads_no_order_is_refused():
    with pytest.raises(ValueError, match="a MaskedTransformer does not read tokens one after the other"):
        any_order_bound(tiny("masked"), [Batch.of(torch.zeros(2, 12, dtype=torch.int64))])


def test_no_bound_counts_rows_from_left_to_right():
    assert AnyOrder(left_to_right=0.3).reported(8) == {"bound": AnyOrder()}
    assert AnyOrder(2, left_to_right=0.3, anchor=False).reported(8) == {"bound_of_2_a_step": AnyOrder(2, anchor=False)}


def test_the_dial_turns_through_its_modes_and_never_takes_the_whole_row():
    dial = Dial(p_two_group=0.25)
    assert dial.sizes(128) == [1, 2, 4, 8, 16] and dial.sizes(12) == [1] and Dial(largest=5).sizes(128) == [1, 2, 4]
    seen = [dial.mode(draws(3, step, torch.arange(1), 1, 1).shared, 128) for step in range(2000)]
    share = sum(isinstance(mode, Partition) for mode in seen) / len(seen)
    assert abs(share - 0.25) < 0.04
    sizes = [mode.commit for mode in seen if isinstance(mode, AnyOrder)]
    assert set(sizes) == {1, 2, 4, 8, 16}
    assert all(abs(sizes.count(size) / len(sizes) - 0.2) < 0.05 for size in set(sizes))
    assert list(dial.reported(32)) == ["bound", "bound_of_2_a_step", "bound_of_4_a_step", "bound_of_two_groups"]
    assert not dial.valid and list(Dial(p_two_group=0.0).reported(8)) == ["bound"]


def test_a_dial_refuses_what_its_batches_would_before_the_first():
    with pytest.raises(ValueError, match=r"left_to_right is 1\.5"):
        Dial(left_to_right=1.5, p_two_group=1.0)


def test_every_rank_and_micro_batch_takes_the_same_mode():
    whole = draws(0, 5, torch.arange(8), 8, 4)
    part = draws(0, 5, torch.arange(4, 8), 8, 4)
    assert whole.shared == part.shared != draws(0, 6, torch.arange(8), 8, 4).shared
    assert whole.to("cpu").shared == whole.shared


def test_ordered_partition_weighs_as_the_partition_loss():
    from tests.tiny import tiny

    model = tiny("causal, token")
    batch = Batch.of(torch.randint(11, (3, 12)))
    noise = Draws(torch.tensor([0.3, 0.5, 0.8]), torch.rand(3, 12))
    calls = []
    inner = model.hidden_of_groups

    def spy(tokens, known, log, *, cond=None, present=None):
        calls.append((known, log))
        return inner(tokens, known, log, cond=cond, present=present)

    model.hidden_of_groups = spy
    ordered = OrderedPartition()(model, batch, noise)
    known, log = calls[0]
    assert torch.equal(known, ~(noise.u < noise.t[:, None])) and torch.equal(log, noise.u.argsort(dim=1, stable=True))
    states = inner(batch.tokens, known, log)
    model.hidden = lambda tokens, known, *, cond=None, t=None, present=None: states
    torch.testing.assert_close(ordered.token_loss, Partition()(model, batch, noise).token_loss)


def test_no_gradient_flows_to_a_later_token_of_its_own_group_or_to_its_own_prediction():
    from tests.tiny import tiny

    model = tiny("causal, set")
    tokens, known = torch.randint(11, (1, 12)), (torch.arange(12) % 2 == 0)[None]
    log = torch.randperm(12)[None]
    rank = log.argsort(1)[0]
    embedded = model.embedding.weight.detach()[tokens].requires_grad_()
    model.embedding.forward = lambda _: embedded
    same = (known[:, :, None] == known[:, None])[:, None]
    memory = model.encode(tokens, model.rotation(12), None, _rule(same, rank))
    grad = torch.autograd.grad(memory[0, 4].sum(), embedded, retain_graph=True)[0][0].abs().sum(-1)
    assert torch.equal(grad > 0, known[0] & (rank <= rank[4]))
    state = model.hidden_of_groups(tokens, known, log)
    grad = torch.autograd.grad(state[0, 4].sum(), embedded)[0][0].abs().sum(-1)
    assert torch.equal(grad > 0, ~known[0])


def _rule(same, rank):
    from maskless.layers.attention import Masked

    return Masked(same & (rank[None] <= rank[:, None])[None, None])


def test_importance_weighting_tightens_the_bound_and_enumeration_is_exact():
    model = Opinions(L, V)
    rows = [Batch.of(torch.tensor([[2, 0, 1, 1], [0, 1, 2, 0]]))]
    few, many = (any_order_bound(model, rows, orders=orders, anchor=False) for orders in (2, 400))
    exact = -sum(math.log(sum(map(math.exp, sampler_law(model, row[None], 1))) / 24) for row in rows[0].tokens) / 8
    assert many.weighted.nats_per_token < many.average.nats_per_token
    assert many.weighted.nats_per_token == pytest.approx(exact, abs=5 * 0.02)
    mean = sum(nelbo(model, row[None]) for row in rows[0].tokens) / 8
    assert abs(many.average.nats_per_token - mean) < 4 * many.order_error
    assert few.order_error > many.order_error > 0
    with pytest.raises(ValueError, match="orders is 1"):
        any_order_bound(model, rows, orders=1)
