"""The scorer of `transformers` with a real model of theirs: a tiny GPT-2 and its tokenizer in a folder, nothing from the internet."""
from __future__ import annotations

import json

import pytest
import torch

from maskless.evaluation.scorers import in_micro_batches, open_scorer, table
from maskless.suites.generative import respelled
from maskless.suites.subject import open_subject

END = "<|endoftext|>"
WINDOW = 20
TEXTS = ["a", "word 9 word 16", "Größe, naïve: 8 €", "of more words than its window holds " * 3]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]       # the warnings are those of transformers


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def folder(request, tmp_path_factory):
    """A GPT-2 with random weights, stored in either precision."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    letters = Tokenizer(models.BPE())
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    letters.train_from_iterator(["word 4 word 9 of more words and again more words"] * 3, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=letters, bos_token=END, eos_token=END)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=WINDOW, n_embd=16, n_layer=1, n_head=2, **ends))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5)
    place = tmp_path_factory.mktemp("scorers") / f"gpt-{request.param}"
    network.to(getattr(torch, request.param)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A connection that is opened is a mistake."""
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("nothing is fetched"))


@torch.inference_mode()
def by_hand(folder, row: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats of every token but the first, and the last hidden state, in float64 and with nothing beside the text."""
    from transformers import GPT2LMHeadModel

    network = GPT2LMHeadModel.from_pretrained(folder).double().eval()
    given = network(input_ids=torch.tensor([row]), output_hidden_states=True)
    laws = given.logits[0, :-1].log_softmax(-1)
    return -laws[torch.arange(len(row) - 1), torch.tensor(row[1:])], given.hidden_states[-1][0, -1]


def test_nats_and_features_are_those_of_the_model(folder, monkeypatch):
    monkeypatch.setattr("maskless.evaluation.scorers.CHUNK", 1000)  # logits are normalised three sites at a time
    scorer = open_scorer(str(folder), torch.device("cpu"))
    assert scorer.window == WINDOW and scorer.named.name == folder.name and scorer.opening == [scorer.eos]
    rows = [[*scorer.opening, *scorer.encode(text)] for text in TEXTS]
    assert all(scorer.eos not in row[1:] for row in rows) and [scorer.tokenizer.decode(row[1:]) for row in rows] == TEXTS
    assert len(rows[0]) == 2 and max(map(len, rows)) > WINDOW
    read = table(rows, scorer.window)
    nats, features = (in_micro_batches(how, read, folder.name) for how in (scorer.nll, scorer.features))
    for row, found, feature in zip(rows, nats, features):
        wanted, hidden = by_hand(folder, row[:WINDOW])
        assert wanted.std() > 0.5 or len(wanted) == 1               # no model that says the same of everything
        torch.testing.assert_close(found[1:1 + len(wanted)], wanted, rtol=1e-5, atol=1e-5)
        assert found[0] == 0 and not found[1 + len(wanted):].any()
        torch.testing.assert_close(feature.double(), hidden, rtol=1e-5, atol=1e-5)


def test_the_command_measures_with_it(folder, models, tmp_path, call):
    out = tmp_path / "out"
    asked = ["evaluate", models / "pgm", "generative", "--samples", 5, "--sampler", "steps=4", "--device", "cpu", "--out", out, "--scorer", folder]
    ended = call(*asked)
    assert ended.code == 0, ended.err
    found = json.loads((out / "generative-pgm-generative_perplexity.json").read_text())
    lines = [json.loads(line) for line in (out / "samples-pgm.jsonl").read_text().splitlines()]
    scorer = open_scorer(str(folder), torch.device("cpu"))
    rows = [respelled(line["tokens"], open_subject(models / "pgm", device="cpu").opened, scorer) for line in lines]
    wanted = torch.cat([by_hand(folder, row[:WINDOW])[0] for row in rows])
    details = found["details"]
    assert details["nats_per_token"] == pytest.approx(float(wanted.mean()), rel=1e-6) and details["tokens"] == len(wanted)
    assert found["value"] == pytest.approx(float(wanted.mean().exp()), rel=1e-5)
    assert details["retokenised"] and details["window"] == WINDOW
    assert details["tokens_beyond_window"] == sum(max(0, len(row) - WINDOW) for row in rows)
    assert found["scorer"] == {"name": folder.name, "hash": scorer.named.hash}
    assert call(*asked).code == 0 and json.loads((out / "generative-pgm-generative_perplexity.json").read_text())["value"] == found["value"]


def test_a_folder_that_is_no_model_is_refused_in_one_sentence(folder, models, tmp_path, call):
    import shutil

    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").unlink()
    (tmp_path / "empty").mkdir()
    for name in ("broken", "empty"):
        ended = call("evaluate", models / "pgm", "generative", "--samples", 2, "--scorer", tmp_path / name, "--out", tmp_path / "out")
        assert ended.code and f"{name} could not be opened by transformers" in ended.err, ended.err
