"""Sources end to end: files in, token stores out."""
from __future__ import annotations

import csv
import gzip
import json
import os
from dataclasses import replace

import pytest
import torch

from maskless.data.loader import Loader
from maskless.data.sources import SOURCES, Files, Prose, Puzzles, Sequences, open_data, tokenizer_of
from maskless.data.store import Store
from maskless.data.tokenizer import train_bpe

TEXTS = [f"Story {n} has a number of its own, {n * n}, and an end." for n in range(60)]


def write(path, text):
    data = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def documents_of(spec, split):
    return list(spec.texts(split))


def unwrapped(store, tokenizer):
    """The documents of a wrapped store, as far as they are complete."""
    stream = store.read(torch.arange(len(store))).tokens[:, 1:-1].flatten().tolist()
    eos, documents, held = tokenizer.vocabulary.eos, [], []
    for id in stream:
        if id == eos:
            documents.append(tokenizer.decode(held))
            held = []
        else:
            held.append(id)
    return documents


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "in" / "a.txt", "first\nstill first\n\n\nsecond\n")
    write(tmp_path / "in" / "deeper" / "b.txt.gz", "third\r\n\r\nfourth")
    write(tmp_path / "in" / "c.jsonl", '{"text": "fifth"}\n\n{"text": "sixth", "id": 3}\n')
    write(tmp_path / "in" / "d.jsonl.gz", '{"text": "seventh"}')
    write(tmp_path / "in" / "notes.md", "not data")
    return str(tmp_path / "in")


def test_a_folder_of_everything(folder):
    spec = Files(train=folder, document="paragraph", holdout=0.0)
    assert documents_of(spec, "train") == [
        "first\nstill first", "second", "fifth", "sixth", "seventh", "third", "fourth",
    ]
    assert documents_of(Files(train=f"{folder}/a.txt", document="line", holdout=0.0), "train") == [
        "first", "still first", "second",
    ]
    assert documents_of(Files(train=f"{folder}/a.txt", holdout=0.0), "train") == ["first\nstill first\n\n\nsecond\n"]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = str(tmp_path / "data.parquet")
    parquet.write_table(pyarrow.table({"body": TEXTS, "n": list(range(60))}), path)
    assert documents_of(Files(train=path, text_field="body", holdout=0.0), "train") == TEXTS
    with pytest.raises(ValueError, match=r"'text'.*body, n"):
        documents_of(Files(train=path), "train")
    with pytest.raises(ValueError, match=r"'n'.*is int"):
        documents_of(Files(train=path, text_field="n", holdout=0.0), "train")
    write(tmp_path / "broken.parquet", "not a table")
    with pytest.raises(ValueError, match=r"broken\.parquet is not a Parquet file"):
        documents_of(Files(train=str(tmp_path / "broken.parquet")), "train")


def test_held_out_documents_are_a_seeded_choice(tmp_path):
    path = write(tmp_path / "a.txt", "\n".join(TEXTS))
    spec = Files(train=path, document="line", holdout=0.3)
    train, valid = documents_of(spec, "train"), documents_of(spec, "valid")
    assert sorted(train + valid) == sorted(TEXTS) and 8 < len(valid) < 30
    backwards = write(tmp_path / "b.txt", "\n".join(reversed(TEXTS)))
    assert set(documents_of(Files(train=backwards, document="line", holdout=0.3), "valid")) == set(valid)
    assert documents_of(Files(train=path, document="line", holdout=0.3, seed=1), "valid") != valid


def test_validation_files_of_their_own(tmp_path):
    train, valid = write(tmp_path / "a.txt", "train"), write(tmp_path / "b.txt", "valid ,")
    spec = Files(train=train, valid=valid, detokenizer="wikitext")
    assert (documents_of(spec, "train"), documents_of(spec, "valid")) == (["train"], ["valid ,"])
    spaced = write(tmp_path / "c.txt", "one , two")
    assert documents_of(Files(train=spaced, valid=valid, detokenizer="wikitext"), "train") == ["one, two"]


