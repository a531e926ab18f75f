"""A text while it is being written: what `watch` is called with, made readable."""
from __future__ import annotations

from dataclasses import dataclass

from maskless.data.tokenizer import Tokenizer
from maskless.decoding import Canvas
from maskless.decoding.decode import Record


@dataclass(frozen=True)
class Shown:
    """One site: its token as it reads there (None: still open), and whether this step revealed it."""

    text: str | None
    fresh: bool = False


def shown(tokenizer: Tokenizer, canvas: Canvas, record: Record) -> list[Shown]:
    """The sites of the first row that it has, in reading order."""
    tokens, known, present = (x[0].tolist() for x in canvas.by_site())
    fresh = set((record.sites.index[0][record.kept[0]] // canvas.per_site).tolist())
    pieces = iter(tokenizer.pieces([token for token, there in zip(tokens, known) if there]))
    return [Shown(next(pieces).decode("utf-8", errors="replace"), site in fresh) if there else Shown(None)
            for site, there in enumerate(known) if there or present[site]]
