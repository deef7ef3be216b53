"""Pixels that a pipeline's workers have decoded ahead of the stage, and what its decoders say of what they want.

A decoder that is given a file asks here, by the file's address, whether there are pixels of it. It takes them only if they
were made with its own settings and the file is still what was decoded. It also notes what it was given, from which
whoever shares out the work learns what to have decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from torchdali.tensorlist import TensorList

__all__ = ["Asked", "BegunDecoding", "DecodeSettings", "Decoded", "Observation", "version_of"]


class DecodeSettings(NamedTuple):
    """What the pixels of a file depend on where a CPU decodes it."""

    mode: str
    apply_exif_orientation: bool
    max_pixels: int
    library: str
    """Whose functions decode: ``"torchvision"`` or ``"torchcodec"``."""


class Observation(NamedTuple):
    """What decoders were given in a batch; it can be pickled."""

    wanted: tuple[tuple[int, DecodeSettings], ...]
    """Number of the sources' output, and the settings; an entry for each call."""

    @classmethod
    def of(cls, asked: Sequence[tuple[int, Asked]]) -> Observation:
        """Of the calls of decoders that were given an output of the sources as it is, by its number."""
        return cls(tuple((number, call.settings) for number, call in asked))


class Asked(NamedTuple):
    """A call of a decoder."""

    module: Any
    settings: DecodeSettings
    device: torch.device
    """Where it decodes to."""
    cuts_alike: bool = True
    """Whether the parts of the images that it wants depend on nothing that the call alone has."""


class BegunDecoding(Protocol):
    """What was begun for a decoder before its call."""

    def fits(self, files: Any, asked: Asked) -> bool:
        """Whether it is what this decoder would do with these files."""

    def wait(self) -> Any:
        """What came of it."""


class _Given(NamedTuple):
    nbytes: int
    version: int
    image: torch.Tensor


def version_of(tensor: torch.Tensor) -> int:
    """Goes up when torch writes to the tensor, or to another of the same memory."""
    return 0 if tensor.is_inference() else tensor._version


class Decoded:
    """What is there of a batch.

    Args:
        outputs: of the sources.
        output: number of the one of which there are pixels.
        positions: of the samples in it.
        images: of these, uint8, (C, H, W) on the CPU.
        settings: that they were made with.
        begun: what decoders need not begin with.
    """

    def __init__(
        self,
        outputs: Sequence[TensorList],
        output: int = 0,
        positions: Sequence[int] = (),
        images: Sequence[torch.Tensor] = (),
        settings: DecodeSettings | None = None,
        begun: Sequence[BegunDecoding] = (),
    ) -> None:
        self._outputs = outputs
        self._settings = settings
        self._images: dict[int, _Given] = {}
        for position, image in zip(positions, images, strict=True):
            file = outputs[output][position]
            self._images[file.data_ptr()] = _Given(file.numel(), version_of(file), image)
        self._taken: set[int] = set()
        self._begun = list(begun)
        self._notes: list[tuple[int, Asked]] = []

    def __len__(self) -> int:
        """Images that there are."""
        return len(self._images)

    def take(self, files: TensorList | Sequence[torch.Tensor], asked: Asked) -> dict[int, torch.Tensor]:
        """Note what a decoder was given, and tell what is there of it.

        Args:
            files: that it was given.
            asked: who asks.

        Returns:
            By position in ``files`` the images that there are with these settings, (C, H, W) on the CPU, in memory of their
            own.
        """
        addresses = files.pointers.tolist() if isinstance(files, TensorList) else [file.data_ptr() for file in files]
        if addresses:
            self._notes.append((addresses[0], asked))
        if asked.settings != self._settings or not self._images:
            return {}
        return dict(self._find(files, addresses))

    def _find(
        self, files: TensorList | Sequence[torch.Tensor], addresses: list[int]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        for position, address in enumerate(addresses):
            given = self._images.get(address)
            if given is None:
                continue
            file = files[position]
            if (
                file.dtype != torch.uint8
                or file.shape != (given.nbytes,)
                or not file.is_contiguous()
                or version_of(file) != given.version
            ):
                continue
            again = address in self._taken
            self._taken.add(address)
            yield position, given.image.clone() if again else given.image

    def begun(self, files: Any, asked: Asked) -> BegunDecoding | None:
        """What was begun for this call, to one caller; None if that is nothing."""
        for number, begun in enumerate(self._begun):
            if isinstance(files, TensorList) and begun.fits(files, asked):
                return self._begun.pop(number)
        return None

    def asked(self) -> list[tuple[int, Asked]]:
        """Which of the sources' outputs decoders were given as it is, by its number."""
        calls = []
        for address, asked in self._notes:
            for number, output in enumerate(self._outputs):
                if output.dtype != torch.uint8 or output.device.type != "cpu" or not len(output):
                    continue
                if address == output.pointers[0] or address in output.pointers:
                    calls.append((number, asked))
                    break
        return calls

    def observe(self) -> Observation:
        """What decoders were given, as far as it comes from the sources as it is."""
        return Observation.of(self.asked())
