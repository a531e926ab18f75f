"""Every golden file through `maskless verify`, and every expected tensor of each wrong by ten tolerances."""
from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maskless.cli import main as command
from maskless.evaluation.golden import verify
from maskless.evaluation.golden.case import Case
from maskless.evaluation.golden.samplers import bos_of
from maskless.suites.parity import check_ema

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted([*GOLDEN.glob("text_*.safetensors"), *GOLDEN.glob("prime_text_*.safetensors")])
MORE = {"text_ema": check_ema}
INPUTS = re.compile(
    r"param/.*|student/.*|teacher/.*|dt|u|step_of_round_start|rng/.*|x|x0|xt|t|valid_tokens|group_idxs|sigma_nonzero|train/(x|sigma|sigma_nonzero|group_idxs)|probs.*|uniform.*"
    r"|infer\w*/(x|clean_positions|noisy_positions|concrete_lengths|full_tokens|equivalent_group_idxs)|sample/gumbel|init/.*"
    r"|step\d+/param\d+|tokens|lm_logits|val_updates|train_t/(eps|plain)_draw|prefix|suffix|suffix_greedy_correct"
    r"|in/(x0|yt|t|sigma_net)|step/(t|dt|u_x0|u_reveal)|final/u_x0"
)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def expected(path: Path) -> list[str]:
    names = [name for name in load_file(path) if not INPUTS.fullmatch(name)]
    of_kind = {"text_nucleus": {"logits"}, "text_sdtt_schedule": {"t", "dt"}}
    special = next((found for kind, found in of_kind.items() if kind in path.name), set())
    return [name for name in load_file(path) if (name in special) != (name in names)] if special else names


def run(*arguments: object, capsys: pytest.CaptureFixture | None = None) -> int:
    """The command as a shell sees it."""
    before, sys.argv = sys.argv, ["maskless", "verify", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stop:
            command.main()
    finally:
        sys.argv = before
    return int(stop.value.code or 0)


def perturbed(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor + 1
    return tensor + 10 * (1e-4 + 1e-4 * tensor.nan_to_num(posinf=0, neginf=0).abs())


@pytest.mark.parametrize("path", [*FILES, GOLDEN / "text_data.json"], ids=lambda path: path.stem)
def test_this_build_agrees(path):
    report = verify(path, more=MORE)
    assert report.passed, [comparison for comparison in report.found if not comparison.passed]
    assert not report.unchecked
    if path.suffix == ".safetensors":
        assert {comparison.name for comparison in report.found} >= set(expected(path))
        assert max(each.relative for each in report.found) < 5e-6  # far inside the tolerance


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_expected_tensor_matters(path, tmp_path):
    tensors, meta = load_file(path), metadata(path)
    wrong = tmp_path / path.name
    if "tiny_io" in path.name:
        shutil.copy(GOLDEN / "text_pgm_tiny.ckpt", tmp_path)
    assert expected(path)
    for name in expected(path):
        save_file({**tensors, name: perturbed(tensors[name])}, wrong, meta)
        failed = [each.name for each in verify(wrong, more=MORE).found if not each.passed]
        assert failed == [name] or (name in failed and "sampler" in path.name), name


@pytest.mark.parametrize("entry", [0, -1])
@pytest.mark.parametrize("name", ["train/logits", "infer/logits", "train/group_swap_queries", "infer/encoder_out"])
def test_one_wrong_entry_is_enough(entry, name, tmp_path):
    path = GOLDEN / "text_pgm_backbone_learn_freqs.safetensors"
    tensors = load_file(path)
    if name == "infer/encoder_out" and entry == -1:
        pytest.skip("the last row is padding, which means nothing")
    tensors[name].view(-1)[entry] += 10 * (1e-4 + 1e-4 * tensors[name].view(-1)[entry].abs())
    save_file(tensors, tmp_path / path.name, metadata(path))
    assert not verify(tmp_path / path.name).passed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_metadata_may_be_missing(path, tmp_path):
    save_file(load_file(path), tmp_path / path.name)
    if "tiny_io" in path.name:
        shutil.copy(GOLDEN / "text_pgm_tiny.ckpt", tmp_path)
    assert verify(tmp_path / path.name, more=MORE).passed


def test_exit_codes(tmp_path, capsys):
    good = GOLDEN / "text_nucleus.safetensors"
    assert run(good, GOLDEN / "text_data.json") == 0
    printed = capsys.readouterr().out
    assert "top_p_0.95" in printed and "0 beyond tolerance" in printed
    tensors = load_file(good)
    wrong = tmp_path / good.name
    save_file({**tensors, "top_k_5": tensors["top_k_5"] + 1}, wrong)
    assert run(wrong) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("name", [
    "image_vq.safetensors", "prime_image_l2.safetensors", "text_harmless.safetensors", "other.safetensors", "text_pgm_tiny.ckpt",
])
def test_unknown_kinds(name, tmp_path, capsys):
    save_file({"x": torch.zeros(1)}, tmp_path / name)
    assert run(tmp_path / name) == 2
    assert "is of no kind known here" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text_pgm_loss", "text_sampler_mdlm_ddpm", "text_ar", "text_pgm_backbone"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 5000, None])
def test_damaged_files_are_one_sentence(kind, content, tmp_path, capsys):
    path = tmp_path / f"{kind}.safetensors"
    whole = next(GOLDEN.glob(f"{kind}*.safetensors")).read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert run(path) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in lines[0]


def test_nothing_to_compare(tmp_path, capsys):
    path = tmp_path / "text_schedule.safetensors"
    save_file({"t": torch.rand(3)}, path)
    assert run(path) == 2
    assert "nothing was compared" in capsys.readouterr().err
    assert run(tmp_path / "text_absent.safetensors") == 2
    path = tmp_path / "text_pgm_loss.safetensors"
    save_file({"t": torch.rand(3)}, path)
    assert run(path) == 2


def test_what_means_nothing_is_said(tmp_path, capsys):
    path = GOLDEN / "text_schedule.safetensors"
    save_file({**load_file(path), "surprise": torch.rand(3)}, tmp_path / path.name, metadata(path))
    assert run(tmp_path / path.name) == 2
    assert "surprise" in capsys.readouterr().err


def test_text_processing(tmp_path):
    data = json.loads((GOLDEN / "text_data.json").read_text(encoding="utf-8"))
    data["wt_detokenizer"][0][1] += "!"
    data["group_texts"]["input_ids"][0][1] += 1
    (tmp_path / "text_data.json").write_text(json.dumps(data), encoding="utf-8")
    failed = [each.name for each in verify(tmp_path / "text_data.json").found if not each.passed]
    assert failed == ["wt_detokenizer/0", "group_texts/input_ids"]


@pytest.mark.parametrize("arguments", [["--device", "quantum"], ["--dtype", "int3"]])
def test_unusable_devices(arguments):
    assert run(GOLDEN / "text_nucleus.safetensors", *arguments) == 2


def test_half_precision_is_near():
    report = verify(GOLDEN / "text_pgm_backbone_learn_freqs.safetensors", dtype=torch.bfloat16)
    assert report.passed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint16])
