"""How many sites when: the tables of the released samplers, and those of their masking modes."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maskless.decoding import (
    Canvas,
    Noise,
    SamplerOptions,
    Scheduled,
    arccos,
    arccos_maskgit,
    arccos_pgm,
    cosine,
    even,
    root,
    square,
)
from maskless.decoding.ends import SHARES, from_none
from maskless.decoding.plan import place

SCHEDULES = load_file(Path(__file__).parents[1] / "golden" / "image_schedules.safetensors")
TABLES = [key.split("/") for key in SCHEDULES if key.endswith("per_step")]
ENDS = {"halton_steps": arccos, "conf_maskgit": arccos_maskgit, "conf_pgm": arccos_pgm}


@pytest.mark.parametrize("kind", ENDS)
def test_the_released_tables(kind):
    tables = [(int(side), int(steps)) for name, side, steps, _ in TABLES if name == kind]
    assert len(tables) >= 15
    for side, steps in tables:
        ends = torch.tensor([0, *ENDS[kind](side * side, steps)])
        assert torch.equal(ends.diff(), SCHEDULES[f"{kind}/{side}/{steps}/per_step"]), (side, steps)


def test_the_masking_modes():
    for key in SCHEDULES:
        kind, *rest = key.split("/")
        if kind == "conf_modes":
            mode, side, steps = rest[0], int(rest[1]), int(rest[2])
            assert from_none(SHARES[mode], side * side, steps) == SCHEDULES[key].tolist()
    for mode, share in SHARES.items():
        rates = torch.tensor([1 - share(r) for r in SCHEDULES["mask_rate/r"].double().clamp(max=1).tolist()])
        assert (rates - SCHEDULES[f"mask_rate/{mode}"]).abs().max() < 1e-6


@pytest.mark.parametrize("ends", [even, root, square, cosine, arccos, arccos_maskgit, arccos_pgm])
def test_any_number_of_sites_and_steps(ends):
    for sites in (0, 1, 7, 15, 16, 576):
        for steps in (1, 2, 3, 7, 16, 40):
            table = ends(sites, steps)
            assert len(table) == steps and table[-1] == sites and table == sorted(table) and table[0] >= 0


@pytest.mark.parametrize("ends", [arccos, arccos_maskgit, arccos_pgm])
def test_more_steps_than_sites_leave_out_the_empty_ones(ends):
    canvas = Canvas(torch.zeros(2, 64, dtype=torch.int64), torch.arange(64) < torch.tensor([[0], [50]]))
    plan = Scheduled(100, ends)(canvas, Noise.of(0, 2))
    assert all(any(step.counts) for step in plan) and len(plan) <= 64
    assert torch.tensor([step.counts for step in plan]).sum(0).tolist() == [64, 14]


@pytest.mark.parametrize("options", [
    {}, {"plan": "arccos"}, {"plan": "root", "block": 300}, {"plan": "ancestral"}, {"plan": "ancestral", "alpha_power": 3.0, "time_power": 2.0},
    {"plan": "ancestral", "alpha_power": 3.0, "corrector": 2.0}, {"plan": "ancestral", "alpha_power": 2.0, "block": 400}])
def test_the_level_that_a_model_is_told_is_the_share_of_its_sites_that_is_unknown(options):
    open_sites = [1000, 700]
    canvas = Canvas(torch.zeros(2, 1000, dtype=torch.int64), torch.arange(1000) >= torch.tensor(open_sites)[:, None])
    known, told = [0, 0], []
    for step in place(SamplerOptions(steps=7, **options).sampler(1000).plan(canvas, Noise.of(3, 2)), "cpu"):
        told.append(step.noise_level(None, canvas.tokens).tolist())
        assert step.noise_level(torch.tensor([1]), canvas.tokens[1:]).tolist() == told[-1][1:]
        known = [a - b for a, b in zip(known, step.forget or (0, 0))]
        assert told[-1] == pytest.approx([1 - a / n for a, n in zip(known, open_sites)], abs=0.06 if "ancestral" in options.values() else 1e-6)
        known = [a + b for a, b in zip(known, step.counts)]
    assert told[0] == [1, 1] and known == open_sites and len({first for first, _ in told}) == len(told)


def test_a_third_is_reached_from_below_as_in_the_released_code():
    assert SCHEDULES["halton_steps/24/8/cumulative"][3] == 191 == arccos(576, 8)[3] == 576 // 3 - 1
    assert arccos(1, 1) == [1] and square(100, 10)[2] == 9
