"""The adaptor for lm-eval: with its interface played by a fake, and end to end over local files where lm-eval is installed."""
from __future__ import annotations

import functools
import importlib.util
import json
import sys
import types
from dataclasses import dataclass

import pytest
import torch
from tests.evaluation.test_tasks import CLOZE, FORMS, written

import maskless
from maskless.api import lm_eval as adaptor
from maskless.evaluation.harness import Request


@dataclass
class Instance:
    """What an instance of lm-eval has that the adaptor reads."""

    args: tuple
    doc_id: int | None = None


class LanguageModel:
    def __init__(self) -> None:
        self.cache_hook = types.SimpleNamespace(add_partial=lambda *told: self.told.append(told))
        self.told: list = []


def text_model(kind: str = "partition") -> maskless.TextModel:
    sizes = {"vocab_size": 259, "length": 64, "width": 16, "heads": 2, "dropout": 0.0, "forbidden": (258,)}
    torch.manual_seed(3)
    config = maskless.PartitionConfig(**sizes, encoder_layers=1, decoder_layers=1, cond_dim=8)
    network = maskless.build(config if kind == "partition" else maskless.AutoregressiveConfig(**sizes, layers=1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2)
    return maskless.TextModel(network, maskless.load_tokenizer("bytes"), device="cpu")


@pytest.fixture
def language_model(monkeypatch):
    """The adaptor's class on top of a fake lm-eval, and what was registered."""
    registered = {}
    fakes = {**{name: types.ModuleType(name) for name in ("lm_eval", "lm_eval.api", "lm_eval.models")},
             "lm_eval.api.model": types.SimpleNamespace(LM=LanguageModel),
             "lm_eval.api.registry": types.SimpleNamespace(register_model=lambda name: lambda cls: registered.setdefault(name, cls))}
    fakes["lm_eval"].models = fakes["lm_eval.models"]
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    forget(monkeypatch)
    return adaptor.register(), registered


def forget(monkeypatch) -> None:
    """What was registered, for the time of a test: lm-eval refuses a second class of one name."""
    monkeypatch.setattr(adaptor, "_language_model", functools.cache(adaptor._language_model.__wrapped__))


def test_it_is_registered_once_under_its_name(language_model):
    made, registered = language_model
    assert registered == {"maskless": made} and adaptor.register() is made
    assert issubclass(made, LanguageModel) and issubclass(made, adaptor.Answers)


def test_scores_are_the_harnesss_and_go_into_the_cache(language_model):
    model = language_model[0](text_model(), samples=4, batch_size=7, max_batch_size=None, device="cpu")
    asked = [("a", " bc"), ("a", " bd"), ("xy", "z")]
    found = model.loglikelihood([Instance(args, key) for args, key in zip(asked, (5, 5, 6))])
    wanted = model.harness.score([Request(*args, key) for args, key in zip(asked, (5, 5, 6))], decode=True)
    assert found == [(each.nats, each.greedy) for each in wanted] and all(isinstance(greedy, bool) for _, greedy in found)
    assert model.told[0] == ("loglikelihood", ("a", " bc"), found[0])
    assert model.loglikelihood([Instance(("a", " bc"))])[0][0] < 0  # without a document of its own


def test_whole_texts_and_info(language_model):
    model = language_model[0](text_model("autoregressive"), samples=4)
    found = model.loglikelihood_rolling([Instance(("hello",)), Instance(("ab" * 80,))])
    assert found == [each.nats for each in model.harness.score_texts(["hello", "ab" * 80])]
    assert model.get_model_info()["score"] == "conditional" and model.tokenizer_name.startswith("maskless-")
    joint = language_model[0](text_model(), samples=4, score="mean_joint")
    assert joint.loglikelihood([Instance(("a", "b"))])[0][0] < 0
    with pytest.raises(ValueError, match="no log-probability of a text"):
        joint.loglikelihood_rolling([Instance(("hello",))])


def test_generated_texts_obey_their_wishes(language_model):
    model = language_model[0](text_model(), block=4)
    greedy = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False, "temperature": 0.7}
    assert model.generate_until([Instance(("ab", greedy))] * 2) == model.generate_until([Instance(("ab", {**greedy, "temperature": 0}))] * 2)
    sampled = [Instance(("ab", {"until": "\n", "max_gen_toks": 12, "do_sample": True, "top_k": 50}))] * 2
    one, other = model.generate_until(sampled)
    assert one != other and [one, other] == model.generate_until(sampled)    # a text is a function of seed and place
    (short,) = model.generate_until([Instance(("ab", {"max_new_tokens": 2}))])
    assert model.generate_until([Instance(("ab", {"max_gen_toks": 2, "max_tokens": 9}))]) == [short] and len(short) <= 2
    assert model._sampler({}).temperature == 0 and model._sampler({"temperature": 0.5}).temperature == 0.5
    assert model._sampler({"do_sample": True, "top_p": 0.9}).top_p == 0.9 and model._sampler({"top_p": 0.9}).top_p == 1.0


