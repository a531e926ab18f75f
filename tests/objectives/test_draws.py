from __future__ import annotations

import pytest
import torch

from maskless.objectives import draws
from maskless.schedules import LogLinear, stratified_times, systematic_times


def test_one_time_in_each_part_of_the_interval():
    t = draws(0, 5, torch.arange(64), 64, 3, low=0.001, high=0.999).t
    part = ((t.double() - 0.001) / 0.998 * 64).floor()
    assert sorted(part.tolist()) == list(range(64))


def test_any_split_gives_the_same_numbers():
    whole = draws(1, 7, torch.arange(12), 12, 9)
    for cut in ([6, 6], [3, 3, 3, 3], [1, 11]):
        parts = [draws(1, 7, rows, 12, 9) for rows in torch.arange(12).split(cut)]
        assert torch.equal(torch.cat([p.t for p in parts]), whole.t)
        assert torch.equal(torch.cat([p.u for p in parts]), whole.u)


def test_longer_rows_begin_with_the_same_uniforms():
    assert torch.equal(draws(1, 7, torch.arange(4), 4, 9).u[:, :5], draws(1, 7, torch.arange(4), 4, 5).u)


def test_steps_and_seeds_differ_and_each_row_visits_every_part():
    rows = torch.arange(8)
    seen = torch.stack([draws(0, step, rows, 8, 1, low=0.0).t for step in range(200)])
    assert ((seen * 8).floor().unique(dim=0).shape[0]) == 8  # eight rotations
    assert (seen.mean(0) - 0.5).abs().max() < 0.08
    assert not torch.equal(draws(0, 0, rows, 8, 4).u, draws(1, 0, rows, 8, 4).u)


def test_times_never_reach_one():
    assert draws(0, 0, torch.arange(2), 2, 50, low=1 - 1e-12, high=1.0).t.max() < 1


def test_uniforms_are_uniform():
    u = draws(3, 0, torch.arange(50), 50, 400).u.flatten().sort().values
    assert (u - torch.linspace(0, 1, 20000)).abs().max() < 0.015


def test_schedule():
    schedule, t = LogLinear(1e-3), torch.tensor([0.2, 0.7], dtype=torch.float64)
    torch.testing.assert_close(schedule.hiding(t), 1 - schedule.alpha(t))
    torch.testing.assert_close(schedule.weight(t), -schedule.rate(t) / (1 - schedule.alpha(t)))
    alpha = schedule.alpha
    s = t / 2
    torch.testing.assert_close(schedule.reveal(t, s), (alpha(s) - alpha(t)) / (1 - alpha(t)))
    with pytest.raises(ValueError, match=r"schedule.eps is 1.5"):
        LogLinear(1.5)


def test_spread_times():
    t = stratified_times(torch.tensor([0.5, 0.5]), 0.0, 1.0)
    assert t.tolist() == [0.25, 0.75]
    assert systematic_times(torch.tensor(0.9), 2, 0.0).tolist() == pytest.approx([0.9, 0.4])
