"""The order-causal partition transformer: its cache equals recomputation, nothing leaks from later commits, one checkpoint has two modes."""
from __future__ import annotations

import pytest
import torch
from tests.models.test_identities import EXACT, SAMPLERS, STEP, Both
from tests.tiny import CAUSAL, CONFIGS, L, V, embed_as, labels_of, ragged_canvas, tiny

from maskless.decoding import (
    Adaptive,
    Canvas,
    Confidence,
    EntropyBound,
    LeftToRight,
    Noise,
    Random,
    Sampler,
    Scheduled,
    Sites,
    decode,
    remask,
)
from maskless.decoding.plan import Step
from maskless.layers import attention
from maskless.models import CausalPartitionConfig, PartitionConfig, build


def blank(rows: int = 3, known: int = 1) -> Canvas:
    """Rows that agree: the path of the cache that writes slices and needs few masks."""
    seen = (torch.arange(L) < known).expand(rows, -1)
    tokens = torch.randint(V - 1, (rows, L), generator=torch.Generator().manual_seed(7))
    return Canvas(tokens, seen, anchor=(torch.arange(L) < min(known, 1)).expand(rows, -1))


def random_log(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, L, generator=torch.Generator().manual_seed(seed)).argsort(1)


@pytest.mark.parametrize("known", [0, 1, 5])
@pytest.mark.parametrize("steps", [3, 11])
@pytest.mark.parametrize("name", CAUSAL)
def test_rows_that_agree_are_cached_exactly(name, steps, known):
    canvas = blank(known=known)
    with torch.inference_mode():
        Sampler(Scheduled(steps), Random())(Both(tiny(name), labels_of(name, 3)), canvas, Noise.of(1, 3))
    assert canvas.known.all()


@pytest.mark.parametrize("size", [4, 64])
@pytest.mark.parametrize("name", CAUSAL)
def test_looking_further_than_what_is_known_changes_nothing(monkeypatch, name, size):
    """By products, caches are looked into by multiples of `SPAN` entries: rows that agree, ragged ones, and after a cut."""
    monkeypatch.setattr(attention, "_by_vectors", lambda x: True)
    monkeypatch.setattr(attention, "SPAN", size)
    for steps, known in ((3, 0), (11, 1)):
        test_rows_that_agree_are_cached_exactly(name, steps, known)
    canvas = ragged_canvas()
    with torch.inference_mode():
        Sampler(Scheduled(5), Random())(Both(tiny(name), labels_of(name, canvas.rows)), canvas, Noise.of(1, canvas.rows))
    test_forgotten_sites_are_cut_out_of_the_cache(name, "random")


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize("name", CAUSAL)
def test_other_precisions_stay_close(name, dtype, tolerance):
    model, canvas = tiny(name, dtype), ragged_canvas()
    cached, full = model.predictor(), model.full_predictor()
    steps = Scheduled(4)(canvas, Noise.of(0, canvas.rows))

    def predict(canvas, sites, step):
        a, b = cached(canvas, sites, step), full(canvas, sites, step)
        error = (a - b)[sites.valid].float().abs().max() / b[sites.valid].float().abs().max().clamp(min=1)
        assert error <= tolerance
        return b

    predict.head, predict.allowed = model.head, model.allowed
    from maskless.decoding import Choice

    for _ in decode(predict, canvas, steps, order=Random(), choice=Choice(), noise=Noise.of(0, canvas.rows)):
        pass
    assert torch.equal(canvas.known, canvas.present)


