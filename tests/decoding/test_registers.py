"""Lengths as the released image samplers count them, behind an option."""
from __future__ import annotations

import pytest
import torch

from maskless import CausalPartitionConfig, ImageCodes, ImageModel, MaskGITConfig, PartitionConfig, PixelCodec, build
from maskless.decoding import Canvas, Confidence, Noise, Sampler, Scheduled, constant
from maskless.models import PartitionTransformer
from maskless.models.captured import Captured, Rerun

SIZES = {"vocab_size": 5, "length": 16, "width": 16, "heads": 2, "classes": 3}
LAYERS = {"encoder_layers": 2, "decoder_layers": 1}


def partition(registers: int = 2) -> PartitionTransformer:
    torch.manual_seed(0)
    model = build(PartitionConfig(**SIZES, **LAYERS, registers=registers, grid=(4, 4)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.35)
    return model.double().eval()


def decoded(sampler: Sampler, model, rows: int = 3) -> tuple[torch.Tensor, list[torch.Tensor]]:
    canvas = Canvas(torch.zeros(rows, 16, dtype=torch.int64), torch.zeros(rows, 16, dtype=torch.bool))
    laws = [record.draw.logp for record in sampler.records(model, canvas, Noise(range(rows)), torch.arange(rows) % 3)]
    return canvas.by_site().tokens, laws


@pytest.mark.parametrize("registers", [2, 4])
@pytest.mark.parametrize("guidance", [None, constant(1.5)], ids=["plain", "guided"])
@torch.inference_mode()
def test_the_newest_tokens_are_hidden(registers, guidance):
    """One site a call: the law of every call is the full pass's, with the last tokens that were drawn taken away again."""
    model = partition(registers)
    sampler = Sampler(Scheduled(16), guidance=guidance, count_registers=False)
    canvas, labels = Canvas(torch.zeros(2, 16, dtype=torch.int64), torch.zeros(2, 16, dtype=torch.bool)), torch.tensor([0, 2])
    predictor = sampler.predictor(model, labels)
    hidden = registers // 2
    for record in Sampler(Scheduled(16), guidance=guidance).records(model, canvas, Noise([1, 2]), labels):
        first = max(0, canvas.fewest - hidden)
        short = canvas.known.scatter(1, canvas.log[:, first:canvas.fewest], False)
        seen = Sampler(guidance=guidance).predictor(Full(model), labels)(Canvas(canvas.tokens.clone(), short), record.sites, record.step)
        torch.testing.assert_close(predictor(canvas, record.sites, record.step), seen, rtol=0, atol=1e-12)
    assert record.step.index == 15


class Full:
    """A model whose predictor is the naive one, which reads `known` and no lengths."""

    left_to_right, shuffle_prompt = False, False

    def __init__(self, model: PartitionTransformer):
        self.model, self.null_label = model, model.null_label

    def predictor(self, cond: torch.Tensor | None = None):
        return self.model.full_predictor(cond)


def test_an_option_of_images_and_of_results():
    """Other images than with the register counted, the same with captured calls; the option is one of `SamplerOptions`."""
    codes = ImageCodes(PixelCodec(levels=5), grid=(4, 4), classes=("a", "b", "c"))
    model = ImageModel(partition().float(), codes, device="cpu")
    counted, released = (model.generate(64, labels="b", seed=3, steps=16, guidance=1.0, count_registers=flag) for flag in (True, False))
    assert (counted.codes != released.codes).any()
    model._captured = Captured(model._network, lambda: Rerun)
    assert torch.equal(model.generate(64, labels="b", seed=3, steps=16, guidance=1.0, count_registers=False).codes, released.codes)


@pytest.mark.parametrize("model", [partition(0), build(MaskGITConfig(**SIZES, layers=1, registers=1)),
                                   build(CausalPartitionConfig(**SIZES, **LAYERS, registers=2))], ids=lambda model: type(model).__name__)
def test_models_without_packed_registers_refuse(model):
    with pytest.raises(ValueError, match=r"count_registers is false and this .* packs no registers"):
        decoded(Sampler(Scheduled(4), Confidence(), count_registers=False), model)
