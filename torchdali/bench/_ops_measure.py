"""Measures one case: torchdali's operators and a copy of as many bytes by turns, then what they are compared with."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from torchdali.bench._ops_cases import Case
from torchdali.bench._ops_clock import Clock, Times, Work, clock_of
from torchdali.bench._summary import Summary, ratios
from torchdali.ops._context import BatchContext, batch_context
from torchdali.ops._erase import Erase
from torchdali.ops._execute import image_sizes
from torchdali.ops._resample import Resample
from torchdali.ops._steps import Sizes, Step
from torchdali.ops._threads import available_cpus
from torchdali.ops._warp import Warp
from torchdali.tensorlist import TensorList

__all__ = [
    "Comparison",
    "OperatorResult",
    "UnequalResultsError",
    "bytes_read",
    "bytes_written",
    "has_kornia",
    "measure_case",
    "names_of_others",
]

Engine: TypeAlias = Callable[[TensorList], Any]

PER_IMAGE, TORCHVISION, KORNIA, IN_TURN = "per_image", "torchvision", "kornia", "in_turn"

_OTHER_ROUNDS = 3
"""What works image by image is slow, and need not be known as exactly."""
_WARM_UP = 3
"""Calls before those that count; one on the CPU, where nothing is compiled."""
_SEED = 20
_DIFFERENCE = 0.01
"""How much of the range of the results those of the operators may be from the definition's, on average: far more than
rounding makes of it, and far less than any mistake."""


class UnequalResultsError(Exception):
    """The operators did not give what their definition gives: what they took is worth nothing."""


@dataclass(frozen=True)
class Comparison:
    """Something else that does what the operators do."""

    elapsed_ms: Summary
    """Until the results were there."""
    ratio: float
    """Its median by that of torchdali."""


@dataclass(frozen=True)
class OperatorResult:
    """What was found in one case. Times are of a call with the whole batch."""

    name: str
    title: str
    bytes_read: int
    """Of the images, each byte that is used once."""
    bytes_written: int
    device_ms: Summary
    """That the device is busy for."""
    python_ms: Summary | None
    """Until the call returns, with nothing else for the device to do; None on the CPU, where it is the whole time."""
    elapsed_ms: Summary
    """Until the results are there."""
    copy_ms: Summary
    """That the device is busy for with a copy that reads and writes as many bytes, measured by turns with ``device_ms``."""
    others: dict[str, Comparison]
    share_bar: float | None
    python_bar: float | None

    @property
    def nbytes(self) -> int:
        """That have to move."""
        return self.bytes_read + self.bytes_written

    @property
    def gigabytes_per_second(self) -> Summary:
        """10^9 bytes that have to move, by the device's time."""
        return Summary.of([self.nbytes / 1e6 / milliseconds for milliseconds in self.device_ms.rounds])

    @property
    def copy_gigabytes_per_second(self) -> Summary:
        """The same, of the copy."""
        return Summary.of([self.nbytes / 1e6 / milliseconds for milliseconds in self.copy_ms.rounds])

    @property
    def share(self) -> Summary:
        """Of the copy's rate, round by round."""
        return ratios(self.copy_ms, self.device_ms)

    @property
    def reaches_bars(self) -> bool | None:
        """Whether the medians are as good as they are to be; None where nothing is asked: most cases, and on the CPU."""
        if (self.share_bar is None and self.python_bar is None) or self.python_ms is None:
            return None
        return (self.share_bar is None or self.share.median >= self.share_bar) and (
            self.python_bar is None or self.python_ms.median <= self.python_bar
        )


# --- bytes ----------------------------------------------------------------------------------------------------------


def bytes_read(steps: Sequence[Step], sizes: Sizes, dtype: torch.dtype) -> int:
    """Bytes of the images that have a part in the results: of the window where one is cut out, else all.

    What a warp does not show is not taken off, nor what filters without antialiasing skip.
    """
    pixels = sizes[:, 1] * sizes[:, 2]
    for step in steps:
        if isinstance(step, Resample):
            starts = np.maximum(step.window[:, :2], 0)
            ends = np.minimum(step.window[:, :2] + step.window[:, 2:], sizes[:, 1:])
            pixels = np.maximum(ends - starts, 0).prod(1)
        elif isinstance(step, Erase) and step.regions.shape[1] == 1:
            pixels = pixels - step.regions[:, 0, 2:].prod(1)
        if isinstance(step, (Resample, Erase, Warp)):
            break  # beyond it places are not those of the image
    return int((sizes[:, 0] * pixels).sum()) * dtype.itemsize


def bytes_written(steps: Sequence[Step], sizes: Sizes, dtype: torch.dtype) -> int:
    """Bytes of the results."""
    for step in steps:
        sizes, dtype = step.sizes(sizes), step.dtype(dtype)
    return int(sizes.prod(1).sum()) * dtype.itemsize


# --- what is compared -----------------------------------------------------------------------------------------------


def has_kornia() -> bool:
    """Whether it is installed; it is not imported."""
    return importlib.util.find_spec("kornia") is not None


def names_of_others(case: Case) -> list[str]:
    """What the operators of a case are compared with."""
    names = [IN_TURN] if case.is_chain else []
    names += [PER_IMAGE, TORCHVISION]
    return [*names, KORNIA] if case.in_kornia and has_kornia() else names


