"""Generate, infill, score, save: what users call."""
from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import pytest
import torch
from tests.training.runs import environment

import maskless
from maskless import Choice, Sampler, SamplerOptions, Scheduled
from maskless.api.template import Template
from maskless.cli.sampling import Painter
from maskless.data.tokenizer import SubwordTokenizer, SymbolTokenizer, load_tokenizer, symbol_tokenizer
from maskless.decoding import Choices, Speculative
from maskless.models.captured import reruns

SIZES = {"vocab_size": 259, "length": 48, "width": 32, "heads": 2, "dropout": 0.0, "forbidden": (258,)}
CONFIGS = {
    "masked": maskless.MaskedConfig(**SIZES, layers=2, cond_dim=8),
    "partition": maskless.PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, cond_dim=8),
    "causal_partition": maskless.CausalPartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, cond_dim=8),
    "autoregressive": maskless.AutoregressiveConfig(**SIZES, layers=2),
    "prime": maskless.PrimeConfig(**SIZES, layers=1, cond_dim=8),
}


def opened(name: str) -> maskless.TextModel:
    torch.manual_seed(0)
    network = maskless.build(CONFIGS[name])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2)
    return maskless.TextModel(network, load_tokenizer("bytes"), device="cpu")


def double(name: str) -> maskless.TextModel:
    """In float64, where a row's numbers are the same in any batch."""
    model = opened(name)
    return maskless.TextModel(model.model.double(), model.tokenizer, device="cpu", dtype=torch.float64)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_is_kept_and_the_seed_decides(name):
    model = opened(name)
    texts = model.generate(3, prompt="Größe: ", length=24, steps=5, seed=4)
    assert all(str(text).startswith("Größe: ") and len(text.tokens) == 24 for text in texts)
    assert [t.tokens for t in texts] == [t.tokens for t in model.generate(3, prompt="Größe: ", length=24, steps=5, seed=4)]
    assert texts[0].tokens == model.generate(1, prompt="Größe: ", length=24, steps=5, seed=4)[0].tokens
    assert texts[0].tokens != model.generate(1, prompt="Größe: ", length=24, steps=5, seed=5)[0].tokens
    assert all(258 not in text.tokens and 256 not in text.tokens[1:] for text in texts)
    assert texts[0].nfe == (24 - 1 - len("Größe: ".encode()) if name == "autoregressive" else 5)


@pytest.mark.parametrize("name", ["masked", "partition", "prime"])
@pytest.mark.parametrize("lengths", [3, [2, 5], "search"])
def test_what_is_known_comes_back_byte_for_byte(name, lengths):
    text = "  The\tq___ s\u00e4t on ___!\n"
    filled = opened(name).infill(text, lengths=lengths, steps=4)
    first, middle, last = text.split("___")
    assert filled.text == first + filled.gaps[0] + middle + filled.gaps[1] + last
    assert len(filled.gaps) == 2 and 256 not in filled.tokens[1:] and 257 not in filled.tokens
    if lengths != "search":
        sizes = [lengths] * 2 if isinstance(lengths, int) else lengths
        assert len(filled.tokens) == 1 + len((first + middle + last).encode()) + sum(sizes)


@pytest.mark.parametrize("name", CONFIGS)
def test_several_prompts_go_in_one_batch(name):
    model, prompts = opened(name), ["To be", "or no", "To be", "12345"] if name == "autoregressive" else ["To be", "Größe: ", "a", ""]
    together = model.generate(prompt=prompts, length=24, steps=6, seed=[4, 1, 1, 9])
    alone = [model.generate(prompt=prompt, length=24, steps=6, seed=seed)[0] for prompt, seed in zip(prompts, (4, 1, 1, 9))]
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    assert [str(text) for text in together] == [str(text) for text in alone]


