"""What results call data: by where they come from."""
from __future__ import annotations

from pathlib import Path

from maskless.data.image_sources import IMAGE_SOURCES
from maskless.data.images import Pictures
from maskless.data.source import Source
from maskless.data.sources import ORIGINS


def name_of(source: Source, split: str = "valid") -> str:
    """The name of a data set of the Hub; of others their corpus or kind, and the file or folder that the split is read from.

    Example:
        >>> from maskless.data.sources import Files, Hub, Prose
        >>> [name_of(source) for source in (Hub(name="wikitext2"), Prose(), Files(train="texts/novels.txt"))]
        ['wikitext2', 'prose', 'files-novels']
    """
    origin = source.source if isinstance(source, Pictures) else source
    kinds = [*ORIGINS.items(), *IMAGE_SOURCES.items()]
    called = getattr(origin, "name", None) or next(name for name, kind in kinds if type(origin) is kind)
    own = getattr(origin, "valid", None) if split == "valid" else None
    place = own or getattr(origin, "train", None) or getattr(origin, "place", None)
    return called if place is None else f"{called}-{word_of(place)}"


def word_of(place: str) -> str:
    """The last word of a path, up to its first point, in letters and digits that a file name may have."""
    word = Path(place).name.split(".")[0]
    return "".join(letter for letter in word if letter.isascii() and (letter.isalnum() or letter in "_-"))
