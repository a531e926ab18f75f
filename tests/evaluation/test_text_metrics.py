"""Text metrics against values worked out by hand, and against each other way of computing them."""
from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from maskless.evaluation import text_metrics as metrics
from maskless.noise import uniform


def test_entropy_by_hand():
    found = metrics.entropy([[1, 1, 2, 2], [5, 6, 7, 8], [3, 3]])
    assert found.value == pytest.approx((math.log(2) + math.log(4) + 0) / 3, abs=1e-7)
    each = [math.log(2), math.log(4), 0.0]
    mean = sum(each) / 3
    assert found.standard_error == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in each) / 2 / 3), abs=1e-7)
    assert metrics.entropy(["ab"]).standard_error is None


def test_repetition_by_hand():
    # "a b a b a": 2-grams ab ba ab ba, two of four are new; "a b c d e": all are
    found = metrics.repetition(["ababa", "abcde"], 2)
    assert found.value == pytest.approx((0.5 + 0.0) / 2)
    assert found.standard_error == pytest.approx(0.25)
    assert metrics.repetition(["ababa"], 5).value == 0


def test_distinct_by_hand():
    # 1-grams: a b c of 3 + 2; without the first: b c of 2; without the second: a b of 3
    found = metrics.distinct(["aab", "bc"], 1)
    assert found.value == pytest.approx(3 / 5)
    without = [2 / 2, 2 / 3]
    mean = sum(without) / 2
    assert found.standard_error == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in without) / 2))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_jackknife_of_distinct_equals_leaving_samples_out(n):
    rows = [[int(x) for x in uniform(3, row, torch.arange(4 + row)) * 4] for row in range(7)]
    without = [metrics.distinct(rows[:i] + rows[i + 1:], n).value for i in range(len(rows))]
    mean = sum(without) / len(without)
    wanted = math.sqrt(sum((x - mean) ** 2 for x in without) * (len(rows) - 1) / len(rows))
    assert metrics.distinct(rows, n).standard_error == pytest.approx(wanted, rel=1e-12)


def test_self_bleu_by_hand():
    """'the the the cat' against 'the cat the dog' and 'a dog': counts are clipped at the largest of one reference."""
    rows = [["the", "the", "the", "cat"], ["the", "cat", "the", "dog"], ["a", "dog"]]
    first = math.sqrt((3 / 4) * (1 / 3))                            # the: 2 of 3, cat: 1; "the cat" of "the the" twice and itself
    second = math.sqrt((4 / 4) * (1 / 3))                           # the 2, cat 1, dog 1; "the cat"
    third = math.sqrt((1 / 2) * (0.1 / 1)) * math.exp(1 - 4 / 2)    # dog; nothing of "a dog"; half as long as either
    found = metrics.self_bleu(rows, 2)
    assert found.value == pytest.approx((first + second + third) / 3, rel=1e-12)


def test_brevity_takes_the_closest_length_and_the_shorter_of_two():
    assert metrics._brevity(4, Counter({3: 1, 4: 1, 5: 1})) == 0.0
    assert metrics._brevity(4, Counter({4: 1, 6: 1, 9: 1})) == pytest.approx(1 - 6 / 4)
    assert metrics._brevity(4, Counter({4: 2, 9: 1})) == 0.0


@pytest.mark.parametrize("n", [1, 2, 4])
def test_self_bleu_equals_the_plain_double_loop(n):
    rows = [[int(x) for x in uniform(5, row, torch.arange(6 + row % 3)) * 3] for row in range(6)]

    def bleu(row, others):
        total = 0.0
        for order in range(1, n + 1):
            mine = Counter(zip(*(row[i:] for i in range(order))))
            theirs = [Counter(zip(*(other[i:] for i in range(order)))) for other in others]
            matched = sum(min(count, max(each[gram] for each in theirs)) for gram, count in mine.items())
            if order == 1 and matched == 0:
                return 0.0
            total += math.log((matched or 0.1) / max(len(row) - order + 1, 1))
        closest = min((len(other) for other in others), key=lambda length: (abs(length - len(row)), length))
        return math.exp(min(0.0, 1 - closest / len(row)) + total / n)

    wanted = [bleu(row, rows[:i] + rows[i + 1:]) for i, row in enumerate(rows)]
    assert metrics.self_bleu(rows, n).value == pytest.approx(sum(wanted) / len(wanted), rel=1e-12)