@pytest.mark.parametrize("name", ["masked", "partition", "causal_partition", "prime"])
def test_several_texts_are_filled_in_one_batch(name):
    model, texts = opened(name), ["The ___{5} sat.", "___ and ___{2}", " a  ___"]
    way = {"steps": 2, "order": "confidence" if name == "partition" else None}
    together = model.infill(texts, lengths=3, seed=[3, 1, 4], **way)
    alone = [model.infill(text, lengths=3, seed=seed, **way) for text, seed in zip(texts, (3, 1, 4))]
    assert [(text.text, text.gaps, text.tokens) for text in together] == [(text.text, text.gaps, text.tokens) for text in alone]
    assert len(model.infill(texts[:1], lengths=3)) == 1


@pytest.mark.parametrize("name", [*CONFIGS])
def test_texts_are_the_same_alone_where_steps_are_left_out(name):
    """Rows of unequal length take unequal numbers of steps."""
    model = double(name)
    prompts = ["a", "abcdefg", "abc"]
    together = model.generate(prompt=prompts, length=24, seed=[1, 2, 3])
    assert [text.tokens for text in together] == [model.generate(prompt=p, length=24, seed=n)[0].tokens for p, n in zip(prompts, (1, 2, 3))]
    if name == "autoregressive":
        return
    texts = ["The ___{3} sat.", "It was ___{9}.", "___{17}"]
    for way in ({}, {"plan": "ancestral"}, {"block": 4}, {"plan": "arccos", "order": "margin"}, {"order": "entropy-bound"}):
        if name == "prime" and way.get("block"):
            continue
        filled = model.infill(texts, seed=[1, 2, 3], **way)
        assert [text.tokens for text in filled] == [model.infill(text, seed=n, **way).tokens for text, n in zip(texts, (1, 2, 3))], way


@pytest.mark.parametrize("way", [{"order": "confidence", "candidates": 4, "steps": 5}, {"order": "margin", "candidates": 2, "steps": 3},
                                 {"order": "confidence", "candidates": 3}, {"order": "entropy-bound", "block": 6, "steps": 9},
                                 {"order": "entropy-bound", "block": 6, "steps": 3}], ids=str)
@pytest.mark.parametrize("name", ["partition", "causal_partition"])
def test_a_row_scores_candidates_and_counts_steps_by_itself(name, way):
    model, texts = double(name), ["It ___{2} was ___{4} now", "The old ___{20} in it ___{9}.", "___{1}"]
    filled = model.infill(texts, seed=[1, 2, 3], **way)
    assert [text.tokens for text in filled] == [model.infill(text, seed=n, **way).tokens for text, n in zip(texts, (1, 2, 3))]


@pytest.mark.parametrize("name", ["masked", "partition", "causal_partition"])
def test_texts_follow_the_weights(name):
    """The network that samples is made once, with modulations folded away, and anew after the weights have changed."""
    model, other = opened(name), opened(name)
    before, same = model.generate(length=24, steps=6)[0].tokens, model.network
    model.generate(length=24, steps=6)
    assert model.network is same
    with torch.no_grad():
        for mine, theirs in zip(model.model.parameters(), other.model.parameters()):
            theirs.copy_(mine.add_(torch.randn_like(mine), alpha=0.3))
    after = model.generate(length=24, steps=6)[0].tokens
    assert after != before and after == other.generate(length=24, steps=6)[0].tokens
    model.model.load_state_dict(opened(name).model.state_dict())
    assert model.generate(length=24, steps=6)[0].tokens == before


