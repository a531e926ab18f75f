"""Corpora of the literature from local files: what a document is, and how its spacing is undone."""
from __future__ import annotations

import gzip
import json

import pytest
import torch

from maskless.data.hub import DATASETS
from maskless.data.sources import open_data
from maskless.data.zero_shot import CORPORA, ZeroShot

FILES = {
    "wikitext": (" \n = A Title = \n \n It was 1 @,@ 000 m ( 3 ft ) high . \n", ["", "= A Title =\n", "", "It was 1,000 m (3 ft) high.\n"]),
    "ptb": (" the u.s. does n't have N N \n\n it 's <unk> \n", ["the u.s. doesn't have 1 N", "it's ?"]),
    "lm1b": (' He said , " no " .\nTwo lines ?\n', ['He said, "no" .', "Two lines?"]),
    "lambada": ([{"context": "\u201cTo be\u201d or not to", "continuation": "be"}], ['\n"To be" or not to be']),
    "ag_news": ([{"label": 1, "title": "A Title", "text": "A text ."}], ["A Title A text ."]),
    "ewt": ([{"id": "x", "genre": "weblog", "sentences": ["One .", "Two :"]}, {"id": "y", "sentences": ["Three."]}], ["One . Two :", "Three."]),
    "tinystories": ([{"text": "Once upon\na time."}], ["Once upon\na time."]),
    "scientific_papers": ([{"article": "we show ( see @xcite ) that x , y ."}], ["we show (see @xcite) that x, y."]),
}


def placed(folder, name: str) -> str:
    content, _ = FILES[name]
    records = not isinstance(content, str)
    path = folder / f"{name}.{'jsonl' if records else 'txt'}.gz"
    path.write_bytes(gzip.compress(("\n".join(map(json.dumps, content)) if records else content).encode()))
    return str(path)


@pytest.mark.parametrize("name", CORPORA)
def test_documents_and_detokenizers(name, tmp_path):
    found = list(ZeroShot(name=name, place=placed(tmp_path, name)).texts("valid"))
    assert [text.removeprefix(" ") for text in found] == FILES[name][1]
    assert found == list(ZeroShot(name=name, place=placed(tmp_path, name)).texts("train"))


def test_rules_are_those_of_the_hubs_table():
    for name, entry in DATASETS.items():
        ours = {**dict.fromkeys(("wikitext2", "wikitext103"), "wikitext"), **dict.fromkeys(("pubmed", "arxiv"), "scientific_papers")}
        if (corpus := ours.get(name, name.split("-")[0])) in CORPORA:
            assert CORPORA[corpus].detokenizer == entry.detokenizer, name


def test_rows_of_a_corpus_close_every_document(tmp_path):
    """An empty line of WikiText is a document of its own: nothing but its EOS."""
    store = open_data(ZeroShot(name="wikitext", place=placed(tmp_path, "wikitext")), length=16, split="valid", cache=tmp_path)
    stream = store.read(torch.arange(len(store))).tokens[:, 1:-1].flatten().tolist()
    title = list(b" = A Title =\n")
    assert stream[:3 + len(title)] == [257, *title, 257, 257]


def test_other_fields_and_mistakes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "plain", "parts": ["a", 1]}')
    assert list(ZeroShot(name="lambada", place=str(path), text_field="text").texts("valid")) == ["\nplain"]
    for settings, message in (({"name": "lambada"}, "'context' .* is not among text, parts"), ({"name": "ag_news", "text_field": "parts"}, "is list"),
                              ({"name": "enwik8"}, "name is 'enwik8'"), ({"name": "ewt", "place": "none"}, "there is no file or folder none")):
        with pytest.raises(ValueError, match=message):
            list(ZeroShot(**{"place": str(path), **settings}).texts("valid"))
