"""What a report is made of: result files, the samples beside them, and the curves of run folders, found below the folders that are given."""
from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskless.evaluation.results import Result, read_all

SHARE = re.compile(r"\.\d+-of-\d+$")                                # the end of a name of samples that are not gathered yet
HEAD = 400                                                          # bytes of a file in which a result names its schema
SHOWN = 12                                                          # samples of a file that a page has room for
POINTS = 400                                                        # of a curve


@dataclass(frozen=True)
class Entry:
    """A result, and the file it was read from.

    Attributes:
        path: of the file.
        number: which of the file's results it is.
    """

    path: Path
    result: Result
    number: int = 0

    @property
    def place(self) -> str:
        """The name of the file; in a file of several results, that of the result with it."""
        return self._place(self.path.name)

    @property
    def full_place(self) -> str:
        """The same with the whole path."""
        return self._place(str(self.path))

    def _place(self, file: str) -> str:
        return file if self.path.name == self.result.file else f"{file}[{self.number}] ({self.result.file})"

    @property
    def how(self) -> str:
        """The sampler in words; empty where nothing was sampled."""
        return described(acting(self.result.sampler))


@dataclass(frozen=True)
class Samples:
    """What a model made: texts, or the bytes of one PNG.

    Attributes:
        path: the file they were read from.
        texts: the first of them.
        picture: a PNG of the first images; None for texts.
        count: how many the file holds.
        entry: a result that was computed from them; None if none is beside them.
    """

    path: Path
    texts: tuple[str, ...] = ()
    picture: bytes | None = None
    count: int = 0
    entry: Entry | None = None


@dataclass(frozen=True)
class Curve:
    """What a run folder's metrics.jsonl says.

    Attributes:
        name: the folder.
        objective: the recipe's; losses of different objectives are not compared.
        data: what was trained on, in one line; bounds on different data are not compared.
        losses: (step, loss).
        bounds: (step, bound, standard error); empty where nothing was held out.
    """

    name: str
    objective: str
    data: str
    losses: tuple[tuple[float, float], ...]
    bounds: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Gathered:
    """All of it, in the order of the paths, which does not depend on the file system."""

    entries: tuple[Entry, ...] = ()
    samples: tuple[Samples, ...] = ()
    curves: tuple[Curve, ...] = ()


def gather(folders: Sequence[Path]) -> Gathered:
    """Read everything below the folders.

    Raises:
        ValueError: a folder is missing, a result is damaged or of another schema, or nothing was found.
    """
    paths: dict[Path, Path] = {}                                    # by where they really are: folders may overlap
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give folders of results (maskless evaluate) or of runs (maskless train)")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            paths.setdefault(path.resolve(), path)
    files = [path for path in paths.values() if path.suffix == ".json" and is_result(path)]
    entries = tuple(Entry(path, checked(path, result), number) for path in files for number, result in enumerate(read_all(path)))
    curves = tuple(curve for path in paths.values() if path.name == "metrics.jsonl" and (curve := read_curve(path)))
    drawn = [path for path in paths.values() if path.name.startswith("samples-") and path.suffix in (".jsonl", ".png", ".npz")]
    samples = tuple(found for path in drawn if not SHARE.search(path.stem) and (found := read_samples(path, entries)))
    if not entries and not curves:
        named = ", ".join(map(str, folders))
        raise ValueError(f"there is no result file and no run in {named}; make one with maskless evaluate or maskless train")
    return Gathered(entries, samples, curves)


def is_result(path: Path) -> bool:
    """Whether a file says that it is a result or holds some, of whatever version of the schema, whole or torn."""
    with open(path, "rb") as file:
        return b'"maskless-result/' in file.read(HEAD)


def checked(path: Path, result: Result) -> Result:
    """The result. Raises ValueError if it gives a joint cross-entropy the name of a likelihood."""
    if result.kind == "joint_ce" and "perplexity" in result.metric:
        raise ValueError(f"{path} calls a joint cross-entropy a {result.metric}, and it bounds no likelihood; evaluate the bound of the model again")
    return result


