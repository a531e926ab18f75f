"""Small things the data modules share: text as bytes, the hash of a definition, files written whole or not at all."""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of `text`. Raises ValueError for half a surrogate pair, which no encoding can hold."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = f"{text[error.start]!r} at character {error.start}"
        raise ValueError(f"the text holds half a surrogate pair, {place}: it is not valid Unicode, repair it") from None


def canonical(definition: Any) -> str:
    """JSON with sorted keys and no spaces: equal definitions give equal text."""
    return json.dumps(definition, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(definition: Any) -> str:
    """sha256 (hex) of a JSON-able definition."""
    return hashlib.sha256(canonical(definition).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON beside `path`, flush it, and rename it into place."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def read_json(path: Path) -> Any:
    """The JSON in `path`. Raises ValueError with its name if it is not readable as JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): it is damaged or of another kind") from None
