"""The report: what stands in one column, what is best, what is refused; a page that asks for nothing and runs nothing."""
from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskless.evaluation.report import gather, refuse_splits, tables, write
from maskless.evaluation.report.compare import best_of, splits
from maskless.evaluation.report.gather import Entry
from maskless.evaluation.report.html import tag
from maskless.evaluation.report.markdown import markdown
from maskless.evaluation.report.page import page
from maskless.evaluation.report.pareto import paretos
from maskless.evaluation.report.words import number, said
from maskless.evaluation.results import Code, DataRecord, ModelRecord, Named, Precision, Result, Uncertainty, text_of
from maskless.evaluation.results import write as save
from tests.surface.conftest import call  # noqa: F401  (a fixture)
from tests.training.runs import REPOSITORY

EVIL = "_<script>alert(1)</script>|`*&$\u202e\x00\u4e2d"
MODEL = ModelRecord("pgm", "runs/pgm", "partition", 1000, "ema", 10, "aa" * 8)
OTHER = replace(MODEL, name="mdlm", path="runs/mdlm", kind="masked", hash="bb" * 8)
BOUND = Result("likelihood", "pgm-nelbo", "nelbo", 3.0, Uncertainty("standard error", 0.01), 8, "nats per token", "lower", "bound", 0, MODEL,
               Precision("float32", "float32"), data=DataRecord("prose", "valid", "cc" * 8, 8), tokenizer=Named("bytes", "dd" * 8),
               code=Code("0.1.0", "ee" * 8), hardware={"device": "cpu", "processor": "a chip", "threads": "2"}, date="2026-01-01T00:00:00+00:00",
               details={"perplexity": 20.0855})
SAMPLER = {"steps": 8, "order": "random", "temperature": 1.0}
QUALITY = replace(BOUND, suite="generative", name="pgm-generative_perplexity", metric="generative_perplexity", value=50.0, unit="", kind="estimate",
                  uncertainty=Uncertainty("standard error", 1.0), sampler=SAMPLER, nfe=8, scorer=Named("gpt2", "ff" * 8), data=None,
                  details={})
ENTROPY = replace(QUALITY, name="pgm-unigram_entropy", metric="unigram_entropy", value=5.5, better=None, unit="nats", scorer=None)
SPEED = replace(QUALITY, suite="speed", name="pgm-tokens_per_second", metric="tokens_per_second", value=100.0, uncertainty=Uncertainty("spread", 5.0),
                unit="tokens per second", better="higher", kind="measurement", scorer=None, tokenizer=None)


def entries(*results: Result) -> list[Entry]:
    return [Entry(Path(result.file), result) for result in results]


def other(result: Result, value: float, **changes) -> Result:
    return replace(result, **{"name": f"mdlm-{result.metric}", "value": value, "model": OTHER, **changes})


# ------------------------------------------------------------------------------------------------------------ tables


def test_one_table_a_suite_one_row_a_model_one_column_a_metric():
    (table,) = tables(entries(BOUND, other(BOUND, 3.5), replace(BOUND, name="pgm-w", metric="weighted_bound", value=2.9)))
    assert [column.metric for column in table.columns] == ["nelbo", "weighted_bound"]
    assert [dict(row.labels)["model"] for row in table.rows] == ["pgm", "mdlm"]
    assert [[row.cells[column].entry.result.value for column in table.columns if column in row.cells] for row in table.rows] == [[3.0, 2.9], [3.5]]
    assert table.rows[0].cells[table.columns[0]].best


