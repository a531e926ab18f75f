"""Golden losses of images: what the files hold, every expected number wrong by ten tolerances, other sizes, no metadata, and the quirk."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maskless.checkpoints.reference.quirks import CountedIds
from maskless.evaluation.golden import Case, verify
from maskless.models import MaskGITConfig, build
from maskless.suites.parity import check_rates

FILES = [Path(__file__).parents[1] / "golden" / f"image_loss_{kind}.safetensors" for kind in ("pgm", "maskgit")]
EVERY = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def expected(path: Path) -> list[str]:
    derived = ("in/mask", "in/tokens") if "maskgit" in path.name else ("in/group_idxs",)
    return [name for name in load_file(path) if name.startswith(("out/", "mid/", "grad/")) or name in derived]


@EVERY
def test_this_build_agrees(path):
    report = verify(path)
    assert report.passed and not report.unchecked
    assert max(each.relative for each in report.found) < 5e-6  # far inside the tolerance
    about = json.loads(metadata(path)["config"])
    norms = {"metadata grad_norm_total", *(f"metadata grad_norms {key}" for key in about["grad_norms"])}
    assert {each.name for each in report.found} >= {*expected(path), *norms}


@EVERY
def test_every_expected_number_matters(path, tmp_path):
    tensors, wrong = load_file(path), tmp_path / path.name
    for name in expected(path):
        tensor = tensors[name]
        off = tensor + 10 * (1e-4 + 1e-4 * tensor.abs()) if tensor.is_floating_point() else ~tensor if tensor.dtype == torch.bool else tensor + 1
        save_file({**tensors, name: off}, wrong, metadata(path))
        assert [each.name for each in verify(wrong).found if not each.passed] == [name]
    about = json.loads(metadata(path)["config"])
    key = next(iter(about["grad_norms"]))
    about["grad_norms"][key] += 0.01
    save_file(tensors, wrong, {**metadata(path), "config": json.dumps(about)})
    assert [each.name for each in verify(wrong).found if not each.passed] == [f"metadata grad_norms {key}"]


@EVERY
@pytest.mark.parametrize("change", ["out/loss", "in/u", "in/drop_label"])
def test_other_draws_are_other_losses(path, change, tmp_path):
    """The checks look at labels and uniforms: with others the recorded losses are not met."""
    tensors = load_file(path)
    changed = ~tensors[change] if change == "in/drop_label" else 0.9 - 0.8 * tensors[change]
    save_file({**tensors, change: changed}, tmp_path / path.name, metadata(path))
    assert not verify(tmp_path / path.name).passed


def test_a_smaller_batch_without_norms_is_a_file_of_the_kind(tmp_path):
    path = FILES[0]
    about = {key: value for key, value in json.loads(metadata(path)["config"]).items() if "norm" not in key}
    tensors = {name: tensor[:2] if name.startswith(("in/", "mid/")) or name == "out/nll" else tensor for name, tensor in load_file(path).items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("grad/") and name not in ("out/loss", "in/code")}
    save_file({**tensors, "out/loss": tensors["out/nll"].mean()}, tmp_path / path.name, {"config": json.dumps(about)})
    report = verify(tmp_path / path.name)
    assert report.passed and not report.unchecked


def test_counted_ids_take_mass_and_the_others_do_not():
    model = build(MaskGITConfig(vocab_size=7, length=4, width=8, heads=2, layers=1, mask_id=5, forbidden=(5, 6)))
    assert CountedIds(model, (6,)).allowed.tolist() == [True] * 5 + [False, True]
    assert CountedIds(model, (5, 6)).allowed is None and model.allowed.tolist() == [True] * 5 + [False] * 2


def test_learning_rates_are_checked():
    path = FILES[0].with_name("image_schedules.safetensors")
    case = Case.read(path, torch.device("cpu"), torch.float32)
    check_rates(case)
    assert [(each.name, each.passed) for each in case.found] == [("lr/value", True)] and case.found[0].relative < 1e-9
    other = replace(case, tensors={**case.tensors, "lr/value": case.tensors["lr/value"] * 1.1}, found=[], used=set())
    check_rates(other)
    assert not other.found[0].passed
