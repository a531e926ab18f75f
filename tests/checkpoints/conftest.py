"""The command line in this process, as the tests of the surface have it; nothing is looked for on the network."""
import pytest

from tests.surface.conftest import call

__all__ = ["call"]


@pytest.fixture(autouse=True)
def away(monkeypatch):
    """Nothing is looked for on the network."""
    monkeypatch.setattr("maskless.data.tokenizer.offline", lambda: True)