@pytest.mark.parametrize("name", [name for name in CAUSAL if "mean" in name or "logsumexp" in name])
def test_a_summary_of_many_keeps_growing_in_bfloat16(name):
    """What queries start from is a sum over everything known; 600 addends of one size would be lost in bfloat16 from the 256th on."""
    model, canvas = tiny(name, torch.bfloat16), ragged_canvas()
    cached = model.predictor(labels_of(name, canvas.rows))
    cached._open(canvas)
    states = torch.ones(canvas.rows, 600, model.config.width, dtype=torch.bfloat16)
    at_once = cached._running(states, cached.summary.double())[:, -1]
    for at in range(600):
        cached.summary = cached._running(states[:, at:at + 1], cached.summary)[:, -1]
    torch.testing.assert_close(cached.summary.double(), at_once, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_token_passes_the_encoder_once(name):
    model, canvas, passed = tiny(name), blank(), []
    model.embedding.register_forward_pre_hook(lambda _, args: passed.append(args[0].shape[1]))
    with torch.inference_mode():
        Sampler(Scheduled(4), Confidence())(model, canvas, Noise.of(0, 3))
    first = 1 + model.config.registers // 2
    # registers and BOS, then commit after commit; what the last step revealed is never encoded
    assert passed == [first, 2, 3, 3]


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("name", CAUSAL)
def test_no_gradient_flows_from_an_entry_to_its_own_or_earlier_predictions(name, size):
    model, log = tiny(name), random_log(2)
    commits = None if size == 1 else (torch.arange(L) // size)[None]
    tokens = torch.randint(V, (2, L))
    embedded = model.embedding.weight.detach()[tokens.gather(1, log)].requires_grad_()          # by log entry
    embed_as(model, embedded)
    logits = model.head(model.hidden_in_order(tokens, log, commits, cond=labels_of(name, 2)))
    for entry in range(L):
        grad = torch.autograd.grad(logits[0, entry].sum(), embedded, retain_graph=True)[0]
        earlier = entry // size * size
        assert grad[0, earlier:].abs().sum() == 0 and grad[1].abs().sum() == 0
        assert earlier == 0 or (grad[0, :earlier].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("name", CAUSAL)
def test_single_commits_need_no_mask_and_equal_the_masked_form(name):
    model, log = tiny(name), random_log(3)
    tokens = torch.randint(V, (3, L))
    with torch.inference_mode():
        plain = model.hidden_in_order(tokens, log)
        masked = model.hidden_in_order(tokens, log, torch.arange(L)[None])
        per_row = model.hidden_in_order(tokens, log, torch.arange(L).expand(3, -1) * 2)
    torch.testing.assert_close(plain, masked, **EXACT)
    torch.testing.assert_close(plain, per_row, **EXACT)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", CAUSAL)
def test_reencoding_is_the_bidirectional_model(name, every):
    """At every refresh the states are those of the parent's predictor, which knows nothing of an order."""
    model, canvas = tiny(name), ragged_canvas()
    labels = labels_of(name, 4)
    parent = super(type(model), model).predictor(labels)
    refreshed = model.reencoding(every).predictor(labels)
    calls = []

    def predict(canvas, sites, step):
        a, b = refreshed(canvas, sites, step), parent(canvas, sites, step)
        asked = sites.valid if step.rows is None else sites.valid & torch.zeros_like(sites.valid).index_fill(0, step.rows, True)
        if len(calls) % every == 0:
            torch.testing.assert_close(a[asked], b[asked], **EXACT)
        calls.append(step)
        return a

    predict.head, predict.allowed = model.head, model.allowed
    with torch.inference_mode():
        Sampler(Scheduled(6), Random())(_Model(predict), canvas, Noise.of(0, canvas.rows))
    assert len(calls) == 6


@pytest.mark.parametrize("name", CAUSAL)
def test_what_was_forgotten_is_forgotten_by_all_that_was_encoded_with_it(name):
    """Between two refreshes: the known sites were one bidirectional commit, and all of them have looked at the one that goes."""
    model, labels = tiny(name), labels_of(name, 1)
    found = []
    for token in (1, 2):
        tokens = torch.arange(L)[None] % V
        tokens[0, 3] = token
        canvas = Canvas(tokens, torch.zeros(1, L, dtype=torch.bool))
        canvas.commit(Sites(torch.arange(5)[None], torch.ones(1, 5, dtype=torch.bool)), tokens[:, :5], torch.ones(1, 5, dtype=torch.bool), (5,))
        asked = Sites(torch.tensor([[7, 8]]), torch.ones(1, 2, dtype=torch.bool))
        predictor = model.reencoding(4).predictor(labels)
        with torch.inference_mode():
            predictor(canvas, asked, Step(0, 3))
            canvas.forget(torch.arange(L)[None] == 3)
            found.append(predictor(canvas, asked, Step(1, 3)))
    torch.testing.assert_close(*found, **EXACT)


class _Model:
    left_to_right = False
    shuffle_prompt = False
    null_label = None

    def __init__(self, predictor):
        self.predictor = lambda cond=None: predictor


@pytest.mark.parametrize("sampler", ["random", "confidence"])
@pytest.mark.parametrize("name", CAUSAL)
def test_forgotten_sites_are_cut_out_of_the_cache(name, sampler):
    """Remask between two decodes under one predictor; the cache is cut back, and equals recomputation again."""
    canvas, model = ragged_canvas(), Both(tiny(name), labels_of(name, 4))
    predictor = model.predictor()
    with torch.inference_mode():
        for round in range(3):
            SAMPLERS[sampler](_Model(predictor), canvas, Noise.of(round, canvas.rows))
            assert torch.equal(canvas.known, canvas.present)
            remask(canvas, 0.4, Noise.of(round, canvas.rows), round=round)
        sites = Sites.of(canvas.unknown, L)
        predictor(canvas, sites, STEP)


@pytest.mark.parametrize("name", CAUSAL)
def test_what_a_cut_leaves_to_encode_again_spans_commits(name):
    """Rows that agree and are cut at the same entry: the fresh entries belong to several commits, though only one was made since."""
    canvas, model = blank(rows=1), Both(tiny(name))
    predictor = model.predictor()
    noise, start = Noise.of(0, 1), Sampler(Scheduled(4), Random())
    with torch.inference_mode():
        start(_Model(predictor), canvas, noise)
        early = torch.zeros(1, L, dtype=torch.bool)
        early[0, canvas.log[0, 3]] = True                           # of the second commit
        canvas.forget(early)
        sites = Sites.of(canvas.unknown, L)
        predictor(canvas, sites, STEP)
        canvas.forget(torch.zeros_like(early).scatter(1, canvas.log[:, 4:5], True))
        canvas.commit(Sites.of(canvas.unknown, 1), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool), [1])
        predictor(canvas, Sites.of(canvas.unknown, 1), STEP)


def test_forgetting_under_guidance():
    canvas, model = blank(known=4), Both(tiny("causal, set"))
    from maskless.decoding import Guided

    predictor = Guided(model.predictor(), lambda step: 1.5, forget_prompt=True)
    with torch.inference_mode():
        for round in range(2):
            Sampler(Scheduled(5), Random())(_Model(predictor), canvas, Noise.of(round, 3))
            remask(canvas, 0.5, Noise.of(round, 3), round=round)
    assert not canvas.known.all()


@pytest.mark.parametrize("sampler", [Sampler(Scheduled(5), Confidence(candidates=4)), Sampler(Adaptive(9), EntropyBound(0.5, candidates=4))])
def test_only_candidates_are_scored(sampler):
    model, canvas, asked = tiny("causal, token"), blank(), []
    predictor = model.predictor()

    def predict(canvas, sites, step):
        asked.append(int(sites.valid.sum(1).max()))
        return predictor(canvas, sites, step)

    predict.head, predict.allowed = model.head, model.allowed
    with torch.inference_mode():
        sampler(_Model(predict), canvas, Noise.of(0, 3))
    assert canvas.known.all() and len(asked) > 3
    assert max(asked[:-1]) <= 4                                     # the last step of an adaptive plan reveals the rest


def test_a_token_causal_model_logs_a_prompt_in_a_random_order_of_the_row():
    model = tiny("causal, token")
    long = torch.arange(L) < 10
    canvas = Canvas(torch.zeros(2, L, dtype=torch.int64), long.expand(2, -1), anchor=(torch.arange(L) < 1).expand(2, -1))
    reading = canvas.log.clone()
    with torch.inference_mode():
        Sampler(Scheduled(1), Random())(model, canvas, Noise.of(0, 2))
    assert canvas.log[:, 0].tolist() == [0, 0]
    assert sorted(canvas.log[0, 1:10].tolist()) == list(range(1, 10)) and not torch.equal(canvas.log[:, :10], reading[:, :10])
    assert not torch.equal(canvas.log[0, :10], canvas.log[1, :10])
    alone = Canvas(torch.zeros(1, L, dtype=torch.int64), long[None], anchor=(torch.arange(L) < 1)[None])
    with torch.inference_mode():
        Sampler(Scheduled(1), Random())(model, alone, Noise.of(0, 1))
    assert torch.equal(alone.log[0], canvas.log[0])


def test_it_takes_over_the_weights_of_a_bidirectional_model():
    plain = tiny("partition")
    sizes = {key: getattr(plain.config, key) for key in PartitionConfig.__dataclass_fields__}
    model = build(CausalPartitionConfig(**sizes, causal="set")).double().eval()
    model.load_state_dict(plain.state_dict())
    tokens, known = torch.randint(V, (2, L)), torch.rand(2, L) < 0.5
    assert torch.equal(model(tokens, known), plain(tokens, known))


def test_time_conditioned_models_are_refused():
    from dataclasses import replace

    with pytest.raises(ValueError, match="time_conditioned"):
        build(replace(CONFIGS["causal, token"], time_conditioned=True))


def test_left_to_right_is_an_order_like_any_other():
    canvas = blank()
    with torch.inference_mode():
        Sampler(Scheduled(L - 1), LeftToRight())(Both(tiny("causal, token")), canvas, Noise.of(0, 3))
    assert canvas.log.tolist() == [list(range(L))] * 3


@pytest.mark.parametrize("name, word", [("causal", "tokens"), ("prompt", "left"), ("query", "foo")])
def test_words_that_name_nothing_build_no_other_model(name, word):
    config = CausalPartitionConfig(V, length=L, width=8, heads=2, encoder_layers=1, decoder_layers=1)
    object.__setattr__(config, name, word)                          # which the types of the tests would refuse
    with pytest.raises(ValueError, match=f"{name} is '{word}'; choose"):
        build(config)
