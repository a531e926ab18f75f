"""Generated texts: judged as they should be, by this library's models and by others, and refused where they cannot be."""
from __future__ import annotations

import json
import math
import sys
import types
from itertools import pairwise

import pytest
import torch

import maskless
from maskless.data.sources import Files
from maskless.decoding import SamplerOptions
from maskless.evaluation.results import read_folders, same_but_times
from maskless.evaluation.scorers import open_scorer
from maskless.evaluation.settings import Generative
from maskless.suites.generative import respelled
from maskless.suites.run import evaluate
from maskless.suites.session import Shard, shard_of
from maskless.suites.subject import open_subject
from tests.suites.conftest import CONFIGS, LENGTH, randomised

FOUR = SamplerOptions(steps=4)


def generative(models, scorer: str | None = "ar", **settings) -> Generative:
    return Generative(**{"samples": 5, "sampler": FOUR, "scorer": None if scorer is None else str(models / scorer), **settings})


def opened(models, kind: str = "pgm"):
    return open_subject(models / kind, device="cpu")


def by_metric(results) -> dict:
    return {result.metric: result for result in results}


def test_perplexity_by_hand(models, tmp_path, monkeypatch):
    monkeypatch.setattr("maskless.suites.drawing.micro_rows", lambda length: 4)
    monkeypatch.setattr("maskless.evaluation.scorers.micro_rows", lambda width: 2)
    found = by_metric(evaluate(opened(models), [generative(models)], out=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "samples-pgm.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(5)) and all(line["nfe"] == 4 for line in lines)   # the remainder of 4 is there
    rows = torch.tensor([line["tokens"] for line in lines])
    scorer = opened(models, "ar").opened.model.double()
    with torch.inference_mode():
        laws = scorer(rows, torch.ones_like(rows).bool())
        laws[..., 258] = -math.inf
        nll = -laws.log_softmax(-1).gather(-1, rows[..., None])[:, 1:, 0]
    whole = found["generative_perplexity"]
    assert whole.value == pytest.approx(float(nll.mean().exp()), rel=1e-5) and whole.details["tokens"] == 5 * (LENGTH - 1)
    means = nll.mean(1)
    assert whole.uncertainty.value == pytest.approx(whole.value * float(means.std()) / math.sqrt(5), rel=1e-4)
    counts = rows[:, 1:] != 257                                     # BOS is not EOS here: what lies between the first two EOS counts
    ends = rows == 257
    counts |= (ends.cumsum(1) == 1)[:, 1:]
    first = found["generative_perplexity_first_chunk"]
    assert first.value == pytest.approx(float((nll[counts].sum() / counts.sum()).exp()), rel=1e-5) and first.details["tokens"] == int(counts.sum())
    assert whole.scorer.name == "ar" and whole.nfe == 4 and whole.plan == "even" and whole.sampler["order"] == "random"
    assert whole.precision.draws == "float64" and whole.kind == "estimate"


def test_variety_and_what_it_is_not(models, tmp_path):
    found = by_metric(evaluate(opened(models), [generative(models, None)], out=tmp_path))
    assert set(found) == {"unigram_entropy", "distinct_2", "repetition_4", "self_bleu_4"}
    assert found["unigram_entropy"].better is None and 0 < found["unigram_entropy"].value < math.log(LENGTH) + 1e-6
    assert all(result.scorer is None and result.samples == 5 for result in found.values())


def test_two_runs_and_an_interrupted_one_write_the_same(models, tmp_path, monkeypatch):
    monkeypatch.setattr("maskless.suites.drawing.micro_rows", lambda length: 2)
    for folder, size in (("a", 1), ("b", 64), ("c", 3)):
        if folder == "c":                                           # two of three micro-batches, by other processes, one line cut short
            for part in (0, 1):
                assert evaluate(opened(models), [generative(models)], out=tmp_path / folder, shard=Shard(part, 3)) == []
            part = tmp_path / folder / "samples-pgm.1-of-3.jsonl"
            part.write_bytes(part.read_bytes()[:-7])
        evaluate(opened(models), [generative(models)], out=tmp_path / folder, batch_size=size)
    assert len({(tmp_path / folder / "samples-pgm.jsonl").read_bytes() for folder in "abc"}) == 1
    assert len({tuple(sorted(path.name for path in (tmp_path / folder).iterdir())) for folder in "abc"}) == 1
    for path in sorted((tmp_path / "a").glob("generative-*.json")):
        trees = [json.loads((tmp_path / folder / path.name).read_text()) for folder in "abc"]
        assert same_but_times(trees[0], trees[1]) and same_but_times(trees[0], trees[2])


def test_a_sample_depends_on_its_index_and_seed_alone(models, tmp_path):
    def texts(folder: str, **settings) -> list[list[int]]:
        evaluate(opened(models), [generative(models, None, **settings)], out=tmp_path / folder)
        return [json.loads(line)["tokens"] for line in (tmp_path / folder / "samples-pgm.jsonl").read_text().splitlines()]

    five, three = texts("five"), texts("three", samples=3)
    assert five[:3] == three and texts("other", seed=1) != five
    with pytest.raises(ValueError, match="measured with seed 0 and 1 is asked for"):
        texts("five", seed=1)
    assert texts("five", samples=6)[:5] == five                     # more of the same are drawn beside those that are there


def test_every_kind_draws(models, tmp_path):
    for kind, nfe in (("ar", LENGTH - 1), ("causal", 4)):
        found = by_metric(evaluate(opened(models, kind), [generative(models, None, samples=2)], out=tmp_path / kind))
        assert found["unigram_entropy"].nfe == nfe
        assert found["unigram_entropy"].sampler["order"] == ("left-to-right" if kind == "ar" else "random")


def words_scorer(models, folder) -> None:
    """An autoregressive model of another vocabulary."""
    tokenizer = maskless.train_bpe(["a small text of few words, and again: a small text"], 270)
    config = maskless.AutoregressiveConfig(vocab_size=tokenizer.vocabulary.size, length=16, width=16, heads=2, layers=1, dropout=0.0)
    maskless.TextModel(randomised(config), tokenizer, device="cpu").save_pretrained(folder)


def test_a_scorer_with_another_vocabulary(models, tmp_path):
    words_scorer(models, tmp_path / "words")
    with pytest.raises(ValueError, match=r"another vocabulary .* generative\.retokenise=true"):
        evaluate(opened(models), [generative(models, scorer=str(tmp_path / "words"))], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()                          # said before anything is drawn
    found = by_metric(evaluate(opened(models), [generative(models, scorer=str(tmp_path / "words"), retokenise=True)], out=tmp_path / "out"))
    assert found["generative_perplexity"].details["retokenised"] and found["generative_perplexity"].details["window"] == 16


def test_documents_of_a_sample_are_respelled_one_by_one(models):
    pgm, scorer = opened(models).opened, open_scorer(str(models / "ar"), torch.device("cpu"))
    a, b = pgm.tokenizer.encode("ab"), pgm.tokenizer.encode("c")
    assert respelled([256, *a, 257, *b], pgm, scorer) == [256, *a, 257, *b]
    assert respelled([*a, 257, 257], pgm, scorer) == [256, *a, 257, 257]


def test_mauve_against_real_texts(models, text, tmp_path):
    real = Files(train=str(text), valid=str(text))
    settings = generative(models, samples=12, length=LENGTH, real=real)
    found = by_metric(evaluate(opened(models), [settings], out=tmp_path))["mauve"]
    assert 0 < found.value <= 1 and found.data.documents == 1 and found.details["real_rows"] == 12 and found.better == "higher"
    with pytest.raises(ValueError, match="hidden states of a scorer and none is named"):
        Generative(real=real)
    few = tmp_path / "few.txt"
    few.write_text("word " * 20)
    for changes, sentence in (({"samples": 9}, "9 real and 9 generated samples are too few"),
                              ({"samples": 12, "real": Files(train=str(few), valid=str(few))}, "4 real and 12 generated samples are too few"),
                              ({"samples": 12, "real": Files(train="absent.txt")}, "no file or folder absent")):
        with pytest.raises(ValueError, match=sentence):
            evaluate(opened(models), [generative(models, **{"length": LENGTH, "real": real, **changes})], out=tmp_path / "none")
        assert not (tmp_path / "none").exists()                     # said before anything is drawn


def test_samples_from_a_file(models, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "some words"}\n{"text": "other words"}\n')
    found = by_metric(evaluate(opened(models), [generative(models, file=str(path))], out=tmp_path / "out"))
    assert found["generative_perplexity"].samples == 2 and found["generative_perplexity"].sampler is None
    assert found["generative_perplexity"].details["tokens"] == len("some words" + "other words")
    assert not list((tmp_path / "out").glob("samples*"))
    assert all(result.details["samples_in_file"] == 2 for result in found.values())
    path.write_text('{"text": "some words"}\n' * 7)
    said = []
    cut = evaluate(opened(models), [generative(models, file=str(path))], out=tmp_path / "out", say=said.append)
    assert all((result.samples, result.details["samples_in_file"]) == (5, 7) for result in cut)
    assert "holds 7 samples and the first 5 are judged; generative.samples=7 judges all" in said[0]
    assert all(result.precision.draws is None for result in cut)    # nothing was drawn
    for content, sentence in (("", "holds no samples"), ('{"tokens": [1, 400]}\n', "0..258"), ("{}\n", "neither `text` nor `tokens`"),
                              ('{"text": ""}\n', "leave the scorer nothing to predict")):
        path.write_text(content)
        with pytest.raises(ValueError, match=sentence):
            evaluate(opened(models), [generative(models, file=str(path))], out=tmp_path / "out")


def test_one_name_is_of_one_way_to_draw_and_to_judge(models, tmp_path, monkeypatch):
    """A scorer may come later, and more samples; a file, another sampler or another scorer takes another name, before anything is measured."""
    (tmp_path / "mine.jsonl").write_text('{"text": "some words"}\n' * 5)
    unscored = evaluate(opened(models), [generative(models, None)], out=tmp_path / "out")
    scored = by_metric(evaluate(opened(models), [generative(models)], out=tmp_path / "out"))
    assert all(scored[result.metric].value == result.value for result in unscored) and "scorer" not in scored["unigram_entropy"].asked
    evaluate(opened(models), [generative(models, None, samples=6)], out=tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("maskless.suites.generative.drawn", lambda *words: pytest.fail("nothing is drawn"))
    shorter = opened(models, "ar").opened.save_pretrained(tmp_path / "other")
    for change, sentence in (({"file": str(tmp_path / "mine.jsonl")}, "file null and .*mine.jsonl"), ({"samples": 5}, "samples 6 and 5"),
                             ({"sampler": SamplerOptions(steps=2)}, "sampler {.*} and {.*}"), ({"length": 12}, "length null and 12"),
                             ({"scorer": str(shorter)}, "scorer .*ar.* and .*other"), ({"window": 8}, "window null and 8")):
        with pytest.raises(ValueError, match=f"was measured with {sentence}.* is asked for; .*--name"):
            evaluate(opened(models), [generative(models, **{"samples": 6, **change})], out=tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_scorers_that_cannot_be_used(models, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="does not read text from left to right"):
        evaluate(opened(models), [generative(models, "pgm")], out=tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="`transformers`, which could open it, is not installed"):
        evaluate(opened(models), [generative(models, scorer="gpt2-large")], out=tmp_path)
    network = randomised(CONFIGS["ar"])
    torch.nn.init.constant_(network.head.bias, math.nan)
    maskless.TextModel(network, maskless.load_tokenizer("bytes"), device="cpu").save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match="the scorer broken gave numbers that are not finite for 5 of 5 samples"):
        evaluate(opened(models), [generative(models, scorer=str(tmp_path / "broken"))], out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("generative-*"))


class Network(torch.nn.Module):
    """What `transformers` gives for a causal model, over 7 ids."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.config = torch.nn.Embedding(7, 7), types.SimpleNamespace(max_position_embeddings=10)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.table

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        logits = self.table(input_ids)
        return types.SimpleNamespace(logits=logits, hidden_states=(logits,))


class Letters:
    bos_token_id, eos_token_id = None, 6

    def __len__(self) -> int:
        return 7

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) % 6 for letter in text]


def test_a_model_of_transformers_reads_the_text(models, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network, missing = Network(), set()
    opened_with = lambda name, output_loading_info: (network.bfloat16(), {"missing_keys": missing})
    made = types.SimpleNamespace(AutoTokenizer=types.SimpleNamespace(from_pretrained=lambda name: Letters()),
                                 AutoModelForCausalLM=types.SimpleNamespace(from_pretrained=opened_with))
    monkeypatch.setitem(sys.modules, "transformers", made)
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "abc"}\n{"text": "a much longer one"}\n')
    found = by_metric(evaluate(opened(models), [generative(models, scorer="letters", file=str(path))], out=tmp_path))["generative_perplexity"]
    texts = [[6, *(ord(letter) % 6 for letter in text)][:10] for text in ("abc", "a much longer one")]
    assert network.table.weight.dtype == torch.float32              # whatever precision its file has
    laws = network.table.weight.detach().double().log_softmax(-1)
    nll = [-float(laws[before, after]) for row in texts for before, after in pairwise(row)]
    assert found.value == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-5) and len(nll) == found.details["tokens"] == 12
    assert found.details["retokenised"] and found.details["tokens_beyond_window"] == 8 and found.scorer.name == "letters"
    missing.add("lm_head.weight")
    with pytest.raises(ValueError, match=r"the scorer letters lacks weights \(lm_head\.weight\)"):
        open_scorer("letters", torch.device("cpu"))
    missing.clear()
    monkeypatch.setattr(Letters, "__len__", lambda self: 8)
    with pytest.raises(ValueError, match="the tokenizer of the scorer letters has 8 tokens and its model 7"):
        open_scorer("letters", torch.device("cpu"))
    monkeypatch.setattr(Letters, "__len__", lambda self: 7)
    monkeypatch.setattr(Network, "forward", lambda self, input_ids, attention_mask: types.SimpleNamespace(
        logits=self.table(input_ids).float().mean(1, keepdim=True).expand(-1, input_ids.shape[1], -1)))
    with pytest.raises(ValueError, match="the scorer letters reads later tokens as well"):
        open_scorer("letters", torch.device("cpu"))


def test_shards_by_word_and_by_torchrun(monkeypatch):
    assert shard_of("1/4") == Shard(1, 4) and shard_of(None) == Shard() and shard_of("1/4").alone and not Shard().alone
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert shard_of(None) == Shard(0, 2, joined=True) and not shard_of(None).alone
    for wrong in ("4/4", "1", "a/b", "1/", "-1/2"):
        with pytest.raises(ValueError, match="shard"):
            shard_of(wrong)


def test_bad_laws_are_refused_and_leave_no_sample(models, tmp_path):
    network = randomised(CONFIGS["pgm"])
    torch.nn.init.constant_(network.head.bias, math.nan)
    maskless.TextModel(network, maskless.load_tokenizer("bytes"), device="cpu").save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match="not finite"):
        evaluate(open_subject(tmp_path / "broken", device="cpu"), [generative(models)], out=tmp_path / "out")
    assert (tmp_path / "out" / "samples-broken.jsonl").read_bytes() == b""
    assert [path.name for path in (tmp_path / "out").glob("generative*")] == []


def test_images_are_no_texts(models, tmp_path):
    codes = maskless.ImageCodes(maskless.PixelCodec(levels=4), (4, 4))
    config = maskless.PartitionConfig(4, length=16, width=16, heads=2, encoder_layers=1, decoder_layers=1, registers=2, grid=(4, 4), dropout=0.0)
    maskless.ImageModel(maskless.build(config), codes, device="cpu").save_pretrained(tmp_path / "painter")
    with pytest.raises(ValueError, match="is a model of images; measure it with the suite images"):
        evaluate(open_subject(tmp_path / "painter", device="cpu"), [generative(models)], out=tmp_path / "out")


def test_results_are_read_back(models, tmp_path):
    found = evaluate(opened(models), [generative(models, name="a"), generative(models, name="b", sampler=SamplerOptions(steps=2))], out=tmp_path)
    assert sorted(result.name for result in read_folders([tmp_path])) == sorted(result.name for result in found)
