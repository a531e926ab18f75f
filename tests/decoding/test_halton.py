"""The Halton order of cells: the released one where that is whole, a permutation on every grid, rolled by each row's own noise."""
from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.oracle import Oracle

from maskless.decoding import Canvas, Confidence, Halton, Noise, Sampler, SamplerOptions, Scheduled, arccos
from maskless.decoding.halton import halton_rank

SCHEDULES = load_file(Path(__file__).parents[1] / "golden" / "image_schedules.safetensors")


def blank(rows: int, cells: int, before: int = 0) -> Canvas:
    known = (torch.arange(before + cells) < before).expand(rows, -1)
    return Canvas(torch.zeros(rows, before + cells, dtype=torch.int64), known, anchor=known)


def sequence(order, canvas, noise) -> list[list[int]]:
    """The open sites of every row in the order in which they are revealed."""
    sites = order.start(canvas, [], noise).sites
    return [row[:n].tolist() for row, n in zip(sites, canvas.open.sum(1).tolist())]


def inverse(j: int, base: int) -> Fraction:
    value, unit = Fraction(0), Fraction(1)
    while j:
        unit /= base
        value, j = value + unit * (j % base), j // base
    return value


def by_definition(rows: int, columns: int) -> list[int]:
    seen: dict[int, None] = {}
    j = 0
    while len(seen) < rows * columns:
        j += 1
        seen.setdefault(int(rows * inverse(j, 2)) * columns + int(columns * inverse(j, 3)))
    return list(seen)


@pytest.mark.parametrize("side", [8, 16, 24, 32])
def test_the_released_order(side):
    flat = SCHEDULES[f"halton/{side}/flat"]
    assert torch.equal(halton_rank(side, side).argsort(), flat)
    assert sequence(Halton((side, side)), blank(1, side * side), Noise.of(0, 1)) == [flat.tolist()]


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 5), (5, 3), (1, 9), (11, 1), (7, 16)])
def test_it_is_the_definition_in_whole_numbers(grid):
    assert halton_rank(*grid).argsort().tolist() == by_definition(*grid)


@pytest.mark.parametrize("grid", [*((side, side) for side in range(1, 65)), (96, 128), (3, 200), (81, 64)])
def test_no_cell_is_lost(grid):
    cells = grid[0] * grid[1]
    assert torch.equal(halton_rank(*grid).sort().values, torch.arange(cells))


def test_rolls_belong_to_rows():
    order, cells = Halton((4, 6), roll=True), 24
    plain = sequence(Halton((4, 6)), blank(1, cells), Noise.of(3, 1))[0]
    batch = sequence(order, blank(64, cells), Noise.of(3, 64))
    starts = [plain.index(row[0]) for row in batch]
    for row, start in zip(batch, starts):
        assert row == plain[start:] + plain[:start]
    assert len(set(starts)) > 12
    for row in (0, 13, 63):
        assert sequence(order, blank(1, cells), Noise([(3 << 20) + row]))[0] == batch[row]


def test_a_roll_is_that_of_the_released_code():
    cells, before = 64, 1
    canvas = blank(3, cells, before)
    flat = SCHEDULES["halton/8/flat"]
    found = sequence(Halton((8, 8), roll=True), canvas, Noise.of(1, 3))
    for row in found:
        shifts = [s for s in range(cells) if (flat.roll(s) + before).tolist() == row]
        assert len(shifts) == 1


@pytest.mark.parametrize("order", [Halton((4, 4)), Halton((4, 4), roll=True)])
def test_known_cells_are_skipped_and_left_alone(order):
    oracle, before = Oracle(17, 2), 1
    oracle.conditionals = lambda tokens, known, labels=None: torch.zeros(*tokens.shape, 2, dtype=torch.float64)
    tokens = torch.full((2, 17), 7)
    known = torch.zeros(2, 17, dtype=torch.bool)
    known[:, :before] = True
    known[0, [3, 9]] = True
    known[1, 4:12] = True
    canvas = Canvas(tokens, known, anchor=(torch.arange(17) < before).expand(2, -1))
    expected = [[site for site in row if not known[i, site]] for i, row in enumerate(sequence(order, blank(2, 16, 1), Noise.of(5, 2)))]
    assert sequence(order, canvas, Noise.of(5, 2)) == expected
    Sampler(Scheduled(3, arccos), order)(oracle, canvas, Noise.of(5, 2))
    assert canvas.known.all() and (canvas.tokens[known] == 7).all() and (canvas.tokens[~known] < 2).all()
    for row in range(2):
        log = canvas.log[row].tolist()
        assert log[int(known[row].sum()):] == expected[row]


def test_more_steps_than_cells_make_no_empty_calls():
    calls = []
    oracle = Oracle(4, 2)
    nfe = Sampler(Scheduled(9, arccos), Halton((2, 2)))(oracle, blank(5, 4), Noise.of(0, 5), lambda canvas, record: calls.append(record))
    assert nfe == len(calls) == 4 and all(bool(record.kept.any()) for record in calls)


@pytest.mark.parametrize("make, word", [
    (lambda: Halton((0, 4)), "no cells"),
    (lambda: sequence(Halton((4, 4)), blank(1, 15), Noise.of(0, 1)), "4 x 4 has 16 cells and the canvas 15 sites"),
    (lambda: sequence(Halton((4, 4)), blank(1, 17), Noise.of(0, 1)), "must be known"),
    (lambda: SamplerOptions(order="halton").sampler(16), "no grid"),
    (lambda: SamplerOptions(roll=True), "roll"),
    (lambda: SamplerOptions(roll=True, order="confidence"), "confidence"),
])
def test_bad_input_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_orders_by_name():
    halton = SamplerOptions(order="halton", roll=True, plan="arccos").sampler(16, (4, 4)).order
    assert halton == Halton((4, 4), roll=True)
    assert sequence(SamplerOptions(order="raster").sampler(16, (4, 4)).order, blank(1, 16), Noise.of(0, 1)) == [list(range(16))]
    options = SamplerOptions(order="confidence", confidence_noise=5, plan="arccos-maskgit", guidance=2, guidance_schedule="linear")
    published = options.sampler(16, (4, 4))
    assert published.order == Confidence(5)
    assert [step.counts[0] for step in published.plan(blank(1, 16), Noise.of(0, 1))][:2] == [1, 1]
