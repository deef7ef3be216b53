"""Files to pixels: inspection, decoding, orientation, and the policy for what cannot be decoded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from torchdali.errors import DecodeError
from torchdali.ops._context import current_batch, describe_sample, keep_samples
from torchdali.ops._decoded import Asked, DecodeSettings, Given
from torchdali.ops._empty import like_none
from torchdali.ops._foresight import OfSource, hand
from torchdali.ops._operator import Operator
from torchdali.ops._plainly import plainly
from torchdali.ops._uncompiled import uncompiled
from torchdali.ops.decode._at_once import AtOnce, plan_at_once
from torchdali.ops.decode._cuda import drain
from torchdali.ops.decode._exif import turn_upright
from torchdali.ops.decode._glance import glance
from torchdali.ops.decode._glimpse import Glimpse, glimpse_of
from torchdali.ops.decode._inspect import MAX_PIXELS, inspect
from torchdali.ops.decode._interface import BufferDecoder, CannotDecodeError, Decoder, ImageInfo, Mode, Result
from torchdali.ops.decode._policy import DecodeStatistics, OnError, check_policy, substitute, take
from torchdali.ops.decode._select import DecoderName, check_decoder, cpu_library, select_decoder
from torchdali.tensorlist import TensorList

__all__ = ["DecodeImage"]

_CHANNELS = {"RGB": 3, "GRAY": 1}

Found: TypeAlias = "ImageInfo | CannotDecodeError | None"
"""Of a file before it is decoded; None where its pixels are there already."""


class DecodeImage(Operator):
    """Decode a batch of files: JPEG, also PNG, WebP, GIF (the first frame) and AVIF.

    Args:
        mode: ``"RGB"``: three channels; gray is repeated in each, CMYK is converted, alpha is dropped. ``"GRAY"``: one
            channel, luma. ``"UNCHANGED"``: the channels that are stored: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha, or
            CMYK as it is stored; a palette counts as RGB.
        layout: ``"CHW"``, or ``"HWC"`` for the same pixels with the channels last.
        device: where to decode and leave the images; None: the pipeline's device, outside a pipeline the CPU.
        apply_exif_orientation: turn images upright as their Exif orientation says.
        decoder: what decodes JPEGs on a CUDA device: ``"nvjpeg"``, ``"torchvision"``, ``"torchcodec"``, ``"nvimgcodec"``,
            ``"cpu"`` for threads on the CPU and a copy; ``"auto"`` is the first of these that is there.
        on_error: what becomes of an image that cannot be decoded. ``"raise"``: :class:`~torchdali.DecodeError`.
            ``"skip"``: it is left out, and so are its entries in the other inputs. ``"replace"``: ``replacement`` stands for
            it.
        replacement: a uint8 image of shape (C, H, W); or a value from 0 to 255 that fills an image of the size the header
            claims, 1 by 1 where not even the header can be read. None is 0.
        max_pixels: an image whose header claims more cannot be decoded; what a header claims is allocated.

    Values of 16 bits are scaled to 8 and rounded. On a CUDA device the JPEGs of a batch go to the decoder together; other
    formats, and what it cannot decode (CMYK, arithmetic coding), are decoded on the CPU and copied. On the CPU images are
    decoded in parallel threads. Results on the two devices differ by a few grey levels where chroma is upsampled and colours
    are rounded.

    ``docs/decoding.md`` has a table of unusual files and of what becomes of them on each path.

    Raises:
        ValueError, TypeError: an argument is out of its range.
        ImportError: the decoder that is named is not installed.
    """

    _extents: tuple[int | None, int | None] = (None, None)  # height and width of all results, if they have the same

    def __init__(
        self,
        mode: Mode = "RGB",
        layout: str = "CHW",
        *,
        device: torch.device | str | None = None,
        apply_exif_orientation: bool = True,
        decoder: DecoderName = "auto",
        on_error: OnError = "raise",
        replacement: torch.Tensor | int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f'mode is {mode!r}; it is "RGB", "GRAY" or "UNCHANGED"')
        if layout not in ("CHW", "HWC"):
            raise ValueError(f'layout is {layout!r}; it is "CHW" or "HWC"')
        if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
            raise ValueError(f"max_pixels is {max_pixels!r}; it is a positive integer")
        check_decoder(decoder)
        check_policy(on_error, replacement, mode)
        self.mode: Mode = mode
        self.layout = layout
        self.device = None if device is None else torch.device(device)
        self.apply_exif_orientation = apply_exif_orientation
        self.decoder: DecoderName = decoder
        self.on_error: OnError = on_error
        self.replacement = replacement
        self.max_pixels = max_pixels
        self.statistics = DecodeStatistics()
        """Counters since the operator was made."""
        self.last_kept: list[int] = []
        """Positions in the last batch of the images that it returned: all of them, but with ``on_error="skip"``."""
        self.last_errors: list[DecodeError] = []
        """What was wrong with those of the last batch that were skipped or replaced."""
        self._decoders: dict[str, Decoder] = {}  # by type of device

    def __getstate__(self) -> dict[str, Any]:
        # What a process has of the device stays there; what was wrong with a batch of this one's is nothing to a copy.
        return {**self.__dict__, "_decoders": {}, "last_errors": []}

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        parts = [f"mode={self.mode}, layout={self.layout}"]
        parts += [] if self.device is None else [f"device={self.device}"]
        parts += [] if self.decoder == "auto" else [f"decoder={self.decoder}"]
        parts += [] if self.on_error == "raise" else [f"on_error={self.on_error}"]
        return ", ".join(parts)

    @uncompiled
    @plainly
    def forward(
        self, files: TensorList | Sequence[torch.Tensor], *others: Any, names: Sequence[str] | None = None
    ) -> Any:
        """Decode.

        Args:
            files: N one-dimensional uint8 CPU tensors, each a whole file.
            others: further batches of N, such as labels, which lose the entries of images that are skipped; tensors,
                TensorLists, arrays or lists. None is passed on.
            names: of the files, for messages.

        Returns:
            A TensorList of uint8 images, (C, H, W) or (H, W, C): N, with ``on_error="skip"`` those that could be decoded.
            With ``others`` a tuple of it and them. In a pipeline the operators that come after a batch with skipped images
            draw and report for the samples that are left.

        Raises:
            DecodeError: an image cannot be decoded and ``on_error`` is ``"raise"``; the message names the sample.
            TypeError: an input is no one-dimensional uint8 CPU tensor.
            ValueError: another input or ``names`` has another number of entries.
        """
        if not isinstance(files, TensorList):
            files = list(files)
            _check_tensors(files)
        for what, other in (*((f"input {n}", other) for n, other in enumerate(others, 1)), ("names", names)):
            if other is not None and len(other) != len(files):
                raise ValueError(f"{what} has {len(other)} entries and there are {len(files)} files; they go together")
        device, call = self._target(), hand(self, files, {"cuts_alike": self._cuts_alike()}, OfSource)
        given = self._decoded_already(files, device)
        self.last_kept, self.last_errors = [], []
        self.statistics.images += len(files)
        self.statistics.given_images += len(given)
        results = self._at_once(files, given, device)
        if results is None:
            results, others = self._one_by_one(
                list(files), glance(files, self.max_pixels), given, others, names, device
            )
        if call is not None:
            call.gave(results)
        return (results, *others) if others else results

    def _plan(
        self,
        files: Any,
        without: Collection[int],
        device: torch.device,
        *,
        cut: bool = False,
        glimpse: Glimpse | None = None,
    ) -> AtOnce | None:
        """What an engine is to do with a batch, before it is given to this operator, or when; None if that is not the way.

        Args:
            files: as :meth:`forward` takes them.
            without: positions of files that are decoded elsewhere.
            device: where to.
            cut: whether it is known already which parts of the images are wanted, and the batch is that at hand.
            glimpse: of the files, if somebody has looked.
        """
        decoder = self._decoder(device)
        if glimpse is None and self.mode != "UNCHANGED" and isinstance(decoder, BufferDecoder):
            glimpse = self._glimpse(files, cut=cut)
        return plan_at_once(files, glimpse, without, decoder, self.mode, device, upright=self.apply_exif_orientation)

    def _glimpse(self, files: Any, *, cut: bool) -> Glimpse | None:
        """A look at a batch; ``cut`` as of :meth:`_plan`."""
        return glimpse_of(
            files,
            lambda position: self._inspect(position, files[position]),
            upright=self.apply_exif_orientation,
            max_pixels=self.max_pixels,
            windows=self.windows if cut else None,
        )

    def _at_once(self, files: Any, given: Given, device: torch.device) -> TensorList | None:
        """The results where nothing is wrong with any file, and an engine decodes most of them."""
        context = current_batch()
        begun = (
            None if context is None or context.decoded is None else context.decoded.begun(files, self._asked(device))
        )
        # Outside a pipeline windows may be drawn but once, from torch's generator, and not where this comes to nothing.
        if begun is None:
            plan = self._plan(files, given.positions.tolist(), device, cut=context is not None)
        else:
            plan = begun.wait()
        if plan is None:
            return None
        if begun is None:
            plan.decode()
            if device.type == "cuda":
                # Memory of the engine's stream is free again when kernels here are done with it. Who calls operators faster than
                # the device gets done with them would take more and more of it.
                drain(device)
        pieces = plan.finish(given)
        if pieces is None:
            return None
        windows = plan.glimpse.windows
        good = np.ones(len(files), np.bool_)
        if not plan.glimpse.knows_windows:
            windows = self.windows(pieces.shapes[:, 1:], good)
        elif context is not None and context.draws is not None:
            # What is drawn before its turn is recorded nowhere; it is drawn again, and is the same.
            windows = self.windows(plan.glimpse.upright, good)
        self.last_kept = list(range(len(files)))
        return pieces.batch(windows, self.layout)

    def _one_by_one(
        self,
        batch: list[torch.Tensor],
        infos: list[ImageInfo | None],
        given: Given,
        others: tuple[Any, ...],
        names: Sequence[str] | None,
        device: torch.device,
    ) -> tuple[TensorList, tuple[Any, ...]]:
        """The results whatever is wrong, and the other inputs without the entries of what was skipped."""
        there = set(given.positions.tolist())
        found = [
            None if position in there else infos[position] or self._inspect(position, file)
            for position, file in enumerate(batch)
        ]
        decoded = self._decode(batch, found, device)
        self._fill_in(decoded, given, device)
        windows = self._windows_of(found, decoded)

        images: list[torch.Tensor] = []
        for position, result in enumerate(decoded):
            window = None if windows is None else [int(value) for value in windows[position]]
            if isinstance(result, torch.Tensor):
                image = result if window is None else _part(result, *window)
            else:
                self._note(position, str(result), None if names is None else names[position])
                if self.on_error == "skip":
                    continue
                image = self._substitute(found[position], window, device)
            self.last_kept.append(position)
            images.append(image.permute(1, 2, 0) if self.layout == "HWC" else image)

        if len(images) < len(batch):
            others = tuple(take(other, self.last_kept) for other in others)
            keep_samples(len(batch), self.last_kept)
        if not images and self.mode != "UNCHANGED":
            return like_none((_CHANNELS[self.mode], *self._extents), self.layout, torch.uint8, device), others
        return TensorList(images, self.layout, dtype=torch.uint8, device=device), others

    # --- before decoding ----------------------------------------------------------------------------------------------

    def _target(self) -> torch.device:
        context = current_batch()
        device = self.device
        if device is None:
            device = context.device if context else torch.device("cpu")
        if device.type == "cuda" and device.index is None:
            # torchvision's decoder is made anew whenever its device differs, and "cuda" differs from "cuda:0".
            device = torch.device("cuda", torch.cuda.current_device())
        return device

    def _decoded_already(self, files: TensorList | Sequence[torch.Tensor], device: torch.device) -> Given:
        """Images that workers have decoded already."""
        context = current_batch()
        if context is None or context.decoded is None:
            return Given.of({})
        return context.decoded.take(files, self._asked(device))

    def _asked(self, device: torch.device) -> Asked:
        settings = DecodeSettings(self.mode, self.apply_exif_orientation, self.max_pixels, cpu_library(self.decoder))
        return Asked(self, settings, device, self._cuts_alike())

    def _cuts_alike(self) -> bool:
        """Whether :meth:`windows` says now what it will say in the next call; of a user's class nobody knows."""
        return type(self).__module__.startswith("torchdali.ops.")

    def _decoder(self, device: torch.device) -> Decoder:
        if device.type not in self._decoders:
            self._decoders[device.type] = select_decoder(self.decoder, device)
        return self._decoders[device.type]

    def _inspect(self, position: int, file: torch.Tensor) -> ImageInfo | CannotDecodeError:
        if file.dtype != torch.uint8 or file.dim() != 1 or file.device.type != "cpu":
            raise TypeError(
                f"{describe_sample(position)} is a {file.dtype} tensor of shape {tuple(file.shape)} on {file.device}; a file "
                "to decode is its bytes: a one-dimensional uint8 array in CPU memory"
            )
        try:
            return inspect(np.ascontiguousarray(file.numpy()).data, self.max_pixels)
        except CannotDecodeError as error:
            return error

    # --- decoding -----------------------------------------------------------------------------------------------------

    def _decode(self, files: list[torch.Tensor], found: list[Found], device: torch.device) -> list[Result]:
        """The images as they are turned upright, or what is wrong with them; something for those that are there already."""
        good = [(position, info) for position, info in enumerate(found) if isinstance(info, ImageInfo)]
        infos = [info for _, info in good]
        decoder = self._decoder(device)
        results = decoder.decode([files[position] for position, _ in good], infos, self.mode, device)
        decoded: list[Result] = [
            info if isinstance(info, CannotDecodeError) else CannotDecodeError("") for info in found
        ]
        for (position, info), result in zip(good, results, strict=True):
            if self.apply_exif_orientation and isinstance(result, torch.Tensor):
                result = turn_upright(result, info.orientation)
            decoded[position] = result
        return decoded

    def _fill_in(self, decoded: list[Result], given: Given, device: torch.device) -> None:
        # After the decoder, some of which drain the stream first: these copies may go on while the next operator starts.
        images = given.images.to(device, non_blocking=True)
        for position, image in zip(given.positions.tolist(), images, strict=True):
            decoded[position] = image

    def _windows_of(self, found: list[Found], decoded: list[Result]) -> npt.NDArray[np.int64] | None:
        sizes = [
            tuple(result.shape[1:]) if isinstance(result, torch.Tensor) else self._claimed_size(info) or (1, 1)
            for info, result in zip(found, decoded, strict=True)
        ]
        valid = np.array([isinstance(result, torch.Tensor) for result in decoded], np.bool_)
        return self.windows(np.array(sizes, np.int64).reshape(-1, 2), valid)

    def windows(self, sizes: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64] | None:
        """The parts of the images that are wanted; None: all of each.

        Args:
            sizes: (N, 2), heights and widths of the images as they are turned upright.
            valid: (N,), False for bad images, whose sizes are what their headers claim, or 1 by 1.

        Returns:
            (N, 4): top, left, height, width.
        """
        return None

    # --- what cannot be decoded ---------------------------------------------------------------------------------------

    def _note(self, position: int, why: str, name: str | None) -> None:
        context = current_batch()
        index = int(context.indices[position]) if context and position < len(context.indices) else None
        sample = describe_sample(position) + ("" if name is None else f", {name!r},")
        remedy = '; on_error="skip" leaves such images out, "replace" puts another in their place'
        text = f"{sample} cannot be decoded: {why}" + (remedy if self.on_error == "raise" else "")
        error = DecodeError(text, position=position, index=index, name=name)
        self.statistics.bad_images += 1
        if self.on_error == "raise":
            raise error
        self.last_errors.append(error)  # never one that was raised, whose traceback keeps the batch in memory

    def _claimed_size(self, found: Found) -> tuple[int, int] | None:
        info = found.info if isinstance(found, CannotDecodeError) else found
        if info is None or info.height == 0 or info.width == 0:
            return None
        return info.size_upright(apply_orientation=self.apply_exif_orientation)

    def _substitute(self, found: Found, window: list[int] | None, device: torch.device) -> torch.Tensor:
        size = self._claimed_size(found)
        if size is not None and window is not None:
            size = window[2], window[3]
        info = found.info if isinstance(found, CannotDecodeError) else found
        return substitute(self.replacement, size, info, self.mode, device)


def _check_tensors(files: list[Any]) -> None:
    for position, file in enumerate(files):
        if not isinstance(file, torch.Tensor):
            raise TypeError(
                f"{describe_sample(position)} is a {type(file).__name__}; a file to decode is its bytes, as a one-dimensional "
                "uint8 tensor: torchvision.io.read_file(path) gives one"
            )


def _part(image: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    return image[:, top : top + height, left : left + width]