@pytest.mark.parametrize(("arguments", "message"), [
    ({"pretrained": "no/such/model"}, "no/such/model does not exist"),
    ({"pretrained": None, "score": "best"}, "score has 'best'"), ({"pretrained": None, "mc": 3}, "mc is no argument of the model maskless"),
])
def test_what_cannot_be_opened_is_refused(arguments, message, language_model):
    with pytest.raises(ValueError, match=message):
        language_model[0](**{**arguments, "pretrained": arguments["pretrained"] or text_model()})


def test_the_default_device_of_lm_eval_is_none_of_a_machine_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert adaptor._device("cuda:0") == "auto" and "no cuda:0" in capsys.readouterr().err
    assert adaptor._device("cpu") == "cpu" and adaptor._device(None) == "auto" and not capsys.readouterr().err


def test_without_lm_eval_one_sentence_says_what_to_install(monkeypatch):
    for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    forget(monkeypatch)
    with pytest.raises(ValueError, match=r"maskless\[eval\]"):
        adaptor.register()


def test_local_files_become_tasks(tmp_path):
    for name, records in FORMS.items():
        written(tmp_path, name, records)
    names = adaptor.write_tasks([str(tmp_path)], tmp_path / "tasks", rows=1)
    assert names == ["local_choice", "local_cloze", "local_schema", "local_social"]
    config = json.loads((tmp_path / "tasks" / "local_cloze.yaml").read_text())
    assert config["task"] == "local_cloze" and config["output_type"] == "loglikelihood"
    answers = json.loads((tmp_path / "tasks" / "local_choice.yaml").read_text())
    assert [each["metric"] for each in answers["metric_list"]] == ["acc", "acc_bytes"]      # the second is our accuracy_per_byte
    lines = (tmp_path / "tasks" / "local_cloze.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"contexts": [CLOZE["context"]], "continuations": [CLOZE["continuation"]], "gold": None}]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")                               # lm-eval's own
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed (pip install 'maskless[eval]')")
@pytest.mark.parametrize("kind", ["partition", "autoregressive"])
def test_lm_eval_from_end_to_end_says_what_the_suite_says(kind, tmp_path, monkeypatch):
    """Local files of every form through lm-eval itself, offline: the accuracies of `maskless evaluate ... tasks`."""
    from maskless.evaluation.harness import Harness, Scoring
    from maskless.evaluation.tasks import figures, find_tasks, read_task, score_task

    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(variable, "1")
    for variable in ("HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / "hf"))
    for name, records in FORMS.items():
        written(tmp_path / "files", name, [record for record in records for _ in range(3)])
    names = adaptor.write_tasks([str(tmp_path / "files")], tmp_path / "tasks")
    generated = json.loads((tmp_path / "tasks" / "local_cloze.yaml").read_text())
    generated |= {"task": "local_written", "output_type": "generate_until", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
                  "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}
    (tmp_path / "tasks" / "local_written.yaml").write_text(json.dumps(generated))
    text = text_model(kind)
    text.save_pretrained(tmp_path / "model")
    adaptor.register()
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(model="maskless", model_args={"pretrained": str(tmp_path / "model"), "samples": 4, "device": "cpu"},
                                    tasks=[*names, "local_written"], task_manager=manager, bootstrap_iters=0)["results"]
    assert found["local_written"]["exact_match,none"] in (0.0, 1.0)
    harness = Harness(text.model, text.tokenizer, Scoring(samples=4))
    for path in find_tasks([str(tmp_path / "files")]):
        task = read_task(path)
        ours = {each.metric: each.value for each in figures(task, score_task(harness, task))}
        theirs = found[f"local_{task.name}"]
        assert theirs["acc,none"] == pytest.approx(ours["accuracy"])
        if "accuracy_per_byte" in ours:
            assert theirs["acc_bytes,none"] == pytest.approx(ours["accuracy_per_byte"])
        if task.form == "cloze":
            assert theirs["perplexity,none"] == pytest.approx(2.718281828459045 ** ours["target_nats"], rel=1e-3)
