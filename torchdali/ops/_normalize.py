"""Normalisation: images to the mean and deviation that a network was trained with.

    out = (in - mean) * scale / std + shift

Source: NVIDIA DALI's documentation of ``fn.normalize``, whose numbers these are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._arguments import Argument, check_argument, check_dtype, of_call, per_channel
from torchdali.ops._colour import Colour
from torchdali.ops._execute import has_kernels, image_sizes
from torchdali.ops._geometry_arguments import check_pixels, require, shown
from torchdali.ops._operator import ImageOperator
from torchdali.ops._steps import Sizes, convert
from torchdali.ops._threads import parallel_map
from torchdali.ops._uncompiled import uncompiled
from torchdali.tensorlist import TensorList

__all__ = ["Normalize", "check_number", "normalization"]

_AXES = "CHW"


def check_number(value: float, name: str, lowest: float = -np.inf) -> float:
    """A setting that is one number.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or below ``lowest``.
    """
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} is {value!r}; it is one number")
    if not np.isfinite(value) or value < lowest:
        raise ValueError(
            f"{name} is {value!r}; it is a finite number" + (f" of at least {lowest:g}" if lowest > -np.inf else "")
        )
    return float(value)


def normalization(
    mean: npt.NDArray[np.float64],
    std: npt.NDArray[np.float64],
    scale: float,
    shift: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Factors and offsets of the formula, both (N,) or both (N, C).

    Args:
        mean, std: (N, 1 or C).
        scale, shift: as in the formula.

    Raises:
        ValueError: a deviation is not positive, or there are more means than deviations, or the reverse, and neither is one.
    """
    require(np.isfinite(mean), mean, "mean", "finite")
    require((std > 0) & np.isfinite(std), std, "std", "positive and finite: it is divided by")
    if 1 not in (mean.shape[1], std.shape[1]) and mean.shape[1] != std.shape[1]:
        raise ValueError(
            f"mean is given for {mean.shape[1]} channels and std for {std.shape[1]}; give as many, or one number"
        )
    factor = scale / std
    offset = shift - mean * factor
    if offset.shape[1] == 1:
        return factor[:, 0], offset[:, 0]
    return np.broadcast_to(factor, offset.shape).copy(), offset


