"""What Lightning does to torch's classes is undone."""

from collections.abc import Iterator

import pytest
from torch.utils.data import BatchSampler, DataLoader


@pytest.fixture(autouse=True)
def classes_are_as_they_were() -> Iterator[None]:
    """Lightning has loaders note each attribute while it asks for them, and goes on with that where a hook raises."""
    yield
    for base in (DataLoader, BatchSampler):
        for kind in (base, *_all_subclasses(base)):
            for name in ("__setattr__", "__delattr__", "__init__"):
                if f"__old{name}" in vars(kind):
                    setattr(kind, name, getattr(kind, f"__old{name}"))
                    delattr(kind, f"__old{name}")


def _all_subclasses(kind: type) -> list[type]:
    return [found for child in kind.__subclasses__() for found in (child, *_all_subclasses(child))]