def _engine(name: str, case: Case, sizes: Sizes, dtype: torch.dtype) -> Engine:
    if name == IN_TURN:
        return case.in_turn
    if name == PER_IMAGE:
        return lambda batch: _per_image(case, batch)
    steps = case.steps(sizes, dtype)
    drawn = case.parameters(steps, len(sizes))
    if name == TORCHVISION:
        f: Any = importlib.import_module("torchvision.transforms.v2.functional")
        return lambda batch: case.collect(
            [case.torchvision(f, image, values) for image, values in zip(batch, drawn, strict=True)]
        )
    kornia: Any = importlib.import_module("kornia")
    for step in steps:
        dtype = step.dtype(dtype)

    def one(image: torch.Tensor, values: Any) -> torch.Tensor:
        # It works on floating point from 0 to 1: converting to that, and to levels where those are wanted, is part of it.
        result = case.kornia(kornia, image[None].float().div_(255), values)[0]
        return result.mul(255).round_().to(dtype) if dtype == torch.uint8 else result

    return lambda batch: case.collect([one(image, values) for image, values in zip(batch, drawn, strict=True)])


def _per_image(case: Case, batch: TensorList) -> list[torch.Tensor] | torch.Tensor:
    """The definition, in tensor operations."""
    steps = case.steps(image_sizes(batch, case.name), batch.dtype)
    results = []
    for position, image in enumerate(batch):
        result = image
        for step in steps:
            result = step.plain(result, position)
        results.append(result)
    return case.collect(results)


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_case(case: Case, images: TensorList, *, rounds: int, step: Callable[[str], None]) -> OperatorResult:
    """Measure a case on the device of the images.

    Args:
        case: what is done.
        images: uint8, (3, H, W).
        rounds: how often torchdali and the copy are measured, by turns; what they are compared with, at most 3 times.
        step: called before each engine, with what comes.

    Raises:
        UnequalResultsError: torchdali's results are not those of the definition.
    """
    device, clock = images.device, clock_of(images.device)
    context = BatchContext(_SEED, 0, 0, np.arange(len(images)), device, available_cpus())
    with batch_context(context):  # so that the same is drawn in each call
        step(f"{case.name}: torchdali")
        sizes = image_sizes(images, case.name)
        steps = case.steps(sizes, images.dtype)
        read, written = (function(steps, sizes, images.dtype) for function in (bytes_read, bytes_written))
        _compare(case, images)
        times, copies = _by_turns(clock, case, images, (read + written) // 2, rounds)
        elapsed = _milliseconds([one.done for one in times])
        others = {}
        for name in names_of_others(case):
            step(f"{case.name}: {name}")
            engine = _engine(name, case, sizes, images.dtype)
            clock.wall_seconds(_on(engine, images))
            seconds = [clock.wall_seconds(_on(engine, images))[1] for _ in range(min(rounds, _OTHER_ROUNDS))]
            taken = _milliseconds(seconds)
            others[name] = Comparison(taken, taken.median / elapsed.median)
    on_cuda = device.type == "cuda"
    return OperatorResult(
        name=case.name,
        title=case.title or case.name,
        bytes_read=read,
        bytes_written=written,
        device_ms=_milliseconds([one.device for one in times]),
        python_ms=_milliseconds([one.returned for one in times]) if on_cuda else None,
        elapsed_ms=elapsed,
        copy_ms=_milliseconds(copies),
        others=others,
        share_bar=case.share_bar if on_cuda else None,
        python_bar=case.python_bar if on_cuda else None,
    )


def _milliseconds(seconds: Sequence[float]) -> Summary:
    return Summary.of([1e3 * value for value in seconds])


def _on(engine: Engine, images: TensorList) -> Work:
    """A call with a batch that nothing is known about yet, as a decoder hands it on."""
    batch = TensorList(list(images), images.layout)
    return lambda: engine(batch)


def _by_turns(
    clock: Clock, case: Case, images: TensorList, nbytes: int, rounds: int
) -> tuple[list[Times], list[float]]:
    """Of the operators, and the device's seconds for a copy of ``nbytes``."""
    material = torch.cat([image.reshape(-1) for image in images])
    source = material.repeat(-(-nbytes // len(material)))[:nbytes]
    target = torch.empty_like(source)

    def copy() -> object:
        return target.copy_(source)

    def call() -> Work:
        return _on(case.whole, images)

    for _ in range(_WARM_UP if images.device.type == "cuda" else 1):
        clock.device_seconds(copy)
        clock.times(call)
    operators, copies = [], []
    for _ in range(rounds):
        copies.append(clock.device_seconds(copy))
        operators.append(clock.times(call))
    return operators, copies


def _compare(case: Case, images: TensorList) -> None:
    """See that the operators give what their definition gives."""
    results, expected = case.whole(images), _per_image(case, images)
    for position, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        if result.shape != wanted.shape or result.dtype != wanted.dtype:
            raise UnequalResultsError(
                f"{case.name} made {tuple(result.shape)} of {result.dtype} of image {position}; by its definition it is "
                f"{tuple(wanted.shape)} of {wanted.dtype}"
            )
        result, wanted = result.float(), wanted.float()
        spread = max(float(wanted.max() - wanted.min()), 1e-3)
        difference = float((result - wanted).abs().mean()) / spread
        if not difference <= _DIFFERENCE:
            raise UnequalResultsError(
                f"{case.name} made of image {position} what is {difference:.1%} of its range from its definition"
            )
