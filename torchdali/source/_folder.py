"""A folder of JPEGs as a source."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torchdali._spans import tally
from torchdali.source._info import SampleInfo

__all__ = ["PHOTOGRAPHS", "JpegFolder"]

PHOTOGRAPHS = Path(__file__).parent.parent / "photographs"
"""A folder of photographs that comes with torchdali, for trying things out; PROVENANCE.md in it says whose they are."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
_LIST = "file_list.txt"
_NAMES = "labels.txt"


class JpegFolder:
    """Reads the JPEGs of a folder and their labels, one a call; for parallel sources with two outputs.

    The folder holds one of

    - ``file_list.txt`` with a line "name label" for each image, the label an integer; a file ``labels.txt``, if there,
      names the classes line by line;
    - sub-folders, one a class, numbered in the order of their names;
    - images, which then all have label 0.

    Args:
        root: the folder.
        shuffle: another order in each epoch.
        seed: of the order.

    Raises:
        FileNotFoundError: no such folder, no JPEG in it, or an empty list.
        NotADirectoryError: it is a file.
        ValueError: a line of the list is not "name label".
    """

    def __init__(self, root: str | os.PathLike[str], *, shuffle: bool = False, seed: int = 0) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise FileNotFoundError(f"there is no folder {str(self.root)!r}; the current one is {str(Path.cwd())!r}")
        if not self.root.is_dir():
            raise NotADirectoryError(f"{str(self.root)!r} is a file; a folder of JPEGs is wanted")
        self.shuffle = shuffle
        self.seed = seed
        self.files: list[Path] = []
        self.labels: list[int] = []
        self.classes: list[str] = []
        if (self.root / _LIST).is_file():
            self._read_list()
        else:
            self._scan()
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def _read_list(self) -> None:
        path = self.root / _LIST
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                name, label = line.rsplit(maxsplit=1)
                self.labels.append(int(label))
            except ValueError:
                raise ValueError(f'line {number} of {str(path)!r} is {line!r}; a line is "name label"') from None
            self.files.append(self.root / name)
        if not self.files:
            raise FileNotFoundError(f'{str(path)!r} lists no file; a line is "name label"')
        names = self.root / _NAMES
        if names.is_file():
            self.classes = names.read_text().splitlines()

    def _scan(self) -> None:
        folders = sorted(entry for entry in self.root.iterdir() if entry.is_dir() and _jpegs(entry))
        for label, folder in enumerate(folders):
            found = _jpegs(folder)
            self.files += found
            self.labels += [label] * len(found)
            self.classes.append(folder.name)
        if not folders:
            self.files = _jpegs(self.root)
            self.labels = [0] * len(self.files)
        if not self.files:
            raise FileNotFoundError(
                f"no JPEG ({', '.join(sorted(_SUFFIXES))}) and no {_LIST} in {str(self.root)!r} or its sub-folders; "
                "files of other formats need a source of your own"
            )

    def __len__(self) -> int:
        return len(self.files)

    def index(self, info: SampleInfo) -> int:
        """Which file a sample is.

        Raises:
            StopIteration: there are no more in the epoch.
        """
        if info.idx_in_epoch >= len(self.files):
            raise StopIteration
        if not self.shuffle:
            return info.idx_in_epoch
        if self._order is None or self._order[0] != info.epoch_idx:
            order = np.random.default_rng((self.seed, info.epoch_idx)).permutation(len(self.files))
            self._order = (info.epoch_idx, order)
        return int(self._order[1][info.idx_in_epoch])

    def class_name(self, label: int) -> str:
        """The name of a class; its number where it has none."""
        return self.classes[label] if 0 <= label < len(self.classes) else str(label)

    def __call__(self, info: SampleInfo) -> tuple[npt.NDArray[np.uint8], Any]:
        """The file's bytes, a one-dimensional uint8 array, and its label, an int64.

        Raises:
            FileNotFoundError: the file is not there any more.
        """
        index = self.index(info)
        start = time.perf_counter()
        data = np.fromfile(self.files[index], np.uint8)
        tally.read += time.perf_counter() - start
        return data, np.int64(self.labels[index])

    def __repr__(self) -> str:
        return f"JpegFolder({str(self.root)!r}, {len(self)} images, {len(set(self.labels))} classes)"


def _jpegs(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in _SUFFIXES and entry.is_file())
