"""Digits of tokens: exact bases, codes there and back, filters and marginals against brute force."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from maskless.objectives.chunks import sites_per_chunk
from maskless.subtokens import SubTokenCode, idle_share, smallest_base

LENGTHS = (2, 3, 4, 5, 6, 7, 8, 16)
SOME = [2, 3, 255, 256, 257, 3125, 7776, 16807, 32000, 32768, 50257, 59049, 69999, *range(5, 69000, 369)]


def code_of(name: str, classes: int = 50, length: int = 3) -> SubTokenCode:
    vectors = torch.randn(classes, 7, generator=torch.Generator().manual_seed(0))
    return {"digits": SubTokenCode.digits(classes, length), "shuffled": SubTokenCode.shuffled(classes, length, seed=3),
            "tree": SubTokenCode.balanced_tree(vectors, length)}[name]


def test_bases_of_every_vocabulary_are_the_smallest():
    classes = torch.arange(2, 70_000)
    for length in LENGTHS:
        bases = torch.tensor([smallest_base(v, length) for v in range(2, 70_000)])
        assert bool((bases**length >= classes).all()) and bool(((bases - 1) ** length < classes).all())


def test_bases_that_a_floating_root_gets_wrong():
    assert [smallest_base(v, 5) for v in (3125, 7776, 16807, 32768, 59049)] == [5, 6, 7, 8, 9]
    assert [smallest_base(50257, length) for length in (2, 3, 4, 6, 8, 16)] == [225, 37, 15, 7, 4, 2]
    assert [smallest_base(256, length) for length in (2, 3, 4, 8)] == [16, 7, 4, 2] and smallest_base(32000, 15) == 2


def test_about_200_vocabularies_come_back():
    assert len(SOME) >= 200
    for n, classes in enumerate(SOME):
        code = SubTokenCode.digits(classes, LENGTHS[n % len(LENGTHS)])
        tokens = torch.arange(classes)
        digits = code.encode(tokens)
        assert digits.shape == (classes, code.length) and int(digits.max()) < code.base
        back, valid = code.decode(digits)
        assert torch.equal(back, tokens) and bool(valid.all())
        powers = [code.base ** (code.length - 1 - j) for j in range(code.length)]
        assert torch.equal((digits * torch.tensor(powers)).sum(1), tokens)


@pytest.mark.parametrize("name", ["digits", "shuffled", "tree"])
@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_there_and_back_and_what_is_invalid(name, length):
    code = code_of(name, 50, length)
    assert torch.equal(code.decode(code.table)[0], torch.arange(50)) and len(code.table.unique(dim=0)) == 50
    every = torch.cartesian_prod(*[torch.arange(code.base)] * length).view(-1, length)
    _, valid = code.decode(every)
    assert int(valid.sum()) == 50 and len(every) == code.codes


def test_invalid_codes_go_to_the_nearest_below():
    tokens, valid = SubTokenCode.digits(50, 2).decode(torch.tensor([[6, 2], [7, 7], [0, 3]]))
    assert tokens.tolist() == [49, 49, 3] and valid.tolist() == [False, False, True]


def test_shuffling_uses_all_codes_and_repeats():
    one, two = SubTokenCode.shuffled(50257, 16, seed=1), SubTokenCode.shuffled(50257, 16, seed=1)
    assert torch.equal(one.table, two.table) and int(one.numbers.max()) > 65000
    assert not torch.equal(one.table, SubTokenCode.shuffled(50257, 16, seed=2).table)
    share = one.table.float().mean(0)                               # raw ids below 50257 have a first bit that is mostly 0
    assert bool(((share - 0.5).abs() < 0.01).all())


def test_recorded_permutations():
    permutation = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    code = SubTokenCode.permuted(50, 2, permutation)
    assert torch.equal(code.numbers, permutation[:50])
    with pytest.raises(ValueError, match="one number for each"):
        SubTokenCode.permuted(50, 2, permutation[:49])
    for wrong, message in (([0, 5, -1], "goes from -1 to 5; in 2 digits of base 2 numbers lie in 0..3"), ([0, 5, 7], "from 0 to 7")):
        with pytest.raises(ValueError, match=message):
            SubTokenCode.permuted(3, 2, torch.tensor(wrong))


def test_a_tree_keeps_neighbours_together_and_is_balanced():
    line = torch.randperm(81, generator=torch.Generator().manual_seed(1)).float()[:, None]
    code = SubTokenCode.balanced_tree(line, 4)
    assert code.base == 3 and code.table[:, 0].bincount().tolist() == [27, 27, 27]
    in_order = code.numbers[line[:, 0].argsort()]
    assert torch.equal(in_order, torch.arange(81)) or torch.equal(in_order, torch.arange(80, -1, -1))
    torch.manual_seed(0)
    centres = 10 * torch.randn(5, 16)
    some = torch.arange(100) % 5
    found = SubTokenCode.balanced_tree(centres[some] + 0.1 * torch.randn(100, 16), 2, base=20).table[:, 0]
    assert all(len(some[found == part].unique()) == 1 for part in range(20))         # no first digit is shared by two clusters of 20
    same = SubTokenCode.balanced_tree(torch.zeros(50, 3), 2)        # nothing to tell them apart
    assert len(same.table.unique(dim=0)) == 50


@pytest.mark.parametrize("name", ["digits", "shuffled", "tree"])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_filters_and_marginals_against_brute_force(name, length):
    torch.manual_seed(0)
    code = code_of(name, 50, length)
    tokens, known = torch.randint(50, (20,)), torch.rand(20, length) < 0.5
    digits = code.encode(tokens)
    allowed = code.consistent(digits, known)
    want = torch.stack([torch.stack([(~known[n] | (code.table[v] == digits[n])).all() for v in range(50)]) for n in range(20)])
    assert torch.equal(allowed, want) and bool(allowed.gather(1, tokens[:, None]).all())
    logits = (3 * torch.randn(20, 50)).masked_fill(~allowed, -torch.inf)
    found = code.log_marginals(logits).softmax(-1)
    assert torch.allclose(found.flatten(1), logits.softmax(-1) @ code.one_hot(), atol=1e-6)
    values = torch.randn(20, length, code.base)
    assert torch.allclose(code.of_digits(values), values.flatten(1) @ code.one_hot().T, atol=1e-5)


def test_marginals_far_below_what_a_float_can_hold():
    logits = torch.zeros(1, 4)
    logits[0, 3] = -300.0
    logits[0, 2] = -400.0
    found = SubTokenCode.digits(4, 2).log_marginals(logits)
    assert float(found[0, 0, 1]) == pytest.approx(-300.0)


@pytest.mark.parametrize(("make", "says"), [
    (lambda: SubTokenCode.given(torch.tensor([[0, 1], [0, 1]])), "classes 0 and 1 have the same code"),
    (lambda: SubTokenCode.given(torch.tensor([[0, 5]]), base=4), "lie in 0..3"),
    (lambda: SubTokenCode.given(torch.tensor([[0, -1]]), base=4), "lie in 0..3"),
    (lambda: SubTokenCode.digits(50, 2, base=7), "tells 49 classes apart"),
    (lambda: SubTokenCode.digits(50, 70), "take fewer digits"),
    (lambda: SubTokenCode.shuffled(50, 40), "take another number of digits"),
    (lambda: SubTokenCode.digits(69999, 16).log_marginals(torch.zeros(1, 69999)), "take another number of digits"),
    (lambda: SubTokenCode.digits(50, 0), "at least 1"),
    (lambda: SubTokenCode.balanced_tree(torch.full((5, 2), torch.nan), 2), "not finite"),
])
def test_what_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_idle_steps_are_the_published_column():
    shares = [round(100 * idle_share(1024, 1024 * length), 2) for length in (1, 2, 3, 4, 6, 8)]
    assert shares == [36.77, 13.52, 4.97, 1.83, 0.25, 0.03]
    assert idle_share(1, 4) == 0.0


def test_digits_out_of_range_are_no_code():
    """Among them the one more that stands for a digit that is not known."""
    code = SubTokenCode.digits(50, 2)
    assert code.decode(torch.tensor([[0, 8], [-1, 9], [1, 0]]))[1].tolist() == [False, False, True]


@pytest.mark.parametrize("wrong, word", [
    (lambda: SubTokenCode.digits(50, 2).encode(torch.tensor([-1, 3])), r"tokens go from -1 to 3; classes are 0\.\.49"),
    (lambda: SubTokenCode.digits(50, 2).encode(torch.tensor([50])), "tokens go from 50 to 50"),
    (lambda: SubTokenCode.balanced_tree(torch.rand(9), 2), r"embeddings of shape \(9,\)"),
    (lambda: SubTokenCode.digits(1024, 2, base=3), "take base 32 or more, or more digits"),
    (lambda: SubTokenCode.shuffled(50257, 15), "take another number of digits"),
])
def test_what_makes_no_code(wrong, word):
    with pytest.raises(ValueError, match=word):
        wrong()


def test_codes_of_lists_and_arrays():
    assert SubTokenCode.given([[0, 1], [1, 1]]).base == 2
    points = np.array([[3.0], [0.0], [2.0], [1.0]])
    assert torch.equal(SubTokenCode.balanced_tree(points, 2).table, SubTokenCode.balanced_tree(torch.tensor(points), 2).table)


def test_chunks_hold_the_numbers_that_marginals_go_through():
    """3^8 numbers for 259 classes: fewer sites at a time, the same sums."""
    assert sites_per_chunk(6561, torch.device("cpu"), least=1) * 6561 <= 1 << 22
    assert sites_per_chunk(1 << 22, torch.device("cpu"), least=1) == 1