def test_self_bleu_at_its_ends():
    assert metrics.self_bleu(["abcdef"] * 3).value == pytest.approx(1.0)
    assert metrics.self_bleu(["abc", "def", "ghi"]).value == 0.0


@pytest.mark.parametrize(("call", "message"), [
    (lambda: metrics.entropy([]), "no samples"),
    (lambda: metrics.entropy([[1], []]), "sample 1 has 0 tokens"),
    (lambda: metrics.repetition(["abc", "ab"], 3), "sample 1 has 2 tokens"),
    (lambda: metrics.distinct(["abc"], 0), "n is 0"),
    (lambda: metrics.self_bleu(["abc"]), "at least 2 samples"),
])
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -------------------------------------------------------------------------------------------------------------- MAUVE


def test_a_point_of_the_curve_by_hand():
    curve = metrics.divergence_curve(torch.tensor([3, 1]), torch.tensor([1, 3]), scale=2.0, points=3)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)  # of either law to their mean
    assert curve.x[1] == pytest.approx(math.exp(-2 * kl)) and curve.y[1] == pytest.approx(math.exp(-2 * kl))
    full = 0.75 * math.log(3) + 0.25 * math.log(1 / 3)              # of one law to the other
    assert curve.x.tolist() == pytest.approx([1.0, math.exp(-2 * kl), math.exp(-2 * full)])
    assert curve.y.tolist() == pytest.approx([math.exp(-2 * full), math.exp(-2 * kl), 1.0])
    end, middle = math.exp(-2 * full), math.exp(-2 * kl)
    area = end * 1 + (middle - end) * (1 + middle) / 2 + (1 - middle) * (middle + end) / 2
    assert curve.area == pytest.approx(area)


def test_the_curve_at_its_ends():
    same = torch.tensor([0.2, 0.5, 0.3])
    assert metrics.divergence_curve(same, same * 7).area == pytest.approx(1.0)
    apart = metrics.divergence_curve(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), points=2001)
    # laws without a common bin: x = (1 - w)^c, y = w^c, of area B(6, 5) * 5 = 1 / 252 for c = 5
    assert apart.area == pytest.approx(1 / 252, rel=1e-3)
    assert apart.x[-1] == 0 and apart.y[0] == 0


def test_the_area_is_symmetric_and_falls_with_distance():
    law = torch.tensor([0.4, 0.3, 0.2, 0.1])
    other, far = torch.tensor([0.3, 0.3, 0.2, 0.2]), torch.tensor([0.1, 0.1, 0.2, 0.6])
    near = metrics.divergence_curve(law, other).area
    assert near == pytest.approx(metrics.divergence_curve(other, law).area)
    assert 1 > near > metrics.divergence_curve(law, far).area > 0


def test_smoothing_touches_only_bins_that_occur():
    p, q = torch.tensor([2, 0, 0, 1]), torch.tensor([0, 2, 0, 1])
    smoothed = metrics.divergence_curve(p, q, smoothing=0.5)
    wanted = metrics.divergence_curve(torch.tensor([2.5, 0.5, 1.5]), torch.tensor([0.5, 2.5, 1.5]))
    assert torch.allclose(smoothed.x, wanted.x) and torch.allclose(smoothed.y, wanted.y)


def test_directions_keep_the_variance_asked_for():
    rows = torch.randn(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([10.0, 3.0, 0.1])
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    rows = torch.nn.functional.normalize(rows + torch.tensor([0.0, 0.0, 50.0]), dim=1)                      # lengths of 1 change nothing more
    assert metrics.directions(rows @ turn).shape[1] == 1
    assert metrics.directions(rows @ turn, 0.98).shape[1] == 2
    apart = torch.cdist(metrics.directions(rows @ turn, 1.0), metrics.directions(rows @ turn, 1.0))
    torch.testing.assert_close(apart, torch.cdist(rows, rows), atol=1e-6, rtol=0)
    torch.testing.assert_close(metrics.directions(7 * rows), metrics.directions(rows))


def blobs(counts: list[int], seed: int) -> torch.Tensor:
    centres = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0], [-9.0, 0, 0]])[:len(counts)]
    noise = torch.randn(sum(counts), 3, generator=torch.Generator().manual_seed(seed)) * 0.2
    return centres.repeat_interleave(torch.tensor(counts), 0) + noise