@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "bpe"])
def test_text_survives_the_store(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": text}) for text in TEXTS))
    spec = Files(train=path, tokenizer=tokenizer, bpe_size=300, holdout=0.2)
    made = tokenizer_of(spec, cache=tmp_path / "cache")
    for split in ("train", "valid"):
        store = open_data(spec, length=16, split=split, cache=tmp_path / "cache")
        whole = unwrapped(store, made)
        assert whole == documents_of(spec, split)[: len(whole)] and len(whole) > 2
    batch = Loader(store, batch_size=2, seed=0).batch(0)
    assert batch.tokens[:, 0].tolist() == [made.vocabulary.bos] * 2 and batch.targets.all()


def test_built_once_and_rebuilt_when_anything_changes(tmp_path):
    path = write(tmp_path / "a.txt", "\n".join(TEXTS))
    cache = tmp_path / "cache"
    spec = Files(train=path, document="line")
    first = open_data(spec, length=16, split="train", cache=cache).folder
    stamp = (first / "tokens.bin").stat().st_mtime_ns
    assert open_data(spec, length=16, split="train", cache=cache).folder == first
    assert (first / "tokens.bin").stat().st_mtime_ns == stamp
    others = [
        open_data(spec, length=17, split="train", cache=cache),
        open_data(spec, length=16, split="valid", cache=cache),
        open_data(Files(train=path, document="line", packing="stream"), length=16, split="train", cache=cache),
        open_data(Files(train=path, document="line", tokenizer="characters"), length=16, split="train", cache=cache),
    ]
    write(tmp_path / "a.txt", "\n".join(TEXTS[:30]))
    others.append(open_data(spec, length=16, split="train", cache=cache))
    assert len({first, *(store.folder for store in others)}) == 6
    assert len(Store(first)) > len(others[-1])
    assert not [name for name in os.listdir(cache) if name.endswith(".tmp")]


def test_a_damaged_store_in_the_cache_is_not_used(tmp_path):
    spec = Files(train=write(tmp_path / "a.txt", "\n".join(TEXTS)), document="line")
    store = open_data(spec, length=16, split="train", cache=tmp_path)
    os.truncate(store.folder / "tokens.bin", 20)
    with pytest.raises(ValueError, match=r"damaged \(tokens\.bin has 20 of .*delete that folder"):
        open_data(spec, length=16, split="train", cache=tmp_path)


def test_the_cache_can_be_named_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKLESS_CACHE", str(tmp_path / "here"))
    store = open_data(Files(train=write(tmp_path / "a.txt", "x" * 99), holdout=0.0), length=9, split="train")
    assert store.folder.parent == tmp_path / "here"


def test_prose_of_the_standard_library(tmp_path):
    train, valid = (open_data(Prose(), length=128, split=split, cache=tmp_path) for split in ("train", "valid"))
    assert train.manifest.tokens > 900_000 and valid.manifest.tokens > 50_000
    assert not set(documents_of(Prose(), "train")) & set(documents_of(Prose(), "valid"))


def test_a_store_that_is_built_parses_no_prose_again(tmp_path, monkeypatch):
    built = open_data(Prose(), length=128, split="valid", cache=tmp_path)
    monkeypatch.setattr("maskless.data.sources.standard_library_prose", lambda: pytest.fail("parsed again"))
    assert open_data(Prose(), length=128, split="valid", cache=tmp_path).folder == built.folder


def test_sequences_of_many_kinds(tmp_path):
    smiles = ["CCO", "ClCBr", "c1cc[nH]c1", "O=C=O"] * 3
    path = write(tmp_path / "smiles.txt.gz", "\n".join(smiles))
    spec = Sequences(train=path, pattern=r"Br|Cl|\[[^]]*\]", holdout=0.0)
    tokenizer = tokenizer_of(spec, cache=tmp_path)
    batch = open_data(spec, length=12, split="train", cache=tmp_path).read(torch.arange(12))
    assert [tokenizer.decode(row) for row in batch.tokens] == smiles
    assert batch.targets.all() and batch.tokens[1].tolist() == [
        tokenizer.vocabulary.bos, *tokenizer.encode("ClCBr"), *[tokenizer.vocabulary.eos] * 8,
    ]
    with pytest.raises(ValueError, match=r"sequence 3 needs 9 sites with BOS and EOS: length 6 is too short, set model\.length=9 for the longest"):
        open_data(spec, length=6, split="train", cache=tmp_path)

    chords = write(tmp_path / "chords.txt", "C4 E4 G4\nC4 rest\n")
    words = Sequences(train=chords, separator=" ", packing="pad", holdout=0.0)
    batch = open_data(words, length=6, split="train", cache=tmp_path).read(torch.arange(2))
    assert batch.valid.sum(1).tolist() == [5, 4]
    assert tokenizer_of(words, cache=tmp_path).decode(batch.tokens[1]) == "C4 rest"


def test_sequences_of_fasta_and_records(tmp_path):
    proteins = write(tmp_path / "a.fasta", ">one | of two\nMKV\nLAG\n\n>two\nMK\n>none\n")
    assert documents_of(Sequences(train=proteins, holdout=0.0), "train") == ["MKVLAG", "MK"]
    write(tmp_path / "both" / "a.fa.gz", ">x\r\nAC\r\nGT\r\n")
    write(tmp_path / "both" / "b.jsonl", '{"smiles": "CCO"}')
    assert documents_of(Sequences(train=str(tmp_path / "both"), text_field="smiles", holdout=0.0), "train") == ["ACGT", "CCO"]


def puzzle_file(tmp_path, rows, header=("puzzle", "solution", "rating")):
    with open(tmp_path / "puzzles.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(tmp_path / "puzzles.csv")


def test_puzzles_keep_their_givens(tmp_path):
    path = puzzle_file(tmp_path, [("1003", "1423", 2.0), ("0020", "3124", 3.5)])
    spec = Puzzles(train=path, holdout=0.0)
    tokenizer = tokenizer_of(spec, cache=tmp_path)
    batch = open_data(spec, length=6, split="train", cache=tmp_path).read(torch.arange(2))
    assert tokenizer.symbols == ("1", "2", "3", "4", "[BOS]", "[EOS]", "[PAD]")
    assert [tokenizer.decode(row) for row in batch.tokens] == ["1423", "3124"]
    assert batch.given.tolist() == [[True, True, False, False, True, False], [True, False, False, True, False, False]]
    assert batch.valid.tolist() == [[True] * 5 + [False]] * 2
    assert batch.targets.sum(1).tolist() == [2, 3]
    with pytest.raises(ValueError, match="needs a length of 5, not 4"):
        open_data(spec, length=4, split="train", cache=tmp_path)


def test_bad_puzzles(tmp_path):
    for pair in (("1003", "2423"), ("1003", "142"), ("1003", "1403")):
        with pytest.raises(ValueError, match=r"line 2 .* is no solution of '1003'"):
            documents_of(Puzzles(train=puzzle_file(tmp_path, [(*pair, 1)])), "train")
    with pytest.raises(ValueError, match="no column 'puzzle': its header is a, b"):
        documents_of(Puzzles(train=puzzle_file(tmp_path, [], ("a", "b"))), "train")


def test_a_table_with_a_field_that_never_ends(tmp_path):
    place = tmp_path / "long.csv"
    place.write_text('quizzes,solutions\n"' + "1" * 140_000)
    with pytest.raises(ValueError, match=r"line 1 of .*long\.csv is no row of a table \(field larger than field limit"):
        documents_of(Puzzles(train=str(place), puzzle="quizzes", solution="solutions"), "train")


def test_bad_files(tmp_path):
    cases = {
        "there is no file": str(tmp_path / "nowhere.txt"),
        "of a kind that cannot be read": write(tmp_path / "a.md", "text"),
        "holds no data": str((tmp_path / "empty").mkdir() or tmp_path / "empty"),
        "line 2 of .* is not valid JSON": write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b'),
        "'text' of line 1 of .* is not among body, n": write(tmp_path / "b.jsonl", '{"body": "a", "n": 1}'),
        "line 1 of .* is JSON nested too deep": write(tmp_path / "deep.jsonl", "[" * 100_000),
        "'text' of line 1 of .* is list": write(tmp_path / "c.jsonl", '{"text": ["a"]}'),
    }
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"a" * 5000)[:30])
    (tmp_path / "plain.txt.gz").write_bytes(b"not compressed")
    cases |= {"not UTF-8": str(tmp_path / "latin.txt"), "cut short": str(tmp_path / "cut.txt.gz"),
              "is damaged": str(tmp_path / "plain.txt.gz")}
    for message, place in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            open_data(Files(train=place, holdout=0.0), length=4, split="train", cache=tmp_path / "cache")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists() or not os.listdir(tmp_path / "cache")


