"""Both files, whole or not at all. (`checkpoints.native` could write them too, and would load torch.)"""
from __future__ import annotations

import os
from pathlib import Path

from maskless.evaluation.report.gather import Gathered
from maskless.evaluation.report.markdown import markdown
from maskless.evaluation.report.page import MADE, page

HEAD = 1000                                                         # bytes in which a file of ours says so


def check(path: Path) -> list[Path]:
    """The files of a report. Raises ValueError if one of them exists and is something else, or the folder cannot hold them."""
    name = path.stem if path.suffix in (".html", ".md") else path.name
    files = [path.with_name(f"{name}.html"), path.with_name(f"{name}.md")]
    for file in files:
        if file.is_dir() or (file.exists() and MADE.encode() not in file.read_bytes()[:HEAD]):
            raise ValueError(f"{file} exists and is no report; give another name with --out")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"{above} is a file, so no report can lie below it; give another name with --out")
    return files


def write(found: Gathered, path: Path, name: str = "Results") -> list[Path]:
    """Write PATH.html and PATH.md (PATH may end in one of the two), over an older report if there is one.

    Raises:
        ValueError: a file of this name is something else.
        OSError: it cannot be written; an older report is as it was.
    """
    files = check(path)
    contents = [page(found, name), markdown(found, name)]
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, content in zip(files, contents):
        partial = file.with_name(f".{file.name}.part")
        try:
            partial.write_text(content, encoding="utf-8", errors="replace")
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
    return files