def test_an_order_causal_model_reencodes_and_speculates_where_asked():
    model = opened("causal_partition")
    ways = {"steps": 8}, {"steps": 8, "refresh": 1}, {"draft": 3}
    cached, afresh, drafted = (model.generate(2, prompt="To ", length=24, seed=1, **way) for way in ways)
    assert [t.tokens for t in cached] != [t.tokens for t in afresh]
    assert all(text.text.startswith("To ") and len(text.tokens) == 24 for text in drafted)
    assert drafted[0].nfe % 2 == 0 and drafted[0].nfe <= 2 * 20
    filled = model.infill("a ___{5} b ___{3} c", draft=2, seed=2)
    assert filled.text.startswith("a ") and filled.text.endswith(" c") and len(filled.gaps) == 2
    for refresh, word in ((5, "refresh is 5 and draft 2"), (-5, "refresh is -5; give 0 or more")):
        with pytest.raises(ValueError, match=word):
            model.generate(length=8, draft=2, refresh=refresh)
    with pytest.raises(ValueError, match="refresh is 1"):
        opened("partition").generate(length=8, refresh=1)


@pytest.mark.parametrize("name", ["masked", "partition", "causal_partition"])
def test_captured_calls_give_the_same_texts(name, monkeypatch):
    """As on CUDA, where `compile` is auto: the second text of a length replays what the first captured; speculation and other modes go past it."""
    plain = opened(name)
    monkeypatch.setattr("maskless.api.model.recorder", lambda mode, device: reruns)
    model = maskless.TextModel(plain.model, load_tokenizer("bytes"), device="cpu")
    for seed in (1, 2):
        for options in ({"steps": 5}, {"order": "confidence", "steps": 4}, {"guidance": 1.0, "steps": 3}):
            assert model.generate(2, prompt="ab", length=24, seed=seed, **options) == plain.generate(2, prompt="ab", length=24, seed=seed, **options)
        assert model.infill("a___{5}b", steps=2, seed=seed) == plain.infill("a___{5}b", steps=2, seed=seed)
    assert model._captured is not None and (2, 24) in model._captured.free
    if name == "causal_partition":
        for options in ({"draft": 2}, {"refresh": 2, "steps": 4}):
            assert model.generate(1, length=12, seed=3, **options) == plain.generate(1, length=12, seed=3, **options)


def test_a_gap_may_state_its_length():
    template = Template.parse("a___{12}b___c")
    assert template.lengths(3) == [12, 3] and template.pieces == ("a", "b", "c")
    assert Template.parse("___").lengths([4]) == [4]
    filled = opened("partition").infill("a___{12}b___c", lengths=3, steps=2)
    assert len(filled.tokens) == 1 + 3 + 15


def between(pieces, gaps) -> str:
    return "".join(piece + gap for piece, gap in zip(pieces, [*gaps, ""]))


SPACED = ("the ___{3} sat", "a  ___{2} ___{1} mat", "___ on___ the ___")


@pytest.mark.parametrize("text", SPACED)
@pytest.mark.parametrize("name", ["masked", "causal_partition", "prime"])
def test_a_space_before_a_gap_is_lent_to_it(name, text):
    """A tokenizer that joins spaces to words: the gap's first token brings the space, and the text is what was written."""
    tokenizer = maskless.train_bpe(["the cat sat on the mat " * 50], 300)
    torch.manual_seed(0)
    fields = {**CONFIGS[name].__dict__, "vocab_size": tokenizer.vocabulary.size, "forbidden": (2,)}
    network = maskless.build(type(CONFIGS[name])(**fields))
    torch.nn.init.normal_(network.head.weight)
    model = maskless.TextModel(network, tokenizer, device="cpu")
    joined = tokenizer.encode("the cat")
    assert len(joined) == 2 and tokenizer.decode(joined[1:]) == " cat"
    template = Template.parse(text)
    for options in ({"steps": 2}, *([{"draft": 2}] if name == "causal_partition" else [])):
        filled = model.infill(text, lengths=2, **options, seed=3)
        assert filled.text == between(template.pieces, filled.gaps)
        row, at = list(filled.tokens), 1
        for piece, space, gap, size in zip(template.pieces, template.spaced, filled.gaps, template.lengths(2)):
            given = tokenizer.encode(piece[:-1] if space else piece)
            inside = row[at + len(given):at + len(given) + size]
            assert row[at:at + len(given)] == given and tokenizer.decode(inside) == " " * space + gap
            at += len(given) + size
        assert row[at:] == tokenizer.encode(template.pieces[-1])
    searched = model.infill(text, lengths="search", steps=1)
    assert searched.text == between(template.pieces, searched.gaps)
    words = model.generate(3, prompt="the ", length=8, steps=3)
    assert all(str(text).startswith("the ") and text.tokens[1:2] == tuple(tokenizer.encode("the")) for text in words)
    assert all(tokenizer.decode_bytes(text.tokens[2:3]).startswith(b" ") for text in words)
    one, other = model.logprob("cat", given="the ___ sat", samples=4), model.logprob(" cat", given="the___ sat", samples=4)
    assert one.nats == other.nats and one.tokens == 1
    with pytest.raises(ValueError, match="span 0 is empty"):
        model.logprob("", given="the ___ sat")


