"""A model of this library for EleutherAI's lm-eval (`pip install 'maskless[eval]'`), registered there as `maskless`.

    python -m maskless.api.lm_eval run --model maskless --model_args pretrained=runs/pgm,samples=128 --tasks lambada_openai,hellaswag

is `lm-eval` itself with this model known to it; in Python, `register()` and then `lm_eval.simple_evaluate(model="maskless", ...)`. lm-eval is
imported when it is needed, never with this module. What the scores are: docs/tasks.md.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskless.decoding import SamplerOptions
from maskless.evaluation.harness import Ending, Harness, Request, Scoring
from maskless.evaluation.tasks import Form, Question, find_tasks, read_task

if TYPE_CHECKING:
    from maskless.api.text import TextModel

TOKENS = 256                                                        # of a generated text, where a task does not say
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")     # how a task may say it, the first there is


def register() -> type:
    """Make `maskless` known to lm-eval, and return the model's class; more than once does no harm.

    Raises:
        ValueError: lm-eval is not installed.
    """
    return _language_model()


@cache
def _language_model() -> type:
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError:
        raise ValueError("the adaptor for lm-eval needs lm-eval: pip install 'maskless[eval]'") from None
    import lm_eval.models  # noqa: F401  (its own models; they are looked up only while the registry is empty)

    return register_model("maskless")(type("MasklessLM", (Answers, LM), {"__doc__": Answers.__doc__}))


class Answers:
    """What lm-eval asks of a language model, answered by `evaluation.harness.Harness`.

    Args:
        pretrained: as `maskless.load` takes it, or a `TextModel`.
        weights, tokenizer, device: as in `maskless.load`.
        block, steps, order: of generated texts: tokens of a gap, steps to fill it (as many if None), and the order of its sites.
        scoring: the fields of `Scoring` (score, samples, seed, overlong, eos, decoding); and lm-eval's `batch_size` and `max_batch_size`, which
            mean nothing here: passes have a fixed shape.

    Raises:
        ValueError: as `maskless.load` and `Scoring`; also for a model of images, and for an argument that means nothing.
    """

    def __init__(self, pretrained: str | TextModel, *, weights: str = "ema", tokenizer: str | None = None, device: str | None = None,
                 block: int = 32, steps: int | None = None, order: str = "left-to-right", **scoring: Any) -> None:
        super().__init__()
        given = {name: value for name, value in scoring.items() if name not in ("batch_size", "max_batch_size")}
        names = [each.name for each in fields(Scoring)]
        if unknown := sorted(set(given) - set(names)):
            raise ValueError(f"{unknown[0]} is no argument of the model maskless; there are pretrained, weights, tokenizer, device, block, steps, "
                             f"order, {', '.join(names)}")
        text = _opened(pretrained, weights, tokenizer, device)
        self.harness = Harness(text.model, text.tokenizer, Scoring(**given))
        self.block, self.options = block, {"steps": steps or block, "order": order}
        self.source = str(pretrained) if isinstance(pretrained, (str, Path)) else type(text.model).__name__

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return f"maskless-{self.harness.tokenizer.hash[:16]}"

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results."""
        scoring, model = self.harness.scoring, self.harness.model
        return {"model_source": self.source, "model_num_parameters": model.parameter_count(), "score": scoring.score, "samples": scoring.samples,
                "noise_seed": scoring.seed, "overlong": scoring.overlong, "decoding": scoring.decoding}

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(nats, whether greedy decoding writes it) of every (context, continuation); requests of one document draw equal noise."""
        asked = [Request(*each.args, key=place if each.doc_id is None else each.doc_id) for place, each in enumerate(requests)]
        scores = self.harness.score(asked, decode=True)
        return self._kept("loglikelihood", requests, [(score.nats, bool(score.greedy)) for score in scores])

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Nats of whole texts, window by window.

        Raises:
            ValueError: the score is not "conditional": the mean of a window is no log-probability that could be added up.
        """
        if self.harness.scoring.score != "conditional":
            raise ValueError(f"score {self.harness.scoring.score} is no log-probability of a text; use score=conditional for perplexities")
        return self._kept("loglikelihood_rolling", requests, [score.nats for score in self.harness.score_texts([each.args[0] for each in requests])])

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts that go on with each context, filled in block by block; greedy, or sampled where a task sets a temperature or do_sample."""
        texts = []
        for place, each in enumerate(requests):
            context, wishes = each.args
            until = wishes.get("until") or []
            tokens = next((wishes[name] for name in LENGTHS if wishes.get(name) is not None), TOKENS)
            ending = Ending(int(tokens), (until,) if isinstance(until, str) else tuple(until))
            texts += self.harness.go_on([context], ending, options=self._sampler(wishes), block=self.block, keys=[place])
        return self._kept("generate_until", requests, texts)

    def _sampler(self, wishes: dict[str, Any]) -> SamplerOptions:
        heat = float(wishes.get("temperature", 1.0)) if wishes.get("do_sample", float(wishes.get("temperature", 0.0)) > 0) else 0.0
        cuts = {name: wishes[name] for name in ("top_p", "top_k") if wishes.get(name) is not None} if heat > 0 else {}
        return SamplerOptions(temperature=heat, **self.options, **cuts)

    def _kept(self, kind: str, requests: Sequence[Any], answers: list[Any]) -> list[Any]:
        """The same answers, put into lm-eval's cache if it keeps one."""
        for request, answer in zip(requests, answers):
            self.cache_hook.add_partial(kind, request.args, answer)  # type: ignore[attr-defined]  (of lm-eval's LM)
        return answers


