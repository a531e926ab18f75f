"""One measurement, one JSON file: what was measured, how sure it is, and everything that decided it. Loads no torch.

    result = Result(suite="likelihood", name="pgm-nelbo", metric="nelbo", value=3.1, ...)
    path = write(result, "results")                    # results/likelihood-pgm-nelbo.json, complete or absent
    read(path) == result

Two runs of one command write the same bytes but for `wall_seconds` and `date`: the same device, thread count, precision
and backend are meant, as `hardware` and `precision` say. The fields are described one by one in docs/results-schema.md.
"""
from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from maskless.config import build, tree_of

SCHEMA = "maskless-result/1"
TIMES = ("wall_seconds", "date")                                    # what two runs of one command may differ in
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
GROWING = ("samples", "rows", "budget", "repeats")                  # of what was asked: a later run may ask for more
PIECE = 1 << 20                                                     # bytes of a file that are hashed at once

Kind = Literal["bound", "exact", "estimate", "joint_ce", "measurement", "check"]
"""Of a value: an upper bound on -log p, an exact -log p, an estimate from samples, Prime's joint cross-entropy (no bound), a time or a
rate read off a clock, or the outcome of a comparison. Values of different kinds never share a column."""


@dataclass(frozen=True)
class Uncertainty:
    """How far the value may be off.

    Attributes:
        kind: "standard error", "spread" (half of largest less smallest repetition), or "none", where nothing was drawn.
        value: in the unit of the result; null for "none".
    """

    kind: Literal["standard error", "spread", "none"] = "none"
    value: float | None = None

    def __post_init__(self) -> None:
        if (self.value is None) is not (self.kind == "none"):
            raise ValueError(f"uncertainty is {self.kind} with the value {self.value}; `none` has no value and the others have one")
        if self.value is not None and not (math.isfinite(self.value) and self.value >= 0):
            raise ValueError(f"uncertainty is {self.value}; it must be a number of at least 0")


@dataclass(frozen=True)
class ModelRecord:
    """What was measured.

    Attributes:
        name: what tables call it.
        path: as it was given.
        kind: the tag of its configuration: partition, masked, autoregressive, ...
        parameters: trained numbers.
        weights: the moving average ("ema") or the weights as trained ("raw"); a folder without an average is "raw".
        step: updates behind it; null where the checkpoint does not say.
        hash: sha256 of the file the weights were read from.
    """

    name: str
    path: str
    kind: str
    parameters: int
    weights: Literal["ema", "raw"]
    step: int | None
    hash: str


@dataclass(frozen=True)
class Precision:
    """Names of dtypes: of the weights, of the logits where probabilities are made of them, and of the sums and uniforms that draw a token
    (null where nothing is drawn)."""

    weights: str
    logits: str
    draws: str | None = None


@dataclass(frozen=True)
class Named:
    """A scorer or a tokenizer: its name and the sha256 of its contents."""

    name: str
    hash: str


@dataclass(frozen=True)
class DataRecord:
    """Real data that was read: its name, which part, the sha256 of the rows as measured, and how many documents (images) there were."""

    name: str
    split: str
    hash: str
    documents: int


