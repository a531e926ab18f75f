"""Detokenizers against recorded pairs, to the letter."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskless.data import detokenize

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "text_data.json").read_text(encoding="utf-8"))
PAIRS = {
    "wt_detokenizer": detokenize.wikitext,
    "ptb_detokenizer": detokenize.penn_treebank,
    "lm1b_detokenizer": detokenize.one_billion_words,
    "lambada_detokenizer": detokenize.lambada,
    "scientific_papers_detokenizer": detokenize.scientific_papers,
}


@pytest.mark.parametrize("name", PAIRS)
def test_recorded_pairs(name):
    assert len(GOLDEN[name]) >= 8
    for before, after in GOLDEN[name]:
        assert PAIRS[name](before) == after


def test_backslashes_are_letters():
    assert detokenize.penn_treebank("1\\/2 and $ N N N") == "1/2 and $1 1 N"
    assert detokenize.wikitext("a \\1 , b") == "a \\1, b"


def test_text8_style_has_27_characters():
    assert detokenize.text8_style("In 1990, Été?\n\nOK") == "in one nine nine zero t ok"
