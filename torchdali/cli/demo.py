"""Run the tutorial's two pipelines on photographs, and show what they make and where the time goes."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from torchdali import JpegFolder, fn, pipeline_def
from torchdali.cli import _environment as environment
from torchdali.cli._arguments import UserError, check_writable, device, one_line, whole_number
from torchdali.cli._comparison import Comparison
from torchdali.cli._epochs import Phase, run_epochs
from torchdali.cli._measurement import Measurement
from torchdali.cli._report import facts, timing
from torchdali.ops import available_cpus
from torchdali.pipeline import DataNode, TracedPipeline
from torchdali.pool import deferred_interrupt
from torchdali.source import PHOTOGRAPHS

__all__ = ["add_arguments", "run", "training_pipeline", "validation_pipeline"]

VALIDATION_CONTRAST = 1.5
PICTURE_ROWS = 6
"""Photographs of the first batch that are drawn, at most."""
MOST_WORKERS = 256
"""More are a slip of the finger, and would bring the machine down before anything could say so."""


@pipeline_def(last_batch="partial")
def training_pipeline(folder: JpegFolder) -> tuple[DataNode, DataNode, DataNode]:
    """Images with a contrast drawn for each, their labels, and the contrasts."""
    jpegs, labels = fn.external_source(source=folder, num_outputs=2, batch=False, parallel=True)
    images = fn.decoders.image(jpegs, device="mixed")
    contrast = fn.random.uniform(range=(1.0, 3.0))
    return fn.brightness_contrast(images, contrast=contrast), labels, contrast


@pipeline_def(last_batch="partial")
def validation_pipeline(folder: JpegFolder) -> tuple[DataNode, DataNode]:
    """Images with the same contrast for all, and their labels."""
    jpegs, labels = fn.external_source(source=folder, num_outputs=2, batch=False, parallel=True)
    images = fn.decoders.image(jpegs, device="mixed")
    return fn.brightness_contrast(images, contrast=VALIDATION_CONTRAST), labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=PHOTOGRAPHS,
        help="folder of JPEGs: with a file_list.txt, with a sub-folder for each class, or just JPEGs "
        "(default: the photographs that come with torchdali)",
    )
    parser.add_argument(
        "--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1, MOST_WORKERS),
        metavar="N",
        default=max(2, min(4, available_cpus())),
        help="worker processes for each pipeline (default here: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number(1),
        metavar="N",
        help="images in a batch (default: a quarter of the images, from 4 to 64)",
    )
    parser.add_argument("--epochs", type=whole_number(1), metavar="N", default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("torchdali_demo.png"),
        help="picture to write, a PNG (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**63 - 1),
        metavar="N",
        default=0,
        help="of the order and the contrasts in training (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run both pipelines, write the picture, print the report."""
    _check_output(arguments.output)
    training_folder, validation_folder = _open_folders(arguments.data, arguments.seed)
    batch_size = min(arguments.batch_size or max(4, min(64, len(training_folder) // 4)), len(training_folder))
    options = {
        "batch_size": batch_size,
        "py_num_workers": arguments.workers,
        "stage_thread": False,  # two pipelines take turns, and the parts of the time of one have to add up
        "device_id": None if arguments.device == "cpu" else arguments.device,
        "seed": arguments.seed,
    }
    comparison = Comparison(training_folder, min(PICTURE_ROWS, batch_size))
    with ExitStack() as stack:
        try:
            training = training_pipeline(training_folder, **options)
            validation = validation_pipeline(validation_folder, **options)
            for pipeline in (training, validation):
                stack.callback(_close, pipeline)
            for pipeline in (training, validation):
                pipeline.start_py_workers()  # all of them, before the first build() touches CUDA
            for pipeline in (training, validation):
                pipeline.build()
        except (RuntimeError, ValueError, OSError) as error:  # no such device, no more processes
            raise UserError(one_line(error)) from error
        phases = [
            Phase("training", training, training_folder, comparison.look_at_training),
            Phase("validation", validation, validation_folder, comparison.look_at_validation),
        ]
        measurements = run_epochs(phases, arguments.epochs)
    _save(comparison, arguments.output)
    columns = [(phase.name, measurement) for phase, measurement in zip(phases, measurements, strict=True)]
    sys.stdout.write(_report(arguments, training_folder, training, columns))
    return 0


def _check_output(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UserError(f"the picture is a PNG; {str(path)!r} does not end in .png")
    check_writable(path, "--output")


def _open_folders(root: Path, seed: int) -> tuple[JpegFolder, JpegFolder]:
    try:
        return JpegFolder(root, shuffle=True, seed=seed), JpegFolder(root)
    except (OSError, ValueError) as error:
        raise UserError(one_line(error)) from error


def _close(pipeline: TracedPipeline) -> None:
    with deferred_interrupt():  # a second Ctrl-C shall not leave the workers to the first
        pipeline.close()


def _save(comparison: Comparison, path: Path) -> None:
    picture = comparison.draw("training: random contrast", f"validation: contrast {VALIDATION_CONTRAST}")
    try:
        picture.save(path, format="PNG")
    except OSError as error:
        raise UserError(one_line(error)) from error


def _report(
    arguments: argparse.Namespace,
    folder: JpegFolder,
    pipeline: TracedPipeline,
    columns: list[tuple[str, Measurement]],
) -> str:
    epochs, workers = arguments.epochs, arguments.workers
    where = "the photographs of torchdali" if arguments.data == PHOTOGRAPHS else str(folder.root)
    classes = len(set(folder.labels))
    on_gpu = pipeline.device.type == "cuda"
    pairs = [
        ("data", f"{where}: {_count(len(folder), 'image')} in {_count(classes, 'class', 'classes')}"),
        (
            "run",
            f"{_count(epochs, 'epoch')}, batches of {pipeline.batch_size}, {_count(workers, 'worker')} for each pipeline, "
            f"seed {arguments.seed}",
        ),
        ("device", _device_name(pipeline.device)),
        ("versions", ", ".join(f"{name} {version}" for name, version in environment.versions().items())),
    ]
    if on_gpu:
        pairs.append(("CUDA", environment.describe_cuda()))
    pairs.append(("picture", str(arguments.output)))
    measured = "one epoch, the first" if epochs == 1 else f"measured without the first of {epochs} epochs"
    table = timing(columns, workers=workers, epochs=measured, on_gpu=on_gpu)
    return f"{facts(pairs)}\n\n{table}\n"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _device_name(place: torch.device) -> str:
    if place.type == "cuda":
        return f"{torch.cuda.get_device_name(place)} ({place})"
    return f"{environment.cpu_name()}, {_count(available_cpus(), 'CPU')}"