@dataclass(frozen=True)
class Code:
    """The version of this library, and the digest of its source."""

    version: str
    source: str


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes:
        suite, name: the file is called `<suite>-<name>.json`; names are unique within a folder.
        metric: what the value is, the same word for every model: nelbo, generative_perplexity, fid, tokens_per_second, ...
        value: finite.
        uncertainty: of the value.
        samples: what the uncertainty is over: rows, samples, images, repetitions.
        unit: of the value, in words; empty for a pure number.
        better: which way is better; null where neither is (entropy).
        kind: see `Kind`.
        seed: of everything that was drawn.
        model: what was measured.
        precision: of its arithmetic.
        sampler: options of the sampler that made the samples; null where nothing was sampled.
        plan, nfe: of that sampler: the name of its plan, and the model's calls a row.
        scorer: the network that judges or describes samples; null without one.
        data: real data the value depends on; null without any.
        tokenizer: of the model; null for images.
        code, hardware: where it was made.
        wall_seconds, date: how long it took, when it was made (ISO 8601, UTC).
        details: further numbers of this metric, all of them JSON; nothing that decides the value is only here.
        asked: the settings of the suite that this result depends on; empty where no suite made it.

    Raises:
        ValueError: a value that is not finite, a name that cannot be part of a file name, fewer than one sample.

    Example:
        >>> found = Result("speed", "pgm-throughput", "tokens_per_second", 531.0, Uncertainty("spread", 4.0), 5, "tokens/s", "higher",
        ...                "measurement", 0, ModelRecord("pgm", "runs/pgm", "partition", 1000, "ema", 10, "00"), Precision("float32", "float32"))
        >>> found.file
        'speed-pgm-throughput.json'
    """

    suite: str
    name: str
    metric: str
    value: float
    uncertainty: Uncertainty
    samples: int
    unit: str
    better: Literal["lower", "higher"] | None
    kind: Kind
    seed: int
    model: ModelRecord
    precision: Precision
    sampler: dict[str, Any] | None = None
    plan: str | None = None
    nfe: int | None = None
    scorer: Named | None = None
    data: DataRecord | None = None
    tokenizer: Named | None = None
    code: Code = Code("", "")
    hardware: dict[str, str] = field(default_factory=dict)
    wall_seconds: float = 0.0
    date: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in (self.suite, self.name):
            if not NAME.fullmatch(part):
                raise ValueError(f"the name {part!r} cannot be part of a file name; use letters, digits and . _ + = -")
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric} of {self.model.name} is {self.value}: the network gave numbers that are not finite; "
                             "look at its weights, or evaluate in float32")
        if self.samples < 1:
            raise ValueError(f"{self.metric} of {self.model.name} was measured on {self.samples} samples; at least 1 is needed")

    @property
    def file(self) -> str:
        return f"{self.suite}-{self.name}.json"


def text_of(result: Result) -> str:
    """The JSON text of a result, keys in the order of the fields."""
    tree = {"schema": SCHEMA, **tree_of(result)}
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(result: Result, folder: str | Path) -> Path:
    """Write `<suite>-<name>.json` into a folder, made if need be; whatever interrupts this, the file is complete or as it was.

    A result of the same question is replaced: see `refuse_another`.

    Raises:
        ValueError: a detail that is not JSON or not finite; a result of another model, question or data lies there.
        OSError: a full disk, a folder that cannot be written.
    """
    from maskless.checkpoints.native import replace_text

    try:
        text = text_of(result)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{result.file} cannot be written: {error}; details must be finite numbers, texts, lists and mappings") from None
    path = Path(folder) / result.file
    refuse_another(path, result.model, result.asked, result.data)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)
    return path


def refuse_another(path: Path, model: ModelRecord, asked: Mapping[str, Any], data: DataRecord | None = None) -> None:
    """Raise ValueError if a file holds a result of another question than this one; a file that is no result is not looked at.

    A question is a model, its weights, and what was asked, as far as both say it. Of `GROWING` more may be asked later, and not less; where
    as much was asked, `data` must be the same.
    """
    tree = _tree_or_none(path)
    there, before, read = (_mapping(tree.get(key)) for key in ("model", "asked", "data"))
    elsewhere = "give this evaluation another name (--name) or folder (--out)"
    if there and (there.get("hash"), there.get("weights")) != (model.hash, model.weights):
        raise ValueError(f"{path} is of another model ({there.get('path')}, {there.get('weights')} weights, hash {str(there.get('hash'))[:8]}; "
                         f"this one has {model.weights} weights, hash {model.hash[:8]}); {elsewhere}")
    both = [key for key in before if key in asked]
    for key in both:
        if _amount(key, asked[key]) < _amount(key, before[key]) if key in GROWING else asked[key] != before[key]:
            was, wanted = _apart(before[key], asked[key])
            raise ValueError(f"{path} was measured with {key} {_said(was)} and {_said(wanted)} is asked for; {elsewhere}")
    as_much = all(asked[key] == before[key] for key in both)
    if both and as_much and data is not None and read.get("hash", data.hash) != data.hash:
        raise ValueError(f"{path} was measured on other data ({read.get('name')}, hash {str(read['hash'])[:8]}; "
                         f"these are {data.name}, hash {data.hash[:8]}); {elsewhere}")


def refuse_others(folder: Path, suite: str, title: str, model: ModelRecord, asked: Mapping[str, Any]) -> None:
    """`refuse_another` for every result that a folder holds of a suite under a name of `title` and its metric."""
    for path in sorted(folder.glob(f"{suite}-{title}-*.json")):
        if path.name == f"{suite}-{title}-{_tree_or_none(path).get('metric')}.json":
            refuse_another(path, model, asked)


def _amount(key: str, value: int | None) -> float:
    """How much was asked for: no number is all rows, and the least of anything else."""
    return value if value is not None else math.inf if key == "rows" else 0


def _apart(one: Any, other: Any) -> tuple[Any, Any]:
    """Of two trees, the keys in which they differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return one, other
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return {key: one.get(key) for key in keys}, {key: other.get(key) for key in keys}


