"""Who goes together, in which order, and who learns of an error."""
from __future__ import annotations

import threading
import time

import pytest

from maskless.serving.batcher import Batcher, Busy


class Gate:
    """A run that notes what it was given, and is held until it is opened."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.open, self.entered = threading.Event(), threading.Event()

    def __call__(self, kind, asked):
        self.calls.append((kind, list(asked)))
        self.entered.set()
        assert self.open.wait(10)
        if any(what < 0 for what in asked):
            raise ValueError(f"{asked} has a number below 0")
        return [kind * what for what in asked]


def started(batcher: Batcher) -> Batcher:
    threading.Thread(target=batcher.work, daemon=True).start()
    return batcher


def held(gate: Gate, **settings) -> Batcher:
    """A batcher whose worker is busy with a first request."""
    batcher = started(Batcher(gate, wait=0.0, **settings))
    batcher.ask("first", 1)
    assert gate.entered.wait(10)
    return batcher


def test_those_who_ask_alike_go_together_and_the_longest_waiting_first():
    gate = Gate()
    batcher = held(gate, most=3)
    answers = [batcher.ask(kind, what) for kind, what in [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5), ("b", 6)]]
    gate.open.set()
    assert [answer.result(10) for answer in answers] == ["a", "bb", "aaa", "aaaa", "aaaaa", "bbbbbb"]
    assert gate.calls == [("first", [1]), ("a", [1, 3, 4]), ("b", [2, 6]), ("a", [5])]
    batcher.close()


def test_one_waits_for_company_and_not_longer_than_said():
    calls = []
    batcher = started(Batcher(lambda kind, asked: calls.append(list(asked)) or asked, most=2, wait=2.0))
    begun = time.monotonic()
    first, second = batcher.ask("a", 1), batcher.ask("a", 2)
    assert [first.result(10), second.result(10)] == [1, 2] and time.monotonic() - begun < 1.5       # full: nobody waits
    assert batcher.ask("b", 4, alone=True).result(10) == 4 and time.monotonic() - begun < 1.8
    assert batcher.ask("a", 3).result(10) == 3 and time.monotonic() - begun > 2.0
    assert calls == [[1, 2], [4], [3]]
    batcher.close()


def test_an_error_is_for_who_made_it():
    gate = Gate()
    batcher = held(gate)
    good, bad, other = (batcher.ask("a", what) for what in (1, -2, 3))
    gate.open.set()
    assert good.result(10) == "a" and other.result(10) == "aaa"
    with pytest.raises(ValueError, match=r"\[-2\] has a number below 0"):
        bad.result(10)
    batcher.close()


def test_a_full_room_and_a_closed_one_take_no_more():
    gate = Gate()
    batcher = held(gate, room=2)
    waiting = [batcher.ask("a", 1), batcher.ask("b", 2)]
    with pytest.raises(Busy, match="2 requests wait already"):
        batcher.ask("c", 3)
    assert waiting[1].cancel()                                      # who leaves is not served
    gate.open.set()
    batcher.close()
    assert waiting[0].result(10) == "a" and "b" not in dict(gate.calls)
    with pytest.raises(Busy, match="the server is stopping"):
        batcher.ask("a", 1)


def test_an_interrupt_ends_the_work_and_leaves_nobody_waiting():
    def interrupted(kind, asked):
        raise KeyboardInterrupt

    batcher = Batcher(interrupted)
    answers = [batcher.ask("a", 1), batcher.ask("a", 2)]
    batcher.close()
    with pytest.raises(KeyboardInterrupt):
        batcher.work()
    assert all(isinstance(answer.exception(0), Busy) and "stopping" in str(answer.exception(0)) for answer in answers)


def test_those_who_wait_are_told_of_the_end_and_those_who_left_take_no_room():
    batcher = Batcher(lambda kind, asked: asked, room=2)
    first, second = batcher.ask("a", 1), batcher.ask("a", 2)
    with pytest.raises(Busy, match="2 requests wait already"):
        batcher.ask("a", 3)
    first.cancel()
    third = batcher.ask("a", 3)
    batcher.abandon()
    batcher.work()                                                  # which has nothing to do
    assert all(isinstance(answer.exception(0), Busy) for answer in (second, third))
    with pytest.raises(Busy, match="stopping"):
        batcher.ask("a", 4)
