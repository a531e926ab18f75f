"""Token stores: what comes back, what is reused, and what a damaged or foreign one says."""
from __future__ import annotations

import json
import os
import zlib

import numpy as np
import pytest
import torch

from maskless.data.batch import Batch
from maskless.data.pack import Row
from maskless.data.store import CHUNK, MemoryStore, Store, build_store, open_or_build

IDENTITY = {"source": "test", "split": "train"}


def plain(n=5, length=4):
    return [Row(np.arange(length, dtype=np.int32) + row) for row in range(n)]


def built(folder, rows=None, **changes):
    settings = {"length": 4, "vocabulary": 50, "identity": IDENTITY} | changes
    return build_store(folder, plain() if rows is None else rows, **settings)


def test_rows_come_back(tmp_path):
    store = built(tmp_path / "a" / "store")
    assert (len(store), store.length, store.manifest.tokens) == (5, 4, 20)
    batch = store.read(torch.tensor([3, 0, 3]))
    assert batch.tokens.dtype == torch.int64
    assert batch.tokens.tolist() == [[3, 4, 5, 6], [0, 1, 2, 3], [3, 4, 5, 6]]
    assert batch.valid.all() and not batch.given.any()
    assert sorted(os.listdir(store.folder)) == ["manifest.json", "tokens.bin"]
    assert (store.folder / "tokens.bin").stat().st_size == 5 * 4  # 50 ids: a byte each
    store.verify()


def test_masks_are_kept_and_counted(tmp_path):
    valid, given = np.array([True, True, True, False]), np.array([True, False, True, False])
    store = built(tmp_path / "store", [Row(row.tokens, valid, given) for row in plain()])
    batch = store.read(torch.arange(5))
    assert batch.valid.tolist() == [valid.tolist()] * 5 and batch.given.tolist() == [given.tolist()] * 5
    assert store.manifest.tokens == batch.targets.sum() == 5


def test_wide_ids_and_many_rows(tmp_path):
    n = CHUNK + 3
    rows = (Row(np.array([row, 70_000 + row])) for row in range(n))
    store = built(tmp_path / "store", rows, length=2, vocabulary=200_000)
    assert store.read(torch.tensor([n - 1])).tokens.tolist() == [[n - 1, 70_000 + n - 1]]
    assert len(store) == n and store.manifest.files["tokens"]["bytes"] == n * 2 * 4


def test_built_once_and_reused(tmp_path):
    def refuse():
        raise AssertionError("the rows are read although the store is there")
        yield

    settings = {"length": 4, "vocabulary": 50, "identity": IDENTITY}
    open_or_build(tmp_path / "store", plain(), **settings)
    again = open_or_build(tmp_path / "store", refuse(), **settings)
    assert len(again) == 5


@pytest.mark.parametrize("change", [{"identity": {**IDENTITY, "split": "valid"}}, {"length": 5}, {"vocabulary": 51}])
def test_a_store_of_something_else_is_refused_and_kept(tmp_path, change):
    built(tmp_path / "store")
    with pytest.raises(ValueError, match="built from something else"):
        open_or_build(tmp_path / "store", plain(), **({"length": 4, "vocabulary": 50, "identity": IDENTITY} | change))
    assert len(Store(tmp_path / "store")) == 5


def test_nothing_is_left_of_a_failed_build(tmp_path):
    def failing():
        yield from plain(3)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        built(tmp_path / "store", failing())
    with pytest.raises(ValueError, match="does not fill one sequence of length 4"):
        built(tmp_path / "store", [])
    assert os.listdir(tmp_path) == []


def test_the_faster_process_wins(tmp_path):
    def overtaken():
        yield from plain(2)
        built(tmp_path / "store", plain(5))

    assert len(built(tmp_path / "store", overtaken())) == 5
    assert os.listdir(tmp_path) == ["store"]


def damage(folder, kind):
    tokens, manifest = folder / "tokens.bin", folder / "manifest.json"
    if kind == "cut":
        os.truncate(tokens, 10)
    elif kind == "changed":
        tokens.write_bytes(b"\x01" + tokens.read_bytes()[1:])
    elif kind == "missing":
        tokens.unlink()
    elif kind == "half a manifest":
        manifest.write_text(manifest.read_text()[:40])
    elif kind == "other format":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    else:
        manifest.unlink()


@pytest.mark.parametrize("kind", ["cut", "changed", "missing", "half a manifest", "other format", "no manifest"])
def test_a_damaged_store_says_so(tmp_path, kind):
    folder = built(tmp_path / "store").folder
    damage(folder, kind)
    with pytest.raises(ValueError, match=r"damaged|manifest") as caught:
        Store(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_memory_store_reads_alike():
    store = MemoryStore(torch.arange(6).view(3, 2), given=torch.tensor([[True, False]] * 3))
    assert (len(store), store.length) == (3, 2)
    batch = store.read(torch.tensor([2]))
    assert batch.tokens.tolist() == [[4, 5]] and batch.targets.tolist() == [[False, True]]


def labelled(n=5):
    return [row._replace(label=number % 3) for number, row in enumerate(plain(n))]


def test_labels_come_back_and_survive(tmp_path):
    store = built(tmp_path / "store", labelled())
    batch = store.read(torch.tensor([4, 2, 0]))
    assert batch.labels.dtype == torch.int64 and batch.labels.tolist() == [1, 2, 0]
    assert batch.to("cpu").labels.tolist() == [1, 2, 0]
    assert [part.labels.tolist() for part in batch.split(3)] == [[1], [2], [0]]
    assert batch.in_order(torch.tensor([[3, 2, 1, 0]] * 3)).labels.tolist() == [1, 2, 0]
    assert [part.labels for part in Batch.of(batch.tokens).to("cpu").split(3)] == [None] * 3
    store.verify()
    os.truncate(store.folder / "labels.bin", 8)
    with pytest.raises(ValueError, match=r"labels\.bin has 8 of 20 bytes"):
        Store(store.folder)


def test_a_store_of_before_labels_is_read(tmp_path):
    """Written by hand as the first versions wrote it: 16 bits an id, no labels."""
    (tmp_path / "tokens.bin").write_bytes(np.arange(6, dtype="<u2").tobytes())
    file = {"dtype": "<u2", "bytes": 12, "crc32": zlib.crc32(np.arange(6, dtype="<u2").tobytes())}
    manifest = {"format": 1, "rows": 2, "length": 3, "vocabulary": 50, "tokens": 6, "files": {"tokens": file}, "identity": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    batch = Store(tmp_path).read(torch.tensor([1]))
    assert batch.tokens.tolist() == [[3, 4, 5]] and batch.labels is None


def test_memory_store_has_labels():
    store = MemoryStore(torch.arange(6).view(3, 2), labels=torch.tensor([7, 8, 9]))
    assert store.read(torch.tensor([2, 0])).labels.tolist() == [9, 7]
    assert MemoryStore(torch.arange(6).view(3, 2)).read(torch.tensor([2])).labels is None


def test_batches_move_and_split():
    batch = Batch.of(torch.arange(12).view(6, 2))
    parts = batch.to("cpu").split(3)
    assert [len(part) for part in parts] == [2, 2, 2]
    assert torch.equal(torch.cat([part.tokens for part in parts]), batch.tokens)
    with pytest.raises(ValueError, match="6 rows"):
        batch.split(4)