def acting(sampler: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of a sampler, without those that change nothing beside the others.

    Example:
        >>> acting({"order": "random", "gamma": 0.1, "top_p": 1.0, "time_power": 1.0, "temperature": 1.0})
        {'order': 'random', 'temperature': 1.0}
    """
    options = dict(sampler or {})
    idle = {
        "confidence_noise": options.get("order") != "confidence", "gamma": options.get("order") != "entropy-bound",
        "guidance_schedule": not options.get("guidance"), "corrector_power": not options.get("corrector"),
        "temperature_rise_power": not options.get("temperature_rise"),
        **{name: options.get(name) == 1 for name in ("temperature_power", "top_p", "alpha_power", "time_power")},
    }
    return {key: value for key, value in options.items() if not idle.get(key)}


def described(tree: Mapping[str, Any] | None) -> str:
    """Options in words, nulls left out.

    Example:
        >>> described({"order": "random", "steps": 32, "top_p": None, "choice": {"temperature": 0.8}})
        'order random, steps 32, choice (temperature 0.8)'
    """
    words = []
    for key, value in (tree or {}).items():
        if isinstance(value, Mapping):
            words.append(f"{key} ({described(value)})")
        elif value not in (None, False, ""):
            words.append(f"{key} {value}")
    return ", ".join(words)


# ------------------------------------------------------------------------------------------------------------- curves


def read_curve(path: Path) -> Curve | None:
    """The losses and bounds of a run; None for a journal without either."""
    losses, bounds = [], []
    for record in _records(path):
        step = record.get("step")
        if _number(step) and _number(record.get("loss")):
            losses.append((step, record["loss"]))
        if _number(step) and _number(record.get("bound")):
            bounds.append((step, record["bound"], record.get("standard_error") or 0.0))
    if not losses and not bounds:
        return None
    objective, data = _recipe(path.with_name("config.yaml"))
    return Curve(path.parent.name, objective, data, thinned(losses), tuple(bounds))


def _recipe(path: Path) -> tuple[str, str]:
    """The objective and the data of a run, as its config.yaml states them."""
    from maskless.config import read

    tree = read(path) if path.exists() else {}
    objective = tree.get("objective")
    data = {key: value for key, value in (tree.get("data") or {}).items() if key != "path"}
    usual = "reconstruction" if "codec" in tree else "unknown"      # the loss of a codec has one kind
    return (str(objective.get("type", usual)) if isinstance(objective, dict) else usual), described(data)


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> tuple[tuple[float, float], ...]:
    """At most `most` points: the mean of every stretch of neighbours, so that no loss is left out.

    Example:
        >>> thinned([(1, 4.0), (2, 2.0), (3, 1.0)], most=2)
        ((1.5, 3.0), (3.0, 1.0))
    """
    size = -(-len(points) // most)
    if size <= 1:
        return tuple(points)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple((sum(step for step, _ in each) / len(each), sum(loss for _, loss in each) / len(each)) for each in stretches)


# ------------------------------------------------------------------------------------------------------------ samples


def read_samples(path: Path, entries: Sequence[Entry]) -> Samples | None:
    """The first samples of a file; None for one that holds none. A picture is opened, so that only pixels reach the page."""
    entry = next((each for each in entries if each.path.parent == path.parent and path.stem == f"samples-{_title(each.result)}"), None)
    if path.suffix == ".jsonl":
        texts = [record["text"] for record in _records(path) if isinstance(record.get("text"), str)]
        return Samples(path, tuple(texts[:SHOWN]), None, len(texts), entry) if texts else None
    from maskless.evaluation.report.pictures import grid_png, same_png

    picture, count = same_png(path) if path.suffix == ".png" else grid_png(path)
    return Samples(path, (), picture, count, entry)


def _title(result: Result) -> str:
    """What a result shares with the samples it was computed from: its name without the metric."""
    return result.name.removesuffix(f"-{result.metric}")


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a .jsonl file that are whole; the last one may have been cut by a crash."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
