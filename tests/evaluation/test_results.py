"""Results as files: what is written is read, and nothing else is."""
from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from maskless.config import tree_of
from maskless.evaluation.results import (
    DataRecord,
    Kind,
    ModelRecord,
    Precision,
    Result,
    Uncertainty,
    hash_of,
    read,
    read_all,
    read_folders,
    same_but_times,
    text_of,
    write,
)

MODEL = ModelRecord("pgm", "runs/pgm", "partition", 1000, "ema", 10, "00")
RESULT = Result("likelihood", "pgm-nelbo", "nelbo", 3.25, Uncertainty("standard error", 0.01), 8, "nats per token", "lower", "bound", 0, MODEL,
                Precision("float32", "float32"), sampler={"order": "random", "steps": 4}, details={"curve": [1, 2.5], "empty": None})


def test_what_is_written_is_read(tmp_path: Path):
    path = write(RESULT, tmp_path / "new")
    assert path.name == "likelihood-pgm-nelbo.json" and read(path) == RESULT
    assert read_folders([tmp_path / "new"]) == [RESULT]
    assert list(path.parent.iterdir()) == [path]                    # nothing half-written stays


def test_a_file_may_hold_several(tmp_path: Path):
    other = replace(RESULT, name="pgm-other", value=4.0)
    trees = [json.loads(text_of(result)) for result in (RESULT, other)]
    (tmp_path / "published.json").write_text(json.dumps(trees))
    assert read_all(tmp_path / "published.json") == [RESULT, other] == read_folders([tmp_path])
    assert read_all(write(RESULT, tmp_path / "one")) == [RESULT]
    for wrong, sentence in (({**trees[1], "value": "4"}, r"published\.json\[1\]: result\.value is"), ([], r"published\.json\[1\] is not a result"),
                            ({**trees[1], "schema": "maskless-result/9"}, r"published\.json\[1\] .*maskless-result/9")):
        (tmp_path / "published.json").write_text(json.dumps([trees[0], wrong]))
        with pytest.raises(ValueError, match=sentence):
            read_folders([tmp_path])


def test_a_result_of_another_model_is_not_written_over(tmp_path: Path):
    path, other = write(RESULT, tmp_path), replace(RESULT, value=9.0, model=replace(MODEL, hash="11"))
    written = path.read_bytes()
    with pytest.raises(ValueError, match=r"another model \(runs/pgm, ema weights, hash 00; this one has ema weights, hash 11\); .*--name.*--out"):
        write(other, tmp_path)
    assert path.read_bytes() == written and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"another model \(runs/pgm, ema weights, hash 00; this one has raw weights, hash 00\)"):
        write(replace(RESULT, model=replace(MODEL, weights="raw")), tmp_path)               # one file may hold both
    assert read(write(replace(RESULT, value=2.0), tmp_path)).value == 2.0                   # the same model's is replaced
    path.write_text(path.read_text()[:-40])
    assert read(write(other, tmp_path)).value == 9.0                                        # and a file that is not whole


def test_a_result_of_another_question_is_not_written_over(tmp_path: Path):
    asked, data = {"length": None, "rows": 4}, DataRecord("prose", "valid", "aa", 2)
    made = replace(RESULT, asked=asked, data=data)
    path = write(made, tmp_path)
    for change, sentence in (({"length": 8}, "length null and 8 is asked for"), ({"rows": 3}, "rows 4 and 3 is asked for")):
        with pytest.raises(ValueError, match=f"{path.name} was measured with {sentence}; .*--name.*--out"):
            write(replace(made, asked={**asked, **change}), tmp_path)
    with pytest.raises(ValueError, match=r"was measured on other data \(prose, hash aa; these are prose, hash bb\); .*--name"):
        write(replace(made, data=replace(data, hash="bb")), tmp_path)
    more = replace(made, asked={"length": None, "rows": None, "new": 1}, data=replace(data, hash="bb"))
    assert read(write(more, tmp_path)) == more                      # of more rows, and of a library that asks for more
    assert read(write(RESULT, tmp_path)) == RESULT                  # nothing is known of what was asked


def test_only_times_may_differ():
    one, other = (json.loads(text_of(replace(RESULT, wall_seconds=s, date=d))) for s, d in ((1.0, "a"), (2.0, "b")))
    assert one != other and same_but_times(one, other)
    assert not same_but_times(one, {**other, "value": 3.0})


@pytest.mark.parametrize("change, sentence", [
    ({"value": math.nan}, "not finite"), ({"name": "a/b"}, "file name"), ({"samples": 0}, "at least 1"),
])
def test_no_such_result(change: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        replace(RESULT, **change)


@pytest.mark.parametrize("kind, value", [("none", 0.1), ("spread", None), ("standard error", math.inf), ("spread", -1.0)])
def test_no_such_uncertainty(kind, value):
    with pytest.raises(ValueError, match="uncertainty"):
        Uncertainty(kind, value)


@pytest.mark.parametrize("change, sentence", [
    ({"colour": 1}, "unknown key result.colour"), ({"value": "3"}, "result.value is '3'; it must be a number"),
    ({"kind": "guess"}, "one of bound"), ({"model": {"name": "pgm"}}, "result.model.path is missing"),
    ({"schema": "maskless-result/9"}, "maskless-result/9"), ({"name": "other"}, "name it so"), ({"value": math.nan}, "must be a number"),
])
def test_a_strange_file_is_refused(tmp_path: Path, change: dict, sentence: str):
    path = write(RESULT, tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=sentence):
        read(path)


def test_a_folder_without_results_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no result"):
        read_folders([tmp_path])
    (tmp_path / "torn.json").write_text('{"schema": ')
    with pytest.raises(ValueError, match="not JSON"):
        read_folders([tmp_path])
    with pytest.raises(ValueError, match="no folder"):
        read_folders([tmp_path / "absent"])


def test_details_that_are_not_json_are_refused(tmp_path: Path):
    for detail in (math.inf, {1, 2}):
        with pytest.raises(ValueError, match="details must be finite"):
            write(replace(RESULT, details={"x": detail}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_hash_is_of_the_contents(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    assert hash_of(tmp_path / "a", tmp_path / "b") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_every_field_is_in_the_published_schema():
    page = (Path(__file__).parents[2] / "docs" / "results-schema.md").read_text()
    rows = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    for key, value in {"schema": None, **tree_of(RESULT)}.items():
        assert f"`{key}`" in rows
        assert not isinstance(value, dict) or key in ("sampler", "details", "hardware", "asked") or f"`{{{', '.join(value)}}}`" in rows
    assert all(f"`{kind}`" in page for kind in get_args(Kind))