class Normalize(ImageOperator):
    """Subtract a mean and divide by a standard deviation, as DALI's ``fn.normalize``.

    ``mean`` and ``std`` are in the units of the images. Those of torchvision's models are for images from 0 to 1; images of
    type uint8 go from 0 to 255::

        Normalize(mean=[0.485 * 255, 0.456 * 255, 0.406 * 255], std=[0.229 * 255, 0.224 * 255, 0.225 * 255])

    What is not given is computed from the images, in double precision.

    Args:
        mean: one number, one for each channel, or an array (N, channels); a random operator draws one a sample. None: the
            mean of the image.
        std: in the same way, positive. None: the root of the image's mean squared distance from ``mean``.
        scale: the standard deviation of the results.
        shift: the mean of the results.
        dtype: of the results; None: the images'. Integers are rounded half to even and clamped.
        axes: what statistics are computed over, letters of "CHW": "HW" is each channel for itself. Or the numbers of these
            dimensions in the images' layout.
        batch: compute statistics over all images together instead of for each.
        epsilon: is added to the variance, so that nothing is divided by almost nothing.
        ddof: the sum of squares is divided by the number of values less this; 1 is Bessel's correction. Only where ``std`` is
            computed.

    Where a computed variance is 0, and ``epsilon`` too, the results are ``shift``.

    Shape: (C, H, W) or (H, W, C) images; results of the same shape and layout.

    Raises:
        TypeError: an argument is no number, array or module.
        ValueError: a number is not finite, ``std`` is not positive, or there is another number of channels.
    """

    def __init__(
        self,
        mean: Argument | None = None,
        std: Argument | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
        *,
        dtype: torch.dtype | None = torch.float32,
        axes: str | Sequence[int] = _AXES,
        batch: bool = False,
        epsilon: float = 0.0,
        ddof: int = 0,
    ) -> None:
        super().__init__()
        self.mean = None if mean is None else check_argument(mean, "mean")
        self.std = None if std is None else check_argument(std, "std")
        self.scale = check_number(scale, "scale")
        self.shift = check_number(shift, "shift")
        self.dtype = check_dtype(dtype)
        allowed: set[Any] = set(_AXES) if isinstance(axes, str) else {0, 1, 2}
        if not axes or len(set(axes)) != len(axes) or not set(axes) <= allowed:
            raise ValueError(
                f'axes is {axes!r}; it is letters of "CHW" or some of 0, 1 and 2, at least one and each once'
            )
        self.axes = axes if isinstance(axes, str) else tuple(axes)
        self.batch = batch
        self.epsilon = check_number(epsilon, "epsilon", 0)
        if isinstance(ddof, bool) or not isinstance(ddof, int) or ddof < 0:
            raise ValueError(f"ddof is {ddof!r}; it is a whole number, not negative")
        self.ddof = ddof

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(
            self,
            mean=None,
            std=None,
            scale=1.0,
            shift=0.0,
            dtype=torch.float32,
            axes=_AXES,
            batch=False,
            epsilon=0.0,
            ddof=0,
        )

    def _std(self, std: Argument, count: int) -> npt.NDArray[np.float64]:
        values = per_channel(std, count, "std")
        require(values >= 0, values, "std", "positive: it is divided by")
        return np.sqrt(values**2 + self.epsilon) if self.epsilon else values

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        mean: Argument | None = None,
        std: Argument | None = None,
    ) -> Colour:
        """See :meth:`ImageOperator.step`.

        Raises:
            TypeError: statistics are to be computed from the images, which a step does not see.
        """
        check_pixels(dtype, "Normalize")
        mean, std = self._given(mean, std)
        if mean is None or std is None:
            raise TypeError(
                "a Normalize without mean or std computes them from the images, so it cannot be fused with other operators: "
                "give both, or put it beside Fused"
            )
        count = len(sizes)
        matrix, offset = normalization(per_channel(mean, count, "mean"), self._std(std, count), self.scale, self.shift)
        return Colour(matrix, offset, self.dtype)

    def _given(self, mean: Argument | None, std: Argument | None) -> tuple[Argument | None, Argument | None]:
        return self.mean if mean is None else of_call(mean), self.std if std is None else of_call(std)

    @uncompiled
    def forward(  # type: ignore[override]
        self,
        images: TensorList | torch.Tensor,
        *,
        mean: Argument | None = None,
        std: Argument | None = None,
    ) -> TensorList | torch.Tensor:
        """Apply to a batch.

        Args:
            images: N images of shape (C, H, W), or (H, W, C) where the layout says so, or a tensor of shape (N, C, H, W).
            mean, std: instead of the module's own.

        Returns:
            A TensorList of the same layout; a tensor if a tensor was given.
        """
        known = self._given(mean, std)
        if known[0] is not None and known[1] is not None:
            return super().forward(images, mean=mean, std=std)
        batch = TensorList.from_batch(images)
        check_pixels(batch.dtype, "Normalize")
        sizes = image_sizes(batch, "Normalize")
        interleaved = batch.layout == "HWC"
        if not len(batch):
            none = batch.to(self.dtype or batch.dtype)
            return none if isinstance(images, TensorList) else none.as_tensor()
        views = [image.permute(2, 0, 1) if interleaved else image for image in batch]
        layout = batch.layout or _AXES
        names = [axis if isinstance(axis, str) else layout[axis] for axis in self.axes]
        dims = [_AXES.index(name) for name in names]
        means, factors = self._known(sizes, *known)
        output = self._launched(batch, sizes, dims, means, factors)
        if output is None:
            results = self._by_statistics(views, dims, means, factors)
            if interleaved:
                results = [result.permute(1, 2, 0) for result in results]
            output = TensorList(results, batch.layout, dtype=self.dtype or batch.dtype, device=batch.device)
        return output if isinstance(images, TensorList) else output.as_tensor()

    def _known(
        self, sizes: Sizes, mean: Argument | None, std: Argument | None
    ) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
        """Means and factors that are given, both (N, 1 or C)."""
        count = len(sizes)
        means = factors = None
        if mean is not None:
            means = per_channel(mean, count, "mean")
            require(np.isfinite(means), means, "mean", "finite")
            _check_channels(means, sizes)
        if std is not None:
            stds = self._std(std, count)
            require((stds > 0) & np.isfinite(stds), stds, "std", "positive and finite: it is divided by")
            _check_channels(stds, sizes)
            factors = self.scale / stds
        return means, factors

    def _launched(
        self,
        batch: TensorList,
        sizes: Sizes,
        dims: list[int],
        means: npt.NDArray[np.float64] | None,
        factors: npt.NDArray[np.float64] | None,
    ) -> TensorList | None:
        """The results by two launches for the whole batch, where there are kernels for what is wanted."""
        joint = len(dims) == len(_AXES)
        if not has_kernels(batch.device.type) or not (joint or sorted(dims) == [1, 2]):
            return None
        from torchdali.ops._kernels import Statistics, standardized

        statistics = Statistics(means, factors, joint, self.batch, self.epsilon, self.ddof, self.scale, self.shift)
        return standardized(batch, sizes, statistics, self.dtype)

    def _by_statistics(
        self,
        images: list[torch.Tensor],
        dims: list[int],
        mean: npt.NDArray[np.float64] | None,
        factor: npt.NDArray[np.float64] | None,
    ) -> list[torch.Tensor]:
        """Apply to images (C, H, W), with the statistics that are not given computed on their device over ``dims``."""
        if mean is None:
            totals = _for_each(lambda image: image.sum(dims, keepdim=True, dtype=torch.float64), images)
            means = [total / volume for total, volume in self._shared(totals, images, dims)]
        else:
            means = _columns(mean, images)
        if factor is None:
            pairs = list(zip(images, means, strict=True))
            squares = _for_each(lambda pair: (pair[0] - pair[1]).square_().sum(dims, keepdim=True), pairs)
            variances = [
                (total / (volume - self.ddof) if volume > self.ddof else total * 0) + self.epsilon
                for total, volume in self._shared(squares, images, dims)
            ]
            factors = [torch.where(variance > 0, self.scale * variance.rsqrt(), 0.0) for variance in variances]
        else:
            factors = _columns(factor, images)

        def work(item: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
            image, center, factor = item
            return convert((image - center) * factor + self.shift, self.dtype or image.dtype)

        return _for_each(work, list(zip(images, means, factors, strict=True)))

    def _shared(
        self, totals: list[torch.Tensor], images: list[torch.Tensor], dims: list[int]
    ) -> list[tuple[torch.Tensor, int]]:
        """Sums and the numbers of values that they are of: each image's, or that of all images for each."""
        volumes = [int(np.prod([image.shape[dim] for dim in dims])) for image in images]
        if not self.batch:
            return list(zip(totals, volumes, strict=True))
        for position, total in enumerate(totals):
            if total.shape != totals[0].shape:
                raise ValueError(
                    f"statistics of the batch over the axes {self.axes} need images that agree in the others; image 0 has "
                    f"shape {tuple(images[0].shape)}, image {position} has {tuple(images[position].shape)} (channels, "
                    "height, width). Resize or crop them to one size first, or leave batch=True out"
                )
        return [(torch.stack(totals).sum(0), sum(volumes))] * len(images)


def _for_each(function: Callable[[Any], torch.Tensor], items: Sequence[Any]) -> list[torch.Tensor]:
    """On several threads for the CPU; a GPU's stream is the one that this thread works on."""
    first = items[0] if isinstance(items[0], torch.Tensor) else items[0][0]
    return parallel_map(function, items) if first.device.type == "cpu" else [function(item) for item in items]


def _check_channels(values: npt.NDArray[np.float64], sizes: Sizes) -> None:
    """See that there is one value, or one for each channel of each image."""
    for position, channels in enumerate(sizes[:, 0].tolist()):
        if values.shape[1] not in (1, channels):
            raise ValueError(
                f"image {position} has {channels} channels, but mean or std is given for {values.shape[1]}; give one "
                "number, or one for each channel"
            )


def _columns(values: npt.NDArray[np.float64], images: list[torch.Tensor]) -> list[torch.Tensor]:
    """(N, 1 or C) as a tensor for each image that goes with its (C, H, W)."""
    columns = torch.tensor(values, device=images[0].device)
    return [column.view(-1, 1, 1) for column in columns]
