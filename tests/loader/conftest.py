"""Fixtures of the loader's tests: programs that are ended, and quick collection of garbage."""

from tests.pool.conftest import _frozen_imports, interpreter, program

__all__ = ["_frozen_imports", "interpreter", "program"]