def of_subwords(kind: str) -> SubwordTokenizer:
    """Tokenizers that write spaces where two tokens meet: a BERT in small, and one that turns spaces into parts of words."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    if kind == "WordPiece":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "##at", "sat", ".", "mat"]
        backend = Backend(models.WordPiece(vocab={word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        backend.add_special_tokens(words[:5])
    else:
        words = ["<s>", "</s>", "<pad>", "▁", "the", "cat", "s", "at", ".", "mat", "▁the", "▁cat", "▁sat", "▁mat"]
        backend = Backend(models.Unigram([(word, -len(words) + len(word)) for word in words], unk_id=3))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        backend.add_special_tokens(words[:3])
    return SubwordTokenizer(json.loads(backend.to_str()))


def over(tokenizer, name: str = "masked") -> maskless.TextModel:
    """A model of random weights that speaks a tokenizer's ids and forbids none of them."""
    torch.manual_seed(0)
    fields = {**CONFIGS[name].__dict__, "vocab_size": tokenizer.vocabulary.size, "forbidden": ()}
    network = maskless.build(type(CONFIGS[name])(**fields))
    torch.nn.init.normal_(network.head.weight)
    return maskless.TextModel(network, tokenizer, device="cpu")


@pytest.mark.parametrize("prompt", ["", "the cat", "The cat ", "The  cat  "])
@pytest.mark.parametrize("kind", ["WordPiece", "Metaspace"])
def test_a_text_agrees_with_its_tokens(kind, prompt):
    """What was generated reads behind the prompt as the tokenizer joins both, and the prompt is the user's own."""
    model = over(of_subwords(kind))
    prompt = prompt if kind == "WordPiece" else prompt.lower().replace("  ", " ")
    read = model.tokenizer.decode(model.tokenizer.encode(prompt.rstrip()))
    for made in model.generate(6, prompt=prompt, length=10, steps=4):
        whole = model.tokenizer.decode(made.tokens)
        assert whole.startswith(read) and made.text == prompt + whole[len(read):].removeprefix(" " * prompt.endswith(" "))
        assert not prompt.endswith(" ") or whole[len(read):][:1] == " "


@pytest.mark.parametrize("text", ["The ___{2} sat", "the___{2}sat___{1}.", "___{1} mat ___{2}"])
@pytest.mark.parametrize("kind", ["WordPiece", "Metaspace"])
def test_a_filled_text_agrees_with_its_tokens(kind, text):
    model = over(of_subwords(kind))
    text = text if kind == "WordPiece" else text.lower()
    for seed in range(6):
        filled = model.infill(text, steps=3, seed=seed)
        assert filled.text.lower().split() == model.tokenizer.decode(filled.tokens).split()
        assert filled.text.replace(" ", "") == between([part.replace(" ", "") for part in Template.parse(text).pieces],
                                                       [gap.replace(" ", "") for gap in filled.gaps])