@pytest.mark.parametrize("change, why", [
    ({"kind": "joint_ce"}, "kinds of value"), ({"model": replace(OTHER, weights="raw")}, "weights"),
    ({"tokenizer": Named("bpe", "11")}, "tokenizers"), ({"kind": "exact"}, "kinds of value"),
    ({"details": {"length": 64}}, "protocols"), ({"unit": "bits per token"}, "units"),
])
def test_what_cannot_be_compared_shares_no_column(change, why):
    found = entries(BOUND, other(BOUND, 2.0, **change))
    columns = [column for table in tables(found) for column in table.columns]
    assert len(columns) == 2 and not any(cell.best for table in tables(found) for row in table.rows for cell in row.cells.values())
    assert [split.why for split in splits(found)] == [why]
    with pytest.raises(ValueError, match=rf"likelihood-pgm-nelbo.json and likelihood-mdlm-nelbo.json give nelbo for different {why} \(.*--together$"):
        refuse_splits(found)


@pytest.mark.parametrize("result, change, why", [
    (QUALITY, {"scorer": Named("gpt2", "00" * 8)}, "scorers"), (SPEED, {"hardware": {"device": "cuda"}}, "machines"),
    (SPEED, {"precision": Precision("bfloat16", "float32")}, "precisions"), (SPEED, {"details": {"batch": 1}}, "protocols"),
])
def test_nor_do_other_scorers_machines_and_precisions(result, change, why):
    found = entries(result, other(result, 2.0, **change))
    assert len([column for table in tables(found) for column in table.columns]) == 2
    assert [split.why for split in splits(found)] == [why]


OTHERS = {"tokenizer": Named("bpe", "11" * 8)}
IMAGES = replace(QUALITY, suite="images", name="pgm-fid", metric="fid", samples=5000, details={"transform": "none", "real_images": 5000})


@pytest.mark.parametrize("result", [IMAGES, replace(QUALITY, details={"retokenised": True})])
def test_the_tokenizer_does_not_matter_in_pixels_and_in_the_tokens_of_the_scorer(result):
    found = entries(result, other(result, 2.0, **OTHERS))
    (table,) = tables(found)
    assert len(table.columns) == 1 and len(table.rows) == 2 and not splits(found)
    refuse_splits(found)


@pytest.mark.parametrize("result", [QUALITY, ENTROPY])
def test_it_does_in_the_models_own(result):
    found = entries(result, other(result, 2.0, **OTHERS))
    (table,) = tables(found)
    assert [column.tokenizer for column in table.columns] == ["bytes (dddddddd)", "bpe (11111111)"]
    assert [split.why for split in splits(found)] == ["tokenizers"]
    read_anew = replace(QUALITY, details={"retokenised": True})
    (both,) = tables(entries(read_anew, ENTROPY))                   # of one model, side by side
    assert [column.metric for column in both.columns] == ["generative_perplexity", "unigram_entropy"] and len(both.rows) == 1


def test_decoding_to_pixels_stands_apart():
    found = entries(SPEED, other(SPEED, 2.0, details={"decoded": True}))
    assert [column.protocol for column in tables(found)[0].columns] == [(), ("with decoding to pixels",)]


def test_texts_of_other_lengths_and_numbers_stand_apart_where_that_matters():
    for result, change, protocol in (
        (QUALITY, {"sampler": {**SAMPLER, "length": 64}}, ("texts of 64",)), (ENTROPY, {"sampler": {**SAMPLER, "length": 64}}, ("texts of 64",)),
        (replace(ENTROPY, metric="distinct_2", samples=4), {"samples": 8}, ("8 texts",)),
        (replace(ENTROPY, metric="self_bleu_4", samples=4), {"samples": 8}, ("8 texts",)),
        (replace(ENTROPY, metric="mauve"), {"details": {"real_rows": 64}}, ("real rows: 64", "8 texts")),
        (replace(BOUND, metric="weighted_bound", details={"orders": 2}), {"details": {"orders": 16}}, ("16 orders",)),
    ):
        found = entries(result, other(result, 2.0, **change))
        assert tables(found)[0].columns[1].protocol == protocol and [split.why for split in splits(found)] == ["protocols"]
    refuse_splits(entries(QUALITY, other(QUALITY, 2.0, samples=99)))                        # means over texts
    refuse_splits(entries(replace(BOUND, details={"orders": 2}), other(BOUND, 2.0, details={"orders": 16})))       # and over orders


