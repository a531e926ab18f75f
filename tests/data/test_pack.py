"""Documents to rows: the recorded example, exact pictures of each packing, and what does not fit."""
from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from maskless.data.pack import PACKINGS, fill, pad, stream, wrap
from maskless.vocabulary import Vocabulary

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "text_data.json").read_text(encoding="utf-8"))
VOCABULARY = Vocabulary(100, bos=90, eos=91, pad=92)
DOCUMENTS = [np.array(ids, np.int32) for ids in ([1, 2], [3, 4, 5], [], [6, 7, 8, 9, 10, 11])]


def rows(packing, documents=DOCUMENTS, length=6):
    return list(packing(documents, length, VOCABULARY))


def tokens(packing, **changes):
    return [row.tokens.tolist() for row in rows(packing, **changes)]


def test_wrap_is_the_recorded_grouping():
    golden = GOLDEN["group_texts"]
    assert all(document[-1] == golden["eos"] for document in golden["docs_with_eos_appended"])
    documents = [np.array(document[:-1]) for document in golden["docs_with_eos_appended"]]
    made = wrap(documents, golden["block_size"], Vocabulary(100, bos=golden["bos"], eos=golden["eos"]))
    assert [row.tokens.tolist() for row in made] == golden["input_ids"]


def test_wrap_joins_all_documents_and_drops_only_the_end():
    made = tokens(wrap)
    assert made == [[90, 1, 2, 91, 3, 91], [90, 4, 5, 91, 91, 91], [90, 6, 7, 8, 9, 91]]
    assert all(row.valid is None and row.given is None for row in rows(wrap))


@pytest.mark.parametrize("packing", [wrap, stream])
def test_nothing_is_lost_between_batches_of_documents(packing):
    draw = np.random.default_rng(0)
    documents = [draw.integers(0, 90, draw.integers(0, 40)) for _ in range(200)]
    joined = np.concatenate([part for document in documents for part in (document, [91])])
    inner = slice(1, -1) if packing is wrap else slice(1, None)
    cut = np.concatenate([row.tokens[inner] for row in packing(iter(documents), 16, VOCABULARY)])
    assert np.array_equal(cut, joined[: len(cut)]) and len(joined) - len(cut) < 15


def test_stream_has_no_closing_eos():
    assert tokens(stream) == [[90, 1, 2, 91, 3, 4], [90, 5, 91, 91, 6, 7], [90, 8, 9, 10, 11, 91]]


def test_pad_cuts_and_marks_padding():
    made = rows(pad)
    assert [row.tokens.tolist() for row in made] == [
        [90, 1, 2, 91, 92, 92], [90, 3, 4, 5, 91, 92], [90, 91, 92, 92, 92, 92], [90, 6, 7, 8, 9, 91],
    ]
    assert [row.valid.sum() for row in made] == [4, 5, 2, 6]
    assert all(left >= right for row in made for left, right in pairwise(row.valid))


def test_fill_learns_its_end_and_cuts_nothing():
    assert tokens(fill, documents=DOCUMENTS[:2]) == [[90, 1, 2, 91, 91, 91], [90, 3, 4, 5, 91, 91]]
    assert tokens(fill, length=8)[-1] == [90, 6, 7, 8, 9, 10, 11, 91]
    with pytest.raises(ValueError, match="sequence 4 needs 8 sites"):
        rows(fill)


@pytest.mark.parametrize("packing", PACKINGS.values())
def test_what_does_not_fit(packing):
    with pytest.raises(ValueError, match="length of 1"):
        rows(packing, length=1)
    with pytest.raises(ValueError, match="no BOS"):
        list(packing(DOCUMENTS, 9, Vocabulary(100)))
    assert list(packing([], 9, VOCABULARY)) == []
