"""The bench at toy size: what it times, finds, writes, draws and refuses."""
from __future__ import annotations

import dataclasses
import json
import re
import weakref

import pytest
import torch

from maskless.checkpoints.native import save_model
from maskless.data.tokenizer import load_tokenizer
from maskless.decoding import Noise, Random, Sampler, Scheduled
from maskless.evaluation import speed
from maskless.evaluation.bench import batches, peak, report, sampling, scaling
from maskless.evaluation.bench.batches import best_batch, fitted
from maskless.evaluation.bench.contenders import CONTENDERS, USUAL, Networks
from maskless.evaluation.bench.picture import draw_sampling, draw_scaling
from maskless.evaluation.bench.setting import CPU_SMALL, PRESETS, TOY, dtype_of, preset
from maskless.evaluation.cost import total
from maskless.evaluation.machine import matrix_rate, source
from maskless.evaluation.memory import peak as peak_of
from maskless.evaluation.speed import Contender, even_random, from_start, race_them, race_those_that_fit
from maskless.models import CausalPartitionConfig, MaskedConfig, PartitionConfig, build
from maskless.models.captured import Captured, Rerun, reruns

CPU = torch.device("cpu")
SMALL = dataclasses.replace(PRESETS["toy"], setting=dataclasses.replace(TOY, length=16, steps=4), steps=(2,), lengths=(8,), sizes=(4, 1),
                            scaling=(8, 16))


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def found() -> sampling.Sampling:
    """Every usual contender, the headline and both curves."""
    return sampling.run(SMALL, USUAL, Networks(SMALL.setting, CPU), repeats=2, progress=quiet)


def test_the_cpu_preset_is_the_configuration_of_the_figures():
    assert dataclasses.asdict(PRESETS["cpu-small"].setting) == dataclasses.asdict(CPU_SMALL) == {
        "batch": 4, "length": 1024, "steps": 64, "vocab_size": 8192, "width": 256, "heads": 4, "layers": 12, "encoder_layers": 6,
        "decoder_layers": 6, "dtype": torch.bfloat16}
    published = PRESETS["gpu"].setting
    assert (published.length, published.steps, published.width, published.layers, published.vocab_size) == (1024, 128, 768, 12, 50_258)
    assert PRESETS["gpu"].best_batch and PRESETS["gpu"].minutes < 10
    long = PRESETS["gpu-long"].setting
    assert (long.batch, long.length, CONTENDERS["pgm-cached"].steps(long)) == (1, 8192, 8191)


def test_rows_are_the_points_asked_for(found):
    assert [row.contender for row in found.at("headline")] == list(USUAL)
    assert [(row.contender, row.steps) for row in found.at("steps")] == [(name, 2) for name in USUAL if name != "ar"]
    assert [(row.contender, row.length, row.batch) for row in found.at("length")] == [(name, 8, 4) for name in USUAL]
    assert all(row.slowest <= row.tokens_per_second <= row.fastest and len(row.seconds) == row.repeats == 2 for row in found.rows)
    by = {row.contender: row for row in found.at("headline")}
    assert by["ar"].nfe == 15 and by["pgm"].nfe == by["pgm"].timed_calls == 4 and by["mdlm-published"].timed_calls == 3
    assert by["pgm-cached"].flops < by["pgm"].flops < by["mdlm-fair"].flops < by["mdlm-published"].flops
    assert by["pgm-cached"].matrix_rows == 2 * 4 and by["pgm"].matrix_rows == 4096
    assert all(row.share == pytest.approx(row.flops / row.median_seconds / 1e9 / found.matrix_rates[row.matrix_rows]) for row in found.rows)


def test_captured_contenders_are_timed_alike():
    """All whose calls can be captured have them captured, each its own, of one network a kind."""
    networks = Networks(SMALL.setting, CPU, recorders=reruns)
    found = sampling.run(dataclasses.replace(SMALL, steps=(), lengths=()), USUAL, networks, repeats=1, progress=quiet)
    assert [row.contender for row in found.at("headline")] == list(USUAL)
    models = {name: networks.contender(name, SMALL.setting).model for name in USUAL}
    assert [name for name, model in models.items() if not isinstance(model, Captured)] == ["ar"]
    fair, published = models["mdlm-fair"], models["mdlm-published"]
    assert fair is not published and fair.model is published.model


