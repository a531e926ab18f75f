"""Training speed: every contender is timed the same number of times, on the same rows."""
from __future__ import annotations

import pytest
import torch

from maskless.evaluation.training_speed import TrainingSetting, training_timings

SMALL = TrainingSetting(batch=2, length=16, vocab_size=32, width=16, heads=2, layers=2)
NAMES = ["mdlm", "ar", "any-order", "pgm", "pgm-dense", "pgm-segments", "pgm-plain"]
CPU = torch.device("cpu")


def test_every_contender_is_timed():
    lines: list[str] = []
    found = training_timings(SMALL, NAMES, CPU, repeats=2, progress=lines.append)
    assert [each.name for each in found] == NAMES
    assert all(len(each.seconds) == 2 and each.tokens == 32 for each in found) and len(lines) == 3 * len(NAMES)
    assert [each.attention for each in found[4:]] == ["dense", "segments", "plain"]
    assert found[3].attention in ("dense", "segments", "plain") and found[0].attention == ""
    ratio, low, high = found[3].relative(found[0])
    assert low <= ratio <= high and "ms a step" in found[0].line()


def test_unknown_contenders_are_refused():
    with pytest.raises(ValueError, match="no contender pgm-varlen here; choose from mdlm, ar, pgm"):
        training_timings(SMALL, ["pgm-varlen"], CPU)
