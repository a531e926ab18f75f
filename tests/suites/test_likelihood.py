"""Likelihoods: of an exact oracle, against the exact value, and the same bytes twice."""
from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import maskless
from maskless.data.batch import Batch
from maskless.data.sources import Files, Puzzles
from maskless.evaluation.likelihood import any_order_bound, bound
from maskless.evaluation.results import read_folders, same_but_times
from maskless.evaluation.settings import Likelihood
from maskless.objectives import (
    AnyOrder,
    Complementary,
    Dial,
    FiniteSteps,
    JointCE,
    Masked,
    Partition,
    PrimePartition,
    SubNelbo,
)
from maskless.suites.likelihood import named
from maskless.suites.run import evaluate
from maskless.suites.session import Shard
from maskless.suites.subject import open_subject, subject_of
from maskless.training.recipe import load_recipe
from tests.oracle import Oracle, all_sequences
from tests.suites.conftest import CONFIGS, LENGTH, randomised


class Exact(nn.Module):
    """The oracle as a network: every site from the sites on the other side of `known`, which is all that losses ask."""

    allowed = registers = None

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle
        self.head = nn.Linear(oracle.vocab, oracle.vocab, bias=False, dtype=torch.float64)
        nn.init.eye_(self.head.weight)

    def hidden(self, tokens, known, *, cond=None, t=None, present=None):
        return torch.where(known[..., None], self.oracle.conditionals(tokens, ~known), self.oracle.conditionals(tokens, known))


@pytest.mark.parametrize("objective", (Masked(), Partition()), ids=("masked", "partition"))
def test_an_exact_oracle_is_measured_exactly(objective):
    oracle = Oracle(3, 3, seed=5)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(oracle.joint.flatten(), 500, replacement=True, generator=generator)
    rows = all_sequences(3, 3)[drawn]
    found = bound(Exact(oracle), objective, [Batch.of(rows)], seed=1, samples=4, micro=32)
    entropy = float(torch.special.entr(oracle.joint).sum()) / 3
    assert abs(found.nats_per_token - entropy) < 3 * found.standard_error and found.standard_error < 0.05
    exact = -float(oracle.joint.flatten().log()[drawn].sum())       # of these very rows: what is left is the noise of times and masks
    assert abs(found.nats - exact) / exact < 0.03


def test_no_bound_is_below_the_exact_value():
    """All 24 orders of an order-causal model: p is their mean, exactly."""
    sizes = {"vocab_size": 5, "length": 4, "width": 16, "heads": 2, "dropout": 0.0}
    model = randomised(maskless.CausalPartitionConfig(**sizes, encoder_layers=1, decoder_layers=1, cond_dim=0)).double().eval()
    rows = torch.randint(5, (6, 4), generator=torch.Generator().manual_seed(2))
    orders = torch.tensor(list(itertools.permutations(range(4))))
    with torch.inference_mode():
        along = []
        for order in orders:
            log = order.expand(6, -1)
            laws = model.head(model.hidden_in_order(rows, log)).log_softmax(-1)
            along.append(laws.gather(-1, rows.gather(1, log)[..., None])[..., 0].sum(1))
    exact = -float((torch.stack(along).logsumexp(0) - math.log(24)).sum())
    mean = -float(torch.stack(along).mean(0).sum())
    assert mean > exact + 0.01                                      # the mean over orders is no equality here
    found = any_order_bound(model, [Batch.of(rows)], orders=60, anchor=False, micro=4)
    noise = found.order_error * 24                                  # of all 24 tokens
    assert abs(found.average.nats - mean) < 3 * noise < 1 and exact < found.average.nats + 3 * noise
    assert exact - 3 * noise < found.weighted.nats < found.average.nats


