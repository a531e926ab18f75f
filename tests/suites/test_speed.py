"""The papers' protocols run on every kind of model, and say what they timed."""
from __future__ import annotations

import pytest
import torch

import maskless
from maskless.data.vq import VQCodec
from maskless.data.vqgan import VQ, VQConfig
from maskless.decoding import SamplerOptions
from maskless.evaluation.settings import Speed
from maskless.suites.run import evaluate
from maskless.suites.session import Session
from maskless.suites.speed import Generation, spread
from maskless.suites.subject import open_subject, subject_of
from tests.suites.conftest import randomised
from tests.suites.test_images import world  # noqa: F401  (a fixture)

QUICK = {"batch": 2, "repeats": 2, "warmups": 1}


@pytest.mark.parametrize("kind, nfe", [("pgm", 4), ("causal", 4), ("ar", 11)])
def test_protocols(models, tmp_path, kind, nfe):
    settings = Speed(**QUICK, length=12, sampler=SamplerOptions(steps=4))
    found = {result.metric: result for result in evaluate(open_subject(models / kind, device="cpu"), [settings], out=tmp_path)}
    assert set(found) == {"latency", "tokens_per_second", "training_step"}
    for result in found.values():
        assert result.kind == "measurement" and result.value > 0 and result.samples == 2 and len(result.details["seconds"]) == 2
        assert result.uncertainty.kind == "spread" and result.details["length"] == 12 and result.data is None
    latency, throughput, step = (found[name] for name in ("latency", "tokens_per_second", "training_step"))
    assert latency.details["batch"] == 1 and throughput.details["batch"] == 2 and latency.nfe == throughput.nfe == nfe
    assert latency.sampler["steps"] == throughput.sampler["steps"] == (None if kind == "ar" else 4)     # which takes no heed of steps
    assert latency.value == pytest.approx(sum(latency.details["seconds"]) / 2)
    rates = [24 / seconds for seconds in throughput.details["seconds"]]
    assert throughput.value == pytest.approx(sum(rates) / 2) and throughput.better == "higher"
    assert step.nfe is None and step.details["rows_per_second"] == pytest.approx(2 / step.value)


def test_images_and_what_is_counted(world, tmp_path):  # noqa: F811
    settings = Speed(**QUICK, protocols=("throughput",), sampler=SamplerOptions(steps=3, order="halton"))
    (found,) = evaluate(open_subject(world / "painter", device="cpu"), [settings], out=tmp_path)
    assert found.nfe == 3 and found.details["rows_per_second"] == pytest.approx(found.value / 64, rel=0.5)


@pytest.mark.parametrize("words, steps", [((), 32), (("speed.sampler.steps=3",), 3)])
def test_images_are_timed_in_the_order_they_are_drawn_in(world, tmp_path, words, steps):  # noqa: F811
    quick = {f"speed.{name}={value}" for name, value in QUICK.items()}
    (found,) = maskless.evaluate(world / "painter", "speed", *quick, "speed.protocols=[latency]", *words, out=tmp_path, device="cpu")
    assert (found.nfe, found.sampler["steps"], found.sampler["order"], found.sampler["plan"]) == (steps, steps, "halton", "arccos")


