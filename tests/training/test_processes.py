"""Two processes that talk over gloo do what one process does on the same global batch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.training.runs import losses, recipe_file, run_process, several
from tests.training.test_resume import tensors

SAME = ("model.dropout=0", "training.steps=4")


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    result = run_process(folder, folder / "one", *SAME)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("changes", [("training.accumulate=2",), pytest.param((), marks=pytest.mark.slow)])
def test_two_processes_equal_one(single, changes):
    """Losses to 1e-6, which says the same times, masks and rows; weights, average and moments to rounding.

    Not the bias of the swap's keys: it moves all scores of a query alike, so that its gradient is rounding, which Adam makes as large as any.
    """
    out = single / f"two{len(changes)}"
    result = run_process(single, out, *SAME, *changes, processes=2)
    assert result.returncode == 0, result.stderr
    torch.testing.assert_close(torch.tensor(losses(out)), torch.tensor(losses(single / "one")), rtol=1e-6, atol=1e-6)
    ours, theirs = (tensors(run / "checkpoints" / "step-00000004") for run in (out, single / "one"))
    for name, tensor in theirs.items():
        compared = slice(len(tensor) // 2, None) if name.endswith("swap.kv.bias") and tensor.dim() else ...
        torch.testing.assert_close(
            ours[name][compared], tensor[compared], rtol=1e-5, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
def test_sharded_processes_equal_one(single):
    out = single / "sharded"
    result = run_process(single, out, *SAME, "training.strategy=fsdp", processes=2)
    assert result.returncode == 0, result.stderr
    torch.testing.assert_close(torch.tensor(losses(out)), torch.tensor(losses(single / "one")), rtol=1e-5, atol=1e-5)
    assert "view tensor" not in result.stderr                        # whose hooks FSDP could lose


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the threads of a process as Linux lists them")
def test_processes_part_in_good_order(single):
    """Two runs in the same processes and a third that raises: no thread that talks to others outlives the interpreter."""
    result = several("tests.training.leaving", recipe_file(single), single)
    assert "the loss is" in result.stderr or "the gradient norm is" in result.stderr, result.stderr
    assert [(single / f"left-{rank}").read_text() for rank in (0, 1)] == ["", ""]