def test_nothing_is_refused_where_all_can_be_compared():
    refuse_splits(entries(BOUND, other(BOUND, 2.0), replace(BOUND, name="pgm-n", data=DataRecord("other", "valid", "00", 3))))


@pytest.mark.parametrize("value, error, best", [(3.5, 0.01, "pgm"), (3.02, 0.01, None), (2.5, 0.01, "mdlm"), (3.5, 0.3, None), (3.5, None, None)])
def test_best_only_beyond_the_errors(value, error, best):
    """0.02 is 1.4 standard errors of the difference of two values of error 0.01, 0.5 is 1.7 of errors 0.01 and 0.3; without one nothing is sure."""
    uncertainty = Uncertainty() if error is None else Uncertainty("standard error", error)
    found = best_of(entries(BOUND, other(BOUND, value, uncertainty=uncertainty)))
    assert (found.result.model.name if found else None) == best


def test_best_of_rates_is_the_highest_and_of_entropies_none():
    assert best_of(entries(SPEED, other(SPEED, 200.0))).result.model.name == "mdlm"
    assert best_of(entries(ENTROPY, other(ENTROPY, 1.0))) is None and best_of(entries(BOUND)) is None


def test_rows_tell_apart_what_differs_and_nothing_else():
    more = replace(QUALITY, name="pgm-hot-generative_perplexity", sampler={**SAMPLER, "temperature": 0.8}, value=40.0)
    long = replace(QUALITY, name="pgm-long-generative_perplexity", sampler={**SAMPLER, "steps": 4}, nfe=4, value=90.0)
    (table,) = tables(entries(QUALITY, more, long))
    assert [dict(row.labels) for row in table.rows] == [
        {"model": "pgm", "kind": "partition", "parameters": "1,000", "updates": "10", "sampler": f"temperature {heat}", "NFE": calls}
        for heat, calls in ((1.0, "4"), (1.0, "8"), (0.8, "8"))]
    twice = tables(entries(BOUND, replace(BOUND, name="again", value=3.1)))[0]
    assert [dict(row.labels)["file"] for row in twice.rows] == ["", "likelihood-again.json"]
    assert len(tables(entries(BOUND, replace(BOUND, name="again")))[0].rows) == 1
    renamed = tables(entries(BOUND, replace(BOUND, name="b", model=replace(MODEL, hash="99" * 8))))[0]
    assert [dict(row.labels)["model"] for row in renamed.rows] == ["pgm (aaaaaaaa)", "pgm (99999999)"]


def test_values_in_words():
    assert said(entries(BOUND)[0]) == "≤ 3.000 ± 0.010 (ppl 20.09)"
    assert said(entries(SPEED)[0]) == "100.0 [± 5.0]"
    assert said(entries(replace(BOUND, kind="exact", uncertainty=Uncertainty(), details={}))[0]) == "3.000"
    assert number(0.0) == "0" and number(1234567.0) == "1,234,567" and number(-2.5, 0.5) == "-2.50"


# ------------------------------------------------------------------------------------------------------------ Pareto


def test_quality_meets_the_speed_of_the_same_sampler():
    slow = {"sampler": {**SAMPLER, "steps": 16}, "nfe": 16}
    alone = other(QUALITY, 1.0, sampler={"steps": 2}, nfe=2)        # nobody measured its speed
    found = entries(QUALITY, ENTROPY, SPEED, other(QUALITY, 60.0), other(SPEED, 20.0), replace(QUALITY, name="x", value=30.0, **slow),
                    replace(SPEED, name="y", value=50.0, **slow), replace(ENTROPY, name="z", value=5.0, **slow), alone)
    (plot,) = paretos(found)
    points = [(p.model, p.nfe, p.quality.result.value, p.speed.result.value, p.entropy, p.front, p.doubtful) for p in plot.points]
    assert points == [("mdlm", 8, 60.0, 20.0, None, False, False), ("pgm", 16, 30.0, 50.0, 5.0, True, True),
                      ("pgm", 8, 50.0, 100.0, 5.5, True, False)]
    assert not paretos(entries(QUALITY, replace(SPEED, sampler={**SAMPLER, "temperature": 0.5})))
    assert not paretos(entries(replace(QUALITY, sampler={**SAMPLER, "length": 9}), replace(SPEED, details={"length": 4})))
    image = replace(QUALITY, suite="images", metric="fid")
    assert [(p.rate, p.rate_error) for p in paretos(entries(image, replace(SPEED, details={"length": 4})))[0].points] == [(25.0, 1.25)]
    assert len(paretos(entries(QUALITY, SPEED, replace(SPEED, name="gpu", hardware={"device": "cuda"})))) == 2


