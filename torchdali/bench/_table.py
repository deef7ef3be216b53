"""A report for people, as tables, and for programs, as what JSON can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchdali.bench._benchmark import Report
from torchdali.bench._measure import WorkloadResult
from torchdali.bench._overheads import DESCRIPTORS_BAR, RESTART_BAR, Overheads
from torchdali.bench._summary import Summary

__all__ = ["INDENT", "Machine", "aligned", "as_dict", "as_text", "counted"]

INDENT = "  "
_GAP = "  "
_SUBJECTS = {"pool": "torchdali's pool", "loader": "torchdali.DataLoader"}


@dataclass(frozen=True)
class Machine:
    """Where a benchmark ran."""

    processor: str
    cpus: int
    """That this process may use."""
    versions: Mapping[str, str]


# --- JSON -----------------------------------------------------------------------------------------------------------


def as_dict(report: Report, machine: Machine) -> dict[str, Any]:
    """All figures, those of each round too."""
    restart, kept = report.torchdali.restart_ms.median, _kept_descriptors(report.torchdali)
    return {
        "benchmark": report.settings.subject,
        "settings": dataclasses.asdict(report.settings),
        "workloads": [{**dataclasses.asdict(result), "reaches_bar": result.reaches_bar} for result in report.workloads],
        "overheads": {
            "stock": dataclasses.asdict(report.stock),
            "torchdali": dataclasses.asdict(report.torchdali),
        },
        "bars": {
            "restart_ms": {"bar": RESTART_BAR, "reaches_bar": restart <= RESTART_BAR},
            "descriptors": {"bar": DESCRIPTORS_BAR, "reaches_bar": kept <= DESCRIPTORS_BAR},
        },
        "machine": {
            **dataclasses.asdict(machine),
            "copy_gigabytes_per_second": {
                str(threads): dataclasses.asdict(rate) for threads, rate in report.copy_rates.items()
            },
        },
    }


# --- text -----------------------------------------------------------------------------------------------------------


def as_text(report: Report, machine: Machine) -> str:
    """Three tables: throughput, overheads, machine. Medians, and the spread from the least to the most."""
    settings = report.settings
    head = (
        f"{INDENT}{_SUBJECTS[settings.subject]} and the stock DataLoader: {counted(settings.num_workers, 'worker')}, "
        f"batches of {settings.batch_size}, {counted(settings.rounds, 'round')}"
    )
    machine_rows = [
        ["processor", machine.processor],
        ["CPUs", str(machine.cpus)],
        *(
            [f"copying, {counted(threads, 'thread')}", f"{rate.median:.1f} GB/s ({rate.min:.1f}-{rate.max:.1f})"]
            for threads, rate in report.copy_rates.items()
        ),
        ["versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())],
    ]
    tables = [
        aligned(_throughput_rows(report.workloads), str.rjust),
        aligned(_overhead_rows(report), str.rjust),
        aligned(machine_rows, str.ljust),
    ]
    return "\n\n".join([head, *tables])


def _throughput_rows(results: Sequence[WorkloadResult]) -> list[list[str]]:
    rows = [
        ["", "samples/s", "", "", "", "", "MB/s", "", "CPU s/GB", ""],
        ["workload", "stock", "torchdali", "ratio", "spread", "bar", "stock", "torchdali", "stock", "torchdali"],
    ]
    for result in results:
        stock, torchdali, ratio = result.stock, result.torchdali, result.ratio
        rows.append(
            [
                result.name,
                f"{stock.samples_per_second.median:.0f}",
                f"{torchdali.samples_per_second.median:.0f}",
                f"{ratio.median:.2f}x",
                f"{ratio.min:.2f}-{ratio.max:.2f}",
                _bar(f"{result.bar:g}x", reached=result.reaches_bar),
                f"{stock.megabytes_per_second.median:.0f}",
                f"{torchdali.megabytes_per_second.median:.0f}",
                f"{stock.cpu_seconds_per_gigabyte.median:.2f}",
                f"{torchdali.cpu_seconds_per_gigabyte.median:.2f}",
            ]
        )
    return rows


def _overhead_rows(report: Report) -> list[list[str]]:
    stock, torchdali = report.stock, report.torchdali
    descriptors = _kept_descriptors(torchdali)
    many = f"{counted(stock.kept_batches, 'batch', 'batches')} kept"

    def times(name: str, of: Callable[[Overheads], Summary], bar: str = "") -> list[str]:
        return [
            name,
            *(f"{of(one).median:.2f} ({of(one).min:.2f}-{of(one).max:.2f})" for one in (stock, torchdali)),
            bar,
        ]

    def numbers(name: str, of: Callable[[Overheads], float], bar: str = "") -> list[str]:
        return [name, *(f"{of(one):.0f}" for one in (stock, torchdali)), bar]

    return [
        ["", "stock", "torchdali", "bar"],
        times("first batch, ms", lambda one: one.first_batch_ms),
        times(
            "epoch restart, ms",
            lambda one: one.restart_ms,
            _bar(f"{RESTART_BAR:g}", reached=torchdali.restart_ms.median <= RESTART_BAR),
        ),
        times("restart to first batch, ms", lambda one: one.restart_to_batch_ms),
        numbers("descriptors, none kept", lambda one: one.none_kept.descriptors),
        numbers(f"descriptors, {many}", lambda one: one.kept.descriptors),
        numbers(
            f"descriptors for {many}",
            _kept_descriptors,
            _bar(str(DESCRIPTORS_BAR), reached=descriptors <= DESCRIPTORS_BAR),
        ),
        numbers("memory, none kept, MB", lambda one: one.none_kept.nbytes / 1e6),
        numbers(f"memory, {many}, MB", lambda one: one.kept.nbytes / 1e6),
        numbers(f"samples in {many}, MB", lambda one: one.kept_bytes / 1e6),
    ]


def _kept_descriptors(overheads: Overheads) -> int:
    return overheads.kept.descriptors - overheads.none_kept.descriptors


def _bar(bar: str, *, reached: bool) -> str:
    return f"{bar} {'yes' if reached else 'no'}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts, such as ``"1 batch"`` and ``"2 batches"``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def aligned(rows: Sequence[Sequence[str]], justify: Callable[[str, int], str]) -> str:
    """Columns as wide as they need to be, the first one flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *map(justify, others, widths[1:])]
        lines.append((INDENT + _GAP.join(cells)).rstrip())
    return "\n".join(lines)
