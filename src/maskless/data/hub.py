"""Hugging Face `datasets` by the names papers use, with the splits, packing and detokenizers of those papers.

The table is spec section 4.3. Reading needs the extra `data` and, the first time, the network.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from maskless.data.detokenize import DETOKENIZERS
from maskless.data.pack import PACKINGS
from maskless.data.source import Split, TextSource, one_of


@dataclass(frozen=True)
class Entry:
    """Where a data set is and how it is used.

    Args:
        repository, config, revision: what `datasets.load_dataset` is asked for. `refs/convert/parquet` is the Hub's own
            conversion of data sets that were published as a script, which `datasets` no longer runs.
        train, valid: split expressions; None where there is no such part.
        field: the column that holds the text.
        tokenizer, packing: what is used unless the recipe says otherwise.
        detokenizer: name in `DETOKENIZERS`, or None.
    """

    repository: str
    config: str | None = None
    revision: str | None = None
    train: str | None = "train"
    valid: str | None = "validation"
    field: str = "text"
    tokenizer: str = "gpt2"
    packing: str = "wrap"
    detokenizer: str | None = None


PARQUET = "refs/convert/parquet"
LAST = 100_000  # documents of OpenWebText that are its validation part
WIKITEXT = "Salesforce/wikitext"
PAPERS = "armanc/scientific_papers"

DATASETS: dict[str, Entry] = {
    "openwebtext-split": Entry("Skylion007/openwebtext", train=f"train[:-{LAST}]", valid=f"train[-{LAST}:]"),
    "lm1b": Entry(
        "billion-word-benchmark/lm1b", revision=PARQUET, valid="test",
        tokenizer="bert-base-uncased", packing="pad", detokenizer="lm1b",
    ),
    "lm1b-wrap": Entry(
        "billion-word-benchmark/lm1b", revision=PARQUET, valid="test", tokenizer="bert-base-uncased", detokenizer="lm1b"
    ),
    "lm1b-gpt2": Entry("billion-word-benchmark/lm1b", revision=PARQUET, valid="test", detokenizer="lm1b"),
    "slimpajama": Entry("cerebras/SlimPajama-627B", tokenizer="TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"),
    "text8": Entry("afmck/text8", valid="test", tokenizer="text8"),
    "wikitext2": Entry(WIKITEXT, "wikitext-2-raw-v1", detokenizer="wikitext"),
    "wikitext103": Entry(WIKITEXT, "wikitext-103-raw-v1", detokenizer="wikitext"),
    "ptb": Entry("ptb-text-only/ptb_text_only", revision=PARQUET, field="sentence", detokenizer="ptb"),
    "lambada": Entry("EleutherAI/lambada_openai", train=None, valid="test", detokenizer="lambada"),
    "ag_news": Entry("fancyzhx/ag_news", valid="test"),
    "pubmed": Entry(PAPERS, "pubmed", PARQUET, field="article", detokenizer="scientific_papers"),
    "arxiv": Entry(PAPERS, "arxiv", PARQUET, field="article", detokenizer="scientific_papers"),
}

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Hub(TextSource):
    """A data set of the table `DATASETS`; its validation part is the published one, so `holdout` is not used.

    Args:
        name: a key of `DATASETS`, such as "openwebtext-split" or "wikitext103".
        tokenizer, packing: as in `TextSource`; "auto" takes the table's.
        repository: where to read instead of the table's place ("" for the table's), if the data moved or for a mirror.

    Raises:
        ValueError: the name is not in the table; when reading: `datasets` is missing, or the data could not be had.
    """

    name: str
    tokenizer: str = AUTO
    packing: str = AUTO
    repository: str = ""

    def __post_init__(self) -> None:
        one_of("name", self.name, DATASETS)
        for field in ("tokenizer", "packing"):
            if getattr(self, field) == AUTO:
                object.__setattr__(self, field, getattr(self.entry, field))  # frozen, but not yet seen by anybody
        super().__post_init__()
        one_of("packing", self.packing, PACKINGS)

    @property
    def entry(self) -> Entry:
        """The line of the table."""
        return DATASETS[self.name]

    @property
    def divided(self) -> bool:
        return True

    def identity(self) -> Any:
        return asdict(self.entry)

    def texts(self, split: Split) -> Iterator[str]:
        entry = self.entry
        expression = entry.train if split == "train" else entry.valid
        if expression is None:
            raise ValueError(f"{self.name} has no {split} part: it serves the other split only")
        detokenize = DETOKENIZERS[entry.detokenizer] if entry.detokenizer else str
        for record in self._load(expression):
            if entry.field not in record:
                raise ValueError(f"{self.name} has no field {entry.field!r} but {', '.join(record)}: another data set")
            yield detokenize(record[entry.field])

    def _load(self, expression: str) -> Any:
        place = self.repository or self.entry.repository
        revision = None if self.repository else self.entry.revision
        return fetched(self.name, place, self.entry.config, expression, revision)


def parts(name: str, place: str) -> list[str]:
    """What the parts of a data set are called. Raises ValueError: as `fetched`."""
    try:
        from datasets import get_dataset_split_names
    except ImportError:
        raise ValueError(f"reading {name} needs the library datasets: pip install 'maskless[data]'") from None
    try:
        return list(get_dataset_split_names(place))
    except Exception as error:  # offline, moved, gated: one sentence for all
        raise _unread(name, place, error) from None


def fetched(name: str, place: str, config: str | None, expression: str, revision: str | None) -> Any:
    """A part of a data set, by Hugging Face `datasets`.

    Args:
        name: how the recipe calls it.
        place: repository or local folder.
        config, expression, revision: as `datasets.load_dataset` takes them.

    Raises:
        ValueError: the library is missing, or the data could not be had.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(f"reading {name} needs the library datasets: pip install 'maskless[data]'") from None
    try:
        return load_dataset(place, config, split=expression, revision=revision)
    except Exception as error:  # offline, moved, gated, no such split: one sentence for all
        raise _unread(name, place, error) from None


def _unread(name: str, place: str, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    return ValueError(f"the data set {name} ({place}) could not be read ({type(error).__name__}: {reason}): "
                      "go online, or name another place with data.repository")