# ------------------------------------------------------------------------------------------------------- the whole of it


@pytest.fixture
def folder(tmp_path):
    """Results of two models, samples of text and of images, a run; names and texts that try to be markup."""
    results, run = tmp_path / "results", tmp_path / "runs" / "first"
    hostile = replace(OTHER, name=EVIL, kind=EVIL)
    joint = other(BOUND, 2.0, name="joint", metric="joint_ce", kind="joint_ce", details={})
    for result in (BOUND, QUALITY, ENTROPY, SPEED, joint, *(other(each, 20.0, model=hostile) for each in (BOUND, QUALITY, SPEED))):
        save(result, results)
    lines = [json.dumps({"index": n, "text": f"{EVIL} text {n}", "tokens": [1]}) for n in range(20)]
    (results / "samples-pgm.jsonl").write_text("\n".join(lines) + '\n{"text": "cut sh')
    (results / "samples-pgm.1-of-2.jsonl").write_text(lines[0] + "\n")
    (results / "samples-pgm.json").write_text(json.dumps({"schema": "maskless-samples/1"}))
    np.savez(results / "samples-images.npz", pixels=np.zeros((3, 4, 4, 1), np.uint8))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(results / "samples-grid.png")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("objective: {type: partition}\ndata: {type: prose, tokenizer: bytes}\n")
    losses = [{"step": n, "loss": 1 / n} for n in range(1, 1001)]
    records = [{"step": 0, "note": "started"}, *losses, {"step": 1000, "bound": 2.0, "standard_error": 0.1}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + '\n{"step": 1001, "lo')
    return tmp_path


