"""The tiny recipes compute what they computed: fp32, one thread, relative 1e-4 (written by golden.py)."""

from __future__ import annotations

import json

import pytest

from tests.training.golden import FILE, NAMES, losses


@pytest.mark.parametrize("name", NAMES)
def test_ten_steps(name, tmp_path):
    assert losses(name, tmp_path) == pytest.approx(json.loads(FILE.read_text())[name], rel=1e-4)