def test_bad_settings(tmp_path):
    path = write(tmp_path / "a.txt", "one document only")
    with pytest.raises(ValueError, match="packing is 'rows': it must be one of wrap"):
        Files(train=path, packing="rows")
    with pytest.raises(ValueError, match="document is 'page'"):
        Files(train=path, document="page")
    with pytest.raises(ValueError, match="detokenizer is 'x'"):
        Files(train=path, detokenizer="x")
    with pytest.raises(ValueError, match=r"holdout is 1\.5"):
        Sequences(train=path, holdout=1.5)
    with pytest.raises(ValueError, match="split is 'test'"):
        open_data(Files(train=path), length=4, split="test", cache=tmp_path)


@pytest.mark.parametrize(("split", "holdout", "message"), [
    ("valid", 0.05, "so nothing is held out; set data.document=paragraph (or line), give data.valid, or set validation.rows=0"),
    ("valid", 0.0, "so nothing is held out; set data.document=paragraph (or line), give data.valid, or set validation.rows=0"),
    ("train", 0.9, "so everything is held out; set data.document=paragraph (or line), give data.valid, "
                   "or set data.holdout=0 and validation.rows=0"),
])
def test_one_document_cannot_be_divided(tmp_path, split, holdout, message):
    path = write(tmp_path / "book.txt", "\n\n".join(TEXTS))
    spec = Files(train=path, holdout=holdout, seed=4)
    with pytest.raises(ValueError) as caught:
        open_data(spec, length=32, split=split, cache=tmp_path)
    assert str(caught.value) == f"the {split} part of the files data: all of the data is one document, {message}"
    for remedy in (replace(spec, document="paragraph", holdout=0.3), replace(spec, document="line", holdout=0.3), replace(spec, valid=path)):
        assert len(open_data(remedy, length=32, split=split, cache=tmp_path))


