"""A batch, whatever it is made of, as one picture to look at."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from torchdali.display._overlays import draw_boxes, draw_masks
from torchdali.display._pictures import Pictures, as_image, to_bytes, with_channels_last
from torchdali.display._sheet import Column, draw_sheet, fit
from torchdali.tensorlist import TensorList

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["show"]

_FILE = "torchdali_show.png"
_MOST_COLUMNS = 8
_LAYOUTS = ("", "CHW", "HWC")


def show(
    batch: Pictures | Image.Image,
    *,
    labels: Any = None,
    names: Sequence[str] | Callable[[int], str] | None = None,
    columns: int | None = None,
    title: str | None = None,
    before: Pictures | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    boxes: Any = None,
    masks: Any = None,
    layout: str = "",
    most: int = 32,
    cell: tuple[int, int] = (240, 180),
    save: str | Path | bool | None = None,
) -> Image.Image:
    """Draw a batch of images, and return the picture.

    In a notebook the picture as the last line of a cell shows itself; elsewhere (in a terminal, in a script) it is also
    written to ``torchdali_show.png`` in the current folder, over the one before, and the file's name is printed::

        images, labels = next(iter(pipeline))
        torchdali.show(images, labels=labels, names=folder.class_name)

    Args:
        batch: a :class:`~torchdali.TensorList` of any sizes, a tensor or array (N, C, H, W), (N, H, W, C) or (N, H, W), a
            list of images, or a single image; on any device. 1 channel is gray, 3 are RGB. Values are uint8, or integers of
            0 to 255, or floating point of 0 to 1 or 0 to 255 (which of them is judged by the whole batch), or bool.
        labels: one for each image, written below it: strings, numbers, a tensor or a ``TensorList``.
        names: of the classes, by number: a list, or a function such as ``JpegFolder.class_name``.
        columns: images in a row; by default as many as make the picture a little wider than high, at most 8.
        title: a line above all.
        before: the images as they were, in the same order, drawn to the left of each; a batch as the first argument is.
        mean, std: of the normalisation that is taken back before drawing, of all images that are not uint8: one number, or
            one for each channel, as they were given to ``ops.Normalize`` or torchvision's ``Normalize``.
        boxes: for each image (K, 4) left, top, right and bottom in its pixels, or None; torchvision's ``BoundingBoxes`` in any
            format.
        masks: for each image bool (K, H, W) or (H, W), or integers (H, W) that number the parts, 0 being none; or None.
        layout: ``"CHW"`` or ``"HWC"`` of tensors that do not tell; otherwise a last dimension of 1 or 3 is the channels. A
            ``TensorList`` with a layout has it.
        most: so many images are drawn at most; a line below says how many there are.
        cell: width and height that an image may take, in pixels.
        save: a file to write the picture to, in any case; ``False``: none.

    Returns:
        An RGB picture on a white background.

    Raises:
        TypeError: something is no image, or of a type that pixels do not have.
        ValueError: a shape is not that of an image; values in no known range, or not finite; another number of labels, boxes,
            masks or images before than of images; an argument out of range.
        OSError: the file cannot be written.
    """
    _check(columns, most, cell, layout)
    count, arrays = _arrays(batch, layout, most, "batch")
    if (mean is None) != (std is None):
        raise ValueError(f"mean is {mean!r} and std is {std!r}; give both, as the normalisation had them, or neither")
    captions = _captions(labels, names, count, len(arrays))
    images = _drawn(arrays, mean, std, cell, _each("boxes", boxes, count), _each("masks", masks, count))
    pairs = None
    if before is not None:
        others, old = _arrays(before, layout, most, "before")
        if others != count:
            raise ValueError(f"before has {others} images and the batch has {count}; they go together, one for one")
        pairs = _drawn(old, mean, std, cell, None, None)
    columns = columns or _columns(len(images), cell, 1 if pairs is None else 2)
    sheet = draw_sheet(
        _in_columns(images, pairs, captions, columns),
        cell,
        heading=title,
        note=f"the first {len(images)} of {count}" if len(images) < count else "",
        lean=True,
    )
    _save(sheet, save)
    return sheet


def _check(columns: int | None, most: int, cell: tuple[int, int], layout: str) -> None:
    if columns is not None and columns < 1:
        raise ValueError(f"columns is {columns!r}; it is the number of images in a row, at least 1, or None")
    if most < 1:
        raise ValueError(f"most is {most!r}; it is the number of images that are drawn at most, at least 1")
    if min(cell) < 1:
        raise ValueError(f"cell is {cell!r}; it is a width and a height of at least 1 pixel")
    if layout not in _LAYOUTS:
        raise ValueError(f'layout is {layout!r}; it is "CHW" or "HWC", or "" where the shapes tell')


# --- images ---------------------------------------------------------------------------------------------------------


def _arrays(batch: Any, layout: str, most: int, name: str) -> tuple[int, list[npt.NDArray[Any]]]:
    """How many images there are, and the first of them, (H, W, C) each, in CPU memory."""
    if isinstance(batch, TensorList):
        layout = batch.layout or layout
        count, each = len(batch), list(batch[:most].as_cpu())
    elif isinstance(batch, (torch.Tensor, np.ndarray)):
        if batch.ndim == 2 or (batch.ndim == 3 and (layout or batch.shape[0] in (1, 3) or batch.shape[2] in (1, 3))):
            batch = batch[None]
        if batch.ndim not in (3, 4):
            raise ValueError(
                f"{name} has shape {tuple(batch.shape)}; a batch of images is (N, C, H, W), (N, H, W, C) or (N, H, W)"
            )
        count, each = len(batch), list(batch[:most])
    elif isinstance(batch, (list, tuple)):
        if batch and _is_batch(batch[0]):
            raise TypeError(
                f"{name} is a {type(batch).__name__} of batches, as pipelines and loaders give; show the images alone: "
                "images, labels = batch; show(images, labels=labels)"
            )
        count, each = len(batch), list(batch[:most])
    else:
        count, each = 1, [batch]
    if not each:
        raise ValueError(f"{name} is empty; there is nothing to draw")
    arrays = [_array(one, layout, f"image {position} of {name}") for position, one in enumerate(each)]
    kinds = {str(array.dtype) for array in arrays}
    if len(kinds) > 1:
        raise TypeError(f"{name} has images of {' and '.join(sorted(kinds))}; convert them to one type first")
    return count, arrays


def _is_batch(value: Any) -> bool:
    return isinstance(value, TensorList) or (isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 4)


def _array(value: Any, layout: str, which: str) -> npt.NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        value = value.float() if value.is_floating_point() else value  # NumPy has no bfloat16
        return with_channels_last(value.cpu().numpy(), layout, which)
    if isinstance(value, np.ndarray):
        return with_channels_last(value, layout, which)
    from PIL import Image

    if isinstance(value, Image.Image):
        return with_channels_last(np.asarray(value.convert("RGB")), "HWC", which)
    raise TypeError(f"{which} is a {type(value).__name__}; an image is a tensor, an array or a PIL image")


def _drawn(
    arrays: list[npt.NDArray[Any]], mean: Any, std: Any, cell: tuple[int, int], boxes: Any, masks: Any
) -> list[Image.Image]:
    if arrays[0].dtype == np.uint8:
        mean = std = None
    channels = arrays[0].shape[2]
    pixels = to_bytes(arrays, _factors("mean", mean, channels), _factors("std", std, channels))
    images = []
    for position, array in enumerate(pixels):
        which = f"image {position}"
        image = as_image(array, "HWC", which)
        size = image.size
        if masks is not None and masks[position] is not None:
            image = draw_masks(image, masks[position], which)
        image = fit(image, cell)
        if boxes is not None and boxes[position] is not None:
            image = draw_boxes(image, boxes[position], size, which)
        images.append(image)
    return images


def _factors(name: str, value: Any, channels: int) -> npt.NDArray[np.float64] | None:
    if value is None:
        return None
    numbers = np.atleast_1d(np.asarray(value, np.float64)).reshape(-1)
    if len(numbers) not in (1, channels) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} is {value!r}; it is one finite number, or one for each of the {channels} channels")
    return numbers


# --- what goes with them --------------------------------------------------------------------------------------------


def _each(name: str, values: Any, count: int) -> Sequence[Any] | None:
    if values is None:
        return None
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries and there are {count} images; give one for each, or None")
    return values if isinstance(values, (list, tuple)) else [values[position] for position in range(count)]


def _captions(labels: Any, names: Sequence[str] | Callable[[int], str] | None, count: int, shown: int) -> list[str]:
    if labels is None:
        return [""] * shown
    each = list(labels.as_cpu()) if isinstance(labels, TensorList) else _rows(labels)
    if len(each) != count:
        raise ValueError(f"labels has {len(each)} entries and there are {count} images; give one for each")
    return [_caption(label, names) for label in each[:shown]]


def _rows(labels: Any) -> list[Any]:
    if isinstance(labels, torch.Tensor):
        return list(labels.detach().cpu().reshape(len(labels) if labels.dim() else 1, -1))
    return [labels] if isinstance(labels, (str, int, float)) else list(labels)


def _caption(label: Any, names: Sequence[str] | Callable[[int], str] | None) -> str:
    if isinstance(label, (torch.Tensor, np.ndarray)):
        label = label.item() if math.prod(label.shape) == 1 else label.tolist()
    if isinstance(label, (float, np.floating)):
        return f"{label:.4g}"
    if names is None or not isinstance(label, (int, np.integer)):
        return str(label)
    number = int(label)
    if callable(names):
        return str(names(number))
    return str(names[number]) if 0 <= number < len(names) else str(number)


# --- the sheet ------------------------------------------------------------------------------------------------------


def _columns(count: int, cell: tuple[int, int], wide: int) -> int:
    """One row of a few; of more as many as make the sheet about 3 to 2, and where possible no gap in the last row."""
    most = _MOST_COLUMNS // wide
    if count <= most // 2:
        return count
    wanted = max(1, min(count, math.ceil(math.sqrt(1.5 * count * cell[1] / (cell[0] * wide))), most))
    near = [columns for columns in (wanted, wanted - 1, wanted + 1) if 1 < columns <= most]
    return next((columns for columns in near if count % columns == 0), wanted)


def _in_columns(
    images: list[Image.Image], before: list[Image.Image] | None, captions: list[str], columns: int
) -> list[Column]:
    made = []
    for first in range(min(columns, len(images))):
        taken = slice(first, None, columns)
        if before is None:
            made.append(Column("", images[taken], captions[taken]))
        else:
            made.append(Column("before", before[taken], captions[taken]))
            made.append(Column("after", images[taken], captions[taken]))
    return made


def _save(sheet: Image.Image, save: str | Path | bool | None) -> None:
    if save is False or (save is None and _in_notebook()):
        return
    path = Path(_FILE) if save is None or save is True else Path(save)
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:  # ValueError: of the file's ending
        remedy = "save= takes the name of a picture in a folder that exists, such as batch.png, and False for none"
        raise OSError(f"the picture cannot be written to {str(path)!r}: {error}; {remedy}") from error
    if save is None:
        sys.stdout.write(f"{path}\n")


def _in_notebook() -> bool:
    """Whether what a cell returns is shown: a kernel runs this, not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
