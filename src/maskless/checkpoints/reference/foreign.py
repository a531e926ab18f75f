"""A released file, opened: its kind, its weights or their moving average, and the native model they make."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskless.checkpoints.contents import Contents, Entry, read_contents
from maskless.checkpoints.native import assemble
from maskless.checkpoints.reference.facts import Facts
from maskless.checkpoints.reference.names import bare
from maskless.checkpoints.reference.registry import Imported, Importer, importer_for
from maskless.checkpoints.reference.released import published
from maskless.data.vq import VQCodec, filled


@dataclass(frozen=True)
class Foreign:
    """A file of weights that this library did not write.

    Attributes:
        contents: what is in it; nothing was read yet.
        importer: for its kind.
        facts: what is known besides the weights; importing adds a note for every inference.
    """

    contents: Contents
    importer: Importer
    facts: Facts

    @property
    def averaged(self) -> bool:
        return self.contents.average is not None

    def entries(self, *, average: bool = True) -> dict[str, Entry]:
        """The weights by the file's names; the average where it is wanted and there.

        Raises:
            ValueError: if the average does not fit the parameters in number and shape.
        """
        trained = self.contents.weights
        if not average or self.contents.average is None:
            return dict(trained)
        names = [key for key in trained if not self.importer.buffers(bare(key))]
        shadows = self.contents.average
        if len(names) != len(shadows):
            raise ValueError(f"{self.contents.path}: {len(shadows)} EMA tensors do not match {len(names)} parameters in number; "
                             "the raw weights can be had with --weights raw")
        for name, shadow in zip(names, shadows):
            if trained[name].shape != shadow.shape:
                raise ValueError(f"{self.contents.path}: the EMA tensor in the place of {name} has shape {shadow.shape}, not {trained[name].shape}; "
                                 "the raw weights can be had with --weights raw")
        return {**trained, **dict(zip(names, shadows))}

    def imported(self, *, average: bool = True) -> Imported:
        """The native configuration and tensors, which are views of the file where they need no change.

        Raises:
            ValueError: the kind cannot be imported, or weights, settings and overrides do not fit each other.
        """
        return self._convert({key: entry.load() for key, entry in self.entries(average=average).items()})

    def outline(self) -> Imported:
        """The same without numbers: nothing is read."""
        return self._convert({key: entry.blank for key, entry in self.entries().items()})

    def _convert(self, weights: Mapping[str, Tensor]) -> Imported:
        self.facts.notes.clear()
        try:
            made = self.importer.convert(weights, self.facts)
        except ValueError as error:
            raise ValueError(f"{self.contents.path}: {error}") from None
        except (TypeError, ZeroDivisionError, AttributeError, IndexError) as error:
            raise ValueError(f"{self.contents.path}: its settings or shapes are not of a model ({error}): the file is damaged") from None
        self.facts.check(self.importer.kind)
        return made

    def model(self, *, average: bool = True) -> Any:
        """The native model in evaluation mode, on the CPU, in float32."""
        made = self.imported(average=average)
        return assemble(made.config, {name: single(tensor) for name, tensor in made.weights.items()})


def single(tensor: Tensor) -> Tensor:
    """Floating-point numbers as float32, as this library stores them; no copy where they are."""
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def open_foreign(path: str | Path, *, overrides: Mapping[str, Any] | None = None, source: str | None = None) -> Foreign:
    """Open a released file.

    Args:
        path: the file.
        overrides: answers to what its weights cannot tell (length, query, heads, mask_id, ...).
        source: under which name it was asked for; published defaults go by it. The path if None.

    Raises:
        ValueError: not a file of weights, of no known kind, or refused.
    """
    contents = read_contents(path)
    importer = importer_for({key: entry.shape for key, entry in contents.weights.items()}, str(path))
    return Foreign(contents, importer, Facts(contents.settings, overrides or {}, published(source or str(path))))


def read_vq(path: str | Path) -> VQCodec:
    """The codec of a released VQ tokenizer.

    Raises:
        ValueError: as `open_foreign`; also if the file holds something else.
        OSError: the file cannot be read.
    """
    file = open_foreign(path)
    if not file.importer.codec:
        raise ValueError(f"{path} is a {file.importer.kind}, not a VQ image tokenizer; give the file of one")
    made = file.imported()
    return VQCodec(filled(made.config, made.weights, str(path)))
