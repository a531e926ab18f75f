"""The harness: what is laid out and scored, what does not fit, what greedy means, and going on with a text."""
from __future__ import annotations

import math

import pytest
import torch

import maskless
from maskless.data.tokenizer import load_tokenizer
from maskless.decoding import SamplerOptions
from maskless.evaluation.harness import BUCKET, Ending, Harness, Request, Scoring, windows
from maskless.evaluation.mean_joint import joint_nats_per_token, released_draws

SIZES = {"vocab_size": 259, "length": 48, "width": 16, "heads": 2, "dropout": 0.0, "forbidden": (258,)}
CONFIGS = {
    "masked": maskless.MaskedConfig(**SIZES, layers=1, cond_dim=8),
    "partition": maskless.PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, cond_dim=8),
    "causal_partition": maskless.CausalPartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, cond_dim=8),
    "autoregressive": maskless.AutoregressiveConfig(**SIZES, layers=1),
}
ROOM = 47                                                           # of 48 sites one is BOS


def harness(name: str, **scoring) -> Harness:
    torch.manual_seed(0)
    network = maskless.build(CONFIGS[name])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2)
    return Harness(network.eval(), load_tokenizer("bytes"), Scoring(**{"samples": 8, **scoring}))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_score_is_that_of_the_text_model(name):
    found = harness(name, samples=64).score([Request("ab", " cd")])[0]
    text = maskless.TextModel(harness(name).model, load_tokenizer("bytes"), device="cpu")
    wanted = text.logprob(" cd", given="ab", samples=64)
    assert found.nats == pytest.approx(wanted.nats, abs=5 * (wanted.standard_error + found.standard_error) + 1e-4)
    assert found.tokens == 3 and found.windows == 1 and found.dropped == 0 and found.greedy is None
    assert found.kind == ("exact" if name == "autoregressive" else "bound")


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_do_not_depend_on_company_or_order(name):
    model = harness(name)
    requests = [Request("a", "bc", 3), Request("x" * 40, "yz", 4), Request("", "hello", 5), Request("k" * 60, "l" * 70, 6)]
    together = model.score(requests, decode=True)
    turned = model.score(requests[::-1], decode=True)[::-1]
    for request, one, other in zip(requests, together, turned):
        alone = model.score([request], decode=True)[0]
        assert one.nats == pytest.approx(alone.nats, abs=1e-4) and one.nats == pytest.approx(other.nats, abs=1e-4)
        assert (one.greedy, one.windows, one.dropped) == (alone.greedy, alone.windows, alone.dropped)


def test_two_runs_are_equal_to_the_bit():
    requests = [Request("ab", "cd"), Request("ab", "ef"), Request("q" * 40, "cd")]
    assert harness("partition").score(requests) == harness("partition").score(requests)


def test_windows_score_every_token_once():
    text = list(range(30))
    for context in (0, 1, 7, 20):
        for room in (1, 2, 5, 9, 64):
            parts = list(windows(text[:context], text[context:], room))
            assert [token for _, scored in parts for token in scored] == text[context:]
            for given, scored in parts:
                assert len(given) + len(scored) <= room and (not given or given[-1] + 1 == scored[0])
    assert list(windows([1, 2, 3], [4, 5], 4)) == [([2, 3], [4, 5])]
    assert list(windows([], [1, 2, 3, 4, 5, 6], 4)) == [([], [1, 2, 3, 4]), ([3, 4], [5, 6])]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_context_that_does_not_fit_loses_its_beginning(name):
    model, tail = harness(name), "0123456789" * 4
    long, short = model.score([Request("#" * 90 + tail, "wxyz!!!"), Request(tail, "wxyz!!!")])
    assert len(tail) + 7 == ROOM
    assert long.nats == pytest.approx(short.nats, abs=1e-5) and long.dropped == 90 and short.dropped == 0


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [ROOM + 1, 200])
def test_an_overlong_continuation_never_scores_best(name, size):
    """The released harness gave it 0, better than anything. Here it is scored in pieces, whose nats add up."""
    model = harness(name, samples=16)
    scores = model.score([Request("a", " yes"), Request("a", "b" * size)])
    assert scores[1].nats < scores[0].nats < 0 and scores[1].tokens == size and scores[1].windows > 1
    pieces = list(windows([97], [98] * size, ROOM))
    parts = [model.score([Request(bytes(given).decode(), bytes(scored).decode())])[0] for given, scored in pieces]
    assert scores[1].nats == pytest.approx(sum(part.nats for part in parts), abs=1e-3)
    assert scores[1].standard_error == pytest.approx(math.sqrt(sum(part.standard_error**2 for part in parts)), abs=1e-4)


@pytest.mark.parametrize(("request_", "scoring", "message"), [
    (Request("a" * 60, "b"), {"overlong": "refuse"}, r"60 \+ 1 tokens, the model has 47"),
    (Request("a", "b" * 60), {"overlong": "refuse"}, r"1 \+ 60 tokens"),
    (Request("a", "b" * 60), {"score": "mean_joint"}, r"1 \+ 61 tokens"),
    (Request("a", ""), {}, "a continuation is empty"),
    (Request("a", ""), {"eos": True}, "a continuation is empty"),
])
def test_what_cannot_be_scored_is_refused_before_anything_is(request_, scoring, message):
    model = harness("masked", **scoring)
    model.model.forward = None                                      # never called
    with pytest.raises(ValueError, match=message):
        model.score([request_])