def test_symbols_keep_their_separator():
    model = over(symbol_tokenizer([str(n) for n in range(60, 80)], separator=" "))
    for prompt in ("67 62", "67 62 "):
        made = model.generate(1, prompt=prompt, length=9, steps=3, sampler=None)[0]
        assert made.text == model.tokenizer.decode(made.tokens) and made.text.startswith("67 62 ")
    for text in ("67 ___{2} 62", "67___{2}62", "___{1} 62 ___{1}"):
        filled = model.infill(text, steps=2)
        assert filled.text == model.tokenizer.decode(filled.tokens)
    assert model.infill("67 ___{2} 62", steps=2).gaps[0].split(" ") == model.infill("67___{2}62", steps=2).gaps[0].split(" ")[1:]
    pictures, painter = [], Painter(model.tokenizer)
    made = model.generate(1, length=6, steps=2, watch=lambda canvas, record: pictures.append(painter.picture(canvas, record).plain))[0]
    assert pictures[-1].split("\n")[1] == made.text and " " in pictures[0].split("\n")[1]


def test_a_span_behind_a_space_is_one_word():
    """Also where the tokenizer begins every text with a space of its own."""
    for kind, score in (("WordPiece", ("cat", " sat")), ("Metaspace", ("cat", " sat"))):
        model = over(of_subwords(kind))
        found = model.logprob(score[0], given=f"the ___{score[1]}", samples=4)
        assert found.tokens == 1 and found.nats == model.logprob(score[0], given=f"the___{score[1]}", samples=4).nats


def test_what_a_vocabulary_forbids_is_never_drawn():
    """By a model that forbids nothing itself, in any way of sampling."""
    model = over(load_tokenizer("bytes"), "causal_partition")
    with torch.no_grad():
        model.model.head.bias[256:] = 12.0                          # BOS, EOS, padding
    heated = Choices(Choice(), lambda step: 2.0)
    samplers = SamplerOptions(steps=4), Sampler(Scheduled(4)), Sampler(Scheduled(4), choice=heated), Speculative(2)
    for how in ({"steps": 4}, *({"sampler": sampler} for sampler in samplers)):
        made = model.generate(2, length=24, **how)
        assert all({256, 258} & {*text.tokens[1:]} == set() and 257 in text.tokens for text in made)
        assert not {256, 257, 258} & {*model.infill("a ___{20} b", **how).tokens[1:]}


def test_a_sampler_of_options():
    model, how = opened("partition"), {"order": "confidence", "steps": 4}
    assert model.generate(2, length=16, sampler=SamplerOptions(**how)) == model.generate(2, length=16, **how)
    assert model.infill("a___{4}b", sampler=SamplerOptions(**how)) == model.infill("a___{4}b", **how)


def test_several_ways_to_fill_a_text():
    model = opened("partition")
    for lengths in (3, "search"):
        first, *others = several = model.infill("a ___ b", n=3, lengths=lengths, steps=2, seed=5)
        assert len(several) == 3 and first == model.infill("a ___ b", lengths=lengths, steps=2, seed=5)
        assert all(each.text.startswith("a ") and each.text.endswith(" b") for each in several)
        assert first.tokens not in [each.tokens for each in others]
        own = model.infill("a ___ b", n=2, lengths=lengths, steps=2, seed=[8, 5])
        assert own[1].tokens == first.tokens
    with pytest.raises(ValueError, match="1 seeds were given for 2"):
        model.infill("a ___{2} b", n=2, seed=[3])


def test_several_fillings_are_printed(tmp_path, capsys, monkeypatch):
    from maskless.cli.main import main

    model = opened("masked")
    model.save_pretrained(tmp_path / "model")
    words = f"maskless infill {tmp_path / 'model'} --text a___{{4}}b -n 2 --steps 2 --device cpu"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit):
        main()
    first, second = model.infill("a___{4}b", n=2, lengths="search", steps=2)
    assert capsys.readouterr().out == f"--- 1 of 2 ---\n{first}\n--- 2 of 2 ---\n{second}\n"