class Clock:
    """A clock that a way of sampling moves: 50 s of set-up, 0.25 s a call."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def generate(self, model, canvas, noise, steps):
        self.now += 50
        for step in range(steps):
            self.now += 0.25
            yield step


def test_what_is_made_once_is_counted_once(monkeypatch):
    """8,191 calls, timed on a few: not as many set-ups."""
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    networks = Networks(TOY, CPU)
    whole = Contender("stub", networks("masked"), clock.generate, 1, 8192, 8191)
    assert whole.whole(CPU, seed=0) == (50 + 8191 / 4, 8191)
    for timed in (2, 5):
        assert dataclasses.replace(whole, timed=timed).whole(CPU, seed=0) == (50 + 8191 / 4, 8191)
    assert batches._rate(dataclasses.replace(whole, name="pgm-cached"), CPU) == pytest.approx(8192 / (50 + 8191 / 4))
    with pytest.raises(ValueError, match="stub: timed 1 of 8191 steps is too few"):
        dataclasses.replace(whole, timed=1)


class Room:
    """Memory for so many captured calls at a time: one more does not fit."""

    def __init__(self, most: int):
        self.most, self.kept, self.shapes = most, [], []

    def recorders(self):
        def record(compute, inputs):
            self.kept = [ref for ref in self.kept if ref() is not None]
            if len(self.kept) >= self.most:
                raise torch.OutOfMemoryError("no room")
            made = Rerun(compute, inputs)
            self.kept.append(weakref.ref(made))
            self.shapes.append(inputs[0].shape)
            return made
        return record

    def contender(self, rows: int, name: str = "pgm-cached") -> Contender:
        model = Captured(Networks(SMALL.setting, CPU)("causal_partition"), self.recorders)
        return Contender(name, model, even_random, rows, 16, 4)


def captures(rows: int) -> int:
    """How many calls of a decode are captured."""
    room = Room(100)
    room.contender(rows).run(CPU, seed=0)
    return len(room.shapes)


def test_a_trial_of_a_batch_leaves_nothing_in_memory():
    room = Room(captures(1))
    contender = room.contender(1)
    told: list[str] = []
    best = fitted(contender, CPU, 2, told.append)
    assert best is not None and not contender.model.free and not any("does not fit" in line for line in told)
    assert {shape[0] for shape in room.shapes} == {1, 2}            # the second had room as well


def test_contenders_that_do_not_fit_together_take_turns():
    room, told = Room(captures(2)), []
    pair = [room.contender(2, "one"), room.contender(2, "other")]
    timings = race_them(pair, device=CPU, repeats=2, progress=told.append)
    assert [(timing.name, len(timing.seconds)) for timing in timings] == [("one", 2), ("other", 2)]
    assert not any("left out" in line for line in told) and not any(each.model.free for each in pair)


def test_a_repetition_never_captures(monkeypatch):
    """What had to go is made again before the clock starts."""
    room, recorded = Room(captures(2)), []
    whole = Contender.whole

    def counted(self, device, seed):
        before = len(room.shapes)
        found = whole(self, device, seed)
        recorded.append((seed > 0, len(room.shapes) - before))
        return found

    monkeypatch.setattr(Contender, "whole", counted)
    race_them([room.contender(2, "one"), room.contender(2, "other")], device=CPU, repeats=2)
    assert sum(timed for timed, _ in recorded) == 4 and not any(captured for timed, captured in recorded if timed)


def test_who_does_not_fit_is_left_out(monkeypatch):
    nowhere, there, told = Room(0).contender(2, "wide"), Room(99).contender(2, "narrow"), []
    timings = race_those_that_fit([nowhere, there], device=CPU, repeats=1, progress=told.append)
    assert timings[0] is None and timings[1] is not None and timings[1].name == "narrow"
    assert "left out: wide, batch 2, length 16 does not fit into memory" in told
    with pytest.raises(ValueError, match="wide, batch 2, length 16 does not fit into the memory of cpu; give a smaller batch"):
        race_them([nowhere, there], device=CPU, repeats=1)
    assert fitted(Room(0).contender(2), CPU, 4, told.append) is None
    assert told[-1] == "left out: pgm-cached does not fit into memory at batch 2; start from a smaller --batch"


def wider_than(rows: int, sites: int):
    """A way of sampling that has no memory for more."""
    def generate(model, canvas, noise, steps):
        if canvas.rows > rows or canvas.length > sites:
            raise torch.OutOfMemoryError("no room")
        return Sampler(Scheduled(steps), Random()).records(model, canvas, noise)
    return generate


@pytest.mark.parametrize("best", [False, True])
def test_a_bench_goes_on_without_who_does_not_fit(monkeypatch, best):
    monkeypatch.setattr(sampling, "MOST_ROWS", 2)
    monkeypatch.setattr(sampling, "matrix_rate", lambda *product: 1.0)
    monkeypatch.setitem(CONTENDERS, "pgm", dataclasses.replace(CONTENDERS["pgm"], generate=wider_than(0, 0)))
    monkeypatch.setitem(CONTENDERS, "mdlm-fair", dataclasses.replace(CONTENDERS["mdlm-fair"], generate=wider_than(99, 16)))
    preset, told = dataclasses.replace(SMALL, steps=(), lengths=(32,), best_batch=best), []
    got = sampling.run(preset, ["pgm", "mdlm-fair", "pgm-cached"], Networks(SMALL.setting, CPU), repeats=1, progress=told.append)
    assert [(row.contender, row.point) for row in got.rows] == [("mdlm-fair", "headline"), ("pgm-cached", "headline"), ("pgm-cached", "length")]
    assert any(line.startswith("left out: pgm") for line in told) and any(line.startswith("left out: mdlm-fair, batch") for line in told)
    with pytest.raises(ValueError, match="no contender fits into the memory of cpu; give a smaller --batch or --length"):
        sampling.run(preset, ["pgm"], Networks(SMALL.setting, CPU), repeats=1, progress=quiet)
    with pytest.raises(ValueError, match="no point fits into the memory of cpu"):
        scaling.run(SMALL, ["pgm"], Networks(SMALL.setting, CPU), repeats=1, progress=quiet)


def test_the_file_says_what_was_done_and_where(found, tmp_path):
    path = report.write_json(tmp_path / "new", report.rows_document(found, "sampling", "toy", CPU, "off"))
    written = json.loads(path.read_text())
    assert set(written) == {"bench", "preset", "setting", "compile", "weights", "where", "matrix_rates", "large", "rows"}
    assert {"device", "dtype", "threads", "torch", "python", "maskless", "source", "processor"} <= set(written["where"])
    assert written["where"]["source"] == source() and written["setting"]["dtype"] == "float32"
    assert {field.name for field in dataclasses.fields(sampling.Row)} | {"share_of_matrix_rate", "seconds_per_call", "seconds_per_token"} == set(
        written["rows"][0])
    assert len(written["rows"]) == len(found.rows) and "4096" in written["matrix_rates"]


def test_pictures_are_drawn(found, tmp_path):
    draw_sampling(tmp_path / "bench.png", found, "toy on cpu")
    alone = dataclasses.replace(found, rows=found.at("headline")[:1])
    draw_sampling(tmp_path / "alone.png", alone, "toy on cpu")
    for name in ("bench.png", "alone.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG" and (tmp_path / name).stat().st_size > 20_000


def test_tables_hold_every_contender(found, capsys):
    report.print_sampling(found)
    printed = capsys.readouterr().out
    assert all(printed.count(name) >= 2 for name in USUAL) and "matrix rate" in printed and "pgm-cached is" in printed and "…" not in printed


def test_scaling_goes_from_many_tokens_a_call_to_one(tmp_path, capsys):
    got = scaling.run(SMALL, ["pgm-cached", "ar"], Networks(SMALL.setting, CPU), repeats=1, progress=quiet)
    assert [(row.contender, row.size) for row in got.at("size")] == [("pgm-cached", 4), ("pgm-cached", 1)]
    assert [(row.contender, row.length, row.nfe) for row in got.at("length")] == [
        ("pgm-cached", 8, 2), ("ar", 8, 7), ("pgm-cached", 16, 4), ("ar", 16, 15)]
    assert all(row.attention_flops for row in got.rows)
    report.print_scaling(got)
    assert "ms a call" in capsys.readouterr().out
    report.write_json(tmp_path, report.rows_document(got, "scaling", "toy", CPU, "off"))
    draw_scaling(tmp_path / "bench.png", got, "toy on cpu")
    assert (tmp_path / "bench.png").stat().st_size > 20_000


def test_the_best_batch_is_where_doubling_stops_to_pay():
    rates = {1: 10.0, 2: 19.0, 4: 35.0, 8: 35.1, 16: 70.0}
    assert best_batch(rates.get, 1, 64) == 4
    assert best_batch(rates.get, 1, 2) == 2
    assert best_batch({2: 10.0, 4: 20.0}.get, 2, 64) == 4           # 8 does not fit
    assert best_batch({}.get, 2, 64) is None


def test_the_path_of_the_gpu_preset_runs_here(monkeypatch):
    monkeypatch.setattr(sampling, "MOST_ROWS", 4)
    told: list[str] = []
    wide = dataclasses.replace(SMALL, best_batch=True, steps=(), lengths=(), minutes=5)
    got = sampling.run(wide, USUAL, Networks(dataclasses.replace(SMALL.setting, batch=1), CPU), repeats=1, progress=told.append)
    assert all(row.batch in (1, 2, 4) for row in got.rows)
    assert sum("best batch: pgm-cached" in line for line in told) >= 2


def test_time_ends_repetitions_and_curves():
    told: list[str] = []
    got = sampling.run(dataclasses.replace(SMALL, minutes=0), ["pgm-cached"], Networks(SMALL.setting, CPU), repeats=3, progress=told.append)
    assert [(row.point, row.repeats) for row in got.rows] == [("headline", 1)]
    assert sum("out of time" in line for line in told) == 2


@pytest.mark.skipif(peak_of(CPU, lambda: None) is None, reason="the system does not tell")
def test_peaks_are_seen():
    seen = peak_of(CPU, lambda: torch.ones(8 << 20).sum())          # 32 MiB
    assert seen is not None and 30 << 20 < seen < 60 << 20
    measured = peak.measure("pgm-cached", Networks(SMALL.setting, CPU))
    assert measured.calls == 4 and measured.working == measured.peak - measured.caches
    assert measured.caches == 2 * 5 * 2 * 17 * 32 * 4 and measured.within
    assert peak.measure("pgm", Networks(SMALL.setting, CPU), calls=1).calls == 1


def test_contenders_whose_cost_depends_on_predictions_want_trained_weights(tmp_path):
    with pytest.raises(ValueError, match=r"pgm-confidence depends on its predictions.*--weights"):
        Networks(TOY, CPU).contender("pgm-confidence", TOY)
    config = PartitionConfig(19, length=12, width=16, heads=2, encoder_layers=1, decoder_layers=2, cond_dim=0)
    save_model(tmp_path / "pgm", build(config))
    networks = Networks(dataclasses.replace(TOY, length=12, steps=3), CPU, [tmp_path / "pgm"])
    assert (networks.setting.width, networks.setting.layers, networks.setting.vocab_size) == (16, 3, 19)
    timings = race_them([networks.contender(name, networks.setting) for name in ("pgm-confidence", "pgm-entropy-bound", "pgm", "mdlm-fair")],
                        device=CPU, repeats=1)
    assert [timing.nfe for timing in timings][::2] == [3, 3] and 1 <= timings[1].nfe <= 3
    row = sampling.row_of(timings[0], "headline", networks.setting, networks.contender("pgm-confidence", networks.setting))
    assert row.flops is row.bytes is row.share is None
    with pytest.raises(ValueError, match=r"pgm and .*copy are both of a partition model; give one"):
        save_model(tmp_path / "copy", build(config))
        Networks(TOY, CPU, [tmp_path / "pgm", tmp_path / "copy"])
    with pytest.raises(ValueError, match=r"pgm-speculative depends.*causal_partition"):
        networks.contender("pgm-speculative", networks.setting)
    with pytest.raises(ValueError, match="length 13 is beyond the 12 sites"):
        networks.contender("pgm", dataclasses.replace(networks.setting, length=13))


def test_counts_are_of_the_checkpoint_that_runs(tmp_path):
    """Whatever the other checkpoints' sizes are; and of one with something that the counts leave out there are none. Rows begin with its BOS."""
    sizes = {"length": 12, "heads": 2, "cond_dim": 0}
    pgm = build(PartitionConfig(259, width=16, encoder_layers=1, decoder_layers=2, **sizes))
    save_model(tmp_path / "pgm", pgm, tokenizer=load_tokenizer("bytes"))
    save_model(tmp_path / "mdlm", build(MaskedConfig(19, width=32, layers=5, **sizes)))
    setting = dataclasses.replace(TOY, length=12, steps=3)
    alone, both = Networks(setting, CPU, [tmp_path / "pgm"]), Networks(setting, CPU, [tmp_path / "pgm", tmp_path / "mdlm"])
    parts = [CONTENDERS["pgm"].parts(each.contender("pgm", each.setting).config, each.setting, 2) for each in (alone, both)]
    assert parts[0] == parts[1] and total(parts[0]).flops > 0 and both.weights.keys() == {"partition", "masked"}
    assert (both.contender("pgm", setting).bos, both.contender("mdlm-fair", setting).bos) == (256, 0)
    assert from_start(2, 4, CPU, bos=256).tokens[:, 0].tolist() == [256, 256]
    assert CONTENDERS["pgm"].parts(PartitionConfig(19, width=16, encoder_layers=1, decoder_layers=2, registers=4, **sizes), setting, 2) is None


