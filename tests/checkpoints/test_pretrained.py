"""Models that the package carries: how their folders are made, how they are found by name, and what the one that is there has to be."""
from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from safetensors.torch import load_file

import maskless
from maskless import places as shelf
from maskless.checkpoints.convert import convert
from maskless.checkpoints.inspect import inspect
from maskless.checkpoints.native import load_checkpoint, load_model, publish, write_model
from maskless.checkpoints.source import find
from maskless.data.tokenizer import ByteTokenizer
from maskless.demo.run import longer_trained
from maskless.evaluation.results import read_folders
from maskless.evaluation.scorers import open_scorer
from maskless.models import CausalPartitionConfig, MaskedConfig, build
from maskless.places import PRETRAINED, carried
from maskless.suites.subject import open_subject
from tests.training.runs import REPOSITORY

SIZES = {"vocab_size": 259, "length": 96, "width": 16, "heads": 2, "cond_dim": 0, "dropout": 0.0, "forbidden": (258,)}
CONFIG = CausalPartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1)
TINY = PRETRAINED / "tiny"
SLIM = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder: weights, another average, an optimiser."""
    weights, average = ({name: torch.randn_like(tensor) for name, tensor in build(CONFIG).state_dict().items()} for _ in range(2))

    def write(folder: Path) -> None:
        (folder / "trainer").mkdir()
        (folder / "trainer" / "optimizer.safetensors").write_bytes(b"large")
        write_model(folder, CONFIG, weights, average=average, tokenizer=ByteTokenizer(), extra={"objective": "any_order"})

    publish(tmp_path / "runs" / "first", 10, write)
    return tmp_path / "runs" / "first"


@pytest.fixture
def pretrained(run, tmp_path, monkeypatch) -> Path:
    """A package that carries a small model called tiny, and an empty working directory."""
    monkeypatch.setattr(shelf, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setenv("MASKLESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "pretrained" / "empty").mkdir(parents=True)
    return convert(run, tmp_path / "pretrained" / "tiny", dtype=torch.bfloat16).folder


@pytest.fixture
def none(tmp_path, monkeypatch) -> None:
    """A package that carries nothing but a card."""
    monkeypatch.setattr(shelf, "PRETRAINED", tmp_path / "pretrained")
    (tmp_path / "pretrained" / "tiny").mkdir(parents=True)
    (tmp_path / "pretrained" / "tiny" / "README.md").write_text("# tiny\n")
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------------------------------------- how a folder is made


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_run_becomes_a_folder_for_inference(run, tmp_path, call, weights):
    ended = call("convert", run, tmp_path / "m", "--dtype", "bfloat16", "--weights", weights)
    assert ended.code == 0 and "step-00000010" in ended.out and ("moving average" in ended.out) == (weights == "ema")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == SLIM
    before, stored = load_checkpoint(run, ema=weights == "ema").weights, load_file(tmp_path / "m" / "model.safetensors")
    model, tokenizer = load_model(tmp_path / "m")
    assert tokenizer.hash == ByteTokenizer().hash and set(stored) == set(before)
    for name, tensor in model.state_dict().items():
        assert stored[name].dtype == torch.bfloat16 and tensor.dtype == torch.float32
        assert torch.equal(stored[name], before[name].bfloat16()) and torch.equal(tensor, before[name].bfloat16().float()), name
    assert load_checkpoint(tmp_path / "m").extra["objective"] == "any_order"
    assert open_subject(tmp_path / "m", device="cpu").record.weights == weights
    assert all(group.dtypes == ["bfloat16"] for group in inspect(tmp_path / "m").groups) and not inspect(tmp_path / "m").problems


def test_a_folder_is_converted_again(run, tmp_path):
    half = convert(run, tmp_path / "half", dtype=torch.bfloat16)
    whole = convert(tmp_path / "half", tmp_path / "whole", dtype=torch.float32)
    assert half.weights == whole.weights == "ema"
    for name, tensor in load_checkpoint(tmp_path / "half").weights.items():
        assert torch.equal(load_checkpoint(tmp_path / "whole").weights[name], tensor.float())


def test_the_vocabulary_stays_where_there_is_no_tokenizer(tmp_path):
    (tmp_path / "m").mkdir()
    network = build(MaskedConfig(**SIZES, layers=1))
    write_model(tmp_path / "m", network.config, network.state_dict(), vocabulary=ByteTokenizer().vocabulary)
    convert(tmp_path / "m", tmp_path / "n", dtype=torch.bfloat16)
    assert load_checkpoint(tmp_path / "n").vocabulary == ByteTokenizer().vocabulary


def test_a_released_file_in_bfloat16(tmp_path):
    golden = Path(__file__).parents[1] / "golden" / "text_pgm_tiny.ckpt"
    convert(golden, tmp_path / "half", dtype=torch.bfloat16)
    convert(golden, tmp_path / "whole")
    for name, tensor in load_checkpoint(tmp_path / "whole").weights.items():
        assert torch.equal(load_checkpoint(tmp_path / "half").weights[name], tensor.bfloat16())


@pytest.mark.parametrize("options, said", [
    ([], "--dtype bfloat16"),
    (["--dtype", "float8"], "--dtype float8 is not known"),
    (["--dtype", "bfloat16", "--set", "length=3"], "leave length out"),
    (["--dtype", "bfloat16", "--tokenizer", "bytes"], "leave bytes out")])
def test_mistakes(run, tmp_path, call, options, said):
    ended = call("convert", run, tmp_path / "m", *options)
    assert ended.code == 2 and said in ended.err and len(ended.err.strip().splitlines()) == 1 and not (tmp_path / "m").exists()


# ----------------------------------------------------------------------------------------------- how it is found by name


def test_a_name_is_a_folder(pretrained, call):
    assert list(carried()) == ["tiny"]
    place = find("tiny")
    assert place.native and place.path == pretrained and place.source == "tiny"
    by_name, by_path = maskless.load("tiny", device="cpu"), maskless.load(pretrained, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(by_name.model.state_dict().values(), by_path.model.state_dict().values()))
    assert by_name.dtype == torch.float32
    shown = call("inspect", "tiny")
    assert shown.code == 0 and str(pretrained) in shown.out
    first, second = (call("sample", source, "--steps", "4", "--device", "cpu") for source in ("tiny", pretrained))
    assert first.code == second.code == 0 and first.out == second.out
    filled = call("infill", "tiny", "--text", "It was a ___{6} night.", "--device", "cpu")
    assert filled.code == 0 and filled.out.startswith("It was a ") and filled.out.endswith(" night.\n")


def test_every_verb_that_takes_weights_takes_a_name(pretrained, call, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"line {n} of a small text" for n in range(400)))
    ended = call("evaluate", "tiny", "likelihood", "--data", tmp_path / "text.txt", "--rows", 4, "--batch-size", 4,
                 "--out", tmp_path / "results", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert {result.model.path for result in read_folders([tmp_path / "results"])} == {"tiny"}
    sizes = ["--steps", 2, "--length", 16, "--repeats", 1, "--no-sweep", "--device", "cpu"]
    timed = call("bench", "sampling", "--preset", "toy", "--models", "pgm-cached", "--weights", "tiny", *sizes)
    assert timed.code == 0, timed.err
    with pytest.raises(ValueError, match="the scorer tiny does not read text from left to right"):
        open_scorer("tiny", torch.device("cpu"))


def test_a_run_begins_with_a_carried_model(pretrained, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"line {n} of a small text" for n in range(400)))
    sizes = {key: value for key, value in SIZES.items() if key not in ("vocab_size", "forbidden")}
    recipe = {"model": {"type": "causal_partition", **sizes, "encoder_layers": 1, "decoder_layers": 1}, "objective": {"type": "any_order"},
              "data": {"type": "files", "train": str(tmp_path / "text.txt"), "tokenizer": "bytes", "packing": "stream", "holdout": 0.1},
              "training": {"steps": 1, "batch_size": 2, "warmup": 0, "lr": 1e-9, "threads": 1, "device": "cpu", "precision": "fp32", "start": "tiny"},
              "validation": {"rows": 0}}
    made = maskless.train(recipe, out=tmp_path / "run").model.state_dict()
    assert all((made[name].cpu() - tensor.float()).abs().max() < 1e-6 for name, tensor in load_checkpoint("tiny").weights.items())


def test_a_path_comes_first(pretrained, tmp_path, call):
    own = build(MaskedConfig(**SIZES, layers=1))
    maskless.TextModel(own, ByteTokenizer(), device="cpu").save_pretrained("tiny")
    assert find("tiny").path == Path("tiny") and maskless.load("tiny", device="cpu").model.config == own.config
    shutil.rmtree("tiny")
    Path("tiny").mkdir()
    ended = call("sample", "tiny")
    assert ended.code == 2 and "tiny has no complete checkpoint" in ended.err


def test_a_name_that_is_neither(pretrained, call):
    for source in ("huge", "empty", "../pretrained/huge"):
        assert call("inspect", source).code == 2
        ended = call("sample", source)
        assert ended.code == 2 and len(ended.err.strip().splitlines()) == 1, source
    assert "huge does not exist" in call("sample", "huge").err and "the name of a model in the package (tiny)" in call("sample", "huge").err


def test_a_card_alone_is_no_model(none, call):
    assert carried() == {} and longer_trained(pytest.fail) is None
    ended = call("infill", "tiny", "--text", "a___b")
    assert ended.code == 2 and "tiny" in ended.err and "in the package" not in ended.err


def test_the_demo_shows_it(pretrained):
    lines: list[str] = []
    found = longer_trained(lines.append)
    assert found is not None and set(found["seconds"]) == {"load", "generate", "infill"}
    shown = "\n".join(lines)
    assert "maskless sample tiny" in shown and found["infilled"] in shown and found["generated"].startswith("The old house stood")
    json.dumps(found)


def test_the_folder_goes_where_the_package_goes():
    """Wheel and source archive take every file below these folders that git does not ignore."""
    import tomllib

    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert set(build) == {"targets"} and set(build["targets"]) == {"wheel"}
    assert build["targets"]["wheel"]["packages"] == ["src/maskless"] and "exclude" not in build["targets"]["wheel"]
    assert PRETRAINED == REPOSITORY / "src" / "maskless" / "pretrained" and (TINY / "README.md").is_file()
    files = [f"src/maskless/pretrained/tiny/{name}" for name in (*SLIM, "special_tokens_map.json")]
    asked = subprocess.run(["git", "check-ignore", *files], cwd=REPOSITORY, capture_output=True, text=True)
    if asked.returncode == 128:
        pytest.skip("not a git checkout")
    assert asked.returncode == 1, asked.stdout


# ------------------------------------------------------------------------------------------------ the one that is there

there = pytest.mark.skipif(not any((TINY / name).exists() for name in SLIM), reason="the package carries no weights yet")


@pytest.fixture(scope="module")
def tiny() -> maskless.TextModel:
    return maskless.load(TINY, device="cpu")


@there
def test_it_is_small_and_nothing_but_a_model():
    assert {path.name for path in TINY.iterdir()} == {*SLIM, "special_tokens_map.json", "README.md"}
    assert sum(path.stat().st_size for path in TINY.iterdir()) <= 12_000_000
    assert {tensor.dtype for tensor in load_file(TINY / "model.safetensors").values()} == {torch.bfloat16}
    report = inspect(TINY)
    assert report.kind == "causal_partition" and not report.problems and not report.training["optimizer"]
    assert report.architecture["length"] == 256 and report.architecture["vocab_size"] == 4096


@there
def test_it_writes_and_fills(tiny):
    text, again = (tiny.generate(1, prompt="The old house", length=64, steps=16, temperature=0.8, seed=1)[0] for _ in range(2))
    assert text == again and text.nfe == 16 and text.text.startswith("The old house") and len(text.text.split()) > 15
    filled = tiny.infill("The door opened, and___{8} came in.", steps=4, seed=1)
    assert filled.text.startswith("The door opened, and") and filled.text.endswith(" came in.") and filled.gaps[0].strip()


@there
def test_it_knows_english(tiny):
    """The word that every reader expects is likelier than one that nobody does."""
    scores = {word: tiny.logprob(of=word, given="He shook his___ and said nothing.").nats_per_token for word in (" head", " window")}
    assert scores[" head"] > scores[" window"] + 1                  # logarithms of probabilities


@there
def test_its_bound_on_prose_it_never_saw(tmp_path, monkeypatch, call):
    """The language reference that comes with Python: far from novels, and still far from knowing nothing (log 4096 = 8.32)."""
    monkeypatch.setenv("MASKLESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "prose.txt").write_text("\n".join(topics.values())[:40_000], encoding="utf-8")
    small = ["--rows", 8, "--budget", 2, "--batch-size", 8, "--device", "cpu"]
    ended = call("evaluate", TINY, "likelihood", "--data", tmp_path / "prose.txt", "--out", tmp_path / "results", *small)
    assert ended.code == 0, ended.err
    bounds = {result.metric: result.value for result in read_folders([tmp_path / "results"])}
    assert bounds and all(math.isfinite(value) and value < math.log(4096) - 1 for value in bounds.values()), bounds


@there
def test_its_card_is_complete():
    card = (TINY / "README.md").read_text(encoding="utf-8")
    assert {"Use", "Data", "Training", "Figures", "Limits", "Intended use", "Licence"} <= set(re.findall(r"^## (.+)$", card, re.MULTILINE))
    assert "TODO" not in card
    assert f"{inspect(TINY).parameters:,}" in card and "Apache-2.0" in card and "recipes/novels/tiny.yaml" in card


@there
def test_the_examples_of_its_card_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", (TINY / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, "the card", "exec"), {})


@there
def test_all_of_it_is_in_the_repository():
    files = subprocess.run(["git", "ls-files", str(TINY)], cwd=REPOSITORY, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    assert {Path(line).name for line in files.stdout.splitlines()} == {path.name for path in TINY.iterdir()}
