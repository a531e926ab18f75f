"""Two processes that talk over gloo do what one process does on the same global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.runs import losses, run_process
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
    """Losses to 1e-6, which says the same times, masks and rows; weights, average and moments to rounding."""
    out = single / f"two{len(changes)}"
    result = run_process(single, out, *SAME, *changes, processes=2)
    assert result.returncode == 0, result.stderr
    torch.testing.assert_close(torch.tensor(losses(out)), torch.tensor(losses(single / "one")), rtol=1e-6, atol=1e-6)
    ours, theirs = (tensors(run / "checkpoints" / "step-00000004") for run in (out, single / "one"))
    for name, tensor in theirs.items():
        torch.testing.assert_close(
            ours[name], tensor, rtol=1e-5, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
def test_sharded_processes_equal_one(single):
    out = single / "sharded"
    result = run_process(single, out, *SAME, "training.strategy=fsdp", processes=2)
    assert result.returncode == 0, result.stderr
    torch.testing.assert_close(torch.tensor(losses(out)), torch.tensor(losses(single / "one")), rtol=1e-5, atol=1e-5)