class Page(HTMLParser):
    """Elements, with whatever could reach for the network or run."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.count, self.ids, self.outside = [], {}, [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.count[name] = self.count.get(name, 0) + 1
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key.startswith("on") or (key in ("src", "href", "action", "srcset") and not (value or "").startswith(("#", "data:image/png;base64,"))):
                self.outside.append((name, key, value))
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name


def test_the_page_is_whole_and_reaches_for_nothing(folder):
    text = page(gather([folder]), EVIL)
    read = Page(text)
    assert read.open == [] and read.outside == [] and len(read.ids) == len(set(read.ids))
    assert "script" not in read.count and "<script" not in text and "http-equiv" in text and "default-src 'none'" in text
    assert not re.search(r"url\((?!#)|@import|http:(?!//www\.w3\.org)|https:", text)
    assert "\u202e" not in text and "\x00" not in text
    assert read.count["svg"] == 3 and read.count["img"] == 2 and read.count["table"] == 6
    assert read.count["caption"] == 6 and text.count('scope="col"') > 20 and 'scope="row"' in text
    assert "12 of 20 texts" in text and "3 images" in text and "prefers-color-scheme" in text and "@media print" in text
    for reference in re.findall(r'href="#([^"]+)"', text):
        assert reference in read.ids


def test_markdown_says_the_same_and_is_no_markup(folder):
    text = markdown(gather([folder]), EVIL)
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"(?<!\\)<(?!!--)", outside) and "★" in text and "≤ 3.000 ± 0.010 (ppl 20.09) ★" in text
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert rows and min(widths) > 3
    for block in re.split(r"\n\n", outside):
        table = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) <= 1


def test_the_same_files_make_the_same_bytes(folder):
    first, second = (write(gather([folder]), folder / name / "report") for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["report.html", "report.md"]


def test_files_of_several_results(tmp_path):
    """As they are published: one array for many files; two values for one place get rows that say where each lies."""
    trees = [json.loads(text_of(result)) for result in (BOUND, replace(BOUND, name="again", value=3.1), other(BOUND, 3.5))]
    (tmp_path / "published.json").write_text(json.dumps(trees))
    found = gather([tmp_path])
    assert [entry.number for entry in found.entries] == [0, 1, 2] and {entry.path.name for entry in found.entries} == {"published.json"}
    (table,) = tables(found.entries)
    assert [dict(row.labels)["file"] for row in table.rows] == ["", "published.json[1] (likelihood-again.json)", ""]
    text = page(found, "x")
    assert "from 1 result files" in text and "published.json[2] (likelihood-mdlm-nelbo.json)" in text
    trees[1] |= {"value": "3.1"}
    (tmp_path / "published.json").write_text(json.dumps(trees))
    with pytest.raises(ValueError, match=r"published\.json\[1\]: result\.value"):
        gather([tmp_path])


def test_the_published_results_become_a_page(tmp_path, call):  # noqa: F811
    ended = call("report", REPOSITORY / "docs" / "results", "--out", tmp_path / "report")
    assert ended.code == 0, ended.err
    assert "any\\_order" in (tmp_path / "report.md").read_text()


def test_overlapping_folders_are_read_once(folder):
    assert gather([folder, folder / "results", folder]) == gather([folder])


def test_curves_keep_the_mean_of_what_they_leave_out(folder):
    (curve,) = gather([folder / "runs"]).curves
    assert (curve.name, curve.objective, curve.data, curve.bounds) == ("first", "partition", "type prose, tokenizer bytes", ((1000, 2.0, 0.1),))
    assert len(curve.losses) <= 400 and curve.losses[0] == pytest.approx((2.0, (1 + 1 / 2 + 1 / 3) / 3))


def test_text_becomes_no_markup():
    assert tag("a", "<b>", tag("i", "&"), title='"') == '<a title="&quot;">&lt;b&gt;<i>&amp;</i></a>'


# --------------------------------------------------------------------------------------------------------- mistakes


def torn(folder):
    path = folder / "results" / BOUND.file
    path.write_text(path.read_text()[:-40])


def later(folder):
    path = folder / "results" / BOUND.file
    path.write_text(path.read_text().replace("maskless-result/1", "maskless-result/9"))


def misnamed(folder):
    save(replace(BOUND, name="joint-perplexity", metric="perplexity", kind="joint_ce"), folder / "results")


def no_picture(folder):
    (folder / "results" / "samples-grid.png").write_text("no picture")


def no_pixels(folder):
    np.savez(folder / "results" / "samples-images.npz", pixels=np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("spoil, sentence", [
    (torn, "is not JSON"), (later, "maskless-result/9"), (misnamed, "calls a joint cross-entropy a perplexity, and it bounds no likelihood"),
    (no_picture, "samples-grid.png is not an image"), (no_pixels, "holds float32 of shape"),
])
def test_spoilt_files_are_refused(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        gather([folder])


def test_folders_without_anything_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no result file and no run"):
        gather([tmp_path])
    with pytest.raises(ValueError, match="is no folder"):
        gather([tmp_path / "none"])


def test_nothing_but_a_report_is_written_over(folder):
    found = gather([folder])
    (folder / "mine.html").write_text("<p>mine</p>")
    with pytest.raises(ValueError, match=r"mine\.html exists and is no report"):
        write(found, folder / "mine")
    assert (folder / "mine.html").read_text() == "<p>mine</p>" and not (folder / "mine.md").exists()
    write(found, folder / "ours")
    assert write(found, folder / "ours.html", "Another title") == [folder / "ours.html", folder / "ours.md"]
    assert "Another title" in (folder / "ours.html").read_text()