@pytest.mark.parametrize(("name", "scoring", "message"), [
    ("autoregressive", {"score": "mean_joint"}, "of masked and partition models"),
    ("causal_partition", {"score": "mean_joint"}, "of masked and partition models"),
    ("masked", {"score": "best"}, "score has 'best'; choose from conditional, mean_joint"),
    ("masked", {"overlong": "cut"}, "overlong has 'cut'"),
    ("masked", {"samples": 1}, "samples is 1"),
    ("masked", {"decoding": "beam"}, "decoding has 'beam'"),
])
def test_unknown_ways_of_scoring_are_refused(name, scoring, message):
    with pytest.raises(ValueError, match=message):
        harness(name, **scoring)


def test_a_tokenizer_that_is_not_the_models_is_refused():
    with pytest.raises(ValueError, match="tokenizer"):
        Harness(harness("masked").model, load_tokenizer("text8"))


def test_eos_is_scored_where_asked():
    plain, closed = (harness("autoregressive", eos=eos).score([Request("a", "b")])[0] for eos in (False, True))
    assert closed.tokens == plain.tokens + 1 and closed.nats < plain.nats


@pytest.mark.parametrize("name", ["masked", "partition"])
def test_the_released_score_is_of_the_whole_row(name):
    model = harness(name, score="mean_joint", samples=16, seed=2)
    found = model.score([Request("ab ", "cd", 7)], decode=True)[0]
    row = torch.tensor([256, *b"ab cd", 257])
    values = joint_nats_per_token(model.model, row, *released_draws(2, 16, len(row)))
    assert found.nats == pytest.approx(-values.mean().item()) and found.kind == "mean_joint" and found.tokens == 7
    assert found.standard_error == pytest.approx(values.std().item() / 4) and found.greedy is False
    cut = model.score([Request("#" * 99 + "ab ", "cd")])[0]
    assert cut.dropped == 102 - (ROOM - 3) and math.isfinite(cut.nats)


def test_white_space_goes_to_the_continuation_and_words_keep_their_tokens():
    tokenizer = maskless.train_bpe(["the cat sat on the mat " * 50], 300)
    vocabulary = tokenizer.vocabulary
    network = maskless.build(maskless.PartitionConfig(vocab_size=vocabulary.size, length=16, width=16, heads=2, encoder_layers=1, decoder_layers=1,
                                                      forbidden=vocabulary.forbidden))
    model = Harness(network.eval(), tokenizer)
    wanted = tokenizer.encode("the cat"), tokenizer.encode(" sat")
    assert model._encode(Request("the cat ", "sat")) == model._encode(Request("the cat", " sat")) == wanted
    context, continuation = model._encode(Request("the c", "at"))   # " cat" is one token: the pieces are tokenised apart
    assert tokenizer.decode(context) == "the c" and tokenizer.decode(continuation) == "at"


@pytest.mark.parametrize("name", CONFIGS)
def test_going_on_is_greedy_decoding(name):
    """What `go_on` writes is what `score` calls greedy, and nothing else is."""
    model = harness(name)
    with torch.no_grad():
        model.model.head.bias[:97], model.model.head.bias[123:] = -1e4, -1e4     # letters alone
    written = model.go_on(["ab"], Ending(3), block=3)[0]
    assert written.isalpha() and len(written) == 3
    other = "a" if written[-1] != "a" else "b"
    right, wrong = model.score([Request("ab", written), Request("ab", written[:-1] + other)], decode=True)
    assert right.greedy is True and wrong.greedy is False


@pytest.mark.parametrize("name", CONFIGS)
def test_going_on_stops_at_a_string_at_eos_and_at_the_end(name, monkeypatch):
    model = harness(name)
    pieces = iter([list(b"abc"), list(b"d.e"), list(b"fgh")])
    monkeypatch.setattr(model, "_filled", lambda *_, **__: next(pieces))
    assert model.go_on(["x"], Ending(20, (".", "h")), block=3) == ["abcd"]
    pieces = iter([list(b"ab"), [99, 257]])
    assert model.go_on(["x"], Ending(20), block=2) == ["abc"]
    pieces = iter([list(b"abc"), list(b"de")])
    assert model.go_on(["x"], Ending(5), block=3) == ["abcde"]


@pytest.mark.parametrize("name", CONFIGS)
def test_going_on_with_a_text_longer_than_the_model(name):
    model = harness(name)
    one, other = (model.go_on(["#" * extra + "0123456789" * 3], Ending(30), block=7) for extra in (0, 100))
    assert isinstance(one[0], str) and isinstance(other[0], str)
    sampled = [model.go_on(["ab", "ab"], Ending(6), options=SamplerOptions(steps=3), block=6) for _ in range(2)]
    assert sampled[0] == sampled[1]                                 # a function of seed and place
    with pytest.raises(ValueError, match="tokens is 0"):
        model.go_on(["a"], Ending(0))


def test_whole_texts():
    model = harness("autoregressive")
    short, empty, long = model.score_texts(["hello", "", "ab" * 60])
    assert empty.nats == 0 and empty.tokens == 0
    assert short.nats == pytest.approx(model.score([Request("", "hello")])[0].nats)
    assert long.tokens == 120 and long.windows > 1


def test_progress_is_told():
    seen = []
    harness("autoregressive").score([Request("a", "b"), Request("a" * BUCKET, "b")], progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]
