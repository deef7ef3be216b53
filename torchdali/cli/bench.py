"""Measure torchdali against what PyTorch has, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from torchdali.bench import (
    CASES,
    IMAGES,
    WORKLOADS,
    Machine,
    OperatorSettings,
    Settings,
    as_dict,
    as_text,
    count_operator_steps,
    count_steps,
    measure,
    measure_operators,
    operators_as_dict,
    operators_as_text,
)
from torchdali.cli import _environment as environment
from torchdali.cli._arguments import UserError, check_writable, device, one_line, whole_number
from torchdali.cli._bench_engine_arguments import add_jpeg_arguments, add_train_arguments
from torchdali.cli._bench_engines import run_engines
from torchdali.errors import DecodeError
from torchdali.ops import available_cpus

__all__ = ["add_arguments", "run"]

MOST_WORKERS = 256
"""More are a slip of the finger, and would bring the machine down before anything could say so."""
MOST_SCALE = 1000.0
QUICK = 1 / 32
_STDOUT = "-"
_MEASURED_TOO = ("triton", "kornia")
"""Packages whose versions matter for operators, where they are installed."""
_BAR_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: the benchmarks, and theirs."""
    benchmarks = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", dest="benchmark", required=True)
    summary = "Compare the worker pool with torch.utils.data.DataLoader: throughput, starts, descriptors, memory."
    pool = benchmarks.add_parser("pool", help=summary[0].lower() + summary[1:].rstrip("."), description=summary)
    pool.set_defaults(program=pool.prog, data=None)
    _add_common_arguments(pool, list(WORKLOADS))
    summary = "Compare torchdali.DataLoader with torch.utils.data.DataLoader, which it takes the place of."
    loader = benchmarks.add_parser("loader", help=summary[0].lower() + summary[1:].rstrip("."), description=summary)
    loader.set_defaults(program=loader.prog)
    _add_common_arguments(loader, [*WORKLOADS, IMAGES])
    _add_data_argument(loader)
    summary = "Compare operators on batches of images with a copy of as many bytes, and with what works image by image."
    operators = benchmarks.add_parser("ops", help=summary[0].lower() + summary[1:].rstrip("."), description=summary)
    operators.set_defaults(program=operators.prog)
    _add_arguments_of_operators(operators)
    summary = "Compare torchdali with DALI and torch's DataLoader: JPEG files to batches, as in DALI's tutorial and for training."
    jpeg = benchmarks.add_parser("jpeg", help=summary[0].lower() + summary[1:].rstrip("."), description=summary)
    jpeg.set_defaults(program=jpeg.prog)
    add_jpeg_arguments(jpeg)
    _add_output_arguments(jpeg)
    summary = "Train a network fed by torchdali, DALI and torch's DataLoader, and by nothing: does the loader keep up?"
    train = benchmarks.add_parser("train", help=summary[0].lower() + summary[1:].rstrip("."), description=summary)
    train.set_defaults(program=train.prog)
    add_train_arguments(train)
    _add_output_arguments(train)


def _add_arguments_of_operators(parser: argparse.ArgumentParser) -> None:
    defaults = OperatorSettings()
    parser.add_argument(
        "--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    _add_size_arguments(parser, defaults.batch_size, "images in the batch", defaults.rounds)
    _add_data_argument(parser)
    parser.add_argument(
        "--case",
        choices=list(CASES),
        action="append",
        help="what to measure; may be given several times (default: all of them)",
    )
    _add_output_arguments(parser)


def _add_data_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="DIR", help="folder with images to decode (default: the photographs that come along)"
    )


def _add_common_arguments(parser: argparse.ArgumentParser, workloads: list[str]) -> None:
    parser.set_defaults(workloads=workloads)
    defaults = Settings()
    parser.add_argument(
        "--workers",
        type=whole_number(1, MOST_WORKERS),
        metavar="N",
        default=defaults.num_workers,
        help="worker processes of each engine (default: %(default)s)",
    )
    _add_size_arguments(parser, defaults.batch_size, "samples in a batch", defaults.rounds)
    parser.add_argument(
        "--workload",
        choices=workloads,
        action="append",
        help="what to load; may be given several times (default: all of them)",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--samples-scale",
        type=_scale,
        metavar="X",
        default=defaults.samples_scale,
        help="make epochs X times as long (default: %(default)s, of a second or so)",
    )
    size.add_argument(
        "--quick",
        dest="samples_scale",
        action="store_const",
        const=QUICK,
        help="make epochs so short that the figures say little: to see that it works",
    )
    _add_output_arguments(parser)