@pytest.mark.parametrize("kind, metrics", [
    ("pgm", {"nelbo": "bound"}), ("ar", {"nll": "exact"}), ("causal", {"nelbo": "bound", "weighted_bound": "bound"}),
])
def test_two_runs_write_the_same_bytes_whatever_the_batch_size(models, text, tmp_path, kind, metrics):
    settings = Likelihood(data=Files(train=str(text), valid=str(text)), budget=2, seed=4)
    for size in (1, 64, 5):
        evaluate(open_subject(models / kind, device="cpu"), [settings], out=tmp_path / str(size), batch_size=size)
    files = [sorted((tmp_path / str(size)).iterdir()) for size in (1, 64, 5)]
    for one, other, third in zip(*files, strict=True):
        trees = [json.loads(path.read_text()) for path in (one, other, third)]
        assert same_but_times(trees[0], trees[1]) and same_but_times(trees[0], trees[2])
        assert [list(tree) for tree in trees[1:]] == [list(trees[0])] * 2
    results = read_folders([tmp_path / "1"])
    assert {result.metric: result.kind for result in results} == metrics
    for result in results:
        assert result.data.documents == 1 and result.data.name == "files-words" and len(result.data.hash) == 64 and result.sampler is None
        assert result.model.kind in ("partition", "autoregressive", "causal_partition") and result.model.weights == "raw"
        assert result.details["perplexity"] == pytest.approx(math.exp(result.value)) and result.details["length"] == LENGTH
        assert result.uncertainty.kind == "standard error" and result.seed == 4
        assert result.details["objective"]["type"] == {"pgm": "partition", "ar": "autoregressive", "causal": "any_order"}[kind]


def test_the_exact_value_of_an_autoregressive_model(models, text, tmp_path):
    subject = open_subject(models / "ar", device="cpu")
    data = Files(train=str(text), valid=str(text))
    (found,) = evaluate(subject, [Likelihood(data=data, rows=3, length=10)], out=tmp_path)
    from maskless.data.sources import open_data

    tokens = open_data(data, length=10, split="valid", tokenizer=subject.coding).read(torch.arange(3)).tokens
    with torch.inference_mode():
        laws = subject.opened.model.double()(tokens, torch.ones_like(tokens).bool())
        laws[..., 258] = -math.inf
        nll = -laws.log_softmax(-1).gather(-1, tokens[..., None])[:, 1:, 0]
    assert found.value == pytest.approx(float(nll.mean()), rel=1e-5) and found.details["tokens"] == 27 and found.samples == 3
    spelled = subject.opened.tokenizer.decode_bytes(tokens.flatten().tolist())
    assert found.details["bits_per_byte"] == pytest.approx(float(nll.sum()) / math.log(2) / len(spelled), rel=1e-5)


def test_a_smaller_error_with_more_draws(models, text, tmp_path):
    data = Files(train=str(text), valid=str(text))
    errors = [evaluate(open_subject(models / "pgm", device="cpu"), [Likelihood(data=data, budget=budget)], out=tmp_path)[0].uncertainty.value
              for budget in (1, 16)]
    assert errors[1] < errors[0]


def test_the_bounds_of_another_objective(models, text, tmp_path):
    subject, data = open_subject(models / "causal", device="cpu"), Files(train=str(text), valid=str(text))
    found = {each.metric: each for each in evaluate(subject, [Likelihood(data=data, objective=Dial(), rows=4)], out=tmp_path)}
    assert {metric: each.kind for metric, each in found.items()} == {
        "nelbo": "bound", "weighted_bound": "bound", "bound_of_2_a_step": "bound", "bound_of_two_groups": "bound"}
    assert found["weighted_bound"].value < found["nelbo"].value
    with pytest.raises(ValueError, match="objective masked does not fit a causal_partition model"):
        evaluate(subject, [Likelihood(data=data, objective=Masked())], out=tmp_path)


def test_a_model_that_a_dial_trained_is_measured_in_all_its_modes(models, text, tmp_path):
    subject, data = open_subject(models / "causal", device="cpu"), Files(train=str(text), valid=str(text))
    trained = replace(subject, recipe=load_recipe("tiny/dial", "objective.largest=4"))
    metrics = [each.metric for each in evaluate(trained, [Likelihood(data=data, rows=4)], out=tmp_path)]
    assert metrics == ["nelbo", "weighted_bound", "bound_of_2_a_step", "bound_of_4_a_step", "bound_of_two_groups"]
    with pytest.raises(ValueError, match="budget is 1"):
        evaluate(trained, [Likelihood(data=data, rows=4, budget=1)], out=tmp_path / "one")


DIGITS = {"vocab_size": 259, "digits": 2, "length": LENGTH, "width": 16, "heads": 2, "dropout": 0.0, "forbidden": (258,)}


