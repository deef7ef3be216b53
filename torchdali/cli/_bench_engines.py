"""``torchdali bench jpeg`` and ``torchdali bench train``: their arguments, and what they run."""

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
from typing import Any, Protocol, TypeVar

import torchvision

from torchdali.bench._jpeg import JpegSettings, count_jpeg_steps, measure_jpeg
from torchdali.bench._jpeg_chart import MissingMatplotlibError, require_matplotlib, write_chart
from torchdali.bench._jpeg_feeds import ENGINES, JOBS, Files
from torchdali.bench._jpeg_report import EngineReport
from torchdali.bench._jpeg_run import Results
from torchdali.bench._jpeg_table import engines_as_text
from torchdali.bench._jpeg_variants import FeedSettings
from torchdali.bench._train import COMPILE_MODES, TrainSettings, count_train_steps, measure_train
from torchdali.cli import _environment as environment
from torchdali.cli._arguments import UserError, check_writable, device, one_line, whole_number
from torchdali.ops import available_cpus
from torchdali.source import PHOTOGRAPHS

__all__ = ["add_jpeg_arguments", "add_train_arguments", "check_chart", "run_engines"]

_MOST_WORKERS = 256

_MOST = 10**6
"""Batches, steps and pixels: beyond that nobody waits."""

_LONGEST = 86400
"""Seconds, likewise."""

_WORKERS = 8
_DALI_WORKERS = (4, 8)
_PLACEMENTS = ("main", "workers", "auto")
_FEEDS = FeedSettings(str(PHOTOGRAPHS), ENGINES, "auto", _WORKERS, 1, _DALI_WORKERS)

Value = TypeVar("Value")


class Steps(Protocol):
    """A progress bar that is begun."""

    def step(self, name: str) -> None:
        """The next step begins."""


ProgressBar = Callable[[int], AbstractContextManager[Steps]]
"""Makes one of so many steps."""


def add_jpeg_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``bench jpeg``."""
    defaults = JpegSettings(_FEEDS)
    _add_common_arguments(parser, ENGINES, ENGINES, defaults.rounds)
    parser.add_argument(
        "--jobs",
        type=_several(_one_of(JOBS)),
        metavar="JOB,...",
        default=defaults.jobs,
        help=f"what is done to the files: {', '.join(JOBS)} (default: all of them)",
    )
    parser.add_argument(
        "--batch-size",
        type=_several(whole_number(1)),
        metavar="N,...",
        default=defaults.batch_sizes,
        help="images in a batch, several sizes are measured one after the other "
        f"(default: {','.join(map(str, defaults.batch_sizes))})",
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        metavar="X",
        default=defaults.seconds,
        help="how long each measurement takes at least (default: %(default)s)",
    )
    parser.add_argument(
        "--warmup",
        type=whole_number(0, _MOST),
        metavar="N",
        default=defaults.warmup,
        help="batches before each measurement (default: %(default)s)",
    )


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``bench train``."""
    defaults = TrainSettings(_FEEDS)
    _add_common_arguments(parser, ("synthetic", *ENGINES), ("synthetic", *ENGINES), defaults.rounds)
    parser.add_argument(
        "--model",
        type=_model,
        metavar="NAME",
        default=defaults.model,
        help="one of torchvision's models that classify (default: %(default)s)",
    )
    for name, least, default, what in (
        ("batch-size", 1, defaults.batch_size, "images in a batch"),
        ("steps", 1, defaults.steps, "steps that are measured"),
        ("warmup", 0, defaults.warmup, "steps before"),
        ("image-size", 32, defaults.image_size, "height and width of the images in pixels"),
    ):
        parser.add_argument(
            f"--{name}",
            type=whole_number(least, _MOST),
            metavar="N",
            default=default,
            help=f"{what} (default: %(default)s)",
        )
    compilation = parser.add_mutually_exclusive_group()
    compilation.add_argument(
        "--compile-mode",
        choices=COMPILE_MODES,
        default=defaults.compile_mode,
        help="of torch.compile; those that record CUDA graphs ask little of the CPU (default: %(default)s)",
    )
    compilation.add_argument(
        "--no-compile", action="store_const", const=None, dest="compile_mode", help="train without torch.compile"
    )


def _add_common_arguments(
    parser: argparse.ArgumentParser, engines: tuple[str, ...], default: tuple[str, ...], rounds: int
) -> None:
    parser.add_argument(
        "--engines",
        type=_several(_one_of(engines)),
        metavar="ENGINE,...",
        default=default,
        help=f"what is compared: {', '.join(engines)} (default: all of them; what is not installed is left out)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=str(PHOTOGRAPHS),
        help="folder of JPEGs, which are repeated (default: the photographs that come with torchdali)",
    )
    parser.add_argument(
        "--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=whole_number(1),
        metavar="N",
        default=rounds,
        help="how often each engine is measured, by turns, each time in a new process (default: %(default)s)",
    )
    count = whole_number(1, _MOST_WORKERS)
    cpus = available_cpus()
    parser.add_argument(
        "--workers",
        type=count,
        metavar="N",
        default=min(_WORKERS, cpus),
        help="worker processes of torchdali (default here: %(default)s)",
    )
    parser.add_argument(
        "--torch-workers",
        type=count,
        metavar="N",
        default=max(1, cpus - 1),
        help="worker processes of torch's DataLoader (default here: %(default)s, all CPUs but one)",
    )
    parser.add_argument(
        "--dali-workers",
        type=_several(count),
        metavar="N,...",
        default=_DALI_WORKERS,
        help="worker processes of DALI; each number is measured, the best is compared with "
        f"(default: {','.join(map(str, _DALI_WORKERS))})",
    )
    parser.add_argument(
        "--dali-path", metavar="DIR", help="folder with DALI in it, put on PYTHONPATH for DALI's processes alone"
    )
    parser.add_argument("--placement", choices=_PLACEMENTS, help="of torchdali.Pipeline: where its stage runs")
    parser.add_argument(
        "--gpu-workers", type=count, metavar="N", help="of torchdali.Pipeline: processes that run the stage"
    )
    parser.add_argument(
        "--cpu-share",
        type=_share,
        metavar="X",
        help="of torchdali.Pipeline: share of the images that are decoded on the CPU, from 0 to 1, or auto",
    )
    parser.add_argument(
        "--chart", metavar="FILE", help="draw the images a second as bars, into a PNG (needs matplotlib)"
    )
    parser.add_argument(
        "--from-json", metavar="FILE", help="measure nothing; show and draw what --json wrote to a file before"
    )


# --- types of arguments -------------------------------------------------------------------------------------------------


def _several(one: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    """Values with commas between them, each once."""
    return lambda text: tuple(dict.fromkeys(one(part.strip()) for part in text.split(",")))


def _one_of(names: Any) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown; it is some of {', '.join(names)}")
        return text

    return parse


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write 0.5, say") from None


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is out of range; it is more than 0 and at most {_LONGEST}")
    return value


def _share(text: str) -> float | str:
    if text == "auto":
        return text
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range; it is from 0 to 1, or auto")
    return value


def _model(text: str) -> str:
    known = torchvision.models.list_models(module=torchvision.models)
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is no model of torchvision.models, such as resnet18 and resnet50")
    return text


# --- running --------------------------------------------------------------------------------------------------------------


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
            feeds, arguments.jobs, arguments.batch_size, arguments.rounds, arguments.seconds, arguments.warmup
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
