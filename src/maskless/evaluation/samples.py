"""Samples on disk: drawn once, whatever interrupts the drawing, by one process or by several.

    DIR/samples-NAME.json             what decides every sample: the model's hash, the sampler, the seed, ...
    DIR/samples-NAME.jsonl            one line a sample: index, tokens, text (or label), nfe
    DIR/samples-NAME.1-of-4.jsonl     what process 1 of 4 has drawn so far; gathered into the file above when all is there

Sample i depends on its index and on what the first file says, on nothing else: not on how many there are, nor on who draws them. A process writes a
micro-batch at a time; a line that a kill cut short is dropped and drawn again, every whole line is kept as it is.

M samples of a micro-batch.
"""
from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskless.checkpoints.native import flush_one
from maskless.data.definition import read_json

SCHEMA = "maskless-samples/1"
POLL = 0.5                                                          # seconds between two looks at what other processes have drawn

Sample = dict[str, Any]
Make = Callable[[Sequence[int]], Sequence[Sample]]
"""Draws the samples of a micro-batch by their indices."""


@dataclass(frozen=True)
class Album:
    """The samples of one model drawn in one way.

    Args:
        folder: where they lie.
        name: of the files.
        about: all that decides a sample, JSON.
        micro: M.

    Raises:
        ValueError: the folder holds samples of this name that were drawn in another way, or a damaged file says how.
    """

    folder: Path
    name: str
    about: Mapping[str, Any]
    micro: int

    def __post_init__(self) -> None:
        said = {"schema": SCHEMA, "micro_batch": self.micro, **self.about}
        path = self.folder / f"samples-{self.name}.json"
        if not path.exists():
            if self.files():
                raise ValueError(f"{self.path} lies there without {path.name}, which says how it was drawn; remove it, or choose another name")
            self.folder.mkdir(parents=True, exist_ok=True)
            put_text(path, json.dumps(said, indent=2, ensure_ascii=False) + "\n")
        found = _said(path)
        if changed := [key for key in {**said, **found} if said.get(key) != found.get(key)]:
            key = changed[0]
            raise ValueError(f"the samples of {path} were drawn with {key} {found.get(key)!r} and {said.get(key)!r} is asked for; "
                             "give this evaluation another name or folder, or remove them")

    @property
    def path(self) -> Path:
        return self.folder / f"samples-{self.name}.jsonl"

    def files(self) -> list[Path]:
        """The files that hold samples, the gathered one first."""
        ours = re.compile(rf"samples-{re.escape(self.name)}\.\d+-of-\d+\.jsonl")         # and not those of NAME.v2
        parts = sorted(path for path in self.folder.glob("samples-*.jsonl") if ours.fullmatch(path.name))
        return [*([self.path] if self.path.exists() else []), *parts]

    def read(self) -> dict[int, Sample]:
        """Every whole line of every file, by index."""
        while True:
            try:
                return {sample["index"]: sample for path in self.files() for sample in lines_in(path.read_bytes(), path, torn=True)}
            except FileNotFoundError:                               # gathered by another process in this moment: look again
                continue

    def draw(self, count: int, make: Make, *, part: int = 0, parts: int = 1,
             progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Draw what is missing of this process's share of the first `count` samples: micro-batches part, part + parts, ...

        A micro-batch is drawn whole, and only what is missing of it is written.
        """
        there = set(self.read())
        mine = [range(start, start + self.micro) for start in range(part * self.micro, count, parts * self.micro)]
        wanted = [[index for index in some if index < count] for some in mine]
        done, total = sum(index in there for some in wanted for index in some), sum(map(len, wanted))
        path = self.path if parts == 1 else self.folder / f"samples-{self.name}.{part}-of-{parts}.jsonl"
        progress(done, total)
        if done == total:
            return
        mend(path)
        with open(path, "ab") as file:
            for some, indices in zip(mine, wanted):
                missing = [index for index in indices if index not in there]
                if missing:
                    made = {sample["index"]: sample for sample in make(some)}
                    file.write(b"".join(line_of(made[index]) for index in missing))
                    file.flush()
                    os.fsync(file.fileno())
                    done += len(missing)
                    progress(done, total)

    def gather(self, count: int, *, wait: bool = False, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Sample]:
        """The first `count` samples in order; files of several processes become one.

        Args:
            wait: for other processes that are drawing now.

        Raises:
            ValueError: some are missing.
        """
        begun, there = time.monotonic(), self.read()
        while wait and not all(index in there for index in range(count)):
            time.sleep(max(POLL, 5 * (time.monotonic() - begun)))   # large files are not read all the time
            begun, there = time.monotonic(), self.read()
            progress(sum(index in there for index in range(count)), count)
        if missing := sum(index not in there for index in range(count)):
            raise ValueError(f"{missing} of {count} samples are not drawn yet; run the shards that draw them, or the command without --shard")
        text = b"".join(line_of(there[index]) for index in sorted(there))
        if self.files() != [self.path] or self.path.read_bytes() != text:
            put_text(self.path, text.decode())
            for path in self.files()[1:]:
                path.unlink(missing_ok=True)
        return [there[index] for index in range(count)]


def _said(path: Path) -> dict[str, Any]:
    """How samples were drawn. Raises ValueError if the file does not say it."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not say how its samples were drawn: it must hold a mapping; remove it and the samples, or copy it again")
    return found


def line_of(sample: Sample) -> bytes:
    return (json.dumps(sample, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def read_lines(path: Path) -> list[Sample]:
    """The samples of a file. Raises ValueError for a line that is not a sample, or a file that cannot be read."""
    try:
        return lines_in(path.read_bytes(), path)
    except OSError as error:
        raise ValueError(f"the samples {path} cannot be read: {error.strerror}; give a file of lines of JSON") from None


def lines_in(content: bytes, path: Path, *, torn: bool = False) -> list[Sample]:
    """The samples in the content of a file.

    Args:
        path: of the file, for messages.
        torn: the last line may be cut short by whatever ended its writer, and is then no sample.

    Raises:
        ValueError: a line that is not a sample.
    """
    lines = content.split(b"\n")
    if torn or not lines[-1]:
        lines = lines[:-1]
    found = []
    for number, line in enumerate(lines):
        try:
            found.append({"index": number, **json.loads(line)})
        except (ValueError, TypeError):
            raise ValueError(f"line {number + 1} of {path} is no sample: it must be a JSON object with `text` or `tokens`; correct it") from None
    return found


def mend(path: Path) -> None:
    """Drop a last line that was cut short."""
    if path.exists():
        with open(path, "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def put_text(path: Path, text: str) -> None:
    """Replace a file atomically; several processes may do so at once."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(text, encoding="utf-8")
    flush_one(partial)
    os.replace(partial, path)