def test_a_document_that_nothing_makes_finer(tmp_path):
    line = write(tmp_path / "line.txt", "a line")
    record = write(tmp_path / "a.jsonl", json.dumps({"text": "\n\n".join(TEXTS)}))
    for spec in (Files(train=record, holdout=0.0), Sequences(train=line, holdout=0.0)):
        with pytest.raises(ValueError, match=r"is one document, so nothing is held out; use more data, give data\.valid, or set validation"):
            open_data(spec, length=32, split="valid", cache=tmp_path)
    with pytest.raises(ValueError, match=r"nothing is held out; set data\.document=line, give data\.valid"):
        open_data(Files(train=line, document="paragraph", holdout=0.0), length=32, split="valid", cache=tmp_path)


def test_too_little_for_a_row_says_what_helps(tmp_path):
    path = write(tmp_path / "a.txt", "\n".join(TEXTS))
    cases = [
        (Files(train=path, document="line", holdout=0.0), "valid", 32, "nothing is held out; set a larger data.holdout (now 0), give data.valid"),
        (Files(train=path, document="line", holdout=0.3), "valid", 9999, "use more data or a shorter length, or a larger data.holdout (now 0.3)"),
        (Files(train=path, document="line", holdout=0.3), "train", 9999, "use more data or a shorter length, or a smaller data.holdout (now 0.3)"),
        (Files(train=path, document="line", holdout=0.0), "train", 9999, "use more data or a shorter length"),
        (Files(train=path, valid=path), "valid", 9999, "use more data or a shorter length"),
    ]
    for spec, split, length, message in cases:
        with pytest.raises(ValueError) as caught:
            open_data(spec, length=length, split=split, cache=tmp_path)
        assert message in str(caught.value) and (message.endswith(")") or "data.valid" in message or str(caught.value).endswith(message))


