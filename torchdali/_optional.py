"""Libraries that torchdali works with where they are installed."""

from __future__ import annotations

__all__ = ["missing"]


def missing(what: str, library: str, extra: str) -> ImportError:
    """What to raise where a library that ``what`` needs is not installed."""
    return ImportError(
        f"{what} needs {library}, which is not installed here. It comes with torchdali's extra: "
        f"pip install 'torchdali[{extra}]'",
        name=library,
    )