def test_mistakes_are_told():
    for call, word in ((lambda: preset("huge"), "huge"), (lambda: dtype_of("float8"), "float8"),
                       (lambda: race_them([], device=CPU, repeats=0), "repeats 0")):
        with pytest.raises(ValueError, match=word):
            call()


@pytest.mark.parametrize("line", [
    "sampling --preset toy", "training --preset toy", "scaling --preset toy", "memory --preset toy", "images --grids 2", "curve model"])
@pytest.mark.parametrize("place", ["there", "there/below/it"])
def test_results_are_not_written_over_a_file(tmp_path, line, place):
    """Said before anything is measured, or a model is looked for."""
    from maskless.cli.main import app

    (tmp_path / "there").write_text("mine")
    out = tmp_path / place
    with pytest.raises(ValueError, match=re.escape(f"--out {out} needs a folder, and {tmp_path / 'there'} is a file; give another name")):
        app(["bench", *line.split(), "--out", str(out)], standalone_mode=False)


def test_training_is_not_in_float16():
    from maskless.cli.main import app

    with pytest.raises(ValueError, match=r"dtype float16 is not one that models are trained in .*; give bfloat16 or float32"):
        app(["bench", "training", "--preset", "toy", "--dtype", "float16", "--device", "cpu"], standalone_mode=False)


