"""The journal of a run: one stream of records, and whoever wants to read it.

A record is a dict with `step` and numbers or text: updates (`loss`, `grad_norm`, `lr`, `tokens`, `seconds`,
`tokens_per_second`), validations (`bound`, ...), samples, checkpoints, notes. metrics.jsonl, TensorBoard, W&B, the
progress bar and a user's callbacks all receive the same ones.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from maskless.training.loop import Update
from maskless.training.state import TrainState

Sink = Callable[[Mapping[str, Any]], None]


class Journal:
    """Collects updates on the device, reads them `every` so many steps in one go, and hands records to the sinks.

    Args:
        sinks: receive every record, in order.
        every: steps between two readings of the device (the loop waits for it then, and only then).
        last: the final step; read there too.
        advice: what to do after a loss that is not a number: completes the sentence "...; ".
        more: what else the host knows of an update, asked right after it.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        every: int,
        last: int,
        advice: Callable[[], str],
        more: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.sinks, self.every, self.last, self.advice, self.more = sinks, every, last, advice, more
        self.pending: list[tuple[Update, Mapping[str, Any]]] = []
        self.since = time.perf_counter()

    def __call__(self, state: TrainState, update: Update) -> None:
        self.pending.append((update, self.more()))
        if update.step % self.every == 0 or update.step == self.last:
            self.flush()

    def flush(self) -> None:
        """Read what is pending. Raises ValueError if a loss or a gradient is not finite: nothing is saved after
        that."""
        if not self.pending:
            return
        updates, self.pending = self.pending, []
        losses, norms, tokens = (
            torch.stack(column).tolist() for column in zip(*((u.loss, u.norm, u.tokens) for u, _ in updates))
        )
        seconds = (time.perf_counter() - self.since) / len(updates)
        for (update, more), loss, norm, count in zip(updates, losses, norms, tokens, strict=True):
            for what, value in (("loss", loss), ("gradient norm", norm)):
                if not math.isfinite(value):
                    raise ValueError(f"the {what} is {value} at step {update.step}; {self.advice()}")
            speed = count / seconds
            self.write(
                {
                    "step": update.step,
                    "loss": loss,
                    "grad_norm": norm,
                    "lr": update.rate,
                    "tokens": count,
                    "seconds": round(seconds, 6),
                    "tokens_per_second": round(speed, 1),
                    **more,
                }
            )
        self.since = time.perf_counter()

    def write(self, record: Mapping[str, Any]) -> None:
        for sink in self.sinks:
            sink(record)

    def restart_clock(self) -> None:
        """Time spent outside of training (validation, saving) is nobody's speed."""
        self.since = time.perf_counter()


class JsonLines:
    """metrics.jsonl: one record a line, flushed at once; null for what is infinite, such as the standard error of one row. On resume the lines
    after the checkpoint are dropped first."""

    def __init__(self, path: Path, *, upto: int) -> None:
        self.path = path
        if path.exists():
            _keep_until(path, upto)
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (lives as long as the run)

    def __call__(self, record: Mapping[str, Any]) -> None:
        try:
            self.file.write(json.dumps({name: _finite(value) for name, value in record.items()}, allow_nan=False) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(
                f"{self.path} could not be written ({error.strerror}); make room, then continue with --resume"
            ) from error

    def close(self) -> None:
        self.file.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keep_until(path: Path, step: int) -> None:
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if _step_of(line) <= step]
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(partial, path)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; none if there is no such file. Lines cut by a crash are left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _step_of(line) < math.inf]


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut by a crash


class Memory(list):
    """Keeps the records, for the `Run` that `train` returns."""

    def __call__(self, record: Mapping[str, Any]) -> None:
        self.append(dict(record))


def check_trackers(log: Any) -> None:
    """Raise ValueError if a recipe's `log` asks for a tracker that is not installed."""
    for name in ("tensorboard", "wandb"):
        if (value := getattr(log, name)) not in (None, False) and find_spec(name) is None:
            said = f"log.{name} is {str(value).lower()} and {name} is not installed"
            raise ValueError(f"{said}; pip install 'maskless[track]', or leave log.{name} out")


def tensorboard(folder: Path) -> Sink:
    """Scalars and texts for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def sink(record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "step":
                writer.add_scalar(name, value, record["step"])
            elif isinstance(value, list):
                writer.add_text(name, "\n\n".join(map(str, value)), record["step"])
        writer.flush()

    return sink


def weights_and_biases(project: str, folder: Path) -> Sink:
    """Records for Weights & Biases."""
    import wandb  # type: ignore[import-not-found]

    run = wandb.init(project=project, name=folder.name, dir=str(folder), resume="allow", id=folder.name)

    def sink(record: Mapping[str, Any]) -> None:
        run.log({name: value for name, value in record.items() if isinstance(value, (int, float))}, step=record["step"])

    return sink
