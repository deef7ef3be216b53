"""What decoders on a GPU have in common: they take whole batches of ordinary JPEGs, and the CPU decodes the rest."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.utils.deterministic

from torchdali.ops._device import current
from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._interface import Decoder, ImageInfo, Mode, Result

__all__ = ["CudaDecoder", "drain", "drained"]

_filling = threading.Lock()


def drain(device: torch.device) -> None:
    """Wait until the current stream has nothing left to do.

    For decoders that do not wait for it, but write to memory that torch's allocator gives out there: kernels that are queued on
    this stream may still be using it.
    """
    torch.cuda.current_stream(device).synchronize()


@contextlib.contextmanager
def drained(device: torch.device) -> Iterator[None]:
    """Context in which such a decoder is called.

    Where algorithms are to be deterministic torch fills new memory, by a kernel on the current stream, which would come after
    what the decoder writes: it does not do so here (``torch.utils.deterministic.fill_uninitialized_memory``), and as this is for
    all threads, they come here one by one.
    """
    drain(device)
    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    settings: Any = torch.utils.deterministic  # a class in a module's place
    with _filling:
        fill, settings.fill_uninitialized_memory = settings.fill_uninitialized_memory, False
        try:
            yield
        finally:
            settings.fill_uninitialized_memory = fill


class CudaDecoder(Decoder):
    """A decoder of which only :meth:`decode_jpegs` is to be written.

    An engine that fails in one image fails in the whole batch and does not say in which. The batch is then halved until
    the image stands alone, so that the others still come from the engine: what becomes of an image does not depend on its
    neighbours. That one image is left to the CPU, which decodes it or says why it cannot be.
    """

    def __init__(self, cpu: CpuDecoder) -> None:
        self._cpu = cpu

    @abstractmethod
    def decode_jpegs(
        self, files: list[torch.Tensor], infos: list[ImageInfo], mode: Mode, device: torch.device
    ) -> list[torch.Tensor | None]:
        """Decode JPEGs that suit an engine.

        Args:
            files, infos: at least one.
            mode: ``"RGB"`` or ``"GRAY"``.
            device: a CUDA device with an index.

        Returns:
            uint8 images (C, H, W) on the device, as stored; None for one that was refused.

        Raises:
            RuntimeError: one of them was refused, which may be any.
        """

    def decode(
        self, files: Sequence[torch.Tensor], infos: Sequence[ImageInfo], mode: Mode, device: torch.device
    ) -> list[Result]:
        """See :meth:`Decoder.decode`."""
        results: dict[int, Result] = {}
        suited: dict[Mode, list[int]] = {}
        for position, info in enumerate(infos):
            if info.suits_engine:
                # Engines that leave an image unchanged leave it in YCbCr.
                engine_mode: Mode = ("GRAY" if info.channels == 1 else "RGB") if mode == "UNCHANGED" else mode
                suited.setdefault(engine_mode, []).append(position)
        for engine_mode, positions in suited.items():
            self._attempt(positions, files, infos, engine_mode, device, results)
        rest = [position for position in range(len(files)) if position not in results]
        if rest:
            decoded = self._cpu.decode([files[n] for n in rest], [infos[n] for n in rest], mode, device)
            results.update(zip(rest, decoded, strict=True))
        return [results[position] for position in range(len(files))]

    def _attempt(
        self,
        positions: list[int],
        files: Sequence[torch.Tensor],
        infos: Sequence[ImageInfo],
        mode: Mode,
        device: torch.device,
        results: dict[int, Result],
    ) -> None:
        try:
            with current(device):
                images = self.decode_jpegs([files[n] for n in positions], [infos[n] for n in positions], mode, device)
        except (torch.OutOfMemoryError, torch.AcceleratorError):  # not the images' fault
            raise
        except RuntimeError as error:
            if "not compiled" in str(error):  # a build without the engine, which refuses every image
                raise
            if len(positions) > 1:
                half = len(positions) // 2
                self._attempt(positions[:half], files, infos, mode, device, results)
                self._attempt(positions[half:], files, infos, mode, device, results)
            return
        results.update((n, image) for n, image in zip(positions, images, strict=True) if image is not None)
