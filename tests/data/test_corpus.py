"""The prose that comes with Python."""
from __future__ import annotations

import re

from maskless.data.corpus import corpus_identity, standard_library_prose


def test_over_a_megabyte_of_distinct_english():
    documents = standard_library_prose()
    text = "\n".join(documents)
    assert len(text) > 1_000_000 and len(documents) > 200
    assert all(len(document) >= 240 for document in documents)
    assert sum(c.isalpha() or c.isspace() for c in text) > 0.85 * len(text)
    assert all(f" {word} " in text for word in ("the", "which", "returns", "however"))


def test_no_paragraph_comes_twice():
    paragraphs = [" ".join(p.split()) for document in standard_library_prose() for p in re.split(r"\n\s*\n", document)]
    assert len(set(paragraphs)) == len(paragraphs)


def test_always_the_same():
    before = standard_library_prose()
    before.append("somebody else's")
    assert standard_library_prose() == before[:-1]
    assert corpus_identity() == corpus_identity()
