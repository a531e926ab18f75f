"""Documents in local files: .txt, .jsonl, .parquet, of sequences also .fasta; all but .parquet also compressed (.gz)."""
from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOBase
from itertools import chain
from pathlib import Path
from typing import Any

from maskless.data.definition import utf8

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
FASTA = (".fasta", ".fasta.gz", ".fa", ".fa.gz")


def find_files(place: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The file `place`, or every readable file below the folder `place`, sorted by path.

    Raises:
        ValueError: there is none, or the file is of another kind.
    """
    path, kinds = Path(place).expanduser(), ", ".join(suffixes)
    if path.is_file():
        if not path.name.endswith(suffixes):
            raise ValueError(f"{path} is of a kind that cannot be read here: use one of {kinds}")
        return [path]
    if not path.is_dir():
        raise ValueError(f"there is no file or folder {place}: correct the path")
    found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(suffixes))
    if not found:
        raise ValueError(f"the folder {path} holds no data: put {kinds} files into it")
    return found


def fingerprint(place: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[tuple[str, int, int]]:
    """Name, size and time of change (ns) of every file: what a store compares instead of reading them again."""
    return [stamp(path, place) for path in find_files(place, suffixes)]


def stamp(path: Path, place: str) -> tuple[str, int, int]:
    """Name, size and time of change (ns) of a file at or below `place`."""
    status = path.stat()
    return path.relative_to(Path(place).expanduser().parent).as_posix(), status.st_size, status.st_mtime_ns


def read_documents(path: Path, *, document: str, field: str) -> Iterator[str]:
    """The documents of one file.

    Args:
        path: the file.
        document: what one document of a .txt file is: the whole "file", a "paragraph" (up to a blank line), a "line" (blank ones are left
            out), or a "row" (a line with its end, blank ones as empty documents: how the Hugging Face Hub holds WikiText). Of a .fasta
            file it is what stands between two lines that begin with ">", without ends of lines.
        field: which field of a .jsonl or .parquet record is the text; a record is a document. Of .jsonl also several, "title+text", joined by
            a space, or "sentences*", a list of texts, joined alike.

    Raises:
        ValueError: the file is damaged, no UTF-8, or has no such field.
    """
    if path.name.endswith(".parquet"):
        yield from _parquet(path, field)
    elif ".jsonl" in path.suffixes:
        yield from _json_lines(path, field)
    else:
        with opened(path) as file:
            yield from _fasta(file) if path.name.endswith(FASTA) else DOCUMENTS[document](file)


@contextmanager
def opened(path: Path) -> Iterator[TextIOBase]:
    """The file as text, decompressed if need be. Line ends are kept, a byte order mark is not. Errors while reading name the file."""
    start = gzip.open if path.name.endswith(".gz") else open
    try:
        with start(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): get it again") from None


def _lines(file: TextIOBase) -> Iterator[str]:
    stripped = (line.rstrip("\r\n") for line in file)
    return (line for line in stripped if line.strip())


def _paragraphs(file: TextIOBase) -> Iterator[str]:
    held: list[str] = []
    for line in file:
        if line.strip():
            held.append(line)
        elif held:
            yield "".join(held).rstrip("\r\n")
            held = []
    if held:
        yield "".join(held).rstrip("\r\n")


def _whole(file: TextIOBase) -> Iterator[str]:
    yield file.read()


def _rows(file: TextIOBase) -> Iterator[str]:
    return (line if line.strip() else "" for line in file)


def _fasta(file: TextIOBase) -> Iterator[str]:
    held = ""
    for line in chain(file, [">"]):
        if not line.startswith(">"):
            held += line.strip()
        elif held:
            yield held
            held = ""


DOCUMENTS = {"file": _whole, "paragraph": _paragraphs, "line": _lines, "row": _rows}


def _json_lines(path: Path, field: str) -> Iterator[str]:
    return (_text_of(record, field, where) for where, record in read_records(path))


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Every record of a .jsonl or .jsonl.gz file, with where it stands. Raises ValueError for a line that is not JSON."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"line {number} of {path}"
                yield where, _parsed(line, where)


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON ({error.msg}): the file is damaged or of another kind") from None
    except ValueError:                                              # a number of thousands of digits
        raise ValueError(f"{where} holds a number that is too long to be read: the file is damaged or of another kind") from None
    except RecursionError:
        raise ValueError(f"{where} is JSON nested too deep to be read: the file is damaged or of another kind") from None


def _text_of(record: Any, field: str, where: str) -> str:
    fields = record if isinstance(record, dict) else {}
    if field not in fields and "+" in field:
        return " ".join(_text_of(record, part, where) for part in field.split("+"))
    listed = fields.get(field.removesuffix("*")) if field.endswith("*") else None
    if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
        return _unicode(" ".join(listed), where)
    text = fields.get(field)
    if not isinstance(text, str):
        found = f"is {type(text).__name__}" if field in fields else f"is not among {', '.join(fields) or 'no fields'}"
        raise ValueError(f"the text field {field!r} of {where} {found}: set text_field to one that holds text")
    return _unicode(text, where)


def _unicode(text: str, where: str) -> str:
    """`text`, which a \\u escape may have filled with what no encoding can hold. Raises ValueError then."""
    try:
        utf8(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return text


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(f"reading {path.name} needs pyarrow: pip install 'maskless[data]'") from None
    try:
        table = parquet.ParquetFile(path)
        if field not in table.schema_arrow.names:
            there = ", ".join(table.schema_arrow.names)
            raise ValueError(f"the text field {field!r} of {path} is not among {there}: set text_field")
        for batch in table.iter_batches(batch_size=1000, columns=[field]):
            for record in batch.to_pylist():
                yield _text_of(record, field, str(path))
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file that can be read ({error}): get it again") from None


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and the wanted columns of every row of a .csv or .csv.gz file with a header."""
    with opened(path) as file:
        table = csv.DictReader(file)
        missing = [column for column in columns if column not in (table.fieldnames or [])]
        if missing:
            there = ", ".join(table.fieldnames or []) or "nothing"
            raise ValueError(f"{path} has no column {missing[0]!r}: its header is {there}")
        try:
            for row in table:
                yield table.line_num, tuple(row[column] or "" for column in columns)
        except csv.Error as error:
            raise ValueError(f"line {table.line_num} of {path} is no row of a table ({error}): the file is damaged or of another kind") from None
