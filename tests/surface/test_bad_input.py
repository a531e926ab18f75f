"""Every mistake is one clear sentence on stderr, exit code 2, and nothing on disk is harmed."""
from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch

from tests.training.runs import REPOSITORY, environment


@pytest.fixture
def places(tmp_path, model, left_to_right):
    """What the command lines below name."""
    truncated = tmp_path / "truncated"
    shutil.copytree(model, truncated)
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (tmp_path / "characters.txt").write_text("abc")
    from maskless.data.tokenizer import symbol_tokenizer

    symbol_tokenizer("abc").save(other)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "garbage.yaml").write_text("model: [")
    (tmp_path / "text_pgm_loss.safetensors").write_bytes(b"garbage")
    (tmp_path / "unknown_kind.safetensors").write_bytes(b"garbage")
    results(tmp_path)
    absent = "mps" if torch.cuda.is_available() else "cuda"
    return {"model": model, "ar": left_to_right, "tmp": tmp_path, "absent": absent}


def results(folder):
    """Two results that share no column, one that is torn, and a page of somebody else's."""
    from dataclasses import replace

    from maskless.evaluation.results import write
    from tests.evaluation.test_report import BOUND

    write(BOUND, folder / "results")
    write(replace(BOUND, name="raw", model=replace(BOUND.model, weights="raw")), folder / "results")
    torn = write(BOUND, folder / "torn")
    torn.write_text(torn.read_text()[:-20])
    (folder / "mine.html").write_text("<p>mine</p>")


