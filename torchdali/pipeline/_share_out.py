"""Which files of a batch workers decode, how they are told of them, and what comes back.

A worker is told where a file lies in the pool's memory, which it sees too, so nothing of it is sent. Small files, which
the pool does not keep there, are sent. What is made is written to the same memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._decoded import Decoded, DecodeSettings, Given, Observation
from torchdali.ops.decode._file import decode_file
from torchdali.pool import Memory, Ragged, Stacked, empty, worker_memory
from torchdali.source import Predecoded, SourceBatch
from torchdali.source._outputs import of_leaf
from torchdali.tensorlist import TensorList

__all__ = ["Route", "choose", "decode_in_worker", "decoded_by_address", "files_of", "gather", "route_of"]

SENT_BYTES = 16 << 10
"""A file that does not lie in the pool's memory is sent if it is at most so large."""

SHARE_OF_MEMORY = 8
"""All pixels of a batch may take one part in so many of the pool's memory; images that are larger than that allows for each
are left to the stage."""


class Route(NamedTuple):
    """What is decoded."""

    output: int
    """Number of the sources' output."""
    settings: DecodeSettings


class _File(NamedTuple):
    """What a worker is asked for."""

    place: tuple[int, int] | bytes
    """Offset in the pool's memory and length; or the bytes themselves."""
    settings: DecodeSettings
    max_bytes: int


def decode_in_worker(item: _File) -> torch.Tensor | None:
    """The function of the pool: pixels (H, W, C); None where there are none, and the stage shall see for itself why."""
    try:
        if isinstance(item.place, bytes):
            file = torch.frombuffer(bytearray(item.place), dtype=torch.uint8)
        else:
            memory = worker_memory()
            assert memory is not None
            file = torch.from_numpy(memory.view(*item.place))
        # As decoders on the CPU leave them in memory.
        pixels = decode_file(file, item.settings, item.max_bytes).permute(1, 2, 0)
        return empty(tuple(pixels.shape), torch.uint8).copy_(pixels) if pixels.nbytes <= item.max_bytes else None
    except Exception:
        return None


def choose(indices: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """The positions of the samples that workers decode: evenly spread, and always the same for a share.

    Args:
        indices: of the samples in the epoch, (N,): a share of a small batch may be less than one image.
        share: from 0 to 1.
    """
    steps = indices.astype(np.float64)
    slack = 1e-9  # 10 * 0.1 is one whole image
    chosen: npt.NDArray[np.int64] = np.flatnonzero(
        np.floor((steps + 1) * share + slack) > np.floor(steps * share + slack)
    )
    return chosen


def files_of(
    batch: SourceBatch, route: Route, positions: npt.NDArray[np.int64], memory: Memory
) -> tuple[npt.NDArray[np.int64], list[_File]]:
    """What workers are asked for, and the positions of those of the samples for which they can be asked."""
    output = batch.outputs[route.output]
    if not len(output) or output.dtype != torch.uint8 or output.device.type != "cpu":
        return positions[:0], []
    try:
        sizes = output.sizes
    except ValueError:  # of different numbers of dimensions: not all of them are files
        return positions[:0], []
    if sizes.shape[1] != 1:
        return positions[:0], []
    max_bytes = memory.size // (SHARE_OF_MEMORY * len(output))
    taken, files = [], []
    columns = output.pointers[positions], sizes[positions, 0], output.strides[positions, 0]
    for position, *row in zip(positions.tolist(), *(column.tolist() for column in columns), strict=True):
        address, length, stride = row
        if stride != 1 or not length:
            continue
        offset = memory.offset_of(address, length)
        if offset is None and length > SENT_BYTES:
            continue
        place = output[position].numpy().tobytes() if offset is None else (offset, length)
        taken.append(position)
        files.append(_File(place, route.settings, max_bytes))
    return np.array(taken, np.int64), files


def gather(route: Route, positions: npt.NDArray[np.int64], results: Any) -> Predecoded | None:
    """What came back, as :meth:`WorkerPool.collect` gives what is to be stacked; None if that is nothing."""
    if isinstance(results, (Ragged, Stacked)):
        return Predecoded(route.output, positions, of_leaf(results.value, "HWC"), route.settings)
    good = [number for number, result in enumerate(results) if isinstance(result, torch.Tensor)]
    if not good:
        return None
    images = TensorList([results[number] for number in good], "HWC")
    return Predecoded(route.output, positions[good], images, route.settings)


def decoded_by_address(batch: SourceBatch) -> Decoded:
    """A batch's images that workers have decoded, for the :class:`~torchdali.ops.BatchContext`, in the process of the stage.

    Also where there are none yet: decoders note there what they were given.
    """
    if batch.decoded is None:
        return Decoded(batch.outputs, begun=batch.begun)
    output, positions, images, settings = batch.decoded
    return Decoded(batch.outputs, output, Given(positions, _planes(images)), settings, batch.begun)


def _planes(images: TensorList) -> TensorList:
    """Images (H, W, C) as (C, H, W), where they lie."""
    if images.flat is None or images.offsets is None or images.order != (0, 1, 2):
        return TensorList([image.permute(2, 0, 1) for image in images], "CHW")
    return TensorList._of_buffer(images.flat, images.offsets, images.sizes[:, [2, 0, 1]], (1, 2, 0), "CHW")


def route_of(observation: Observation, previous: Route | None) -> Route | None:
    """What to decode after a batch of which this was seen.

    The first output that was decoded in one way only; what was before, if nothing was decoded.
    """
    if not observation.wanted:
        return previous
    by_output: dict[int, set[DecodeSettings]] = {}
    for output, settings in observation.wanted:
        by_output.setdefault(output, set()).add(settings)
    for output, ways in sorted(by_output.items()):
        if len(ways) == 1:
            return Route(output, ways.pop())
    return None
