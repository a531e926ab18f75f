"""The toy: the law is one, its points follow it, and the demo runs into a folder."""
from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from maskless.demo.cat import cat, distance, entropy, histogram, points
from maskless.demo.toy import QUICK, ToyConfig, ToyModel, demo_toy, drawn


def test_the_law_is_a_law_and_its_points_follow_it():
    law = cat(64)
    assert float(law.sum()) == pytest.approx(1.0) and bool((law >= 0).all()) and 0.2 < float((law > 0).double().mean()) < 0.8
    few, many = (distance(points(law, count, seed=3), law) for count in (500, 50_000))
    assert many < 0.05 < few
    assert torch.equal(points(law, 10), points(law, 20)[:10]) and not torch.equal(points(law, 10), points(law, 10, seed=1))
    assert float(law[tuple(points(law, 1000).T)].min()) > 0
    uniform = torch.full((64, 64), 1 / 4096, dtype=torch.float64)
    assert entropy(law) < entropy(uniform) and distance(points(uniform, 50_000), law) > 0.3
    assert float(histogram(points(law, 100), 64, 8).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_a_new_model_is_uniform_and_draws_in_as_many_calls_as_asked(digits):
    model = ToyModel(ToyConfig(digits=digits, width=8)).eval()
    assert not model.head(model.hidden(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.bool))).any()
    made, nfe = drawn(model, 4, 50)
    assert nfe == 4 and made.shape == (50, 2) and int(made.max()) < 512


def test_the_demo_writes_a_table_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("maskless.demo.toy.DRAWN", 60)
    monkeypatch.setattr("maskless.demo.toy.HELD_OUT", 64)
    monkeypatch.setattr("maskless.demo.toy.TRAINED", 256)
    lines: list[str] = []
    scale = dataclasses.replace(QUICK, steps=2, width=8, batch=16, calls=(1, 3))
    found = demo_toy(tmp_path / "toy", scale, say=lines.append)
    assert json.loads((tmp_path / "toy" / "results.json").read_text())["rows"] == found["rows"]
    one, two = found["rows"]
    assert (one["digits"], one["base"], two["digits"], two["base"]) == (1, 512, 2, 23)
    assert one["published_loss"] == pytest.approx(one["bound"], rel=1e-4) and two["published_loss"] != pytest.approx(two["bound"], rel=1e-5)
    assert [each["nfe"] for each in two["distances"]] == [1, 3]
    assert (tmp_path / "toy" / "toy.png").stat().st_size > 10_000 and any("Entropy 5.739" in line for line in lines)
    with pytest.raises(ValueError, match="exists already"):
        demo_toy(tmp_path / "toy", scale, say=lines.append)
