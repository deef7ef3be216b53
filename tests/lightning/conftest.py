"""What Lightning does to torch's classes is undone, and which processes were there before a test."""

from collections.abc import Iterator

import psutil
import pytest
from torch.utils.data import BatchSampler, DataLoader

NAMES = [prefix + name for name in ("__setattr__", "__delattr__", "__init__") for prefix in ("", "__old")]


OLDER: set[psutil.Process] = set()
"""Children of this process that were there before the test: of other folders' fixtures."""


@pytest.fixture(autouse=True)
def older_processes() -> None:
    """Note them."""
    OLDER.clear()
    OLDER.update(psutil.Process().children())


@pytest.fixture(autouse=True)
def classes_are_as_they_were() -> Iterator[None]:
    """Lightning has loaders note each attribute while it asks for them, and goes on with that where a hook raises."""
    kinds = [kind for base in (DataLoader, BatchSampler) for kind in (base, *_all_subclasses(base))]
    before = [{name: vars(kind)[name] for name in NAMES if name in vars(kind)} for kind in kinds]
    yield
    for kind, had in zip(kinds, before, strict=True):
        for name in NAMES:
            if name in had and vars(kind).get(name) is not had[name]:
                setattr(kind, name, had[name])
            elif name not in had and name in vars(kind):
                delattr(kind, name)


def _all_subclasses(kind: type) -> list[type]:
    return [found for child in kind.__subclasses__() for found in (child, *_all_subclasses(child))]
