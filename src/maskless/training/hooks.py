"""What happens beside the updates: checkpoints, measuring, Ctrl-C. Each is a hook of `fit`, none knows the others."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskless.checkpoints.native import publish
from maskless.training.distributed import Machine
from maskless.training.loop import Update
from maskless.training.records import Journal
from maskless.training.state import TrainState, save_state

if TYPE_CHECKING:
    from maskless.training.recipe import Checkpoints


class Saver:
    """Writes a checkpoint every so many steps, at the last step, and when asked.

    Args:
        run: the run folder.
        machine: every process takes part, the main one writes.
        journal: is read first: a state with a loss that is not finite is never saved.
        when: steps between checkpoints (0: only the last step) and how many complete ones stay.
        last: the final step.
        notes: goes to trainer/state.json.
        describe: gives the keyword arguments of `write_model` for a state; every process asks.
    """

    def __init__(
        self,
        run: Path,
        machine: Machine,
        journal: Journal,
        *,
        when: Checkpoints,
        last: int,
        notes: Mapping[str, Any],
        describe: Callable[[TrainState], Mapping[str, Any]],
    ) -> None:
        self.run, self.machine, self.journal = run, machine, journal
        self.when, self.last, self.notes, self.describe = when, last, notes, describe
        self.saved = (
            -1
        )  # the step of this session's newest checkpoint: every process knows it without a look at the disk

    def __call__(self, state: TrainState, update: Update) -> None:
        if update.step == self.last or (self.when.every and update.step % self.when.every == 0):
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Save now, unless this step is saved already."""
        self.journal.flush()
        if state.step == self.saved:
            return
        describe = self.describe(state)

        def write(into: Path) -> None:
            save_state(into, state, main=self.machine.main, notes=self.notes, describe=describe)

        if self.machine.main:
            folder = publish(self.run, state.step, write, keep=self.when.keep)
            self.journal.write({"step": state.step, "checkpoint": folder.name})
        else:
            write(self.run)  # takes part in gathering shards, writes nothing
        self.saved = state.step
        self.machine.barrier()
        self.journal.restart_clock()


class Every:
    """Every so many steps, and at the last one, evaluates `compute(model, step)` on the averaged weights and records
    what it gives."""

    def __init__(
        self, journal: Journal, machine: Machine, compute: Callable[[Any, int], Mapping[str, Any]], *, every: int, last: int
    ) -> None:
        self.journal, self.machine, self.compute, self.every, self.last = journal, machine, compute, every, last

    def __call__(self, state: TrainState, update: Update) -> None:
        if update.step == self.last or (self.every and update.step % self.every == 0):
            self.journal.flush()
            found = self.machine.evaluate(state.best, lambda model: self.compute(model, update.step))
            self.journal.write({"step": update.step, **found})
            self.journal.restart_clock()


@contextmanager
def stop_request(machine: Machine, every: int) -> Iterator[Callable[[], bool]]:
    """A question that is answered True after SIGINT or SIGTERM; a second Ctrl-C interrupts at once.

    Several processes must stop at the same step: they compare notes every `every` steps, when the device is read
    anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may listen to signals
        return
    asked, steps = [], [0]

    def handler(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop() -> bool:
        steps[0] += 1
        if machine.world == 1:
            return bool(asked)
        return steps[0] % every == 0 and machine.any(bool(asked))

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
