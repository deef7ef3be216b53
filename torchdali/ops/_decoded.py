"""Pixels that a pipeline's workers have decoded ahead of the stage, and what its decoders say of what they want.

A decoder that is given a file asks here, by the file's address, whether there are pixels of it. It takes them only if they
were made with its own settings and the file is still what was decoded. It also notes what it was given, from which
whoever shares out the work learns what to have decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from torchdali.tensorlist import TensorList

__all__ = ["Asked", "BegunDecoding", "DecodeSettings", "Decoded", "Given", "Observation", "version_of"]

Integers: TypeAlias = npt.NDArray[np.int64]


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


@dataclass(frozen=True)
class Given:
    """Images that are there of a batch of files."""

    positions: Integers
    """Of the files, (K,), in ascending order."""
    images: TensorList
    """Theirs, uint8, (C, H, W), on the CPU."""

    @classmethod
    def of(cls, images: Mapping[int, torch.Tensor]) -> Given:
        """Images by position."""
        batch = TensorList(list(images.values()), "CHW", dtype=torch.uint8, device=torch.device("cpu"))
        return cls(np.array(list(images), np.int64), batch)

    def __len__(self) -> int:
        return len(self.positions)


def version_of(tensor: torch.Tensor) -> int:
    """Goes up when torch writes to the tensor, or to another of the same memory."""
    return 0 if tensor.is_inference() else tensor._version


class Decoded:
    """What is there of a batch.

    Args:
        outputs: of the sources.
        output: number of the one of which there are pixels.
        given: of its samples.
        settings: that they were made with.
        begun: what decoders need not begin with.
    """

    def __init__(
        self,
        outputs: Sequence[TensorList],
        output: int = 0,
        given: Given | None = None,
        settings: DecodeSettings | None = None,
        begun: Sequence[BegunDecoding] = (),
    ) -> None:
        self._outputs = outputs
        self._output = output
        self._given = Given.of({}) if given is None else given
        self._settings = settings
        self._versions: list[int] = []
        """Of the files of which there is an image."""
        if len(self._given):
            files = outputs[output]
            if files.flat is not None:
                self._versions = [version_of(files.flat)] * len(self._given)
            else:
                self._versions = [version_of(files[position]) for position in self._given.positions.tolist()]
        self._taken: set[int] = set()
        self._begun = list(begun)
        self._notes: list[tuple[int, Asked]] = []

    def __len__(self) -> int:
        """Images that there are."""
        return len(self._given)

    def take(self, files: TensorList | Sequence[torch.Tensor], asked: Asked) -> Given:
        """Note what a decoder was given, and tell what is there of it.

        Args:
            files: that it was given.
            asked: who asks.

        Returns:
            The images that there are of them with these settings, in memory of their own.
        """
        if len(files):
            first = files.pointers[0] if isinstance(files, TensorList) else files[0].data_ptr()
            self._notes.append((int(first), asked))
        if asked.settings != self._settings or not len(self._given):
            return Given.of({})
        if files is self._outputs[self._output] and not self._taken:
            flat = files.flat
            if flat is not None and version_of(flat) == self._versions[0]:
                self._taken.update(range(len(self._given)))
                return self._given
        return Given.of(dict(self._find(files)))

    def _find(self, files: TensorList | Sequence[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
        """By the addresses of the files: these may be others, or in another order."""
        addresses = files.pointers.tolist() if isinstance(files, TensorList) else [file.data_ptr() for file in files]
        output = self._outputs[self._output]
        numbers = {int(output.pointers[position]): n for n, position in enumerate(self._given.positions.tolist())}
        for position, address in enumerate(addresses):
            number = numbers.get(address)
            if number is None:
                continue
            file, original = files[position], output[int(self._given.positions[number])]
            if (
                file.dtype != torch.uint8
                or file.shape != original.shape
                or not file.is_contiguous()
                or version_of(file) != self._versions[number]
            ):
                continue
            image = self._given.images[number]
            again = number in self._taken
            self._taken.add(number)
            yield position, image.clone() if again else image

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