def test_every_contender_generates(monkeypatch):
    networks = Networks(SMALL.setting, CPU)
    monkeypatch.setattr(networks, "trained", {kind: networks(kind) for kind in ("partition", "causal_partition")})
    for name in CONTENDERS:
        contender = networks.contender(name, SMALL.setting)
        canvas = from_start(2, 16, CPU)
        assert len(list(contender.generate(contender.model, canvas, Noise.of(0, 2), contender.steps))) > 0
        assert canvas.fewest == 16, name


def test_sizes_of_a_kind_are_those_of_the_setting():
    config = TOY.config("causal_partition")
    assert isinstance(config, CausalPartitionConfig) and (config.encoder_layers, config.decoder_layers, config.width) == (2, 2, 32)


def test_the_matrix_rate_is_a_rate():
    assert 0 < matrix_rate(torch.float32, CPU, 8, 16, 32) < 1e6


def test_the_verb_prints_and_writes(tmp_path, capsys):
    from maskless.cli.main import app

    line = f"bench sampling --preset toy --models pgm-cached,mdlm-fair --length 16,8 --steps 4,2 --batch 2 --repeats 1 --device cpu --out {tmp_path}"
    app(line.split(), standalone_mode=False)
    printed = capsys.readouterr()
    assert "warm-up: pgm-cached" in printed.err and "tokens/s" in printed.out and "threads" in printed.out and "dtype float32" in printed.out
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["contender"], row["point"]) for row in written["rows"]] == [
        (name, point) for point in ("headline", "steps", "length") for name in ("pgm-cached", "mdlm-fair")]
    assert (tmp_path / "bench.png").stat().st_size > 20_000
    app(f"bench scaling --preset toy --sizes 4,1 --length 16 --repeats 1 --device cpu --out {tmp_path / 'scaling'}".split(), standalone_mode=False)
    app(f"bench memory --preset toy --models pgm,ar --calls 2 --device cpu --out {tmp_path / 'memory'}".split(), standalone_mode=False)
    assert json.loads((tmp_path / "memory" / "bench.json").read_text())["bench"] == "memory"
    assert json.loads((tmp_path / "scaling" / "bench.json").read_text())["rows"][0]["attention_flops"] > 0