MISTAKES = {
    "unknown verb": ("dance", "dance"),
    "unknown option": ("sample {model} --stpes 3", "--stpes"),
    "option of the wrong type": ("sample {model} --steps many", "--steps"),
    "unknown recipe": ("train tiny/none", "tiny/none"),
    "no recipe": ("train", "no recipe"),
    "not YAML": ("train {tmp}/garbage.yaml", "garbage.yaml"),
    "unknown key": ("train tiny/pgm training.stps=3 --out {tmp}/run", "training.stps"),
    "key of another type": ("train tiny/ar model.cond_dim=0 --out {tmp}/run", "model.cond_dim is a key of masked"),
    "wrong type": ("train tiny/pgm training.steps=many --out {tmp}/run", "many"),
    "no steps of training": ("train tiny/pgm training.steps=0 --out {tmp}/run", "steps is 0"),
    "objective of another model": ("train tiny/ar objective.type=masked --out {tmp}/run", "autoregressive"),
    "recipe: AR with a confidence order": ("train tiny/ar sampling.sampler.order=confidence --out {tmp}/run", "confidence"),
    "recipe: length beyond the model's": ("train tiny/pgm training.length=4096 --out {tmp}/run", "4096"),
    "recipe: vocabulary of another size": ("train tiny/pgm data.tokenizer=bytes model.vocab_size=7 --out {tmp}/run", "7"),
    "recipe: no steps of sampling": ("train tiny/pgm sampling.sampler.steps=0 --out {tmp}/run", "sampling.sampler: steps 0"),
    "recipe: nucleus out of range": ("train tiny/pgm sampling.sampler.top_p=3 --out {tmp}/run", "top_p 3"),
    "recipe: AR with a plan": ("train tiny/ar sampling.sampler.plan=ancestral --out {tmp}/run", "leave the plan out"),
    "a chunk point of a model of whole tokens": ("sample {model} --sampler chunk_point=0.5", "write tokens in digits"),
    "registers of a model that has none": ("sample {model} --sampler count_registers=false", "packs no registers"),
    "an order of digits of a model of whole tokens": ("sample {model} --order coarse-first", "order goes by digits, which is of models"),
    "recipe: an order of digits of a model of whole tokens": ("train tiny/pgm sampling.sampler.order=coarse-first --out {tmp}/run", "in digits"),
    "digits of a model of whole tokens": ("sample {model} --factorised-digits", "factorised_digits"),
    "no filter for a model of whole tokens": ("infill {model} --text a___b --lengths 2 --no-filter-observed", "filter_observed"),
    "recipe: a chunk point of a model of whole tokens": ("train tiny/mdlm sampling.sampler.chunk_point=0.5 --out {tmp}/run", "in digits"),
    "recipe: registers of a model that has none": ("train tiny/mdlm sampling.sampler.count_registers=false --out {tmp}/run", "packs no registers"),
    "recipe: digits of a model of whole tokens": ("train tiny/pgm sampling.sampler.factorised_digits=true --out {tmp}/run", "in digits"),
    "recipe: no threads": ("train tiny/pgm training.threads=0 --out {tmp}/run", "threads is 0"),
    "recipe: dropout out of range": ("train tiny/pgm model.dropout=1.5 --out {tmp}/run", "model.dropout is 1.5"),
    "recipe: layers below none": ("train tiny/pgm model.encoder_layers=-1 --out {tmp}/run", "model.encoder_layers is -1"),
    "recipe: heads that do not divide the width": ("train tiny/pgm model.heads=3 data.tokenizer=/nowhere --out {tmp}/run", "3 heads"),
    "recipe: out is a file": ("train tiny/pgm --out {tmp}/empty.txt", "empty.txt is a file"),
    "recipe: out is inside a file": ("train tiny/pgm --out {tmp}/empty.txt/run", "empty.txt is a file"),
    "recipe: unknown device": ("train tiny/pgm training.device=abacus --out {tmp}/run", "abacus"),
    "nothing to resume": ("train --resume {tmp}/nowhere", "nowhere"),
    "no such folder": ("sample {tmp}/nowhere", "nowhere"),
    "folder without a model": ("sample {tmp}", "files of weights; give one of them"),
    "truncated weights": ("sample {tmp}/truncated", "truncated or corrupt"),
    "tokenizer of another model": ("sample {tmp}/other", "vocab_size 259"),
    "empty prompt file": ("sample {model} --prompt-file {tmp}/empty.txt", "empty.txt is empty"),
    "missing prompt file": ("sample {model} --prompt-file {tmp}/none.txt", "none.txt"),
    "prompt file that is no text": ("sample {model} --prompt-file {model}/model.safetensors", "model.safetensors is not UTF-8 text"),
    "seed out of range": ("sample {model} --seed 1180591620717411303424", "seed 1180591620717411303424"),
    "guidance that is no number": ("sample {model} --guidance nan", "guidance nan"),
    "absent device": ("sample {model} --device {absent}", "{absent}, which this machine does not have"),
    "AR with a plan": ("sample {ar} --plan cosine", "leave the plan out"),
    "a file where a folder is": ("sample {model}/config.json", "config.json is no file of torch.save"),
    "fixed gaps that do not fit": ("infill {model} --text a___{{999}}b", "takes 1002 sites, the model has 96"),
    "two prompts": ("sample {model} --prompt a --prompt-file {tmp}/empty.txt", "give one"),
    "prompt too long": ("sample {model} --length 8 --prompt abcdefghijk", "none is left"),
    "no steps": ("sample {model} --steps 0", "steps 0"),
    "no texts": ("sample {model} -n 0", "n is 0"),
    "length beyond the model's": ("sample {model} --length 4096", "4096"),
    "length below one": ("sample {model} --length 0", "length 0"),
    "unknown order": ("sample {model} --order sideways", "sideways"),
    "unknown plan": ("sample {model} --plan slowly", "slowly"),
    "unknown device": ("sample {model} --device abacus", "abacus"),
    "unknown weights": ("sample {model} --weights heavy", "heavy"),
    "AR with a confidence order": ("sample {ar} --order confidence", "autoregressive"),
    "negative temperature": ("sample {model} --temperature -1", "temperature -1"),
    "nucleus out of range": ("sample {model} --top-p 1.5", "top_p 1.5"),
    "candidates below none": ("sample {model} --order confidence --candidates -1", "candidates -1"),
    "drafts of a model that cannot verify": ("sample {model} --draft 4", "cannot verify drafts"),
    "drafts and steps": ("sample {model} --draft 4 --steps 8", "leave out steps"),
    "drafts in a scored order": ("sample {model} --draft 4 --order margin", "planned order"),
    "refresh of a model without a cache": ("sample {model} --refresh 2", "refresh is 2"),
    "objective that needs an order-causal model": ("train tiny/pgm objective.type=any_order --out {tmp}/run", "any_order"),
    "refresh of drafts": ("sample tiny --draft 3 --refresh 5 --device cpu", "refresh is 5 and draft 3"),
    "refresh below none": ("sample tiny --draft 3 --refresh=-5 --device cpu", "refresh is -5; give 0 or more"),
    "candidates of an order that scores none": ("sample {model} --candidates 4", "order random scores no sites"),
    "a plan for the entropy bound": ("sample {model} --order entropy-bound --plan cosine", "leave the plan out"),
    "a schedule of no guidance": ("infill {model} --text a___b --guidance-schedule linear", "there is nothing to schedule"),
    "stop with a corrector": ("sample {model} --plan ancestral --corrector 2 --stop", "corrector 2.0 may forget the EOS"),
    "an option of a sampler without a value": ("sample {model} --sampler steps", "for example temperature_warmup=1"),
    "a blank that is too long": ("infill {model} --text a____b", "'____', which is no gap; write ___ or ___{{12}}"),
    "a gap of a negative length": ("infill {model} --text a___{{-1}}b", "'___{{-1}}', which is no gap"),
    "no fillings": ("infill {model} --text a___b -n 0", "n is 0; give 1 or more texts"),
    "blocks below one": ("sample {model} --block -2", "-2"),
    "AR infilling": ("infill {ar} --text a___b --lengths 2", "autoregressive"),
    "no gap": ("infill {model} --text abc", "no gap"),
    "lengths that are none": ("infill {model} --text a___b --lengths 3,x", "3,x"),
    "lengths that do not match": ("infill {model} --text a___b --lengths 3,4", "2 lengths"),
    "gap of no tokens": ("infill {model} --text a___{{0}}b", "gap of 0 tokens"),
    "text that does not fit": ("infill {model} --text a___b --lengths 4096", "shorten it"),
    "no text": ("infill {model}", "--text"),
    "nothing to score": ("score {model}", "--text"),
    "scores that do not match": ("score {model} --text a --text b", "2 spans were given for 1 gaps"),
    "a score of another length": ("score {model} --text cat --given ___{{7}}", "the gap of 'cat' states 7 tokens"),
    "AR scores of gaps": ("score {ar} --text a --given ___b", "continuations only"),
    "unknown preset": ("bench sampling --preset huge", "huge"),
    "unknown bench": ("bench dancing", "dancing"),
    "unknown contender": ("bench sampling --preset toy --models pgm,rnn", "rnn"),
    "no repetitions": ("bench sampling --preset toy --repeats 0", "repeats"),
    "bench: unknown dtype": ("bench sampling --preset toy --dtype float8", "float8"),
    "unknown compilation": ("sample {model} --compile fast", "fast"),
    "graphs without CUDA": ("sample {model} --device cpu --compile graphs", "graphs, which are CUDA's, and the device is cpu"),
    "bench: graphs without CUDA": ("bench sampling --preset toy --device cpu --compile graphs", "graphs, which are CUDA's"),
    "bench: unknown device": ("bench sampling --preset toy --device abacus", "abacus"),
    "bench: steps that are none": ("bench sampling --preset toy --steps 4,x", "4,x"),
    "bench: length of one": ("bench sampling --preset toy --length 1", "--length 1"),
    "bench: confidence with random weights": ("bench sampling --preset toy --models pgm-confidence", "--weights"),
    "bench: weights of another kind": ("bench sampling --preset toy --models pgm-confidence --weights {ar}", "partition"),
    "bench: longer than the weights": ("bench sampling --preset toy --length 4096 --models pgm --weights {model}", "4096"),
    "bench: weights nowhere": ("bench sampling --preset toy --weights {tmp}/nowhere", "nowhere"),
    "bench: scaling at the best batch": ("bench scaling --preset toy --batch best", "--batch best"),
    "bench: memory at the best batch": ("bench memory --preset toy --batch best", "--batch best"),
    "bench: several batches": ("bench sampling --preset toy --batch 1,2", "--batch 1,2"),
    "bench: no contender": ("bench sampling --preset toy --models ,", "there is no contender"),
    "a temperature that no logits survive": ("sample {model} --temperature 1e-320", "temperature 1e-320"),
    "bench: unknown contender of scaling": ("bench scaling --preset toy --models rnn", "rnn"),
    "bench: no tokens a call": ("bench scaling --preset toy --sizes 0", "--sizes 0"),
    "bench: unknown contender of training": ("bench training --preset toy --models rnn", "rnn"),
    "bench: unknown contender of memory": ("bench memory --preset toy --models rnn", "rnn"),
    "statistics: no classifier": ("image-statistics digits {tmp}/s.npz --features {tmp}", "holds no classifier.json"),
    "statistics: another ending": ("image-statistics digits {tmp}/s.txt --features {tmp}", "s.txt ends in .txt"),
    "statistics: no such folder": ("image-statistics digits {tmp}/none/s.npz --features {tmp}", "make it first"),
    "encode: no codec there": ("encode-images {tmp} {tmp}/codes --codec {tmp}/none", "none does not exist"),
    "encode: no images": ("encode-images {tmp}/other {tmp}/codes --codec pixels:4 --size 8", "holds no data"),
    "encode: levels that are none": ("encode-images {tmp} {tmp}/codes --codec pixels:x", "pixels:LEVELS"),
    "encode: unknown fit": ("encode-images {tmp} {tmp}/codes --codec pixels:4 --fit stretch", "stretch"),
    "encode: no size": ("encode-images {tmp} {tmp}/codes --codec pixels:4 --size 0", "size is 0"),
    "encode: not a released tokenizer": ("encode-images {tmp} {tmp}/codes --codec {tmp}/empty.pt", "empty.pt"),
    "codec: cells that do not fit": ("train image/vq_fashion data.size=30 --out {tmp}/run", "data.size is 30"),
    "demo into a folder that exists": ("demo --quick --out {tmp}", "exists already"),
    "toy into a folder that exists": ("demo --toy --quick --out {tmp}", "exists already"),
    "two demos": ("demo --toy --images --out {tmp}/new", "give one of them"),
    "a corrector without its plan": ("sample {model} --corrector 2", "choose plan ancestral, or leave corrector out"),
    "digits for a text": ("infill {model} --text a___ --digits 0", "--digits is not for models of text"),
    "digits that are none": ("infill {model} --text a___ --digits x", "--digits x is not understood"),
    "convert: no such file": ("convert {tmp}/none.ckpt {tmp}/m", "none.ckpt"),
    "convert: not a checkpoint": ("convert {tmp}/empty.txt {tmp}/m", "empty.txt"),
    "convert: a folder of this library": ("convert {model} {tmp}/m", "needs no conversion"),
    "convert: an unknown dtype": ("convert {model} {tmp}/m --dtype float8", "--dtype float8 is not known"),
    "convert: the folder exists": ("convert {tmp}/none.ckpt {tmp}", "exists already"),
    "convert: garbage": ("convert {tmp}/text_pgm_loss.safetensors {tmp}/m", "truncated, corrupt"),
    "one file of a model": ("sample {model}/model.safetensors", "is one file of a model; give its folder"),
    "no run to resume": ("train --resume", "no run was given; name its folder"),
    "a run that is not there": ("train --resume {tmp}/nosuch", "nosuch is no run folder"),
    "noise of another order": ("sample {model} --order margin --confidence-noise 5", "confidence_noise is 5.0, of order confidence, and the order"),
    "gamma of another order": ("sample {model} --sampler gamma=0.5", "gamma is 0.5, of order entropy-bound, and the order is random"),
    "guidance by nothing": ("sample {model} --guidance 2", "guidance forgets the prompt, and there is none to be guided by"),
    "bench: more steps than cells": ("bench images --grids 4 --steps 40", "steps 40 are more than the 16 cells of a grid of 4"),
    "noise below none": ("sample {model} --order confidence --confidence-noise -9", "confidence_noise -9.0 is not a finite number, or below 0"),
    "statistics: no source": ("image-statistics {tmp}/nosuch {tmp}/s.npz", "there is no file or folder"),
    "inspect: no such file": ("inspect {tmp}/none.ckpt", "none.ckpt"),
    "inspect: no folder of weights": ("inspect {tmp}/nowhere", "nowhere"),
    "report: no folder there": ("report {tmp}/nowhere --out {tmp}/r", "nowhere is no folder"),
    "report: nothing in it": ("report {tmp}/truncated --out {tmp}/r", "no result file and no run"),
    "report: over another file": ("report {tmp}/results --out {tmp}/mine", "mine.html exists and is no report"),
    "report: inside a file": ("report {tmp}/results --out {tmp}/empty.txt/r", "empty.txt is a file"),
    "report: EMA and raw in one column": ("report {tmp}/results --out {tmp}/r --together", "for different weights (EMA; raw)"),
    "report: a torn result": ("report {tmp}/torn --out {tmp}/r", "is not JSON"),
    "nothing to verify": ("verify", "FILE"),
    "verify: no such file": ("verify {tmp}/text_pgm_loss_none.safetensors", "text_pgm_loss_none"),
    "verify: garbage": ("verify {tmp}/text_pgm_loss.safetensors", "text_pgm_loss"),
    "verify: unknown kind": ("verify {tmp}/unknown_kind.safetensors", "unknown_kind"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name, places, call):
    line, word = MISTAKES[name]
    arguments = [part.format(**places) for part in line.split()]
    before = sorted(path for path in places["tmp"].rglob("*"))
    ended = call(*arguments)
    assert ended.code == 2, (ended.out, ended.err)
    assert word.format(**places) in ended.err and "Traceback" not in ended.err + ended.out
    if "Usage: " not in ended.err and arguments[0] != "verify":
        lines = ended.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("maskless: "), ended.err
    assert sorted(path for path in places["tmp"].rglob("*")) == before


@pytest.mark.parametrize("name", ["unknown recipe", "truncated weights"])
def test_and_so_in_a_process_of_its_own(name, places):
    line, word = MISTAKES[name]
    arguments = [part.format(**places) for part in line.split()]
    command = [sys.executable, "-m", "maskless.cli.main", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment(), timeout=60)
    assert ended.returncode == 2 and ended.stdout.strip() == ""
    assert ended.stderr.startswith("maskless: ") and word.format(**places) in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_the_place_of_a_mistake_can_be_shown(places, call, monkeypatch):
    monkeypatch.setenv("MASKLESS_TRACEBACK", "1")
    with pytest.raises(ValueError, match="nowhere"):
        call("sample", places["tmp"] / "nowhere")
