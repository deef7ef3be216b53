"""What ``torchdali bench jpeg`` and ``torchdali bench train`` run."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torchdali.bench._jpeg import JpegSettings, count_jpeg_steps, measure_jpeg
from torchdali.bench._jpeg_chart import MissingMatplotlibError, require_matplotlib, write_chart
from torchdali.bench._jpeg_feeds import Files
from torchdali.bench._jpeg_report import EngineReport
from torchdali.bench._jpeg_run import Results
from torchdali.bench._jpeg_table import engines_as_text
from torchdali.bench._jpeg_variants import FeedSettings
from torchdali.bench._train import TrainSettings, count_train_steps, measure_train
from torchdali.cli import _environment as environment
from torchdali.cli._arguments import UserError, check_writable, one_line
from torchdali.ops import available_cpus
from torchdali.pipeline._placement import check_placement

__all__ = ["check_chart", "run_engines"]


class Steps(Protocol):
    """A progress bar that is begun."""

    def step(self, name: str) -> None:
        """The next step begins."""


ProgressBar = Callable[[int], AbstractContextManager[Steps]]
"""Makes one of so many steps."""


def check_chart(name: str | None) -> None:
    """Refuse before anything is measured what could not be drawn in the end.

    Raises:
        UserError: the file cannot be, or there is no matplotlib.
    """
    if name is None:
        return
    path = Path(name)
    if path.suffix.lower() != ".png":
        raise UserError(f"the chart is a PNG; {name!r} does not end in .png")
    check_writable(path, "--chart")
    try:
        require_matplotlib()
    except MissingMatplotlibError as error:
        raise UserError(str(error)) from error


def run_engines(
    arguments: argparse.Namespace,
    find_device: Callable[[str], str],
    progress: ProgressBar,
    save: Callable[[dict[str, Any]], None],
) -> tuple[dict[str, Any], str]:
    """Measure, or read what was measured; draw the chart.

    Args:
        arguments: of one of the two benchmarks.
        find_device: what ``--device`` means here.
        progress: makes a progress bar.
        save: called with the figures after each measurement, so that they are not lost if a later one is.

    Returns:
        The figures for JSON, and the tables.

    Raises:
        UserError: files or processes that are wanted are not to be had.
    """
    check_chart(arguments.chart)
    report = _measure(arguments, find_device, progress, save) if arguments.from_json is None else _read(arguments)
    text = engines_as_text(report)
    if not report.results.runs:
        raise UserError(f"nothing was measured:\n{text}")
    if arguments.chart is not None:
        try:
            write_chart(report, Path(arguments.chart))
        except (OSError, ValueError) as error:
            sys.stdout.write(text + "\n\n")  # it took long
            raise UserError(f"--chart {arguments.chart}: {one_line(error)}") from error
    return report.as_dict(), text


def _read(arguments: argparse.Namespace) -> EngineReport:
    try:
        report = EngineReport.from_dict(json.loads(Path(arguments.from_json).read_text()))
        if report.benchmark in ("jpeg", "train"):
            report.as_dict()
            engines_as_text(report)
    except OSError as error:
        raise UserError(f"--from-json {arguments.from_json}: {one_line(error)}") from error
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        raise UserError(
            f"--from-json {arguments.from_json}: this is damaged, or not what --json wrote ({type(error).__name__}: "
            f"{one_line(error)}); measure again"
        ) from error
    if report.benchmark != arguments.benchmark:
        raise UserError(
            f"--from-json {arguments.from_json}: these are figures of bench {report.benchmark}; give them to that command"
        )
    return report


def _measure(
    arguments: argparse.Namespace,
    find_device: Callable[[str], str],
    progress: ProgressBar,
    save: Callable[[dict[str, Any]], None],
) -> EngineReport:
    try:
        Files(arguments.data)
    except (OSError, ValueError) as error:
        raise UserError(one_line(error)) from error
    if arguments.dali_path is not None and not Path(arguments.dali_path).is_dir():
        raise UserError(
            f"--dali-path {arguments.dali_path}: there is no such folder; it is the one that has nvidia/ in it"
        )
    try:
        check_placement(arguments.placement or "main", arguments.gpu_workers, stage_thread=True)
    except ValueError as error:
        raise UserError(f"--placement, --gpu-workers: {one_line(error)}") from error
    feeds = _feeds(arguments, find_device(arguments.device))
    machine = {
        "processor": environment.cpu_name(),
        "cpus": available_cpus(),
        "driver": environment.kernel_module_version(),
        "versions": environment.versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "torchdali", *sys.argv[1:]]),
    }
    settings: JpegSettings | TrainSettings
    if arguments.benchmark == "jpeg":
        settings = JpegSettings(
            feeds,
            arguments.jobs,
            arguments.batch_size,
            arguments.rounds,
            arguments.seconds,
            arguments.warmup,
            arguments.warmup_seconds,
        )
        steps = count_jpeg_steps(settings)
    else:
        settings = TrainSettings(
            feeds,
            arguments.model,
            arguments.batch_size,
            arguments.steps,
            arguments.warmup,
            arguments.rounds,
            arguments.image_size,
            arguments.compile_mode,
        )
        steps = count_train_steps(settings)

    def report(results: Results) -> EngineReport:
        return EngineReport(arguments.benchmark, dataclasses.asdict(settings), machine, results)

    with progress(steps) as bar:
        try:
            if isinstance(settings, JpegSettings):
                results = measure_jpeg(settings, bar.step, lambda some: save(report(some).as_dict()))
            else:
                results = measure_train(settings, bar.step, lambda some: save(report(some).as_dict()))
        except OSError as error:  # no more processes, CUDA cannot be used
            raise UserError(one_line(error)) from error
    return report(results)


def _feeds(arguments: argparse.Namespace, place: str) -> FeedSettings:
    given = {name: getattr(arguments, name) for name in ("placement", "gpu_workers", "cpu_share")}
    return FeedSettings(
        arguments.data,
        arguments.engines,
        place,
        arguments.workers,
        arguments.torch_workers,
        arguments.dali_workers,
        arguments.dali_path,
        {name: value for name, value in given.items() if value is not None},
    )
