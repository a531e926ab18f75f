"""Temperatures and top-k that change from step to step."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.oracle import Oracle

from maskless.decoding import (
    Canvas,
    Choice,
    Choices,
    Noise,
    Sampler,
    SamplerOptions,
    Scheduled,
    Step,
    inverse_linear,
    linear_top_k,
)

SCHEDULES = load_file(Path(__file__).parents[1] / "golden" / "image_schedules.safetensors")


def inverses(temperature, steps: int) -> torch.Tensor:
    return torch.tensor([1 / temperature(Step(i, steps)) for i in range(steps)])


@pytest.mark.parametrize("steps", [8, 32, 64])
def test_the_released_temperatures(steps):
    assert torch.allclose(inverses(inverse_linear(1, 1, warmup=1), steps), SCHEDULES[f"inv_temp_default/{steps}"])
    assert torch.allclose(inverses(inverse_linear(1, 1.2), steps), SCHEDULES[f"inv_temp_1_1.2_warm0/{steps}"])
    squared = inverses(inverse_linear(1, 1.2, power=2), steps)
    assert torch.allclose(squared, SCHEDULES[f"inv_temp_1_1.2_warm0/{steps}"] ** 2)


def test_each_step_draws_with_its_own_choice():
    oracle, laws = Oracle(3, 5), []
    choices = Choices(Choice(), inverse_linear(1, 3, warmup=1), linear_top_k(5, 1))
    canvas = Canvas(torch.zeros(6, 3, dtype=torch.int64), torch.zeros(6, 3, dtype=torch.bool))
    before = canvas.tokens.clone(), canvas.known.clone()
    for record in Sampler(Scheduled(3), choice=choices).records(oracle, canvas, Noise.of(0, 6)):
        logits = record.sites.take(oracle.conditionals(*before))
        heat, k = {0: (2.0, 5), 1: (1 / 2, 3), 2: (1 / 3, 1)}[record.step.index]
        law = Choice(heat, k).law(logits.flatten(0, 1), None)
        laws.append((record.draw.logp.flatten() - law.gather(1, record.draw.token.flatten()[:, None])[:, 0]).abs().max())
        before = canvas.tokens.clone(), canvas.known.clone()
    assert len(laws) == 3 and max(laws) < 1e-12


def test_a_choice_is_the_same_at_every_step():
    choice = Choice(0.7, 3)
    assert choice.at(Step(0, 3)) is choice
    assert Choices(choice).at(Step(2, 3)) == choice
    assert Choices(Choice(temperature=0), inverse_linear(1, 2)).at(Step(0, 2)).temperature == 0


@pytest.mark.parametrize("options, word", [
    ({"candidates": 3}, "candidates is 3, and order random scores no sites"), ({"candidates": 3, "order": "halton"}, "order halton scores no sites"),
    ({"order": "entropy-bound", "plan": "root"}, "plan is root, and order entropy-bound"),
    ({"guidance_schedule": "linear"}, "guidance_schedule is linear and guidance 0"),
    ({"stop": True, "corrector": 1.0, "plan": "ancestral"}, "corrector 1.0 may forget the EOS"),
])
def test_options_that_nothing_reads_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        SamplerOptions(**options)


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy-bound"])
def test_scored_orders_have_candidates(order):
    assert SamplerOptions(candidates=3, order=order).sampler(12).order.candidates == 3


def test_schedules_by_name():
    options = SamplerOptions(steps=4, temperature=1.0, temperature_last=0.5, temperature_warmup=1, top_k=8, top_k_last=2)
    choice = options.sampler(12).choice
    assert [round(choice.at(Step(i, 4)).temperature, 6) for i in (0, 3)] == [2.0, 0.5]
    assert [choice.at(Step(i, 4)).top_k for i in range(4)] == [8, 6, 4, 2]
    assert SamplerOptions().sampler(12).choice == Choice()
    guided = SamplerOptions(guidance=2.0, guidance_schedule="linear").sampler(12).guidance
    assert [guided(Step(i, 3)) for i in range(3)] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("options, word", [
    ({"temperature_last": 0.0}, "temperature_last 0.0"), ({"temperature_last": float("inf")}, "temperature_last inf"),
    ({"temperature": 0.0, "temperature_warmup": 1}, "temperature 0 takes"), ({"temperature_warmup": -1}, "warmup -1"),
    ({"temperature_power": float("nan")}, "power nan"),
    ({"top_k_last": 3}, "top_k 0 and top_k_last 3"), ({"top_k": 3, "top_k_last": 0}, "top_k_last 0"),
    ({"guidance": float("inf")}, "guidance inf"), ({"confidence_noise": float("nan")}, "confidence_noise nan"),
    ({"draft": 2, "temperature_warmup": 1}, "draft 2"), ({"draft": 2, "guidance": 1.0, "guidance_schedule": "linear"}, "draft 2"),
])
def test_bad_schedules_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        SamplerOptions(**options).sampler(12)