def _opened(source: Any, weights: str, tokenizer: str | None, device: str | None) -> TextModel:
    from maskless.api.load import load
    from maskless.api.text import TextModel

    known: Any = weights
    model = source if isinstance(source, TextModel) else load(source, weights=known, tokenizer=tokenizer, device=_device(device))
    if not isinstance(model, TextModel):
        raise ValueError(f"{source} is a model of images, which reads no text; give a model of text")
    return model


def _device(name: str | None) -> str:
    """lm-eval's command line says cuda:0 where nobody chose; on a machine without a GPU that is told, and the best there is taken."""
    import torch

    if name == "cuda:0" and not torch.cuda.is_available():
        print("maskless: there is no cuda:0, lm-eval's default; running on the best device there is", file=sys.stderr)
        return "auto"
    return name or "auto"


def write_tasks(places: Sequence[str], folder: str | Path, *, rows: int | None = None) -> list[str]:
    """Local question files as tasks of lm-eval: for each a YAML file and its questions, prompts and all, in a folder for `--include_path`.

    Args:
        places: files of the forms of `evaluation/tasks.py`, or folders of them.
        rows: at most so many questions of each.

    Returns:
        The names of the tasks, `local_` and the file's name each.

    Raises:
        ValueError: as `find_tasks` and `read_task`.
    """
    out, names = Path(folder), []
    out.mkdir(parents=True, exist_ok=True)
    for task in [read_task(path, rows) for path in find_tasks(places)]:
        names.append(f"local_{task.name}")
        questions = out / f"{names[-1]}.jsonl"
        questions.write_text("".join(json.dumps(_record(each)) + "\n" for each in task.questions), encoding="utf-8")
        config = {"task": names[-1], "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(questions.resolve())}},
                  "test_split": "test", "metadata": {"version": 1.0}, "target_delimiter": " ", **LAYOUTS[task.form]}
        (out / f"{names[-1]}.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")  # JSON is YAML
    return names


def _record(question: Question) -> dict[str, Any]:
    """The space before an answer is lm-eval's delimiter, which does not count in `acc_bytes` (and which it leaves out of a cloze)."""
    return {"contexts": question.contexts, "continuations": [each.removeprefix(" ") for each in question.continuations], "gold": question.gold}


def _measured(*names: str) -> list[dict[str, Any]]:
    how = {"perplexity": ("perplexity", False)}
    return [{"metric": name, "aggregation": way, "higher_is_better": up} for name in names for way, up in [how.get(name, ("mean", True))]]


LAYOUTS: dict[Form, dict[str, Any]] = {
    "answers": {"output_type": "multiple_choice", "doc_to_text": "{{contexts[0]}}", "doc_to_choice": "{{continuations}}", "doc_to_target": "gold",
               "metric_list": _measured("acc", "acc_bytes")},
    "schema": {"output_type": "multiple_choice", "doc_to_text": "gold", "doc_to_choice": "{{contexts}}", "doc_to_target": "{{continuations[0]}}",
               "metric_list": _measured("acc")},
    "cloze": {"output_type": "loglikelihood", "doc_to_text": "{{contexts[0]}}", "doc_to_target": "{{' ' + continuations[0]}}",
              "metric_list": _measured("perplexity", "acc")},
}


def main() -> None:
    """lm-eval's own command line, with `maskless` among its models."""
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
