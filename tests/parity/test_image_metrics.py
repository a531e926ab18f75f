"""The golden file of image metrics: it agrees, closely, and every expected tensor of it matters."""
from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maskless.checkpoints.reference.quirks import frechet_rounded
from maskless.evaluation.golden import verify

pytest.importorskip("PIL")
PATH = Path(__file__).parents[1] / "golden" / "image_metrics.safetensors"
EXPECTED = sorted(name for name in load_file(PATH) if name.startswith("out/"))


def test_this_build_agrees():
    report = verify(PATH)
    assert report.passed and not report.unchecked
    assert sorted(each.name for each in report.found) == EXPECTED
    assert max(each.relative for each in report.found) < 1e-6           # the two distances are 9e-5 apart


@pytest.mark.parametrize("name", EXPECTED)
def test_every_expected_tensor_matters(name, tmp_path):
    tensors = load_file(PATH)
    with safe_open(PATH, "pt") as file:
        meta = dict(file.metadata())
    wrong = tensors[name].clone()
    wrong.view(-1)[-1] += 1 if not wrong.is_floating_point() else 2e-3 * max(1, float(wrong.abs().max()))
    save_file({**tensors, name: wrong}, tmp_path / PATH.name, meta)
    assert [each.name for each in verify(tmp_path / PATH.name).found if not each.passed] == [name]


def test_the_released_rounding_is_another_number():
    tensors = load_file(PATH)
    rounded = frechet_rounded(tensors["in/fake"], tensors["in/real"])
    assert rounded == pytest.approx(12.57196, abs=2e-5) and abs(rounded - float(tensors["out/fid_fp64"])) > 1e-3