def test_scores_are_printed(tmp_path, capsys, monkeypatch):
    from maskless.cli.main import main

    for name, form in (("partition", "{0.nats:.3f} +- {0.standard_error:.3f} nats (bound), 2 tokens, {0.nats_per_token:.3f} each\n"),
                       ("autoregressive", "{0.nats:.3f} nats (exact), 2 tokens, {0.nats_per_token:.3f} each\n")):
        model = opened(name)
        model.save_pretrained(tmp_path / name)
        words = f"maskless score {tmp_path / name} --text at --given c --samples 8 --device cpu"
        monkeypatch.setattr(sys, "argv", words.split())
        with pytest.raises(SystemExit):
            main()
        assert capsys.readouterr().out == form.format(model.logprob("at", given="c", samples=8))


def test_scores_of_stated_gaps_and_of_underscores():
    model = opened("masked")
    assert model.logprob("cat", given="The ___{3} sat.", samples=4).nats == model.logprob("cat", given="The ___ sat.", samples=4).nats
    assert model.logprob("a", given="snake_", samples=4).tokens == 1
    assert model.logprob("c___t", given="The ___ sat.", samples=4).tokens == 5


def test_bytes_lend_nothing():
    model = opened("masked")
    assert model._spaces is None and model.infill("a ___{2}b", steps=2).tokens[:3] == (256, 97, 32)


def test_nothing_merges_across_a_gap():
    tokenizer = maskless.train_bpe(["the cat sat on the mat " * 50], 300)
    template = Template.parse("the c___{1}t sat")
    assert template.ids(tokenizer) == [tokenizer.encode("the c"), tokenizer.encode("t sat")]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "prime"])                # a token's digits come in an order, too
def test_logprob_of_one_token_is_a_conditional(name):
    """With one hidden token every random order is the same: the bound is exact, and equals the model's own log-softmax."""
    model = opened(name)
    found = model.logprob("b", given="a")
    with torch.no_grad():
        tokens = torch.tensor([[256, 97, 98]])
        if name == "causal_partition":                              # scored as it decodes with its cache
            logits = model.model.head(model.model.hidden_in_order(tokens, torch.arange(3)[None]))[0, 2]
        else:
            logits = model.model(tokens, torch.tensor([[True, True, False]]))[0, 2]
    logits[258] = -torch.inf
    assert found.tokens == 1
    assert found.kind == ("exact" if name == "autoregressive" else "bound")
    want = logits.log_softmax(-1)[98].item()
    assert found.nats == pytest.approx(want, abs=1e-4 if name == "autoregressive" else 6 * found.standard_error + 1e-4)


def test_logprob_estimates_the_mean_over_orders():
    model = opened("partition")
    tokens = torch.tensor([256, 97, 98, 99])
    values = []
    for order in itertools.permutations([1, 2, 3]):
        known, total = torch.tensor([True, False, False, False]), 0.0
        for site in order:
            with torch.no_grad():
                logits = model.model(tokens[None], known[None])[0, site]
            logits[258] = -torch.inf
            total += logits.log_softmax(-1)[tokens[site]].item()
            known[site] = True
        values.append(total)
    exact = sum(values) / len(values)
    found = model.logprob("abc", given="", samples=4000)
    assert abs(found.nats - exact) < 4 * found.standard_error + 1e-3 * abs(exact)
    assert found.standard_error < 0.1 * abs(exact)
    assert found.nats_per_token == pytest.approx(found.nats / 3)


def test_an_autoregressive_value_is_the_chain_rule():
    model, total = opened("autoregressive"), 0.0
    ids = [256, *b"hello"]
    for site in range(2, 6):
        with torch.no_grad():
            logits = model.model(torch.tensor([[*ids[:site], 0]]), torch.ones(1, site + 1, dtype=torch.bool))[0, site]
        logits[258] = -torch.inf
        total += logits.log_softmax(-1)[ids[site]].item()
    found = model.logprob("ello", given="h")
    assert found.kind == "exact" and found.standard_error == 0 and math.isclose(found.nats, total, rel_tol=1e-5)


