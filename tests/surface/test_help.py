"""Help in a process of its own: quick, and without torch."""
from __future__ import annotations

import statistics
import subprocess
import sys

from tests.training.runs import REPOSITORY, environment

MEASURED = """
import resource, sys
sys.argv = ["maskless", *sys.argv[1:]]
from maskless.cli.main import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
used = resource.getrusage(resource.RUSAGE_SELF)
print("torch" in sys.modules, used.ru_utime + used.ru_stime)
"""


def measured(*arguments: str) -> tuple[str, float]:
    ended = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, cwd=REPOSITORY, env=environment())
    assert ended.returncode == 0, ended.stderr
    torch, seconds = ended.stdout.splitlines()[-1].split()
    return torch, float(seconds)


def test_help_takes_less_than_half_a_second():
    """Processor time, start of Python included: the wall clock of a busy machine says nothing."""
    found = [measured("--help") for _ in range(3)]
    assert all(torch == "False" for torch, _ in found)
    assert statistics.median(seconds for _, seconds in found) < 0.5


def test_the_installed_command_helps():
    ended = subprocess.run([sys.executable, "-m", "maskless.cli.main", "train", "--help"], capture_output=True, text=True, cwd=REPOSITORY,
                           env=environment())
    assert ended.returncode == 0 and "RECIPE" in ended.stdout
