"""Corpora that models are measured on and never trained on, from local files, as the literature reads them.

What a document is and how its spacing is undone follows from the corpus's name; both are part of a zero-shot perplexity (spec of the released
code, section 4.3). The same corpora from the Hugging Face Hub: `data/hub.py`.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from maskless.data.detokenize import DETOKENIZERS
from maskless.data.files import SUFFIXES, find_files, fingerprint, read_documents
from maskless.data.source import Split, TextSource, one_of


@dataclass(frozen=True)
class Reading:
    """How a corpus is read.

    Args:
        field: the field of .jsonl and .parquet records that holds the text; "a+b" joins two with a space, "a*" a list of texts.
        document: what a document of a .txt file is; lines lose the white space around them.
        detokenizer: name in `DETOKENIZERS`, or None.
    """

    field: str = "text"
    document: str = "line"
    detokenizer: str | None = None


CORPORA: dict[str, Reading] = {
    "wikitext": Reading(document="row", detokenizer="wikitext"),    # a line with its end is a document, and so is an empty one
    "ptb": Reading(field="sentence", detokenizer="ptb"),
    "lm1b": Reading(detokenizer="lm1b"),
    "lambada": Reading(field="context+continuation", detokenizer="lambada"),
    "ag_news": Reading(field="title+text"),
    "ewt": Reading(field="sentences*"),
    "tinystories": Reading(document="paragraph"),
    "scientific_papers": Reading(field="article", document="file", detokenizer="scientific_papers"),
}


@dataclass(frozen=True, kw_only=True)
class ZeroShot(TextSource):
    """A corpus of the table `CORPORA` in local files. Either split is the whole of it: there is nothing to train on, and nothing is held out.

    Args:
        name: a key of `CORPORA`.
        place: a file, or a folder that is searched for files.
        text_field: where records hold their text elsewhere than the table says.

    Raises:
        ValueError: the name is not in the table; when reading: no such file, or one that is damaged or of another form.
    """

    name: str
    place: str
    text_field: str | None = None
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("name", self.name, CORPORA)

    @property
    def reading(self) -> Reading:
        """The line of the table."""
        return CORPORA[self.name]

    @property
    def divided(self) -> bool:
        return True

    def identity(self) -> Any:
        return [asdict(self.reading), fingerprint(self.place, self.suffixes)]

    def texts(self, split: Split) -> Iterator[str]:
        reading = self.reading
        detokenize = DETOKENIZERS[reading.detokenizer] if reading.detokenizer else str
        for path in find_files(self.place, self.suffixes):
            documents = read_documents(path, document=reading.document, field=self.text_field or reading.field)
            trimmed = reading.document == "line" and ".txt" in path.suffixes
            yield from map(detokenize, map(str.strip, documents) if trimmed else documents)