def test_save_and_load_give_the_same_texts(tmp_path):
    model = opened("partition")
    model.save_pretrained(tmp_path / "model")
    for again in (maskless.load(tmp_path / "model", device="cpu"), maskless.TextModel.from_pretrained(tmp_path / "model", device="cpu")):
        assert again.generate(2, length=20, steps=4)[1].tokens == model.generate(2, length=20, steps=4)[1].tokens


def test_push_to_hub_uploads_what_is_saved(monkeypatch):
    seen = {}

    class Hub:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, exist_ok, **settings):
            seen.update(settings, repo=repo_id)
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path):
            seen["files"] = sorted(path.name for path in folder_path.iterdir())

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    address = opened("masked").push_to_hub("me/model", private=True, token="secret")
    assert address == "https://hub/me/model"
    assert seen == {"token": "secret", "private": True, "repo": "me/model", "files": ["config.json", "model.safetensors", "tokenizer.json"]}


def test_bfloat16_samples_and_scores_in_float32():
    torch.manual_seed(0)
    model = maskless.TextModel(maskless.build(CONFIGS["partition"]), load_tokenizer("bytes"), device="cpu", dtype=torch.bfloat16)
    assert len(model.generate(1, length=16, steps=4)[0].tokens) == 16
    assert model.network.head.weight.dtype == torch.bfloat16 and model.model.head.weight.dtype == torch.float32


def test_tokens_are_painted_in_the_order_in_which_they_appear():
    model, pictures = opened("partition"), []
    painter = Painter(model.tokenizer)
    text = model.generate(1, prompt="ab", length=10, steps=3, watch=lambda canvas, record: pictures.append(painter.picture(canvas, record)))
    assert len(pictures) == 3 and text[0].nfe == 3
    counts = [picture.plain.count("·") for picture in pictures]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 0 and all("ab" in picture.plain for picture in pictures)
    assert any(str(span.style) == "bold green" for span in pictures[0].spans)


@pytest.mark.parametrize("call, word", [
    (lambda m: m.generate(0), "n is 0"),
    (lambda m: m.generate(prompt="x" * 60), "prompt takes 61 of 48"),
    (lambda m: m.generate(length=49), "length 49"),
    (lambda m: m.generate(color="red"), "color is no option"),
    (lambda m: m.generate(steps=0), "steps 0"),
    (lambda m: m.infill("no gap"), "no gap"),
    (lambda m: m.infill("a ___ b"), "lengths"),
    (lambda m: m.infill("a ___ b", lengths=[1, 2]), "2 lengths"),
    (lambda m: m.infill("a ___{0} b"), "0 tokens"),
    (lambda m: m.infill("a ___ b", lengths=60), "takes 65 sites"),
    (lambda m: m.infill("x" * 47 + "___", lengths="search"), "at least 49 of 48 sites"),
    (lambda m: m.logprob(["a", "b"], given="___"), "2 spans"),
    (lambda m: m.logprob("", given="a"), "empty"),
    (lambda m: m.logprob("a", samples=0), "samples is 0"),
    (lambda m: m.logprob("a", samples=1), "samples is 1"),
    (lambda m: m.generate(guidance=math.nan), "guidance nan"),
    (lambda m: m.generate(sampler=Sampler(Scheduled(4)), temperature=0.0, foo=3), "sampler was given and so was temperature, foo; put it into the"),
    (lambda m: m.infill("a ___{2} b", sampler=SamplerOptions(), steps=3), "so was steps; put it into the sampler, or leave sampler out"),
    (lambda m: m.infill("a ___{2} b", n=0), "n is 0; give 1 or more texts"),
    (lambda m: m.infill("a ____ b", lengths=2), "has '____', which is no gap; write ___ or "),
    (lambda m: m.infill("a _____{2} b"), "has '_____', which is no gap"),
    (lambda m: m.infill("a ___{ 5} b", lengths=2), "has '___{ 5}', which is no gap"),
    (lambda m: m.infill("a ___{-1} b", lengths=2), "has '___{-1}', which is no gap"),
    (lambda m: m.logprob("cat", given="The ___{7} sat."), "the gap of 'cat' states 7 tokens, and the span has 3; write ___, or "),
    (lambda m: m.generate(refresh=-5), "refresh is -5"),
])
def test_bad_input_is_one_sentence(call, word):
    with pytest.raises(ValueError, match=word) as caught:
        call(opened("partition"))
    assert "\n" not in str(caught.value)