def test_ids_may_be_of_any_type(path, dtype, tmp_path):
    """Of few ids: uint16 is what codes of images are stored in."""
    whole = load_file(path)
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    fits = lambda tensor: tensor.dtype == torch.int64 and bool(((tensor >= least) & (tensor <= most)).all())
    ids = {name: tensor.to(dtype) for name, tensor in whole.items() if fits(tensor)}
    if not ids:
        pytest.skip("nothing to change")
    save_file({**whole, **ids}, tmp_path / path.name, metadata(path))
    if "tiny_io" in path.name:
        shutil.copy(GOLDEN / "text_pgm_tiny.ckpt", tmp_path)
    assert verify(tmp_path / path.name, more=MORE).passed


ODD = {
    "text_pgm_loss": ("algo", "sampling", "model"), "image_loss_pgm": ("config",), "text_sampler_pgm_uniform": ("sampler", "mask_index", "bos"),
    "text_harness_mdlm": ("algo", "mask_index"),
}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in ODD.items() for key in keys])
@pytest.mark.parametrize("value", ["null", "3", "[]", '"x"'])
def test_odd_metadata_is_one_sentence_and_the_next_file_is_checked(kind, key, value, tmp_path, capsys):
    path = next(iter(sorted(GOLDEN.glob(f"{kind}*.safetensors"))))
    save_file(load_file(path), tmp_path / path.name, {**metadata(path), key: value})
    code = run(tmp_path / path.name, GOLDEN / "text_nucleus.safetensors")
    printed = capsys.readouterr()
    assert "top_p_0.95" in printed.out and "Traceback" not in printed.err and code in (0, 1, 2)
    assert code == 0 or len(printed.err.strip().splitlines()) <= 1


def test_texts_of_another_form_are_one_sentence(tmp_path, capsys):
    (tmp_path / "text_data.json").write_text('{"group_texts": {}}')
    assert run(tmp_path / "text_data.json") == 2
    assert "is not a complete file of kind text_data" in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert run(tmp_path / "nope.safetensors") == 2
    assert "does not exist" in capsys.readouterr().err


def test_greedy_removal_replaces_known_tokens_too(tmp_path):
    """As the specification says of PGM's naive sampler; by hand here, with the recorded numbers of the ancestral one."""
    path = next(iter(sorted(GOLDEN.glob("text_sampler_pgm_naive_*.safetensors"))))
    tensors, said = load_file(path), metadata(path)
    case = Case.read(path, torch.device("cpu"), torch.float32)
    names, mask = sorted(case.names("rng/")), case.mask_id
    tokens = torch.full_like(tensors["out"], mask)
    tokens[:, 0] = bos_of(case)
    steps = len(names) // 2 - 1
    times, size = torch.linspace(1, 1e-5, steps + 1), (1 - 1e-5) / steps

    def law() -> torch.Tensor:
        logits = case.model(tokens, tokens != mask).detach()
        return logits.index_fill(-1, torch.tensor([mask]), -torch.inf).log_softmax(-1)

    for step, time in enumerate(times[:-1]):
        race, uniform = (tensors[name] for name in names[2 * step : 2 * step + 2])
        drawn = (law().double().exp() / (1e-10 - (race + 1e-10).log())).argmax(-1)
        before, after = (1 - (1 - 1e-3) * t for t in (time, time - size))
        tokens = torch.where((uniform < (after - before) / (1 - before)) & (tokens == mask), drawn, tokens)
    known, out = tokens.clone(), law().argmax(-1)
    assert (out[:, 0] != known[:, 0]).any()
    settings = json.loads(said["sampling"]) if "sampling" in said else {}
    kept = {name: tensor for name, tensor in tensors.items() if name not in names[2 * steps :]}
    save_file({**kept, "out": out}, tmp_path / path.name, {**said, "sampling": json.dumps({**settings, "noise_removal": "greedy"})})
    report = verify(tmp_path / path.name)
    assert [each.name for each in report.found if not each.passed] in ([], ["metadata network_calls"])
