"""Losses of partial masking by enumeration: which are bounds, which is not, and their slopes."""
from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tests.digits import DigitOracle, as_prime, entropy, random_table
from tests.tiny import L, V, labels_of, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from maskless.data.batch import Batch
from maskless.evaluation.likelihood import bound
from maskless.models import PrimeConfig, build
from maskless.objectives import Draws, FiniteSteps, JointCE, Masked, SubNelbo, draws
from maskless.objectives.prime import Hidden, digit_uniforms, joint, single, together
from maskless.subtokens import SubTokenCode


def copied(length: int) -> tuple[DigitOracle, torch.Tensor]:
    """One token whose binary digits are all equal: two of 2^l codes, one half each."""
    code = SubTokenCode.given(torch.tensor([[0] * length, [1] * length]), 2)
    table = torch.tensor([0.5, 0.5], dtype=torch.float64)
    return DigitOracle(table, code), table


def everything(oracle: DigitOracle) -> tuple[torch.Tensor, torch.Tensor]:
    """Every sequence and its probability."""
    rows = torch.tensor(list(itertools.product(range(oracle.vocab), repeat=oracle.length)))
    return rows, oracle.table.flatten()


def expected(oracle: DigitOracle, objective) -> float:
    """The exact mean of a 1 / t loss: a mask of m of n slots has weight integral t^(m-1) (1-t)^(n-m) dt = B(m, n - m + 1)."""
    rows, p = everything(oracle)
    slots = oracle.length * oracle.per_site
    total = 0.0
    for pattern in itertools.product((False, True), repeat=slots):
        hidden = sum(pattern)
        if hidden == 0:
            continue
        unknown = torch.tensor(pattern).view(1, oracle.length, oracle.per_site).expand(len(rows), -1, -1)
        found = objective.scored(oracle, Batch.of(rows), unknown, torch.ones(len(rows), dtype=torch.float64))
        weight = math.exp(math.lgamma(hidden) + math.lgamma(slots - hidden + 1) - math.lgamma(slots + 1))
        total += weight * float((p * found.token_loss.sum(1)).sum())
    return total


@pytest.mark.parametrize("length", [2, 3, 4, 6])
def test_copied_bits(length):
    """The published loss is H / l, the bound is H."""
    oracle, table = copied(length)
    assert expected(oracle, JointCE()) == pytest.approx(entropy(table) / length, rel=1e-6)
    for observed in (True, False):
        assert expected(oracle, SubNelbo(filter_observed=observed)) == pytest.approx(entropy(table), rel=1e-6)


CODES = {"digits": SubTokenCode.digits(4, 2), "another": SubTokenCode.digits(4, 2).given(torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]])),
         "gaps": SubTokenCode.digits(3, 2), "shuffled gaps": SubTokenCode.given(torch.tensor([[1, 1], [0, 1], [1, 0]])),
         "one digit": SubTokenCode.digits(3, 1)}


@pytest.mark.parametrize("name", CODES)
def test_the_bound_of_the_perfect_denoiser_is_the_entropy_whatever_the_code(name):
    code = CODES[name]
    table = random_table(2, code.classes, seed=3)
    oracle = DigitOracle(table, code)
    assert expected(oracle, SubNelbo()) == pytest.approx(entropy(table), rel=1e-6)
    if code.length > 1:
        assert expected(oracle, JointCE()) < entropy(table) - 0.01


def test_independent_digits_make_both_equal():
    one, two = torch.rand(2, dtype=torch.float64).softmax(0), torch.rand(2, dtype=torch.float64).softmax(0)
    oracle = DigitOracle((one[:, None] * two).flatten(), SubTokenCode.digits(4, 2))
    assert expected(oracle, JointCE()) == pytest.approx(expected(oracle, SubNelbo()), rel=1e-6)