def test_every_bound_of_digits_has_its_own_name_and_says_whose_it_is(text, tmp_path):
    network = randomised(maskless.PrimeConfig(**DIGITS, layers=1))
    subject, data = subject_of(network, maskless.load_tokenizer("bytes"), "prime", device="cpu"), Files(train=str(text), valid=str(text))
    plain, tokens, steps = SubNelbo(filter_observed=False), SubNelbo(chunk_point=0), FiniteSteps(steps=4)
    found = {}
    for objective in (None, plain, tokens, steps, FiniteSteps(steps=4, filter_observed=False)):
        for result in evaluate(subject, [Likelihood(data=data, objective=objective, rows=4)], out=tmp_path):
            assert result.kind == "bound" and result.metric not in found
            found[result.metric] = result
    with pytest.raises(ValueError, match=r"bound_of_tokens\.json was measured with objective .*sub_nelbo.* and .*masked.* is asked for; .*--name"):
        evaluate(subject, [Likelihood(data=data, objective=Masked(), rows=4)], out=tmp_path)
    (masked,) = evaluate(subject, [Likelihood(data=data, objective=Masked(), rows=4)], out=tmp_path / "masked")
    assert masked.metric == "bound_of_tokens" and masked.value == found["bound_of_tokens"].value
    (tmp_path / "masked" / masked.file).unlink()
    (tmp_path / "masked").rmdir()
    assert {path.name for path in tmp_path.iterdir()} == {f"likelihood-prime-{metric}.json" for metric in found}
    with pytest.raises(ValueError, match=r"joint_ce is no likelihood bound.*report sub_nelbo or finite_steps"):
        evaluate(subject, [Likelihood(data=data, objective=JointCE(), rows=4)], out=tmp_path)
    assert set(found) == {"nelbo", "nelbo_unfiltered", "bound_of_tokens", "bound_of_4_steps", "bound_of_4_steps_unfiltered"}
    assert len({result.value for result in found.values()}) == 5
    said = {metric: result.details["objective"] for metric, result in found.items()}
    assert said["nelbo"] == {"type": "sub_nelbo", "schedule": {"type": "linear", "eps": 0.0}, "chunk_point": 1.0, "filter_observed": True,
                             "low": 1e-3}
    assert not said["nelbo_unfiltered"]["filter_observed"] and said["bound_of_tokens"]["chunk_point"] == 0 and said["bound_of_4_steps"]["steps"] == 4


def test_names_of_bounds():
    one, two = (maskless.build(maskless.PrimeConfig(**{**DIGITS, "digits": count}, layers=1)) for count in (1, 2))
    for objective, name in (
        (SubNelbo(), "nelbo"), (SubNelbo(filter_observed=False), "nelbo_unfiltered"), (Complementary(), "bound_of_tokens"),
        (SubNelbo(chunk_point=0, filter_observed=False), "bound_of_tokens"), (PrimePartition(token_groups=1), "bound_of_tokens"),
        (PrimePartition(), "nelbo"), (PrimePartition(filter_observed=False), "nelbo_unfiltered"),
    ):
        assert named(two, objective, "bound") == (name, "bound") and named(one, objective, "bound") == ("nelbo", "bound")