def _said(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tree_or_none(path: Path) -> dict[str, Any]:
    """What a file says; nothing if it is not there or not whole, and may be replaced."""
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def read(path: str | Path) -> Result:
    """A result from its file, every key and type checked.

    Raises:
        ValueError: not JSON, another schema, a missing, unknown or wrong key, a file of another name than its result.
    """
    path = Path(path)
    result = _built(_json(path), str(path))
    if path.name != result.file:
        raise ValueError(f"{path} holds the result of {result.file}; name it so")
    return result


def read_all(path: str | Path) -> list[Result]:
    """The results of a file: its one, or those of an array of them, which may have any name.

    Raises:
        ValueError: as `read`; of an array, the sentence says which of its results, counted from 0.
    """
    path = Path(path)
    tree = _json(path)
    if not isinstance(tree, list):
        return [read(path)]
    return [_built(each, f"{path}[{number}]") for number, each in enumerate(tree)]


def _built(tree: Any, place: str) -> Result:
    """A result from its tree. Raises ValueError that says where it lies."""
    if not isinstance(tree, dict) or tree.get("schema") != SCHEMA:
        found = tree.get("schema") if isinstance(tree, dict) else None
        raise ValueError(f"{place} is not a result of the schema {SCHEMA} (its schema is {found!r}); give files that `maskless evaluate` wrote")
    try:
        return build(Result, {key: value for key, value in tree.items() if key != "schema"}, where="result")
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def read_folders(folders: Iterable[str | Path]) -> list[Result]:
    """All results that lie in folders (not in folders inside them), by name; JSON files of other kinds are passed over.

    Raises:
        ValueError: a folder that is not there or holds no result, and as `read`.
    """
    found = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give one that `maskless evaluate --out` wrote")
        here = [path for path in sorted(folder.glob("*.json")) if _is_result(path)]
        if not here:
            raise ValueError(f"{folder} holds no result; give a folder that `maskless evaluate --out` wrote")
        found += [result for path in here for result in read_all(path)]
    return found


def _is_result(path: Path) -> bool:
    """Whether a file holds a result, or an array that begins with one."""
    tree = _json(path)
    tree = tree[0] if isinstance(tree, list) and tree else tree
    return isinstance(tree, dict) and str(tree.get("schema")).startswith("maskless-result/")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; give a result file") from None
    except ValueError:                                              # of JSON and of UTF-8 alike
        raise ValueError(f"{path} is not JSON; evaluate again, or remove it") from None


def same_but_times(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two result trees say the same, `TIMES` aside."""
    return {**one, **dict.fromkeys(TIMES)} == {**other, **dict.fromkeys(TIMES)}


def hash_of(*paths: str | Path) -> str:
    """sha256 of files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    return digest.hexdigest()


def digest_of(network: Any) -> str:
    """sha256 of a network's names and numbers, where no file holds them alone."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