def steps_bound(oracle: DigitOracle, steps: int, objective: FiniteSteps) -> float:
    """Every way in which T steps can reveal the slots."""
    rows, p = everything(oracle)
    slots, total = oracle.length * oracle.per_site, 0.0
    for reveal in itertools.product(range(steps), repeat=slots):
        at = torch.tensor(reveal).view(1, oracle.length, oracle.per_site).expand(len(rows), -1, -1)
        for step in set(reveal):
            t = torch.full((len(rows),), 1 - step / steps, dtype=torch.float64)
            found = objective.scored(oracle, Batch.of(rows), at >= step, at > step, t)
            total += float((p * found.bound).sum()) / objective.steps / steps**slots
    return total


def test_the_bound_of_a_sampler_of_t_steps():
    code = SubTokenCode.digits(3, 2)
    table = random_table(2, 3, seed=5)
    oracle = DigitOracle(table, code)
    marginals = entropy(table.sum(0)) + entropy(table.sum(1))
    bounds = [steps_bound(oracle, steps, FiniteSteps(steps)) for steps in (1, 2, 4)]
    assert bounds[0] == pytest.approx(marginals, rel=1e-6)
    assert bounds[0] > bounds[1] > bounds[2] > entropy(table)
    lone = DigitOracle(torch.tensor([0.5, 0.5]), SubTokenCode.given(torch.tensor([[0, 0], [1, 1]]), 2))
    assert steps_bound(lone, 3, FiniteSteps(3)) == pytest.approx(math.log(2), rel=1e-6)     # a single token is always drawn exactly
    rows, times = 40_000, torch.arange(40_000) / 40_000
    u = torch.rand(rows, 2, generator=torch.Generator().manual_seed(0))
    x = torch.multinomial(table.flatten(), rows, True, generator=torch.Generator().manual_seed(1))
    batch = Batch.of(torch.stack([x // 3, x % 3], 1))
    found = FiniteSteps(4)(oracle, batch, Draws(times + 1e-7, u)).bound
    assert float(found.mean()) == pytest.approx(bounds[2], abs=4 * float(found.std()) / rows**0.5)


def test_drawn_times_give_the_entropy():
    table = random_table(2, 3, seed=7)
    oracle, rows = DigitOracle(table, SubTokenCode.digits(3, 2)), 60_000
    x = torch.multinomial(table.flatten(), rows, True, generator=torch.Generator().manual_seed(1))
    noise = draws(0, 0, torch.arange(rows), rows, 2, low=1e-3, high=1.0)
    found = SubNelbo()(oracle, Batch.of(torch.stack([x // 3, x % 3], 1)), noise).bound
    assert float(found.mean()) == pytest.approx(entropy(table), abs=4 * float(found.std()) / rows**0.5)


def test_uniforms_of_digits():
    u = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(0))
    digits = digit_uniforms(u, 4)
    assert torch.equal(digits[..., 0], u) and bool(((digits >= 0) & (digits < 1)).all())
    together = torch.corrcoef(digits[:, 0].T)
    assert float((together - torch.eye(4)).abs().max()) < 0.02 and float((digits.mean((0, 1)) - 0.5).abs().max()) < 0.01


def test_a_chunk_point_hides_whole_tokens_above_it_and_digits_below():
    model, noise = tiny("prime, bits"), draws(0, 0, torch.arange(40), 40, L, low=0.0)
    seen, kept = [], model.hidden_of_digits
    model.hidden_of_digits = lambda digits, known, **named: seen.append(known.unflatten(1, (L, -1))) or kept(digits, known, **named)
    for chunk_point in (0.5, 0.0, 1.0):
        JointCE(chunk_point=chunk_point)(model, Batch.of(torch.randint(V - 1, (40, L))), noise)
    mixed, tokens, digits = seen
    late = noise.t > 0.5
    assert torch.equal(mixed[late], tokens[late]) and torch.equal(mixed[~late], digits[~late])
    assert bool((mixed[late].all(-1) == mixed[late].any(-1)).all()) and bool((mixed[~late].all(-1) != mixed[~late].any(-1)).any())


@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("what", ["single", "joint", "some"])
def test_slopes(what, observed):
    torch.manual_seed(0)
    code = SubTokenCode.shuffled(11, 3, seed=2)
    tokens, known = torch.randint(11, (1, 9)), torch.rand(1, 9, 3) < 0.5
    seen = Hidden(tokens, code.encode(tokens), known, torch.zeros(1, 9, 1))
    after = known | (torch.rand(1, 9, 3) < (0.5 if what == "some" else 2.0))
    piece = together(code, seen, after, observed) if what == "some" else (single if what == "single" else joint)(code, seen, observed)
    logits = torch.randn(9, 11, dtype=torch.float64, requires_grad=True)
    fits = code.consistent(seen.digits[0], known[0])
    law = logits.masked_fill(~fits, -torch.inf).softmax(-1) if observed else logits.softmax(-1)
    want = torch.zeros(9, dtype=torch.float64)
    for n in range(9):
        same = code.table == seen.digits[0, n]                      # (V, l)
        told = after[0, n] & ~known[0, n]
        if what == "single":
            want[n] = -sum(law[n, same[:, j]].sum().log() for j in range(3) if not known[0, n, j])
        else:
            want[n] = -law[n, same[:, told].all(1)].sum().log() if what == "some" else -law[n, tokens[0, n]].log()
    value, slope = piece(logits.detach().clone(), slice(0, 9), True)
    torch.testing.assert_close(value, want.detach(), rtol=1e-10, atol=1e-12)
    assert slope is not None
    torch.testing.assert_close(slope, torch.autograd.grad(want.sum(), logits)[0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["masked", "masked, axial"])
def test_one_digit_is_mdlm_to_the_bit(name):
    masked, labels = tiny(name, torch.float32), labels_of(name, 4)
    prime = as_prime(masked)
    tokens, known = torch.randint(V, (4, L)), torch.rand(4, L) < 0.5
    assert torch.equal(prime(tokens, known, cond=labels), masked(tokens, known, cond=labels))
    batch, noise = replace(Batch.of(tokens), labels=labels), draws(0, 3, torch.arange(4), 4, L)
    want = Masked()(masked, batch, noise)
    for objective in (SubNelbo(), JointCE(), SubNelbo(chunk_point=0)):
        found = objective(prime, batch, noise)
        assert torch.equal(found.loss, want.loss) and torch.equal(found.token_loss, want.token_loss)
        if not isinstance(objective, JointCE):
            assert torch.equal(found.bound, want.bound)
    slopes = [torch.autograd.grad(objective(model, batch, noise).loss, [model.head.weight, model.blocks[0].attention.qkv.weight])
              for objective, model in ((SubNelbo(), prime), (Masked(), masked))]
    for mine, theirs in zip(*slopes):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["prime", "prime, bits"])
def test_whole_tokens_are_the_masked_bound(name):
    model, batch, noise = tiny(name), Batch.of(torch.randint(V - 1, (4, L))), draws(0, 3, torch.arange(4), 4, L)
    want, found = Masked()(model, batch, noise), SubNelbo(chunk_point=0)(model, batch, noise)
    torch.testing.assert_close(found.bound, want.bound)
    torch.testing.assert_close(JointCE(chunk_point=0)(model, batch, noise).loss, want.loss)


def test_the_filter_with_shuffled_codes_keeps_the_true_class():
    """In the released code it is built from unshuffled digits, and the true class is filtered out."""
    model = tiny("prime, bits", torch.float32)
    batch, noise = Batch.of(torch.randint(V - 1, (8, L))), draws(0, 0, torch.arange(8), 8, L)
    for objective in (JointCE(), SubNelbo(), FiniteSteps(8)):
        found = objective(model, batch, noise)
        assert bool(found.token_loss.isfinite().all()) and float(found.loss.detach()) > 0
    unknown = torch.rand(8, L, 4) < 0.5
    wrong = SubTokenCode.digits(V, 4).consistent(model.code.encode(batch.tokens).flatten(0, 1), ~unknown.flatten(0, 1))
    assert not bool(wrong.gather(1, batch.tokens.flatten()[:, None]).all())


def test_the_filter_only_helps_the_joint_loss():
    model, batch, noise = tiny("prime"), Batch.of(torch.randint(V, (16, L))), draws(0, 0, torch.arange(16), 16, L)
    with_filter, without = (JointCE(filter_observed=observed)(model, batch, noise).token_loss for observed in (True, False))
    assert bool((with_filter <= without).all()) and bool((with_filter < without).any())
    known = torch.zeros(16, L, 2, dtype=torch.bool)
    plain = JointCE(filter_observed=False).scored(model, batch, known, noise.t.double())
    assert float(plain.loss.detach()) > 0                                    # tokens that are known are charged
    assert float(JointCE().scored(model, batch, known, noise.t.double()).loss.detach()) == 0


def test_padding_and_givens_are_no_targets():
    model, tokens = tiny("prime"), torch.randint(V, (3, L))
    valid, given = torch.arange(L) < torch.tensor([L, 7, 9])[:, None], torch.zeros(3, L, dtype=torch.bool)
    given[:, :3] = True
    for objective in (SubNelbo(), JointCE(), FiniteSteps(4)):
        noise = draws(0, 0, torch.arange(3), 3, L)
        found = objective(model, Batch(tokens, valid, given), noise)
        assert bool((found.token_loss[~valid | given] == 0).all()) and torch.equal(found.tokens, (valid & ~given).sum(1))
        other = torch.where(valid, tokens, (tokens + 1) % V)
        assert torch.equal(objective(model, Batch(other, valid, given), noise).token_loss, found.token_loss)


def test_nothing_as_large_as_slots_times_classes_is_made():
    class Largest(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                Largest.found = max(Largest.found, out.numel())
            return out

    model = build(PrimeConfig(vocab_size=5000, digits=4, length=32, width=16, heads=2, layers=1))
    batch, noise = Batch.of(torch.randint(5000, (4, 32))), draws(0, 0, torch.arange(4), 4, 32)
    for objective in (SubNelbo(), JointCE(), FiniteSteps(3)):
        with Largest():
            objective(model, batch, noise).loss.backward()
    assert 128 * 5000 <= Largest.found <= 128 * model.code.codes < 128 * 4 * 5000


def test_the_joint_loss_refuses_to_be_reported():
    model = tiny("prime", torch.float32)
    with pytest.raises(ValueError, match=r"joint_ce is no likelihood bound.*report sub_nelbo"):
        bound(model, JointCE(), [Batch.of(torch.randint(V, (4, L)))])
    assert not JointCE().valid and SubNelbo().valid and SubNelbo(chunk_point=0).valid
    assert JointCE()(model, Batch.of(torch.randint(V, (2, L))), draws(0, 0, torch.arange(2), 2, L)).bound.isnan().all()
    assert JointCE().reported(L) == {"bound": SubNelbo()} and JointCE(chunk_point=0).reported(L) == {"bound": SubNelbo(chunk_point=0)}
    assert list(JointCE(chunk_point=0.5).reported(L)) == ["bound", "bound_of_tokens"]
    found = bound(model, JointCE().reported(L)["bound"], [Batch.of(torch.randint(V, (4, L)))], samples=2)
    assert found.perplexity is not None and found.perplexity > 1


@pytest.mark.parametrize(("make", "says"), [
    (lambda: SubNelbo(chunk_point=0.5), "for 0 .whole tokens. and 1"), (lambda: JointCE(chunk_point=2.0), r"lies in \[0, 1\]"),
    (lambda: FiniteSteps(0), "at least 1"), (lambda: SubNelbo(low=0.7), r"low is 0.7"),
])
def test_what_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_filtered_bound_reads_no_hidden_digit():
    model, tokens = tiny("prime"), torch.randint(V, (2, L))
    unknown = torch.rand(2, L, 2) < 0.5
    code = model.code
    seen = Hidden.of(model, Batch.of(tokens), unknown, torch.ones(2))
    other = code.encode(tokens).masked_fill(unknown, 0)
    states = model.hidden_of_digits(other.flatten(1), ~unknown.flatten(1))
    assert torch.equal(seen.states, states) and replace(seen, states=states).known.equal(~unknown)