def test_what_cannot_be_measured(models, text, tmp_path):
    subject, data = open_subject(models / "pgm", device="cpu"), Files(train=str(text), valid=str(text))
    with pytest.raises(ValueError, match="in no run folder"):
        evaluate(subject, [Likelihood()], out=tmp_path)
    with pytest.raises(ValueError, match="length is 25 and the model has 24"):
        evaluate(subject, [Likelihood(data=data, length=25)], out=tmp_path)
    with pytest.raises(ValueError, match="no file or folder absent"):
        evaluate(subject, [Likelihood(data=Files(train="absent.txt"))], out=tmp_path)
    network = randomised(CONFIGS["pgm"])
    torch.nn.init.constant_(network.head.bias, math.nan)
    broken = subject_of(network, maskless.load_tokenizer("bytes"), "broken", device="cpu")
    with pytest.raises(ValueError, match="nelbo of broken is nan: the network gave numbers that are not finite"):
        evaluate(broken, [Likelihood(data=data)], out=tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_orders_are_anchored_and_counted_as_asked(models, text, tmp_path):
    subject, data = open_subject(models / "causal", device="cpu"), Files(train=str(text), valid=str(text))
    settings = Likelihood(data=data, rows=4, budget=2)
    usual, free = ({each.metric: each for each in evaluate(subject, [replace(settings, objective=objective)], out=tmp_path / name)}
                   for name, objective in (("usual", None), ("free", AnyOrder(anchor=False))))
    assert usual["nelbo"].details["objective"]["anchor"] and not free["nelbo"].details["objective"]["anchor"]
    assert usual["nelbo"].value != free["nelbo"].value and free["weighted_bound"].details["orders"] == 2
    with pytest.raises(ValueError, match="budget is 1, and the error of a mean over orders needs at least 2 of them; give budget 2 or more"):
        evaluate(subject, [replace(settings, budget=1)], out=tmp_path / "one")


def test_what_a_name_stands_for_is_replaced_by_the_same_only(models, text, tmp_path, monkeypatch):
    subject, data = open_subject(models / "pgm", device="cpu"), Files(train=str(text), valid=str(text))
    usual = Likelihood(data=data, rows=4, budget=2)
    (first,) = evaluate(subject, [usual], out=tmp_path)
    (same,), (more,) = (evaluate(subject, [replace(usual, **change)], out=tmp_path) for change in ({}, {"rows": None, "budget": 3}))
    assert first.value == same.value and more.samples > 4 and read_folders([tmp_path])[0].value == more.value
    assert more.asked["rows"] is None and more.asked["data"]["train"] == str(text) and "name" not in more.asked
    monkeypatch.setattr("maskless.suites.likelihood.open_held", lambda *words, **named: pytest.fail("nothing is opened"))
    for change, sentence in (({"rows": 4}, "rows null and 4 is asked for"), ({"rows": None, "length": 12}, "length null and 12 is asked for"),
                             ({"rows": None, "budget": 3, "seed": 1}, "seed 0 and 1 is asked for"),
                             ({"rows": None, "split": "train"}, 'split "valid" and "train" is asked for')):
        with pytest.raises(ValueError, match=f"likelihood-pgm-nelbo.json was measured with {sentence}.*--name.*--out"):
            evaluate(subject, [replace(usual, **{"budget": 3, **change})], out=tmp_path)


def test_data_that_have_changed_are_other_data(models, tmp_path, monkeypatch):
    path = tmp_path / "words.txt"
    path.write_text("one two three " * 20)
    subject, settings = open_subject(models / "pgm", device="cpu"), Likelihood(data=Files(train=str(path), valid=str(path)), rows=2)
    evaluate(subject, [settings], out=tmp_path / "out")
    path.write_text("four five six " * 20)
    monkeypatch.setattr("maskless.suites.likelihood.bound", lambda *words, **named: pytest.fail("nothing is measured"))
    with pytest.raises(ValueError, match=r"was measured on other data \(files-words, hash .*; these are files-words, hash"):
        evaluate(subject, [settings], out=tmp_path / "out")


def test_processes_that_only_draw_leave_likelihoods_alone(models, text, tmp_path):
    settings = Likelihood(data=Files(train=str(text), valid=str(text)), rows=2)
    assert evaluate(open_subject(models / "pgm", device="cpu"), [settings], out=tmp_path, shard=Shard(1, 2)) == []


def test_givens_are_no_targets(tmp_path):
    (tmp_path / "puzzles.csv").write_text("puzzle,solution\n1020,1324\n0304,1324\n")
    data = Puzzles(train=str(tmp_path / "puzzles.csv"), valid=str(tmp_path / "puzzles.csv"))
    from maskless.data.sources import tokenizer_of

    tokenizer = tokenizer_of(data)
    size = tokenizer.vocabulary.size
    network = randomised(maskless.PartitionConfig(vocab_size=size, length=5, width=16, heads=2, encoder_layers=1, decoder_layers=1, cond_dim=0,
                                                  dropout=0.0, forbidden=tokenizer.vocabulary.forbidden))
    (found,) = evaluate(subject_of(network, tokenizer, "puzzler", device="cpu"), [Likelihood(data=data)], out=tmp_path / "out")
    assert found.details["tokens"] == 4 and found.data.documents == 2
