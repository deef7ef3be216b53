"""The text that the demo ends with."""

from __future__ import annotations

from collections.abc import Sequence

from torchdali.cli._measurement import Measurement

__all__ = ["facts", "timing"]

_INDENT = "  "
_NAME_WIDTH = 20
_NUMBER_WIDTH = 12
_SHARE_WIDTH = 6


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values below each other."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{_INDENT}{name:<{width}}  {value}" for name, value in pairs)


def timing(columns: Sequence[tuple[str, Measurement]], *, workers: int, epochs: str, on_gpu: bool) -> str:
    """A table of rates and of where the time went.

    Args:
        columns: a name and a measurement for each pipeline.
        workers: processes of each pipeline.
        epochs: which epochs were measured.
        on_gpu: decoding and augmenting was timed by the GPU.
    """
    names = [name for name, _ in columns]
    measurements = [measurement for _, measurement in columns]
    parts = [
        ("decode", [m.decode for m in measurements]),
        ("augment", [m.augment for m in measurements]),
        ("waiting for workers", [m.waiting for m in measurements]),
        ("everything else", [m.rest for m in measurements]),
    ]
    clock = "; decode and augment by the GPU's clock" if on_gpu else ""
    lines = [
        _row("", [f"{name:>{_NUMBER_WIDTH + _SHARE_WIDTH}}" for name in names]),
        _row("images/s", [f"{m.rate:>{_NUMBER_WIDTH}.0f}{'':{_SHARE_WIDTH}}" for m in measurements]),
        f"{_INDENT}({epochs})",
        "",
        f"{_INDENT}ms for an image, and share of the time{clock}",
        *(_row(name, [_part(m, s) for m, s in zip(measurements, seconds, strict=True)]) for name, seconds in parts),
        "",
        f"{_INDENT}the same in the workers, and share of their time",
        _row("source", [_part(m, m.source, workers) for m in measurements]),
    ]
    return "\n".join(lines)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{_INDENT}{name:<{_NAME_WIDTH}}{''.join(cells)}".rstrip()


def _part(measurement: Measurement, seconds: float, processes: int = 1) -> str:
    milliseconds, share = measurement.milliseconds(seconds), measurement.share(seconds) / processes
    return f"{milliseconds:>{_NUMBER_WIDTH}.2f}{share:>{_SHARE_WIDTH}.0%}"