def _add_size_arguments(parser: argparse.ArgumentParser, batch_size: int, samples: str, rounds: int) -> None:
    parser.add_argument(
        "--batch-size", type=whole_number(1), metavar="N", default=batch_size, help=f"{samples} (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=whole_number(1),
        metavar="N",
        default=rounds,
        help="how often each engine is measured, by turns (default: %(default)s)",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", metavar="FILE", help=f"write all figures to a file; '{_STDOUT}': to stdout, instead of the tables"
    )
    parser.add_argument(
        "--no-progress", action="store_true", help="no progress bar; there is none either without a terminal"
    )


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write 0.5, say") from None
    if not 0 < value <= MOST_SCALE:
        raise argparse.ArgumentTypeError(f"{text} is out of range; it is more than 0 and at most {MOST_SCALE:g}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark, print the tables; whatever the figures are, it is a success."""
    _check_json(arguments.json)
    figures, text = _RUNNERS.get(arguments.benchmark, _run_workers)(arguments)
    if arguments.json == _STDOUT:
        sys.stdout.write(_as_json(figures))
        return 0
    sys.stdout.write(text + "\n")
    _save_json(arguments.json, figures)
    return 0


def _as_json(figures: dict[str, Any]) -> str:
    return json.dumps(figures, indent=2) + "\n"


def _save_json(name: str | None, figures: dict[str, Any]) -> None:
    """Write the figures to the file that is wanted, if one is."""
    if name is None or name == _STDOUT:
        return
    try:
        Path(name).write_text(_as_json(figures))
    except OSError as error:
        raise UserError(one_line(error)) from error


def _run_engines(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    return run_engines(
        arguments,
        _find_device,
        lambda steps: _Progress(steps, hidden=arguments.no_progress),
        lambda figures: _save_json(arguments.json, figures),
    )


def _run_workers(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    settings = Settings(
        subject=arguments.benchmark,
        workloads=tuple(dict.fromkeys(arguments.workload or arguments.workloads)),
        num_workers=arguments.workers,
        batch_size=arguments.batch_size,
        rounds=arguments.rounds,
        samples_scale=arguments.samples_scale,
        folder=arguments.data,
    )
    with _Progress(count_steps(settings), hidden=arguments.no_progress) as progress:
        try:
            report = measure(settings, progress.step)
        except OSError as error:  # no more processes, descriptors or memory
            raise UserError(one_line(error)) from error
    machine = Machine(environment.cpu_name(), available_cpus(), environment.versions())
    return as_dict(report, machine), as_text(report, machine)


def _run_operators(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    settings = OperatorSettings(
        cases=tuple(dict.fromkeys(arguments.case or CASES)),
        batch_size=arguments.batch_size,
        rounds=arguments.rounds,
        device=_find_device(arguments.device),
        folder=arguments.data,
    )
    with _Progress(count_operator_steps(settings), hidden=arguments.no_progress) as progress:
        try:
            report = measure_operators(settings, progress.step)
        except (OSError, DecodeError, torch.OutOfMemoryError) as error:
            raise UserError(one_line(error)) from error
    versions = environment.versions()
    for name in _MEASURED_TOO:
        if version := environment.installed_version(name):
            versions[name] = version
    machine = Machine(environment.cpu_name(), available_cpus(), versions)
    return operators_as_dict(report, machine), operators_as_text(report, machine)


_RUNNERS = {"ops": _run_operators, "jpeg": _run_engines, "train": _run_engines}
"""Of the benchmarks that are not of workers alone."""


def _find_device(name: str) -> str:
    """The device that is meant.

    Raises:
        UserError: there is none such.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return "cuda:0" if count else "cpu"
    kind, _, number = name.partition(":")  # by torch.device "cuda:256" is "cuda:0"
    index = int(number or 0)
    if kind == "cuda" and index >= count:
        found = f"there are {count}" if count else "there is no CUDA device"
        raise UserError(f"--device {name}: {found}; --device cpu always works")
    return name if kind == "cpu" else f"cuda:{index}"


def _check_json(name: str | None) -> None:
    """Refuse before anything is measured what could not be written in the end."""
    if name is None or name == _STDOUT:
        return
    check_writable(name, "--json")


class _Bar(tqdm):  # type: ignore[type-arg]  # tqdm takes a type argument for type checkers only
    monitor_interval = 0  # else a thread watches the bar, while processes are forked


class _Progress:
    """A bar on stderr, if that is a terminal."""

    def __init__(self, steps: int, *, hidden: bool) -> None:
        # None: tqdm finds out whether there is a terminal.
        self._bar = _Bar(total=steps, bar_format=_BAR_FORMAT, dynamic_ncols=True, disable=True if hidden else None)
        self._begun = False

    def step(self, name: str) -> None:
        """The next step begins, so the one before it is done."""
        self._bar.set_description_str(name, refresh=False)
        self._bar.update(int(self._begun))
        self._begun = True

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._bar.update()
        self._bar.close()
