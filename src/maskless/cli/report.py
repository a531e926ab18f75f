"""`maskless report`: one page from result files and run folders."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of results and of runs; what lies inside them is found.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Writes OUT.html and OUT.md, over an older report only.")] = Path("report"),
    title: Annotated[str, typer.Option(help="Stands on top.")] = "Results",
    together: Annotated[bool, typer.Option("--together", help="Refuse what cannot stand in one column; usually it is set apart.")] = False,
) -> None:
    """One self-contained HTML page, and Markdown: tables with errors, quality against speed, samples, curves."""
    from maskless.evaluation.report import gather, refuse_splits, write
    from maskless.evaluation.report.write import check

    check(out)
    found = gather(folders)
    if together:
        refuse_splits(found.entries)
    for path in write(found, out, title):
        typer.echo(path)
