"""The demo's picture: photographs of the first training batch, and the same ones as validation has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torchdali.display import grid
from torchdali.source import JpegFolder, SampleInfo

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Comparison"]

_LONGEST_NAME = 24
"""With it, "..., contrast 2.31" still fits under a picture."""


class Comparison:
    """Collects outputs of two pipelines for the same files.

    Args:
        folder: what training reads, in an order of its own.
        rows: how many files, of the beginning of training's first epoch.
    """

    def __init__(self, folder: JpegFolder, rows: int) -> None:
        self._folder = folder
        self._files = [folder.index(SampleInfo(row, row, 0, 0)) for row in range(min(rows, len(folder)))]
        self._training: dict[int, tuple[torch.Tensor, str]] = {}
        self._validation: dict[int, tuple[torch.Tensor, str]] = {}

    def look_at_training(self, first: int, outputs: tuple[Any, ...]) -> None:
        """Take what is wanted of a batch of images, labels and contrasts whose first sample is number ``first``."""
        images, labels, contrasts = outputs
        for position in range(min(len(images), len(self._files) - first)):
            file = self._files[first + position]
            caption = f"{self._name(file, labels[position])}, contrast {float(contrasts[position]):.2f}"
            self._training[file] = (images[position].cpu(), caption)

    def look_at_validation(self, first: int, outputs: tuple[Any, ...]) -> None:
        """Take what is wanted of a batch of images and labels in the order of the files."""
        images, labels = outputs
        for position in range(len(images)):
            file = first + position
            if file in self._files:
                self._validation[file] = (images[position].cpu(), self._name(file, labels[position]))

    def _name(self, file: int, label: torch.Tensor) -> str:
        """The class as the label says; where classes have no names, the file's name tells more than a number."""
        name = self._folder.class_name(int(label)) if self._folder.classes else self._folder.files[file].stem
        return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."

    def draw(self, training_title: str, validation_title: str) -> Image.Image:
        """Two columns, in each row the same file."""
        columns = []
        for title, taken in ((training_title, self._training), (validation_title, self._validation)):
            chosen = [taken[file] for file in self._files]
            columns.append((title, [image for image, _ in chosen], [caption for _, caption in chosen]))
        return grid(columns)
