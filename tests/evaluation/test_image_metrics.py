"""Image metrics: closed forms, equal laws, blocks, merging, and what is refused."""
from __future__ import annotations

import math

import pytest
import torch

from maskless.evaluation import image_metrics as metrics
from maskless.evaluation.feature_statistics import (
    Gaussian,
    Moments,
    Origin,
    Statistics,
    load_statistics,
    save_statistics,
)
from maskless.evaluation.features import statistics_of
from maskless.evaluation.image_metrics import Sample

F = 6


def normal(count: int, seed: int, *, shift: float = 0.0, scale: float = 1.0, split: str = "generated", name: str = "toy") -> Sample:
    rows = torch.randn(count, F, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Sample(rows * scale + shift, name, "none", split)


def distance(a: Sample, b: Sample) -> metrics.Measurement:
    return metrics.frechet_distance(statistics_of(a), statistics_of(b))


# ------------------------------------------------------------------------------------------------ Frechet distance


def test_distance_of_gaussians_with_commuting_covariances():
    a, b = torch.rand(2, F, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    turn = torch.linalg.qr(torch.randn(F, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    shift = torch.arange(F, dtype=torch.float64)
    one, two = Gaussian(shift, turn @ a.diag() @ turn.T), Gaussian(2 * shift, turn @ b.diag() @ turn.T)
    exact = float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert metrics.frechet(one, two) == pytest.approx(exact, rel=1e-12)
    assert metrics.frechet(two, one) == pytest.approx(exact, rel=1e-12)


def test_distance_of_covariances_that_do_not_commute():
    """Against the roots of the eigenvalues of the product, which is not symmetric; in two dimensions also by hand."""
    factors = torch.randn(2, F, F, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    a, b = factors @ factors.mT
    zero = torch.zeros(F, dtype=torch.float64)
    exact = float(a.trace() + b.trace() - 2 * torch.linalg.eigvals(a @ b).sqrt().real.sum())
    assert metrics.frechet(Gaussian(zero, a), Gaussian(zero, b)) == pytest.approx(exact, rel=1e-10)
    a, b = torch.tensor([[2.0, 1], [1, 3]]).double(), torch.tensor([[1.0, -0.5], [-0.5, 2]]).double()
    root = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float((a @ b).det())))                   # tr of the root of a 2 x 2 matrix
    assert metrics.frechet(Gaussian(zero[:2], a), Gaussian(zero[:2], b)) == pytest.approx(3 + 5 - 2 * root, rel=1e-12)


def test_equal_sets_are_at_no_distance_and_singular_covariances_do_no_harm():
    sample = normal(500, 3)
    assert distance(sample, sample).value < 1e-12
    flat = Gaussian(torch.zeros(F).double(), torch.diag(torch.tensor([1.0, 1, 0, 0, 0, 0])).double())
    assert metrics.frechet(flat, flat) < 1e-12


def test_the_jackknife_error_is_the_spread_of_repeated_measurements():
    found = [distance(normal(400, 2 * seed, shift=0.2), normal(400, 2 * seed + 1, split="test")) for seed in range(60)]
    spread = torch.tensor([each.value for each in found]).std()
    claimed = torch.tensor([each.standard_error for each in found]).square().mean().sqrt()
    assert 0.7 < float(claimed / spread) < 1.4
    assert "generated and the reference" in found[0].error_from and found[0].label == "Frechet distance (toy)"
    assert (found[0].count, found[0].reference_count, found[0].split) == (400, 400, "test")
    assert "+-" in str(found[0]) and "400 images against 400 of test" in str(found[0])


def test_labels_that_go_round_are_no_groups_of_the_jackknife():
    """Ten classes in turn and ten groups: leaving a group out must not leave a class out."""
    classes = 8 * torch.randn(10, F, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows = normal(500, 6).features + classes[torch.arange(500) % 10]
    mixed = rows[torch.randperm(500, generator=torch.Generator().manual_seed(7))]
    in_turn, shuffled = (distance(Sample(x, "toy", "none", "generated"), normal(500, 8, split="test")).standard_error for x in (rows, mixed))
    assert in_turn is not None and shuffled is not None and in_turn < 2 * shuffled


def test_only_inception_features_make_an_fid():
    sample = normal(50, 0, name="inception-v3-compat 6726825d")
    assert distance(sample, sample).label == "FID (inception-v3-compat 6726825d)"


# ------------------------------------------------------------------------------------------------------ statistics


def rows(moments: Moments, sample: Sample, sizes: list[int]) -> Moments:
    for part in sample.features.split(sizes):
        moments.add(part)
    return moments


def test_moments_are_those_of_the_rows_whatever_the_batches():
    sample = normal(53, 4, shift=2.0)
    found = [rows(Moments(F, "toy", "none", "x", groups=4), sample, sizes).statistics() for sizes in ([53], [1] * 13 + [40], [7, 40, 6], [50, 3])]
    for each in found:
        assert each.count == 53 and len(each.leave_out) == 4
        torch.testing.assert_close(each.mean, sample.features.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(each.covariance, sample.features.T.cov(), rtol=1e-11, atol=1e-12)
        for group, part in enumerate(each.leave_out):
            kept = sample.features[(torch.arange(53) + torch.arange(53) // 4) % 4 != group]
            torch.testing.assert_close(part.mean, kept.mean(0), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(part.covariance, kept.T.cov(), rtol=1e-11, atol=1e-12)


def test_merged_equals_whole():
    sample = normal(54, 5)
    whole = rows(Moments(F, "toy", "none", "x", groups=3), sample, [54])
    parts = [Moments(F, "toy", "none", "x", groups=3) for _ in range(2)]
    parts[0].add(sample.features[:27])
    parts[1].add(sample.features[27:])
    others = iter((parts[1].count, parts[1].total, parts[1].products))
    summed = parts[0].summed(lambda tensor: tensor + next(others))
    assert parts[0].statistics().count == 27
    parts[0].merge(parts[1])
    for each in (parts[0], summed):
        torch.testing.assert_close(each.statistics().covariance, whole.statistics().covariance, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(each.statistics().leave_out[2].mean, whole.statistics().leave_out[2].mean, rtol=1e-12, atol=1e-12)
    for other, word in ((Moments(F, "else", "none", "x", groups=3), "'else'"), (Moments(F, "toy", "none", "x", groups=2), r"\(2, 6, 6\)")):
        with pytest.raises(ValueError, match=word):
            parts[0].merge(other)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_statistics_files(suffix, tmp_path):
    made, path = statistics_of(normal(40, 6, split="train")), tmp_path / f"toy{suffix}"
    save_statistics(path, made)
    read = load_statistics(path, features="toy")
    assert torch.equal(read.mean, made.mean) and torch.equal(read.covariance, made.covariance)
    assert (read.count, read.features, read.transform, read.split, read.leave_out) == (40, "toy", "none", "train", ())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    generated = statistics_of(normal(40, 7))
    measured = metrics.frechet_distance(generated, read)
    assert measured.value == pytest.approx(metrics.frechet_distance(generated, made).value, rel=1e-12)
    assert measured.error_from == "jackknife over groups of the generated images" and measured.split == "train"
    assert metrics.frechet_distance(read, read).standard_error is None
    with pytest.raises(ValueError, match="'toy' and the images are measured with 'other'"):
        load_statistics(path, features="other")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="damaged"):
        load_statistics(path, features="toy")
    with pytest.raises(ValueError, match="cannot be read"):
        load_statistics(tmp_path / f"none{suffix}", features="toy")


def test_what_is_no_file_of_statistics_is_refused(tmp_path):
    import numpy as np

    np.savez(tmp_path / "foreign.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="has no count, features, transform, split; make it with maskless image-statistics"):
        load_statistics(tmp_path / "foreign.npz", features="toy")
    np.savez(tmp_path / "half.npz", mu=np.zeros(3), sigma=np.eye(3), features="toy")                        # says what it is of, and not how many
    with pytest.raises(ValueError, match="has no count, transform, split"):
        load_statistics(tmp_path / "half.npz", features="toy", origin=Origin(5, "none", "train"))
    np.savez(tmp_path / "images.npz", x_train=np.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="has no mu and no sigma but nothing"):
        load_statistics(tmp_path / "images.npz", features="toy")
    with pytest.raises(ValueError, match=r"foreign.pkl ends in .pkl; statistics are read from .npz, .safetensors, .pt, .pth files"):
        load_statistics(tmp_path / "foreign.pkl", features="toy")
    with pytest.raises(ValueError, match=r"ends in \.pt; statistics are kept in"):
        save_statistics(tmp_path / "toy.pt", statistics_of(normal(40, 6)))


@pytest.mark.parametrize("change", [{"mu": ["a", "b"]}, {"count": "many"}])
def test_numbers_that_are_none_are_said(tmp_path, change):
    import numpy as np

    whole = {"mu": np.zeros(2), "sigma": np.eye(2), "count": 5, "features": "toy", "transform": "none", "split": "train"}
    np.savez(tmp_path / "toy.npz", **{**whole, **change})
    with pytest.raises(ValueError, match="holds no statistics"):
        load_statistics(tmp_path / "toy.npz", features="toy")


class Opener:
    """What a pickle would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_in_a_file_of_statistics_is_run(tmp_path):
    torch.save({"mu": torch.zeros(3), "cov": Opener(str(tmp_path / "ran"))}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="is damaged or holds no tensors"):
        load_statistics(tmp_path / "evil.pt", features="toy", origin=Origin(5, "none", "train"))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="cannot be read"):
        load_statistics(tmp_path / "none.pt", features="toy")


# ------------------------------------------------------------------------------------------ scores of class laws


def test_inception_score_closed_forms():
    sample = normal(40, 0)
    sure = torch.eye(4).repeat(10, 1) * 1e3
    found = metrics.inception_score(sure, sample, splits=2, order=torch.arange(40))
    assert found.value == pytest.approx(4) and found.standard_error == pytest.approx(0, abs=1e-9)
    assert metrics.inception_score(torch.randn(4).expand(40, 4), sample, splits=5).value == pytest.approx(1)
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = logits.softmax(1)
    by_hand = [math.exp(float((q * (q / q.mean(0)).log()).sum(1).mean())) for q in p.split(10)]
    found = metrics.inception_score(logits, sample, splits=4, order=torch.arange(40))
    assert found.value == pytest.approx(sum(by_hand) / 4, rel=1e-12)
    assert found.standard_error == pytest.approx(float(torch.tensor(by_hand).std()) / 2, rel=1e-5)
    first, same, other = (metrics.inception_score(logits, sample, splits=4, seed=seed).value for seed in (1, 1, 2))
    assert first == same != other


# --------------------------------------------------------------------------------------------------- kernel distance


def test_mmd_by_its_definition():
    x, y = normal(9, 1).features, normal(9, 2).features
    k = lambda a, b: (float(a @ b) / F + 1) ** 3
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    exact = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / 72 - 2 * sum(k(a, b) for a in x for b in y) / 81
    assert float(metrics.unbiased_mmd(x, y)) == pytest.approx(exact, rel=1e-10)


def test_equal_laws_have_kernel_distance_zero_within_error_and_others_do_not():
    found = [metrics.kernel_distance(normal(400, 2 * seed), normal(400, 2 * seed + 1), size=50, subsets=8) for seed in range(20)]
    values = torch.tensor([each.value for each in found])
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(20)                        # unbiased: also below 0
    assert (values < 0).any() and sum(abs(each.value) < 2 * each.standard_error for each in found) >= 18
    apart = metrics.kernel_distance(normal(400, 1, shift=0.7), normal(400, 2), size=50, subsets=16)
    assert apart.value > 5 * apart.standard_error


@pytest.mark.parametrize("size, subsets, most", [(25, 4, 1.4), (50, 2, 1.4), (50, 12, 2.0)])
def test_the_error_of_the_kernel_distance_is_the_spread_of_repeated_measurements(size, subsets, most):
    found = [metrics.kernel_distance(normal(100, 2 * seed, shift=0.7), normal(100, 2 * seed + 1), size=size, subsets=subsets) for seed in range(80)]
    spread = torch.tensor([each.value for each in found]).std()
    claimed = torch.tensor([each.standard_error for each in found]).square().mean().sqrt()
    assert 0.7 < float(claimed / spread) < most


def test_subsets_that_share_images_have_no_error():
    found = metrics.kernel_distance(normal(40, 1), normal(39, 2), size=30, subsets=8)
    assert found.standard_error is None and "share images" in found.error_from


def test_subsets_of_a_round_share_no_image(monkeypatch):
    seen = []
    monkeypatch.setattr(metrics, "unbiased_mmd", lambda x, y: seen.append((x[:, 0], y[:, 0])) or torch.zeros(()).double())
    metrics.kernel_distance(normal(20, 1), normal(25, 2), size=5, subsets=8)
    for side in (0, 1):
        for turn in (seen[:4], seen[4:]):
            assert len(torch.cat([pair[side] for pair in turn]).unique()) == 20


# ----------------------------------------------------------------------------------------------- precision and recall


def pair(a: Sample, b: Sample, **more: int) -> tuple[float, float]:
    precision, recall = metrics.precision_recall(a, b, **more)
    return precision.value, recall.value


def test_disjoint_sets_have_none_and_equal_sets_all():
    a = normal(80, 1)
    assert pair(a, normal(70, 2, shift=100.0)) == (0, 0)
    assert pair(a, a) == (1, 1)
    doubled = Sample(a.features[:20].repeat(5, 1), "toy", "none", "doubled")                            # every radius is 0
    assert pair(doubled, doubled, block=7) == (1, 1)
    narrow = pair(normal(200, 3, scale=0.3), normal(200, 4))
    assert narrow[0] > 0.9 and narrow[1] < 0.3                                                         # fine images, few of them


@pytest.mark.parametrize("block", [4, 13, 64, 4096])
def test_blocks_equal_a_dense_computation(block):
    x, y = normal(90, 5).features, normal(75, 6, shift=0.5).features
    within = torch.cdist(y, y).fill_diagonal_(math.inf).topk(3, largest=False).values[:, -1]
    torch.testing.assert_close(metrics.radii(y, 3, block).sqrt(), within, rtol=1e-10, atol=1e-10)
    assert torch.equal(metrics.inside(x, y, within.square(), block), (torch.cdist(x, y) <= within).any(1))
    assert pair(normal(90, 5), normal(75, 6, shift=0.5), block=block) == pair(normal(90, 5), normal(75, 6, shift=0.5))


# ------------------------------------------------------------------------------------------------------ bad input


def spoiled(sample: Sample) -> torch.Tensor:
    rows = sample.features.clone()
    rows[3, 2] = math.nan
    return rows


GOOD = normal(30, 0)
REFUSED = {
    "too few images": (lambda: distance(normal(6, 1), GOOD), "6 images of generated are too few for a covariance of 6 features; give at least 7"),
    "one image": (lambda: statistics_of(normal(1, 1)), "1 images of generated were given"),
    "NaN in a sample": (lambda: Sample(spoiled(GOOD), "toy", "none", "x"), "features of 1 of 30 images are not finite"),
    "NaN in moments": (lambda: Moments(F, "toy", "none", "x").add(spoiled(GOOD)), "not finite"),
    "another width": (lambda: Moments(F, "toy", "none", "x").add(torch.zeros(3, 5)), r"shape \(3, 5\) were given where \(images, 6\)"),
    "other features": (lambda: distance(GOOD, normal(30, 0, name="other")), "'toy' and the reference with 'other'"),
    "another transform": (lambda: metrics.kernel_distance(GOOD, Sample(GOOD.features, "toy", "resized", "x"), size=5), "'resized'"),
    "no groups": (lambda: Moments(F, "toy", "none", "x", groups=0), "groups is 0"),
    "subsets larger than the sample": (lambda: metrics.kernel_distance(GOOD, GOOD), "30 images cannot be cut into 100 subsets of 1000"),
    "fewer images than splits": (lambda: metrics.inception_score(torch.zeros(5, 3), GOOD), "5 images cannot be cut into 10 splits"),
    "no permutation": (lambda: metrics.inception_score(torch.zeros(30, 3), GOOD, order=torch.zeros(30, dtype=torch.long)), "no permutation"),
    "infinite logits": (lambda: metrics.inception_score(torch.full((30, 3), math.inf), GOOD), "not finite"),
    "no neighbours": (lambda: metrics.precision_recall(normal(3, 0), GOOD), "3 images of .* cannot have 3 neighbours"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_one_sentence(what):
    attempt, sentence = REFUSED[what]
    with pytest.raises(ValueError, match=sentence) as error:
        attempt()
    assert "\n" not in str(error.value)


def test_statistics_of_other_widths_are_refused():
    eye = torch.eye(2).double()
    with pytest.raises(ValueError, match="6 features and the reference 2"):
        metrics.frechet_distance(statistics_of(GOOD), Statistics(eye[0], eye, 50, "toy", "none", "test"))
