"""The live line of commands that take long."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def live_line(*columns: ProgressColumn, quiet: bool = False) -> Progress:
    """A line that is drawn on a terminal and gone at the end; elsewhere nothing is drawn, where it would end with an empty line."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console()
    an_hour = 3600.0                                                # of updates that speak of the time left; some are minutes apart
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_interactive, speed_estimate_period=an_hour)
