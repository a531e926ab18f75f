"""The run-time checker of annotations: beartype, for which an integer is also a number (PEP 484)."""
from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
