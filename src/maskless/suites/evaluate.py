"""`maskless.evaluate`: what the command of that name does, as a function."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskless.evaluation.results import Result
from maskless.evaluation.settings import Suite
from maskless.suites.drawing import completed
from maskless.suites.request import data_of, named_by, requested
from maskless.suites.run import evaluate as run
from maskless.suites.session import Progress, shard_of
from maskless.suites.subject import Weights, open_subject

FIELDS = ("seed", "samples", "budget", "rows", "sampler", "scorer", "data", "files")    # of suites, said for all of them
OPENING = ("device", "dtype", "tokenizer", "codec")                                     # of how the model is opened


def evaluate(model: str | Path, *suites: str | Suite, out: str | Path | None = None, name: str | None = None, weights: Weights = "ema",
             batch_size: int = 64, shard: str | None = None, say: Callable[[str], None] = lambda line: None,
             progress: Progress = lambda what, done, total: None, **more: Any) -> list[Result]:
    """Measure a model: one JSON file a number, each with its error. A second run goes on where a killed one stopped.

    Args:
        model: a run folder, a checkpoint folder, a released file, or organisation/name.
        suites: names of suites (likelihood, generative, images, tasks, speed, parity), their settings (`evaluation.settings`), recipes with
            an evaluation section, and changes such as "likelihood.budget=8"; none: what the recipe of the model's run says.
        out: the folder of results and samples; None: results/ in the run folder, or here.
        name: what results and tables call the model; None: the last word of its path.
        weights: the moving average where there is one ("ema"), or the weights as trained ("raw").
        batch_size: rows read at a time; no result depends on it.
        shard: "i/n" draws this process's samples only, to be measured by a later call without it.
        say, progress: are told of every result, and of what is going on.
        more: seed, samples, budget, rows, sampler, scorer, files: the field of that name in every suite that has it; data: a data section, or
            what stands for one (a recipe, a known data set, a text file or folder); device, dtype, tokenizer, codec: as for `maskless.load`.

    Returns:
        The results, in order; each lies in `out` already.

    Raises:
        ValueError: an unknown suite or argument, settings that are refused, a suite that does not fit the model.

    Example:
        >>> import maskless
        >>> results = maskless.evaluate("runs/tiny-pgm", "likelihood", budget=8, out="results")  # doctest: +SKIP
    """
    if unknown := sorted(more.keys() - {*FIELDS, *OPENING}):
        raise ValueError(f"{', '.join(unknown)} is nothing that evaluate takes; beside its own arguments there are {', '.join((*FIELDS, *OPENING))}")
    share, data = shard_of(shard), more.get("data")
    subject = open_subject(model, weights=weights, name=name, **{key: more[key] for key in OPENING if key in more})
    shared = {**{field: more.get(field) for field in FIELDS}, "data": data_of(data) if isinstance(data, str) else data,
              "files": more.get("files") or None}
    asked = requested(suites, shared, recipe=subject.recipe, called=named_by(data), completed=lambda given: completed(subject.opened, given))
    folder = out or (Path(model) / "results" if (Path(model) / "config.yaml").is_file() else Path("results"))
    return run(subject, asked, out=folder, batch_size=batch_size, shard=share, say=say, progress=progress)