PACKAGE = [(([40, 20, 20, 20], [10, 30, 30, 30]), 0.8317421176873254), (([50, 30, 20], [20, 30, 50]), 0.8214099836116461),
           (([60, 40], [10, 90]), 0.4919607685792866)]


def test_quantised_finds_clusters_that_lie_apart():
    points = blobs([30, 20, 10], 0).double()
    found = metrics.quantised(points, 3, seed=1)
    sizes = sorted(found.bincount().tolist())
    assert sizes == [10, 20, 30] and len(set(found[:30].tolist())) == 1
    assert torch.equal(found, metrics.quantised(points, 3, seed=1))


def test_mauve_of_features_is_that_of_the_histograms_of_their_clusters():
    real, generated = blobs([40, 20, 20, 20], 0), blobs([10, 30, 30, 30], 1)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(2))
    found = metrics.mauve(real[order], generated[order], clusters=4, seeds=3)
    wanted = metrics.divergence_curve(torch.tensor([40, 20, 20, 20]), torch.tensor([10, 30, 30, 30])).area
    assert found.value == pytest.approx(wanted, rel=1e-9)
    assert found.count == 100 and found.better == "higher"


@pytest.mark.parametrize("counts, package", PACKAGE)
def test_mauve_is_that_of_its_authors_package(counts, package):
    """mauve-text 0.4.0 on the same features: clusters that differ by direction, rows of any length."""
    sides = [blobs(side, seed) * torch.logspace(-1, 1, sum(side))[:, None] for seed, side in enumerate(counts)]
    assert metrics.mauve(*sides, clusters=len(counts[0])).value == pytest.approx(package, abs=2e-4)


def test_the_error_of_mauve_is_of_the_size_of_its_spread():
    def drawn(law, seed):
        which = torch.multinomial(torch.tensor(law), 300, True, generator=torch.Generator().manual_seed(seed))
        noise = torch.randn(300, 3, generator=torch.Generator().manual_seed(seed + 999)) * 0.1
        return torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]])[which] + noise

    found = [metrics.mauve(drawn([0.5, 0.3, 0.2], n), drawn([0.2, 0.3, 0.5], 500 + n), clusters=3, seeds=1) for n in range(12)]
    spread = torch.tensor([each.value for each in found]).std().item()
    errors = [each.standard_error for each in found]
    assert spread / 3 < sum(errors) / len(errors) < 3 * spread


@pytest.mark.parametrize(("call", "message"), [
    (lambda: metrics.divergence_curve(torch.ones(2), torch.ones(3)), "2 and 3 bins"),
    (lambda: metrics.divergence_curve(torch.zeros(2), torch.ones(2)), "none at all"),
    (lambda: metrics.divergence_curve(torch.tensor([math.nan, 1]), torch.ones(2)), "infinite count"),
    (lambda: metrics.divergence_curve(torch.tensor([-1.0, 3]), torch.ones(2)), "negative"),
    (lambda: metrics.divergence_curve(torch.ones(2), torch.ones(2), points=1), "points is 1"),
    (lambda: metrics.divergence_curve(torch.ones(2), torch.ones(2), scale=0.0), "scale 0.0"),
    (lambda: metrics.mauve(torch.ones(9, 2), torch.ones(20, 2)), "too few"),
    (lambda: metrics.mauve(torch.ones(20, 2), torch.full((20, 2), math.nan)), "not finite"),
    (lambda: metrics.mauve(torch.ones(20, 2), torch.ones(20, 3)), "one extractor"),
])
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_measure_prints_itself():
    rows = ["abab", "abcd"]
    for found in (metrics.entropy(rows), metrics.repetition(rows, 2), metrics.distinct(rows), metrics.self_bleu(rows)):
        assert found.metric in str(found) and "2 samples" in str(found)
