"""The arguments of ``torchdali bench jpeg`` and ``torchdali bench train``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeVar

import torchvision

from torchdali.bench._jpeg import JpegSettings
from torchdali.bench._jpeg_feeds import ENGINES, JOBS
from torchdali.bench._jpeg_variants import FeedSettings
from torchdali.bench._train import COMPILE_MODES, TrainSettings
from torchdali.cli._arguments import device, whole_number
from torchdali.ops import available_cpus
from torchdali.source import PHOTOGRAPHS

__all__ = ["add_jpeg_arguments", "add_train_arguments"]

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
        help="batches before each measurement at least (default: %(default)s)",
    )
    parser.add_argument(
        "--warmup-seconds",
        type=_not_negative,
        metavar="X",
        default=defaults.warmup_seconds,
        help="and how long they take at least, until all processes are up (default: %(default)s)",
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


def _not_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is out of range; it is from 0 to {_LONGEST}")
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
