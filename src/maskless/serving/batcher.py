"""One worker that answers many askers: what is asked alike while it is busy goes through the model together."""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

STOPPING = "the server is stopping"
Run = Callable[[Any, list[Any]], Sequence[Any]]
"""(a kind, what was asked of that kind) -> an answer for each."""


class Busy(Exception):
    """So many wait already that one more would wait too long."""


@dataclass
class Asked:
    what: Any
    until: float                                                    # how long it waits for company
    answer: Future[Any] = field(default_factory=Future)


class Batcher:
    """Answers in one thread, those first who have waited longest, and with them all who ask for the same kind.

    The thread is the one that calls `work`. Let it be the one that loaded the model: where two threads have multiplied on as many cores,
    OpenMP no longer keeps its helpers ready, and a small call takes twice as long (docs/serving.md).

    An error of several together is no answer to any of them: each is then run by itself, and learns of its own.

    Args:
        run: makes the answers, never twice at a time.
        most: how many go together.
        wait: seconds that one who came while nobody was served waits for company.
        room: how many may wait.

    Example:
        >>> batcher = Batcher(lambda kind, asked: [kind * what for what in asked])
        >>> answer = batcher.ask(2, 21)
        >>> batcher.close(), batcher.work(), answer.result()
        (None, None, 42)
    """

    def __init__(self, run: Run, *, most: int = 32, wait: float = 0.005, room: int = 1024):
        self.run, self.most, self.wait, self.room = run, most, wait, room
        self.waiting: dict[Hashable, deque[Asked]] = {}             # by kind; the kind that has waited longest comes first
        self.changed, self.closed = threading.Condition(), False

    def ask(self, kind: Hashable, what: Any, *, alone: bool = False) -> Future[Any]:
        """The answer to come.

        Args:
            kind: who is served together.
            what: given to `run`.
            alone: nobody else will ask for this kind, so it need not wait for company.

        Raises:
            Busy: if `room` others wait, or the batcher was closed.
        """
        asked = Asked(what, time.monotonic() + (0.0 if alone else self.wait))
        with self.changed:
            if self.closed or sum(not one.answer.cancelled() for queue in self.waiting.values() for one in queue) >= self.room:
                raise Busy(STOPPING if self.closed else f"{self.room} requests wait already; try again in a moment")
            self.waiting.setdefault(kind, deque()).append(asked)
            self.changed.notify()
        return asked.answer

    def close(self) -> None:
        """Take no more; `work` returns when those who wait have their answers."""
        with self.changed:
            self.closed = True
            self.changed.notify()

    def abandon(self) -> None:
        """Take no more, and tell those who wait."""
        self.close()
        with self.changed:
            for one in [one for queue in self.waiting.values() for one in queue]:
                if one.answer.set_running_or_notify_cancel():
                    one.answer.set_exception(Busy(STOPPING))
            self.waiting.clear()

    def work(self) -> None:
        """Answer until closed."""
        while (taken := self._next()) is not None:
            kind, asked = taken
            self._answer(kind, [one for one in asked if one.answer.set_running_or_notify_cancel()])

    def _next(self) -> tuple[Hashable, list[Asked]] | None:
        """The kind that has waited longest, and who goes together; None when there is nobody left and never will be."""
        with self.changed:
            while not self.waiting:
                if self.closed:
                    return None
                self.changed.wait()
            kind, queue = next(iter(self.waiting.items()))
            while len(queue) < self.most and not self.closed and (left := queue[0].until - time.monotonic()) > 0:
                self.changed.wait(left)
            together = [queue.popleft() for _ in range(min(self.most, len(queue)))]
            del self.waiting[kind]
            if queue:
                self.waiting[kind] = queue                          # behind the others
            return kind, together

    def _answer(self, kind: Hashable, asked: list[Asked]) -> None:
        if not asked:
            return
        try:
            answers = self.run(kind, [one.what for one in asked])
        except BaseException as error:                              # whatever it is belongs to who asked
            if isinstance(error, Exception) and len(asked) > 1:
                for one in asked:
                    self._answer(kind, [one])
                return
            for one in asked:
                one.answer.set_exception(error if isinstance(error, Exception) else Busy(STOPPING))
            if not isinstance(error, Exception):
                raise
            return
        for one, answer in zip(asked, answers, strict=True):
            one.answer.set_result(answer)