@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "bpe"])
def test_an_empty_file_is_named(tmp_path, tokenizer):
    empty, full = write(tmp_path / "empty.txt", ""), write(tmp_path / "full.txt", "\n".join(TEXTS))
    for changes, split, message in (({"train": empty}, "train", "data.train"), ({"train": full, "valid": empty}, "valid", "data.valid")):
        spec = Files(**changes, tokenizer=tokenizer)
        with pytest.raises(ValueError, match=rf"there is no text in .*empty\.txt; correct {message}"):
            tokenizer_of(spec, cache=tmp_path / "cache")
            open_data(spec, length=16, split=split, cache=tmp_path / "cache")


def test_a_byte_order_mark_is_no_text(tmp_path):
    mark = "\ufeff"
    for name in ("a.txt", "b.txt.gz"):
        assert documents_of(Files(train=write(tmp_path / name, f"{mark}one\r\ntwo"), document="line", holdout=0.0), "train") == ["one", "two"]
    assert documents_of(Files(train=write(tmp_path / "c.jsonl", f'{mark}{{"text": "one"}}\n'), holdout=0.0), "train") == ["one"]
    puzzles = write(tmp_path / "d.csv", f"{mark}puzzle,solution\n10,12\n")
    assert list(Puzzles(train=puzzles, holdout=0.0).pairs("train")) == [("10", "12")]


def test_half_a_surrogate_pair_is_found(tmp_path):
    lines = [json.dumps({"text": "whole", "more": ["a"]}), '{"text": "half \\ud800", "more": ["\\udc00"]}']
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    for field in ("text", "more*", "text+more*"):
        with pytest.raises(ValueError, match=r"line 2 of .*a\.jsonl: the text holds half a surrogate pair"):
            documents_of(Files(train=path, text_field=field), "train")


def test_every_source_is_a_plain_frozen_dataclass():
    import dataclasses
    import typing

    simple = {str, int, float, bool, str | None}
    for kind in SOURCES.values():
        hints = typing.get_type_hints(kind, include_extras=True)
        tagged = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.Annotated}
        assert {hints[field.name] for field in dataclasses.fields(kind) if field.name not in tagged} <= simple
        assert kind.__dataclass_params__.frozen and kind.__doc__


def test_validation_files_below_the_training_folder_are_not_trained_on(tmp_path, cache):
    folder = tmp_path / "novels"
    (folder / "held").mkdir(parents=True)
    (folder / "one.txt").write_text("the first book\n")
    (folder / "held" / "valid.txt").write_text("the held out book\n")
    spec = Files(train=str(folder), valid=str(folder / "held"))
    assert list(spec.texts("train")) == ["the first book\n"] and list(spec.texts("valid")) == ["the held out book\n"]
    beside = Files(train=str(folder), valid=str(tmp_path / "other.txt"))
    (tmp_path / "other.txt").write_text("another")
    assert spec.identity() != beside.identity() and spec.identity()[-1] == "apart" and len(list(beside.texts("train"))) == 2
    with pytest.raises(ValueError, match=r"every file of .* is validation data as well"):
        list(Files(train=str(folder / "one.txt"), valid=str(folder)).texts("train"))
    assert len(list(Files(train=str(folder), valid=str(folder)).texts("train"))) == 2          # asked for: it measures what was trained on


def test_numbers_too_long_and_vocabularies_too_large(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": ' + "9" * 5000 + "}")
    with pytest.raises(ValueError, match=r"x\.jsonl.* holds a number that is too long to be read"):
        list(Files(train=str(tmp_path / "x.jsonl")).texts("train"))
    with pytest.raises(ValueError, match="a byte-level BPE has 259 to 4,194,304 ids"):
        train_bpe(["a"], 10**9)
