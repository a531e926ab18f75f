"""Samples on disk: whole lines are kept whatever ended the process, and a sample depends on its index alone."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from maskless.evaluation.samples import Album, read_lines
from tests.training.runs import REPOSITORY, environment

ABOUT = {"model": "00", "seed": 0}


class Maker:
    """Draws sample i as i squared, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, indices):
        self.asked += list(indices)
        return [{"index": index, "tokens": [index * index], "text": f"£ {index}\n"} for index in indices]


def numbers(samples) -> list[int]:
    return [sample["tokens"][0] for sample in samples]


def album(folder: Path, **about) -> Album:
    return Album(folder, "x", {**ABOUT, **about}, 3)


def test_drawn_once(tmp_path):
    maker, seen = Maker(), []
    album(tmp_path).draw(7, maker, progress=lambda done, total: seen.append((done, total)))
    assert maker.asked == list(range(9)) and seen == [(0, 7), (3, 7), (6, 7), (7, 7)]                  # whole micro-batches, 7 kept
    found = album(tmp_path).gather(7)
    assert numbers(found) == [0, 1, 4, 9, 16, 25, 36] and found[2]["text"] == "£ 2\n"
    again = Maker()
    album(tmp_path).draw(7, again)
    assert again.asked == []
    album(tmp_path).draw(8, again)                                  # one more: its micro-batch, and only what is missing is written
    assert again.asked == [6, 7, 8] and numbers(album(tmp_path).gather(8)) == [0, 1, 4, 9, 16, 25, 36, 49]
    assert len(album(tmp_path).gather(2)) == 2 and len(read_lines(tmp_path / "samples-x.jsonl")) == 8


def test_names_that_begin_alike_have_samples_of_their_own(tmp_path):
    Album(tmp_path, "x.v2", {"model": "other"}, 3).draw(6, Maker(), part=0, parts=2)
    shard = tmp_path / "samples-x.v2.0-of-2.jsonl"
    assert album(tmp_path).read() == {}
    album(tmp_path).draw(6, maker := Maker())
    album(tmp_path).gather(6)
    assert maker.asked == list(range(6)) and shard.exists()


def test_a_line_cut_short_is_drawn_again_and_the_others_stay(tmp_path):
    album(tmp_path).draw(7, Maker())
    path, maker = tmp_path / "samples-x.jsonl", Maker()
    whole = path.read_bytes()
    path.write_bytes(whole[:whole.index(b"\n", 150) + 9])
    kept = path.read_bytes().rfind(b"\n") + 1
    album(tmp_path).draw(7, maker)
    assert path.read_bytes() == whole and maker.asked and 0 not in maker.asked and 0 < kept < len(whole)


KILLED = """
import os, signal, sys
from pathlib import Path
from maskless.evaluation.samples import Album

flush, flushed = os.fsync, []

def deadly(number):
    flush(number)
    flushed.append(number)
    if len(flushed) == 4:                                           # the description, two micro-batches, and half of the third
        os.truncate(path, path.stat().st_size - 5)
        os.kill(os.getpid(), signal.SIGKILL)

path = Path(sys.argv[1]) / "samples-x.jsonl"
os.fsync = deadly
make = lambda indices: [{"index": i, "tokens": [i * i], "text": f"£ {i}\\n"} for i in indices]
Album(Path(sys.argv[1]), "x", {"model": "00", "seed": 0}, 3).draw(20, make)
"""


def test_a_killed_process_loses_nothing_that_was_written(tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY, env=environment(), timeout=120)
    assert ended.returncode == -signal.SIGKILL
    before = (tmp_path / "samples-x.jsonl").read_bytes()
    assert before.count(b"\n") == 8
    maker = Maker()
    album(tmp_path).draw(20, maker)
    assert maker.asked == list(range(6, 21)) and (tmp_path / "samples-x.jsonl").read_bytes().startswith(before[:before.rfind(b"\n") + 1])
    assert numbers(album(tmp_path).gather(20)) == [n * n for n in range(20)]


def test_shards_share_the_work_and_give_the_same_file(tmp_path):
    album(tmp_path / "alone").draw(10, Maker())
    makers = [Maker() for _ in range(3)]
    for part in (2, 0, 1):
        album(tmp_path / "three").draw(10, makers[part], part=part, parts=3)
        if part == 2:
            with pytest.raises(ValueError, match="7 of 10 samples are not drawn yet"):
                album(tmp_path / "three").gather(10)
    assert [maker.asked for maker in makers] == [[0, 1, 2, 9, 10, 11], [3, 4, 5], [6, 7, 8]]
    assert numbers(album(tmp_path / "three").gather(10)) == [n * n for n in range(10)]
    names = {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "three").iterdir()} == names           # the parts are gone


def test_one_process_finishes_what_shards_began(tmp_path):
    album(tmp_path).draw(9, Maker(), part=1, parts=3)
    maker = Maker()
    album(tmp_path).draw(9, maker)
    assert maker.asked == [0, 1, 2, 6, 7, 8] and numbers(album(tmp_path).gather(9)) == [n * n for n in range(9)]


def test_waiting_for_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("maskless.evaluation.samples.POLL", 0.01)
    album(tmp_path).draw(6, Maker(), part=0, parts=2)
    later = threading.Timer(0.05, lambda: album(tmp_path).draw(6, Maker(), part=1, parts=2))
    later.start()
    assert numbers(album(tmp_path).gather(6, wait=True)) == [n * n for n in range(6)]
    later.join()


def test_samples_of_another_drawing_are_refused(tmp_path):
    album(tmp_path).draw(3, Maker())
    with pytest.raises(ValueError, match="drawn with seed 0 and 1 is asked for"):
        album(tmp_path, seed=1)
    with pytest.raises(ValueError, match="micro_batch"):
        Album(tmp_path, "x", ABOUT, 4)
    for damaged, sentence in (("[]", r"samples-x\.json does not say how its samples were drawn"), ("{", r"samples-x\.json is not valid JSON")):
        (tmp_path / "samples-x.json").write_text(damaged)
        with pytest.raises(ValueError, match=sentence):
            album(tmp_path)
    (tmp_path / "samples-x.json").unlink()
    with pytest.raises(ValueError, match="which says how it was drawn"):
        album(tmp_path)
    assert len(read_lines(tmp_path / "samples-x.jsonl")) == 3


def test_a_line_that_is_no_sample_is_refused(tmp_path):
    album(tmp_path).draw(3, Maker())
    path = tmp_path / "samples-x.jsonl"
    path.write_text(path.read_text() + "[1]\n")
    with pytest.raises(ValueError, match=r"line 4 of .* is no sample"):
        album(tmp_path).gather(3)
    with pytest.raises(ValueError, match="cannot be read"):
        read_lines(tmp_path / "absent.jsonl")
    assert json.loads((tmp_path / "samples-x.json").read_text())["micro_batch"] == 3 and os.path.exists(path)