@pytest.mark.parametrize("decode", (False, True))
def test_decoding_to_pixels_is_timed_where_asked(tmp_path, monkeypatch, decode):
    """As often as rows are drawn, the whole of them, and once each; what is drawn and counted stays the same."""
    codec = VQCodec(VQ(VQConfig(ch=8, ch_mult=(1, 2), res_blocks=1, z_channels=8, codebook_size=4, groups=4)))
    sizes = {"length": 16, "grid": (4, 4), "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "registers": 2, "dropout": 0.0}
    subject = subject_of(randomised(maskless.PartitionConfig(4, **sizes)), maskless.ImageCodes(codec, (4, 4)), "painter", device="cpu")
    seen = []
    original = VQCodec.decode
    monkeypatch.setattr(VQCodec, "decode", lambda self, codes: seen.append(codes.clone()) or original(self, codes))
    settings = Speed(**QUICK, protocols=("latency", "throughput"), sampler=SamplerOptions(steps=3, order="halton"), decode=decode)
    found = evaluate(subject, [settings], out=tmp_path)
    assert [result.nfe for result in found] == [3, 3] and all(result.details["decoded"] is decode for result in found)
    assert [len(codes) for codes in seen] == ([1, 1, 1, 2, 2, 2] if decode else []) and all(codes.shape[1:] == (4, 4) for codes in seen)
    assert not decode or len(torch.cat(seen).unique()) > 1          # the canvas that was filled


def test_a_model_of_nan_is_not_timed(models, tmp_path):
    subject = open_subject(models / "pgm", device="cpu")
    with torch.no_grad():
        subject.opened.model.head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        evaluate(subject, [Speed(**QUICK, length=12, protocols=("latency",), sampler=SamplerOptions(steps=4))], out=tmp_path)


def test_the_model_is_left_as_it_is(models, tmp_path):
    subject = open_subject(models / "pgm", device="cpu")
    evaluate(subject, [Speed(**QUICK, protocols=("training",), length=8)], out=tmp_path)
    assert not subject.opened.model.training and all(parameter.grad is None for parameter in subject.opened.model.parameters())


@pytest.mark.parametrize("kind", ("MaskedConfig", "PartitionConfig", "PrimeConfig"))
def test_models_that_are_told_the_time_are_trained(tmp_path, kind):
    depth = {"encoder_layers": 1, "decoder_layers": 1} if kind == "PartitionConfig" else {"layers": 1}
    digits = {"digits": 2} if kind == "PrimeConfig" else {}
    config = getattr(maskless, kind)(vocab_size=259, length=8, width=16, heads=2, dropout=0.0, cond_dim=8, time_conditioned=True, **depth, **digits)
    subject = subject_of(randomised(config), maskless.load_tokenizer("bytes"), "timed", device="cpu")
    (found,) = evaluate(subject, [Speed(**QUICK, protocols=("training",))], out=tmp_path)
    assert found.metric == "training_step" and found.value > 0


def test_the_length_of_images_is_theirs(world, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match=r"length is 16 and .*painter makes whole images; leave speed\.length out"):
        evaluate(open_subject(world / "painter", device="cpu"), [Speed(**QUICK, length=16)], out=tmp_path)


def test_drafts_are_timed_under_the_law_that_users_draw_by(tmp_path, monkeypatch):
    """With the labels that guidance is by; and rows of text begin with the vocabulary's BOS."""
    sizes = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    config = maskless.CausalPartitionConfig(vocab_size=4, length=16, classes=3, grid=(4, 4), **sizes)
    codes = maskless.ImageCodes(maskless.PixelCodec(levels=4), grid=(4, 4))
    subject = subject_of(randomised(config), codes, "drafter", device="cpu")
    labels, verifier = [], type(subject.opened.model).verifier
    monkeypatch.setattr(type(subject.opened.model), "verifier", lambda self, cond=None: labels.append(cond) or verifier(self, cond))
    drafts = SamplerOptions(draft=2, guidance=1.0)
    evaluate(subject, [Speed(**QUICK, protocols=("throughput",), sampler=drafts)], out=tmp_path)
    assert labels and all(each is not None and each[:2].tolist() == [0, 1] for each in labels)
    with pytest.raises(ValueError, match="refresh is 2 and draft 2, which keeps the cache"):
        evaluate(subject, [Speed(**QUICK, name="b", protocols=("throughput",), sampler=drafts, refresh=2)], out=tmp_path)
    text = randomised(maskless.PartitionConfig(vocab_size=259, length=8, **sizes))
    subject = subject_of(text, maskless.load_tokenizer("bytes"), "writer", device="cpu")
    canvas = Generation(Session(subject, Speed(), tmp_path), Speed(), 2, 8).canvas()
    assert canvas.tokens[:, 0].tolist() == [256, 256] and canvas.known.sum() == 2


def test_protocols_of_one_name_may_be_asked_one_after_the_other(models, tmp_path):
    subject = open_subject(models / "pgm", device="cpu")
    for protocol in ("latency", "training", "latency"):
        evaluate(subject, [Speed(**QUICK, protocols=(protocol,), length=8)], out=tmp_path)
    with pytest.raises(ValueError, match="was measured with length 8 and 12 is asked for"):
        evaluate(subject, [Speed(**QUICK, protocols=("throughput",), length=12)], out=tmp_path)


def test_refusals(models, tmp_path):
    for protocol in ("latency", "training"):
        with pytest.raises(ValueError, match="length is 1 and the model has 24 sites; give at most those, and at least 2"):
            evaluate(open_subject(models / "pgm", device="cpu"), [Speed(length=1, protocols=(protocol,))], out=tmp_path)
    with pytest.raises(ValueError, match="length is 99"):
        evaluate(open_subject(models / "pgm", device="cpu"), [Speed(length=99)], out=tmp_path)
    with pytest.raises(ValueError, match="cannot be sampled in order Margin"):
        evaluate(open_subject(models / "ar", device="cpu"), [Speed(**QUICK, length=8, sampler=SamplerOptions(order="margin"))], out=tmp_path)
    with pytest.raises(ValueError, match=r"is a model of text and decode is of images; leave speed\.decode out"):
        evaluate(open_subject(models / "pgm", device="cpu"), [Speed(decode=True)], out=tmp_path)
    assert spread([3.0]).kind == "none" and spread([1.0, 4.0]).value == 1.5
