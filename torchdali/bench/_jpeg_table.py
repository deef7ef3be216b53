"""The report on engines for people, as tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from torchdali.bench._jpeg_feeds import ENGINE_TITLES, JOBS
from torchdali.bench._jpeg_report import EngineReport, Group, Line
from torchdali.bench._summary import Summary
from torchdali.bench._table import INDENT, aligned, counted

__all__ = ["engines_as_text"]

_NONE = "-"
_BEST = " *"
_LEGEND = (
    "Medians over rounds. ratio: torchdali's figure divided by this one's. *: the fastest way of using the engine.",
    "CPU s: user and system time for 1000 images, of the engine's process and all that it started. first batch: from the",
    "start of the workers until a batch is on the device, without imports.",
)
_LEGEND_OF_TRAINING = (
    "waits: share of the time for which the training waited for the next batch. stalls: the same, as torchdali counts it.",
)

Column: TypeAlias = tuple[str, str, Callable[[Line], str]]


def engines_as_text(report: EngineReport) -> str:
    """A table for each job and batch size, what its columns mean, and the machine."""
    groups = list(report.groups())
    training = report.benchmark == "train"
    legend = (*_LEGEND, *(_LEGEND_OF_TRAINING if training else ()))
    parts = [
        INDENT + _head(report),
        *(f"{INDENT}{_title(report, group)}\n{_table(group, training=training)}" for group in groups),
        "\n".join(INDENT + line for line in legend),
        aligned(_machine_rows(report), str.ljust),
    ]
    return "\n\n".join(parts)


def _head(report: EngineReport) -> str:
    settings = report.settings
    where = report.results.gpu_name or "the CPU (no CUDA device was used)"
    rounds = counted(report.rounds, "round")
    if report.benchmark == "train":
        return f"{settings['model']} fed with JPEGs, on {where}: {rounds} of {counted(settings['steps'], 'step')}"
    return f"JPEGs to batches, on {where}: {rounds} of {settings['seconds']:g} s"


def _title(report: EngineReport, group: Group) -> str:
    if report.benchmark == "train":
        mode = report.settings["compile_mode"]
        compiled = f"torch.compile ({mode})" if mode else "not compiled"
        precision = "bfloat16 autocast" if report.results.gpu_name else "float32"
        return f"batches of {group.batch_size}; {precision}, channels last, {compiled}, SGD"
    return f"{group.job}, batches of {group.batch_size}: {JOBS[group.job]}"


def _table(group: Group, *, training: bool) -> str:
    columns = _columns(training=training)
    columns = [column for column in columns if any(column[2](line) != _NONE for line in group.lines)]
    names = [line.title + (_BEST if line.best and _has_variants(line, group) else "") for line in group.lines]
    rows = [
        ["", *(above for above, _, _ in columns)],
        ["engine", *(below for _, below, _ in columns)],
        *([name, *(cell(line) for _, _, cell in columns)] for name, line in zip(names, group.lines, strict=True)),
    ]
    return aligned(rows, str.rjust)


def _has_variants(line: Line, group: Group) -> bool:
    return sum(other.engine == line.engine for other in group.lines) > 1


def _columns(*, training: bool) -> list[Column]:
    columns = [
        ("images/s", "median", lambda line: _rate(line.images_per_second.median)),
        ("", "spread", lambda line: f"{_rate(line.images_per_second.min)}-{_rate(line.images_per_second.max)}"),
        ("", "ratio", _ratio("images_per_second")),
    ]
    if training:
        columns += [
            ("share of", "synthetic", _median("of_synthetic", ".1%")),
            ("", "waits", _median("waited_share", ".1%")),
            ("", "stalls", _median("stalled_share", ".1%")),
        ]
    return [
        *columns,
        ("CPU s", "per 1000", _median("cpu_seconds_per_1000", ".3f")),
        ("", "ratio", _ratio("cpu_seconds_per_1000")),
        ("GPU", "MB", _median("gpu_bytes", ".0f", 1e-6)),
        ("", "ratio", _ratio("gpu_bytes")),
        ("first", "batch, s", _median("first_batch_seconds", ".2f")),
        ("", "ratio", _ratio("first_batch_seconds")),
    ]


def _median(name: str, form: str, factor: float = 1.0) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        summary: Summary | None = getattr(line, name)
        return _NONE if summary is None else format(summary.median * factor, form)

    return cell


def _ratio(name: str) -> Callable[[Line], str]:
    return lambda line: f"{line.ratios[name].median:.2f}x" if name in line.ratios else _NONE


def _last_error(message: str) -> str:
    """The line of a program's last words that says what went wrong: of a traceback, the one with the error's name."""
    lines = message.splitlines() or [""]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Killed)\b", line)]
    return (errors or lines)[-1]


def _rate(value: float) -> str:
    """A rate in whole numbers; with decimals where these would say nothing."""
    return f"{value:.{0 if value >= 10 else 1 if value >= 1 else 2}f}"


def _machine_rows(report: EngineReport) -> list[list[str]]:
    machine, results = report.machine, report.results
    facts: list[tuple[str, Any]] = [
        ("GPU", results.gpu_name),
        ("driver", machine["driver"]),
        ("GPU memory is that of", results.gpu_memory_method),
        ("processor", machine["processor"]),
        ("CPUs", machine["cpus"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("date", machine["date"]),
        ("command", machine["command"]),
    ]
    rows = [[name, str(value)] for name, value in facts if value is not None]
    rows += [[ENGINE_TITLES[engine], f"missing: {what}"] for engine, what in results.missing.items()]
    for failure in results.failures:
        title = f"{ENGINE_TITLES[failure.engine]}{f', {failure.variant}' if failure.variant else ''}"
        last = _last_error(failure.message)
        rows.append([title, f"failed, {failure.job}, batches of {failure.batch_size}: {last}"])
    return rows
