"""English prose that every Python installation carries: the language reference and the library's docstrings."""
from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from maskless.data.definition import digest

# Not the library's own prose: what pip put there, tests, and a copy of an old grammar.
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
SHORTEST_DOCSTRING = 160  # characters; below that it is a signature in words, not prose
SHORTEST_DOCUMENT = 240


def _source_files() -> Iterator[Path]:
    """The standard library's Python files in a fixed order."""
    for folder, below, names in os.walk(sysconfig.get_path("stdlib")):
        below[:] = sorted(set(below) - SKIPPED)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _docstrings(source: bytes) -> Iterator[str]:
    """Every long docstring of a file, cleaned of indentation. The file is parsed, never imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old files are no concern of ours
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):  # some distributions ship templates and damaged examples
            return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text and len(text) >= SHORTEST_DOCSTRING:
                yield text


def _is_prose(paragraph: str) -> bool:
    """Mostly letters and spaces, and no doctest: tables, code and rulers are left out."""
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return letters >= 0.75 * len(paragraph) and ">>>" not in paragraph


def _documents() -> Iterator[str]:
    try:
        topics = import_module("pydoc_data.topics").topics
    except ImportError:  # a minimal installation: the docstrings remain
        topics = {}
    for name in sorted(topics):
        yield inspect.cleandoc(topics[name])
    for path in _source_files():
        yield "\n\n".join(_docstrings(path.read_bytes()))


def standard_library_prose() -> list[str]:
    """Documents of plain English, one for each topic of `pydoc_data.topics` and each module of the standard library.

    A paragraph that occurred before, anywhere, is left out, so that no text is in two documents and a split by
    document leaks nothing. About 1.5 MB in 420 documents of at least 240 characters; the order is fixed, the text
    depends on the Python version. Takes two seconds the first time.

    Raises:
        ValueError: the installation carries no sources at all.

    Example:
        >>> sum(map(len, standard_library_prose())) > 1_000_000
        True
    """
    return list(_prose())


@cache
def _prose() -> tuple[str, ...]:
    seen: set[str] = set()
    documents = []
    for document in _documents():
        kept = []
        for paragraph in re.split(r"\n\s*\n", document):
            words = " ".join(paragraph.split())
            if words and words not in seen and _is_prose(paragraph):
                seen.add(words)
                kept.append(paragraph.strip("\n").rstrip())
        text = "\n\n".join(kept)
        if len(text) >= SHORTEST_DOCUMENT:
            documents.append(text)
    if not documents:
        raise ValueError("this Python carries no library sources to read prose from: train on text files instead")
    return tuple(documents)


def corpus_identity() -> str:
    """A hash that changes when the corpus would: Python version, names and sizes of the source files. Reads no file."""
    root = sysconfig.get_path("stdlib")
    files = [(os.path.relpath(path, root), path.stat().st_size) for path in _source_files()]
    rules = [SHORTEST_DOCSTRING, SHORTEST_DOCUMENT, 1]  # the last number: change it when a rule above changes
    return digest([sys.version_info[:3], rules, files])
