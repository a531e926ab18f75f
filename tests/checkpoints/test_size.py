"""Conversion at the released size: memory and time. Slow: it writes 0.8 GB."""
from __future__ import annotations

import subprocess
import sys

import pytest

from tests.training.runs import REPOSITORY, environment


def run(*words: object) -> list[float]:
    command = [sys.executable, "-m", "tests.checkpoints.synthetic", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment(), timeout=900)
    assert ended.returncode == 0, ended.stderr
    return [float(word) for word in ended.stdout.split()]


@pytest.mark.parametrize("sizes", [
    pytest.param((768, 8, 50258), id="200M", marks=pytest.mark.slow),
    pytest.param((512, 4, 50258), id="78M"),
])
def test_a_conversion_keeps_one_tensor_in_memory(sizes, tmp_path):
    """Anonymous memory of the whole process, Python and torch included, against the bytes that are written."""
    run("make", tmp_path / "pgm_8_8.ckpt", *sizes)
    peak, written, seconds = run("convert", tmp_path / "pgm_8_8.ckpt", tmp_path / "m")
    print(f"peak {peak / 1e6:.0f} MB, written {written / 1e6:.0f} MB, {peak / written:.2f}x, {seconds:.1f} s")
    assert peak < 1.3 * written


@pytest.mark.slow
def test_a_loaded_model_starts_soon(tmp_path):
    """Load, and the first 32 tokens of a text of 1,024 in 32 steps, warm, in processor time."""
    from maskless.data.subwords import SubwordTokenizer

    words = {**{chr(33 + n): n for n in range(90)}, **{f"w{n}": n for n in range(90, 50256)}, "<|endoftext|>": 50256}
    SubwordTokenizer({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": words, "merges": []}}).save(tmp_path)
    run("make", tmp_path / "pgm_8_8.ckpt")
    run("convert", tmp_path / "pgm_8_8.ckpt", tmp_path / "m", tmp_path / "tokenizer.json")
    found = [run("sample", tmp_path / "m") for _ in range(3)]
    print(found)
    assert min(load + first for _, load, _, first, *_ in found) < 5
