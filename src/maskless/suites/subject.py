"""The model that is measured, and everything about it that a result records."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from maskless.api.image import ImageModel
from maskless.api.load import load, opened
from maskless.api.text import TextModel
from maskless.checkpoints.native import described, kind_name, resolve
from maskless.checkpoints.source import SUFFIXES, find
from maskless.data.source import Source
from maskless.data.tokenizer import Coding
from maskless.evaluation.results import NAME, ModelRecord, Named, digest_of, hash_of
from maskless.places import STEP
from maskless.training.recipe import Recipe, load_recipe

Weights = Literal["ema", "raw"]
INSIDE = ("checkpoints", "rounds")                                  # folders of a run in which models lie


@dataclass(frozen=True)
class Subject:
    """A model as it was opened.

    Attributes:
        opened: the network with its tokenizer or codec, on its device.
        record: what results say of it.
        recipe: of its run, if it lies in a run folder.
    """

    opened: TextModel | ImageModel
    record: ModelRecord
    recipe: Recipe | None = None

    @property
    def coding(self) -> Coding:
        """What its rows are written in."""
        return self.opened.tokenizer if isinstance(self.opened, TextModel) else self.opened.codes

    @property
    def length(self) -> int:
        return self.opened.model.config.length

    @property
    def tokenizer(self) -> Named:
        return Named(spelled(self.coding), self.coding.hash)

    def data(self, given: Source | None) -> Source:
        """The data that was asked for, or that the model was trained on.

        Raises:
            ValueError: none was named and the model lies in no run folder.
        """
        if given is not None:
            return given
        if self.recipe is None:
            raise ValueError(f"{self.record.path} lies in no run folder, so the data it was trained on are not known; name data (--data)")
        return self.recipe.data


def spelled(coding: Coding) -> str:
    """A tokenizer or codec by the kind of thing it is: ByteTokenizer, SubwordTokenizer, ..."""
    return type(getattr(coding, "codec", coding)).__name__


def open_subject(source: str | Path, *, weights: Weights = "ema", name: str | None = None, **where: Any) -> Subject:
    """Open a model for measuring.

    Args:
        source: as `maskless.load` takes it.
        weights: the moving average where there is one, or the weights as trained.
        name: what tables call it; None: the last word of its path.
        where: device, dtype, tokenizer, codec and overrides of `maskless.load`.

    Raises:
        ValueError: as `maskless.load`; also for a name that cannot be part of a file name.
    """
    called = name or usual_name(source)
    if not NAME.fullmatch(called):
        raise ValueError(f"the name {called!r} cannot be part of a file name; give one of letters, digits and . _ + = - (--name)")
    model = load(source, weights=weights, compile="off", **where)
    place = find(source)
    folder = resolve(place.path) if place.native else None
    file = place.path if folder is None else _weights_file(folder, weights)
    record = ModelRecord(called, str(source), kind_name(model.model.config), model.model.parameter_count(), _taken(folder, place.path, weights),
                         _step(folder), hash_of(file))
    return Subject(model, record, _recipe(folder))


def subject_of(network: Any, coding: Coding, name: str, *, recipe: Recipe | None = None, **where: Any) -> Subject:
    """A network that lies in no file (an oracle, a model in a notebook); its hash is of its numbers."""
    record = ModelRecord(name, "", kind_name(network.config), network.parameter_count(), "raw", None, digest_of(network))
    return Subject(opened(network, coding, **where), record, recipe)


def usual_name(source: str | Path) -> str:
    """The last word of a path; of a step or a round of a run, the run's as well."""
    path = Path(source)
    if path.parent.name in INSIDE:
        word = f"{path.parent.parent.name}-{path.name}"
    else:
        word = path.stem if path.suffix in SUFFIXES else path.name
    return "".join(letter if NAME.fullmatch(letter) or letter in "._+=-" else "-" for letter in word).lstrip("._+=-") or "model"


def _weights_file(folder: Path, weights: Weights) -> Path:
    average = folder / "ema.safetensors"
    return average if weights == "ema" and average.exists() else folder / "model.safetensors"


def _taken(folder: Path | None, path: Path, weights: Weights) -> Weights:
    """Which weights these are, as far as the folder or file says."""
    if folder is None:
        from maskless.checkpoints.contents import read_contents

        return "ema" if weights == "ema" and read_contents(path).average is not None else "raw"
    if _weights_file(folder, weights).name == "ema.safetensors":
        return "ema"
    converted = described(folder / "config.json")[1].get("extra", {}).get("converted", {})
    return "ema" if str(converted.get("weights", "")).startswith("ema") else "raw"


def _step(folder: Path | None) -> int | None:
    match = STEP.fullmatch(folder.name) if folder is not None else None
    return None if match is None else int(match[1])


def _recipe(folder: Path | None) -> Recipe | None:
    """The recipe of the run that a folder belongs to: the run itself, a step or a round of it."""
    if folder is None or folder.resolve().parent.name not in INSIDE:
        return None
    config = folder.resolve().parent.parent / "config.yaml"
    return load_recipe(config) if config.is_file() else None
