"""The command line in this process, as the tests of the surface have it."""
from tests.surface.conftest import call

__all__ = ["call"]