def test_an_autoregressive_model_does_not_infill():
    model = opened("autoregressive")
    with pytest.raises(ValueError, match="without gaps"):
        model.infill("a ___ b", lengths=3)
    with pytest.raises(ValueError, match="continuations only"):
        model.logprob("x", given="a ___ b")


def test_tokenizer_and_model_must_fit():
    network = maskless.build(maskless.MaskedConfig(vocab_size=100, length=8, width=16, heads=2, layers=1))
    with pytest.raises(ValueError, match="vocab_size 100"):
        maskless.TextModel(network, load_tokenizer("bytes"))


WORDS = """
import maskless
from maskless.api.template import Template
for call in (lambda: maskless.SamplerOptions(order="sideways"), lambda: maskless.SamplerOptions(plan="slowly"),
             lambda: Template.parse("a ___").lengths("serach"), lambda: maskless.load("nowhere", weights="heavy")):
    try:
        call()
    except ValueError as error:
        print(error)
"""


def test_words_that_are_none_without_the_type_checker_of_the_tests():
    ended = subprocess.run([sys.executable, "-c", WORDS], capture_output=True, text=True, env=environment(), timeout=120)
    said = [line.split(";")[0] for line in ended.stdout.splitlines()]
    assert said == ["order 'sideways' is not known", "plan 'slowly' is not known", "lengths is 'serach'", "weights is 'heavy'"], ended.stderr


def test_a_model_of_digits_draws_them_as_it_is_told(tmp_path, capsys, monkeypatch):
    """On the command line and in Python alike; codes of no token are read as the nearest below."""
    import sys

    from maskless.cli.main import main

    model = opened("prime")
    model.save_pretrained(tmp_path / "prime")
    how = {"length": 24, "steps": 2, "seed": 3}
    texts = {name: str(model.generate(1, **how, **named)[0]) for name, named in {
        "usual": {}, "apart": {"factorised_digits": True}, "free": {"filter_observed": False}}.items()}
    assert len(set(texts.values())) == 3
    for name, flag in (("usual", "--filter-observed"), ("apart", "--factorised-digits"), ("free", "--no-filter-observed")):
        monkeypatch.setattr(sys, "argv", ["maskless", "sample", str(tmp_path / "prime"), "--length", "24", "--steps", "2", "--seed", "3", flag])
        with pytest.raises(SystemExit):
            main()
        assert capsys.readouterr().out == texts[name] + "\n"


def test_without_a_bos_an_autoregressive_model_does_not_score_the_first_token():
    network = maskless.build(maskless.AutoregressiveConfig(3, length=8, width=16, heads=2, layers=1))
    model = maskless.TextModel(network, SymbolTokenizer(("a", "b", "c"), ()), device="cpu")
    with pytest.raises(ValueError, match="without a BOS has no law of the first token; score what follows one"):
        model.logprob("abc")
    assert model.logprob("bc", given="a").tokens == 2


@pytest.mark.parametrize("call, said", [
    (lambda model: model.generate(200_000_000), "give 65,536 or fewer"), (lambda model: model.infill(f"a ___{{{'9' * 5000}}}"), "has a gap of"),
])
def test_numbers_beyond_all_use(call, said):
    with pytest.raises(ValueError, match=said):
        call(opened("partition"))
