"""The table of data sets, with the library `datasets` played by a fake."""
from __future__ import annotations

import sys
import types

import pytest

from maskless.data.detokenize import DETOKENIZERS
from maskless.data.hub import DATASETS, Hub
from maskless.data.pack import PACKINGS


@pytest.fixture
def asked(monkeypatch):
    """What `datasets.load_dataset` was asked for; it answers with one record that has every field."""
    calls = []

    def load_dataset(path, name, *, split, revision):
        calls.append((path, name, split, revision))
        return [{"text": "a , b", "sentence": "$ 1 N", "article": "( x )"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_openwebtext_keeps_its_last_hundred_thousand_documents(asked):
    spec = Hub(name="openwebtext-split")
    assert (spec.tokenizer, spec.packing) == ("gpt2", "wrap")
    assert [*spec.texts("train"), *spec.texts("valid")] == ["a , b"] * 2
    assert [split for _, _, split, _ in asked] == ["train[:-100000]", "train[-100000:]"]


def test_each_set_has_its_split_field_and_detokenizer(asked):
    wanted = {
        "lm1b": ("test", "a, b"), "wikitext2": ("validation", "a, b"), "wikitext103": ("validation", "a, b"),
        "ptb": ("validation", "$1 N"), "lambada": ("test", "\na , b"), "ag_news": ("test", "a , b"),
        "text8": ("test", "a , b"), "pubmed": ("validation", "(x)"), "arxiv": ("validation", "(x)"),
    }
    for name, (split, text) in wanted.items():
        assert list(Hub(name=name).texts("valid")) == [text], name
        assert asked[-1][2] == split, name
    assert (Hub(name="lm1b").tokenizer, Hub(name="lm1b").packing) == ("bert-base-uncased", "pad")
    assert Hub(name="text8").tokenizer == "text8"


def test_the_recipe_may_choose_otherwise(asked):
    spec = Hub(name="ptb", tokenizer="bytes", packing="stream", repository="mine/ptb")
    assert (spec.tokenizer, spec.packing) == ("bytes", "stream")
    list(spec.texts("train"))
    assert asked[-1] == ("mine/ptb", None, "train", None)
    assert Hub(name="ptb").identity() != Hub(name="ag_news").identity()


def test_the_table_names_only_what_exists():
    for entry in DATASETS.values():
        assert entry.packing in PACKINGS and (entry.detokenizer is None or entry.detokenizer in DETOKENIZERS)


def test_what_is_said_when_it_cannot_be_had(monkeypatch, asked):
    with pytest.raises(ValueError, match="name is 'openwebtxt': it must be one of openwebtext-split"):
        Hub(name="openwebtxt")
    with pytest.raises(ValueError, match="lambada has no train part"):
        list(Hub(name="lambada").texts("train"))

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", lambda *_, **__: [{"body": "a"}])
    with pytest.raises(ValueError, match="ag_news has no field 'text' but body"):
        list(Hub(name="ag_news").texts("train"))

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", offline)
    with pytest.raises(ValueError, match=r"ag_news .*ConnectionError: no route to host\): go online"):
        list(Hub(name="ag_news").texts("train"))
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install 'maskless\[data\]'"):
        list(Hub(name="ag_news").texts("train"))
