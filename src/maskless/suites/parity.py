"""`parity`: golden files, as `maskless verify` compares them, with one result for each.

The value is the worst error relative to its tensor's largest entry; how many tensors are beyond tolerance stands in the details.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from maskless.evaluation.golden import Case, Report, verify
from maskless.evaluation.results import NAME, Precision, Result
from maskless.evaluation.settings import Parity
from maskless.suites.session import Session

BEYOND = "beyond_tolerance"


def evaluate_parity(session: Session, settings: Parity) -> Iterator[Result]:
    """Compare golden files with this build, on the device of the model.

    Raises:
        ValueError: no files, or one that cannot be checked.
    """
    files = golden_files(settings.files)
    for path in session.counted("golden files", files, len(files)):
        yield _result(session, verify(path, device=str(session.subject.opened.device), more=MORE))


def golden_files(places: tuple[str, ...]) -> list[Path]:
    """The golden files of some places, folders searched for .safetensors.

    Raises:
        ValueError: there are none, or one has a name that a result cannot have.
    """
    found = [path for place in map(Path, places) for path in (sorted(place.glob("*.safetensors")) if place.is_dir() else [place])]
    if not found:
        raise ValueError(f"no golden file was found in {', '.join(places) or 'nothing'}; set parity.files to files or folders of them")
    if strange := [path for path in found if NAME.fullmatch(path.stem) is None]:
        raise ValueError(f"the golden file {strange[0]} cannot give a result its name; rename it to letters, digits and . _ + = -")
    return found


def _result(session: Session, report: Report) -> Result:
    worst = max(each.relative for each in report.found)
    wrong = [each.name for each in report.found if not each.passed]
    details = {"file": report.path.name, "golden": report.kind, BEYOND: len(wrong), "tensors_beyond": wrong[:20], "unchecked": report.unchecked}
    return session.result(f"worst_error_{report.path.stem}", worst, None, len(report.found), kind="check", details=details,
                          precision=Precision("float32", "float32"))


def check_ema(case: Case) -> None:
    """text_ema*: the moving average after each update, from recorded parameters."""
    from torch import nn

    from maskless.training.ema import effective_decay, update

    def module(prefix: str) -> nn.ParameterList:
        return nn.ParameterList(case.input(name).float().clone() for name in case.names(prefix))

    average, decay = module("init/"), float(case.meta.get("decay", 0.9999))
    steps = sorted({name.split("/")[0] for name in case.names("step")}, key=lambda step: int(step[4:]))
    for n, step in enumerate(steps, 1):
        update(average, module(f"{step}/param"), effective_decay(decay, n))
        for i, shadow in enumerate(average):
            case.expect(f"{step}/shadow{i}", torch.as_tensor(shadow))


def check_schedules(case: Case) -> None:
    """image_schedules*: what decoding knows of them, and the learning rates."""
    from maskless.evaluation.golden.image_samplers import check_schedules as check_tables

    check_tables(case)
    if case.has("lr/iter"):
        check_rates(case)


def check_rates(case: Case) -> None:
    """lr/* of image_schedules*: the learning rates of the released image code, which are ours of one update earlier."""
    from maskless.training.optim import learning_rate
    from maskless.training.recipe import Training

    about = {"base": 1e-4, "floor": 0.01, "max_iter": 1_000_000, "warmup": 2500, **case.meta.get("config", {}).get("lr", {})}
    training = Training(
        steps=about["max_iter"], lr=about["base"], lr_floor=about["base"] * about["floor"], warmup=about["warmup"], schedule="cosine_tail",
    )
    rates = [learning_rate(training, int(n) - 1) for n in case.input("lr/iter")]
    case.expect("lr/value", torch.tensor(rates, dtype=torch.float64))


MORE = {"text_ema": check_ema, "image_schedules": check_schedules}  # kinds of golden files that live above `evaluation`