@pytest.mark.parametrize("options, setting, lengths, steps", [
    ("", (64, 8), (32, 128), (4, 32)), ("--length 16", (16, 8), (), (4,)), ("--length 4", (4, 4), (), (4,)), ("--steps 64", (64, 64), (128,), ()),
    ("--length 8,4 --steps 2,8", (8, 2), (4,), (8,)),
    ("--steps 65", "65 steps .* 64 sites", (), ()), ("--length 8,4 --steps 2,9", "9 .* 8 sites", (), ()),
    ("--length 8,4 --steps 5", "5 .* 4 sites", (), ()), ("--length 64,4", "8 .* 4 sites", (), ()),
])
def test_no_row_takes_more_calls_than_it_has_sites(options, setting, lengths, steps):
    """Those of a preset are left out, those that are asked for refused."""
    from maskless.cli.bench import _chosen

    said = dict(zip(options.split()[::2], options.split()[1::2]))

    def chosen():
        return _chosen("toy", None, said.get("--length"), said.get("--steps"), None, True)

    if isinstance(setting, str):
        with pytest.raises(ValueError, match=f"^{setting}"):
            chosen()
    else:
        found = chosen()
        assert ((found.setting.length, found.setting.steps), found.lengths, found.steps) == (setting, lengths, steps)


def test_training_stands_beside_mdlm(tmp_path, capsys):
    from maskless.cli.main import app

    line = f"bench training --preset toy --models mdlm,pgm-dense --length 16,8 --batch 2 --repeats 2 --device cpu --out {tmp_path}"
    app(line.split(), standalone_mode=False)
    assert "of mdlm's time" in capsys.readouterr().out
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [(row["contender"], row["length"], row["batch"]) for row in rows] == [
        ("mdlm", 16, 2), ("pgm-dense", 16, 2), ("mdlm", 8, 4), ("pgm-dense", 8, 4)]
    assert rows[0]["relative"] == [1, 1, 1] and len(rows[1]["seconds"]) == 2 and rows[1]["attention"] == "dense"
    assert (tmp_path / "bench.png").stat().st_size > 20_000
