"""Decoding of parts of images.

The decoders decode whole images, of which the results are views: the same pixels as decoding and cropping, no copy. (None
of them decodes a part without the pixels at its edges differing from those of the whole, where chroma is upsampled.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._arguments import Argument, per_sample
from torchdali.ops._random import Uniform
from torchdali.ops._random_crop import ATTEMPTS, check_random_crop, draws_of_random_crop, random_crop_windows
from torchdali.ops._uncompiled import uncompiled
from torchdali.ops.decode._decode_image import DecodeImage

__all__ = ["DecodeCrop", "DecodeRandomCrop", "DecodeSlice"]


class DecodeRandomCrop(DecodeImage):
    """Decode, and crop a random part of each image, of random area and aspect ratio.

    Args:
        area: lowest and highest share of the image's area.
        aspect_ratio: lowest and highest width divided by height; its logarithm is uniform.
        attempts: windows that are tried before one is taken that fits in any case.
        seed: instead of the pipeline's.
        options: of :class:`DecodeImage`.

    The window lies in the upright image. Its distribution is DALI's: see :mod:`torchdali.ops._random_crop`. The results are
    views of the whole images and keep their memory. In the place of a bad image stands the replacement as it is, or an
    image filled with a value that has the size of the window.
    """

    def __init__(
        self,
        area: tuple[float, float] = (0.08, 1.0),
        aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        *,
        attempts: int = ATTEMPTS,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_random_crop(area, aspect_ratio, attempts)
        self.area = float(area[0]), float(area[1])
        self.aspect_ratio = float(aspect_ratio[0]), float(aspect_ratio[1])
        self.attempts = int(attempts)
        self.draw = Uniform(0.0, 1.0, seed=seed, shape=draws_of_random_crop(attempts), dtype=torch.float64)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"area={self.area}, aspect_ratio={self.aspect_ratio}, {super().extra_repr()}"

    def windows(self, sizes: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """See :meth:`DecodeImage.windows`."""
        uniforms = self.draw.uniforms(len(sizes), draws_of_random_crop(self.attempts))
        windows = random_crop_windows(sizes, uniforms, self.area, self.aspect_ratio, self.attempts)
        self.draw.record(torch.from_numpy(windows))
        return windows


class DecodeCrop(DecodeImage):
    """Decode, and crop a part of a given size from each image.

    Args:
        size: height and width of the part, in pixels; at most those of each image.
        position: top and left edge, as shares of what is left beside the part: (0, 0) top left, (0.5, 0.5) the middle; each a
            number, one number a sample, or a random operator.
        options: of :class:`DecodeImage`.

    The results are views of the whole images. An edge is ``round(position * (image - part))``, as in DALI.
    """

    def __init__(
        self, size: int | tuple[int, int], position: tuple[Argument, Argument] = (0.5, 0.5), **options: Any
    ) -> None:
        super().__init__(**options)
        pair = (size, size) if isinstance(size, int) else tuple(size)
        if len(pair) != 2 or not all(isinstance(value, (int, np.integer)) and value > 0 for value in pair):
            raise ValueError(
                f"size is {size!r}; it is height and width in pixels, two positive integers, or one for both"
            )
        self.size = self._extents = int(pair[0]), int(pair[1])
        # As attributes of their own, so that a pipeline finds the random operators among them.
        self.position_y, self.position_x = position
        self._given: tuple[Argument | None, Argument | None] = None, None

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"size={self.size}, {super().extra_repr()}"

    @uncompiled
    def forward(
        self,
        files: Any,
        *others: Any,
        position_y: Argument | None = None,
        position_x: Argument | None = None,
        **options: Any,
    ) -> Any:
        """Decode; see :meth:`DecodeImage.forward`.

        Args:
            files, others, options: as there.
            position_y, position_x: instead of the module's own.
        """
        self._given = position_y, position_x
        return super().forward(files, *others, **options)

    def windows(self, sizes: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """See :meth:`DecodeImage.windows`.

        Raises:
            ValueError: an image is smaller than the part, or a position is not within [0, 1].
        """
        part = np.array(self.size)
        chosen = [own if given is None else given for given, own in zip(self._given, self._own(), strict=True)]
        places = np.stack([per_sample(place, len(sizes), "position") for place in chosen], 1)
        if not ((places >= 0) & (places <= 1)).all():
            raise ValueError(f"a position is {places[~((places >= 0) & (places <= 1))][0]}; it is within [0, 1]")
        room = sizes - part
        small = (room < 0).any(1) & valid
        if small.any():
            height, width = sizes[small][0]
            raise ValueError(
                f"an image of {height} x {width} is too small for a crop of {self.size[0]} x {self.size[1]}; resize first, "
                "or crop less"
            )
        edges = np.floor(places * np.maximum(room, 0) + 0.5).astype(np.int64)
        return np.concatenate([edges, np.broadcast_to(part, edges.shape)], 1)

    def _own(self) -> tuple[Argument, Argument]:
        return self.position_y, self.position_x

    def _cuts_alike(self) -> bool:
        return self._given == (None, None)


class DecodeSlice(DecodeImage):
    """Decode, and cut the same part out of each image.

    Args:
        anchor: top and left edge.
        shape: height and width.
        normalized: both are shares of the image's height and width, else pixels.
        options: of :class:`DecodeImage`.

    The results are views of the whole images. Edges are rounded: ``round(anchor * size)`` to
    ``round((anchor + shape) * size)``, as in DALI.
    """

    def __init__(
        self, anchor: tuple[float, float], shape: tuple[float, float], *, normalized: bool = True, **options: Any
    ) -> None:
        super().__init__(**options)
        for name, values in (("anchor", anchor), ("shape", shape)):
            if len(tuple(values)) != 2 or not all(np.isfinite(value) and value >= 0 for value in values):
                raise ValueError(f"{name} is {values!r}; it is two numbers, vertical and horizontal, of at least 0")
        if normalized and any(a + s > 1 for a, s in zip(anchor, shape, strict=True)):
            raise ValueError(
                f"anchor {anchor!r} and shape {shape!r} reach beyond the image: as shares they add up to 1 at most"
            )
        self.anchor = float(anchor[0]), float(anchor[1])
        self.shape = float(shape[0]), float(shape[1])
        self.normalized = normalized

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"anchor={self.anchor}, shape={self.shape}, normalized={self.normalized}, {super().extra_repr()}"

    def windows(self, sizes: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """See :meth:`DecodeImage.windows`.

        Raises:
            ValueError: the part reaches beyond an image.
        """
        scale = sizes.astype(np.float64) if self.normalized else np.ones(sizes.shape)
        start = np.floor(np.array(self.anchor) * scale + 0.5).astype(np.int64)
        end = np.floor((np.array(self.anchor) + np.array(self.shape)) * scale + 0.5).astype(np.int64)
        small = (end > sizes).any(1) & valid
        if small.any():
            height, width = sizes[small][0]
            raise ValueError(
                f"the part from {self.anchor} of {self.shape} pixels reaches beyond an image of {height} x {width}; "
                "cut less, or give shares of the image (normalized=True)"
            )
        return np.concatenate([start, end - start], 1)
