"""Asking the Hugging Face Hub, or knowing at once that it cannot be asked."""
from __future__ import annotations

import logging
import os
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

HUB = "huggingface.co"


def offline() -> bool:
    """Whether the Hub's name leads nowhere: then only copies on this machine are looked for, without minutes of retries."""
    if urllib.request.getproxies():
        return False  # a proxy resolves names itself
    try:
        socket.getaddrinfo(urlparse(os.environ.get("HF_ENDPOINT", "")).hostname or HUB, 443)
    except OSError:
        return True
    return False


@contextmanager
def quietly() -> Iterator[None]:
    """Without the client's own messages: what went wrong is said once, by the error."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def reason(error: Exception, away: bool) -> str:
    """Why a fetch failed, as a clause."""
    if away and type(error).__name__ in ("LocalEntryNotFoundError", "OfflineModeIsEnabled"):
        return "this machine is offline and holds no copy"
    said = (str(error).strip().splitlines() or ["no reason given"])[0].split(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {said}"
