"""Fixtures of the sources' tests: readers that are closed."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from torchdali.source import ExternalSource, Reader

MakeReader = Callable[..., Reader]


@pytest.fixture(scope="session", autouse=True)
def _frozen_imports() -> Iterator[None]:
    """What was imported is no garbage: the collection after each test need not look at it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def make_reader() -> Iterator[MakeReader]:
    """Makes readers that are started, and closed after the test; a source may be what an ExternalSource is made of."""
    readers: list[Reader] = []

    def make(*sources: Any, **options: Any) -> Reader:
        settings: dict[str, Any] = {
            "batch_size": 4,
            "num_workers": 2,
            "prefetch": 2,
            "seed": 1,
            "last_batch": "partial",
            "name": "reader",
        }
        wrapped = [source if isinstance(source, ExternalSource) else ExternalSource(source) for source in sources]
        reader = Reader(wrapped, **(settings | options))
        readers.append(reader)
        reader.start()
        return reader

    yield make
    for reader in readers:
        reader.close()
