"""The report on operators for people, as tables, and for programs, as what JSON can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torchdali.bench._ops import OperatorReport
from torchdali.bench._ops_measure import IN_TURN, KORNIA, PER_IMAGE, TORCHVISION, OperatorResult
from torchdali.bench._table import INDENT, Machine, aligned, counted

__all__ = ["operators_as_dict", "operators_as_text"]

_NONE = "-"
_OTHERS = {
    IN_TURN: ("one after", "another"),
    PER_IMAGE: ("per-image", "tensor ops"),
    TORCHVISION: ("per-image", "torchvision v2"),
    KORNIA: ("per-image", "kornia"),
}
_LEGEND = (
    "ms: the device's time of a call with the batch, by its own clock. Python: until the call returns. whole: until the",
    "results are there, which is what the times behind it are to be compared with (in brackets: how many times as long).",
    "MB: what has to be read and written, each byte once. of copy: the share of the rate of a copy of as many bytes.",
)


def operators_as_dict(report: OperatorReport, machine: Machine) -> dict[str, Any]:
    """All figures, those of each round too."""
    return {
        "benchmark": "ops",
        "settings": dataclasses.asdict(report.settings),
        "image_bytes": report.image_bytes,
        "cases": [_case(result) for result in report.results],
        "missing": list(report.missing),
        "machine": {
            **dataclasses.asdict(machine),
            "device_name": report.device_name or machine.processor,
            "kernels": report.kernels,
            "copy_gigabytes_per_second": dataclasses.asdict(report.copy_rate),
        },
    }


def _case(result: OperatorResult) -> dict[str, Any]:
    return {
        **dataclasses.asdict(result),
        "gigabytes_per_second": dataclasses.asdict(result.gigabytes_per_second),
        "share": dataclasses.asdict(result.share),
        "reaches_bars": result.reaches_bars,
    }


def operators_as_text(report: OperatorReport, machine: Machine) -> str:
    """The table of cases, what its columns mean, and the machine. Medians."""
    settings, rate = report.settings, report.copy_rate
    head = (
        f"torchdali's operators on {settings.device}: batches of {counted(settings.batch_size, 'photograph')}, "
        f"{report.image_bytes / 1e6:.0f} MB; {counted(settings.rounds, 'round')}"
    )
    machine_rows = [
        ["device", report.device_name or machine.processor],
        ["processor", machine.processor],
        ["CPUs", str(machine.cpus)],
        ["copying, read and written", f"{rate.median:.1f} GB/s ({rate.min:.1f}-{rate.max:.1f})"],
        ["operators", "kernels for the whole batch" if report.kernels else "image by image, without kernels"],
        *([name, "not installed, so not compared"] for name in report.missing),
        ["versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())],
    ]
    return "\n\n".join(
        [
            INDENT + head,
            aligned(_rows(report.results), str.rjust),
            "\n".join(INDENT + line for line in _LEGEND),
            aligned(machine_rows, str.ljust),
        ]
    )


def _rows(results: Sequence[OperatorResult]) -> list[list[str]]:
    others = [name for name in _OTHERS if any(name in result.others for result in results)]
    rows = [
        ["", "torchdali", "", "", "", "", "", "", *(_OTHERS[name][0] for name in others)],
        ["case", "ms", "Python", "whole", "MB", "GB/s", "of copy", "bar", *(_OTHERS[name][1] for name in others)],
    ]
    for result in results:
        rows.append(
            [
                result.title,
                f"{result.device_ms.median:.3f}",
                _NONE if result.python_ms is None else f"{result.python_ms.median:.3f}",
                f"{result.elapsed_ms.median:.3f}",
                f"{result.nbytes / 1e6:.1f}",
                f"{result.gigabytes_per_second.median:.1f}",
                f"{result.share.median:.0%}",
                _bars(result),
                *(_other(result, name) for name in others),
            ]
        )
    return rows


def _other(result: OperatorResult, name: str) -> str:
    if name not in result.others:
        return _NONE
    other = result.others[name]
    return f"{other.elapsed_ms.median:.1f} ({other.ratio:.1f}x)"


def _bars(result: OperatorResult) -> str:
    if result.reaches_bars is None:
        return _NONE
    parts = [] if result.share_bar is None else [f"{result.share_bar:.0%}"]
    parts += [] if result.python_bar is None else [f"{result.python_bar:g} ms"]
    return f"{', '.join(parts)} {'yes' if result.reaches_bars else 'no'}"
