"""The live line of commands that take long."""
from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rich.progress import Progress, ProgressColumn


def live_line(*columns: ProgressColumn, quiet: bool = False) -> Progress:
    """A line that is drawn on a terminal and gone at the end; elsewhere nothing is drawn, where it would end with an empty line."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console()
    an_hour = 3600.0                                                # of updates that speak of the time left; some are minutes apart
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_interactive, speed_estimate_period=an_hour)


def passing(what: str, *, quiet: bool) -> AbstractContextManager[Callable[[int], None]]:
    """A live line with the number of images that went by, and their speed; call it with the number."""
    return nullcontext(lambda done: None) if quiet else Passing(what)


class Passing:
    """The line of `passing`."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> Passing:
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self.bar = live_line(SpinnerColumn(), TextColumn("{task.completed:,.0f} images"), TextColumn("{task.fields[speed]}"), TimeElapsedColumn())
        self.bar.start()
        self.task = self.bar.add_task(self.what, total=None, speed="")
        self.begun: int | None = None
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def __call__(self, done: int) -> None:
        self.begun = done if self.begun is None else self.begun
        seconds = self.bar.tasks[0].elapsed or 0.0
        speed = f"{(done - self.begun) / seconds:,.1f} images/s" if seconds > 1 else ""
        self.bar.update(self.task, completed=done, speed=speed)
