"""torchdali in Hugging Face accelerate: what ``accelerator.prepare`` makes of a loader keeps its engine.

Accelerate wraps a loader by making one of torch's from its arguments, with batch samplers of its own. Before that it asks each
whether it is prepared already; from then on the wrapper of a loader of torchdali's, and what ``skip_first_batches`` makes of it,
has one of torchdali's within, of the same arguments, those beyond torch's included. All else is accelerate's: sharding, the
device, the remainder of ``gather_for_metrics``, ``split_batches``.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from torchdali._optional import missing
from torchdali.loader import DataLoader
from torchdali.loader._again import arguments_of
from torchdali.loader._crew import Crew
from torchdali.loader._own import PUBLIC, is_iterable

try:
    from accelerate import PartialState
    from accelerate.data_loader import DataLoaderAdapter
except ModuleNotFoundError as error:
    raise missing("torchdali.accelerate", "accelerate", "accelerate") from error

__all__ = ["keep_engine"]

_WRAPPED = ("batch_sampler", "dataset")
"""What accelerate's samplers and datasets call the one that they wrap."""

_DEPTH = 16
"""So many are looked into."""


class _Engine:
    """What is kept of a loader for what accelerate makes of it."""

    def __init__(self, options: dict[str, Any], loader: Any = None) -> None:
        self.options = options
        # Referred to weakly: what this is found by must not be kept alive by it.
        self._own = None if loader is None else weakref.ref(loader._torchdali)
        self._dataset = None if loader is None else _refer_to(loader.dataset)

    def take_crew(self, dataset: Any) -> Crew | None:
        """The loader's workers, if they were started for this dataset and wait; once."""
        own = None if self._own is None else self._own()
        if own is None or self._dataset is None or self._dataset() is not dataset:
            return None
        crew: Crew | None = own.take_crew()
        return crew


def _refer_to(dataset: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(dataset)
    except TypeError:  # a list, say
        return lambda: dataset


_engines: weakref.WeakKeyDictionary[Any, _Engine] = weakref.WeakKeyDictionary()
"""By what accelerate hands on of a loader: its batch sampler, or its iterable dataset."""


def _key(loader: Any) -> Any:
    return loader.dataset if is_iterable(loader) else loader.batch_sampler


def remember(loader: Any, **options: Any) -> None:
    """Have what accelerate makes of a loader be one of torchdali's.

    Args:
        loader: one of torchdali's, or of torch's.
        **options: arguments of :class:`~torchdali.DataLoader` beyond torch's, instead of the loader's own.
    """
    _install()
    ours = isinstance(loader, DataLoader)
    given = {name: vars(loader)[name] for name in PUBLIC if name in vars(loader)} if ours else {}
    try:
        _engines[_key(loader)] = _Engine(given | options, loader if ours else None)
    except TypeError:
        warnings.warn(
            f"accelerate makes a loader of torch's of this one: its {type(_key(loader)).__name__} cannot be told from others, as "
            "it cannot be hashed or weakly referred to. Call torchdali.accelerate.keep_engine() on what prepare() returned",
            RuntimeWarning,
            stacklevel=4,
        )


def _engine_of(*candidates: Any) -> _Engine | None:
    for candidate in candidates:
        for _ in range(_DEPTH):
            try:
                engine = _engines.get(candidate)
            except TypeError:
                engine = None
            if engine is not None:
                return engine
            inside = getattr(candidate, "__dict__", {})
            candidate = next((inside[name] for name in _WRAPPED if name in inside), None)
            if candidate is None:
                break
    return None


def _take_over(adapter: Any, engine: _Engine) -> None:
    """Give a wrapper of accelerate's a loader of torchdali's in the place of torch's."""
    options = dict(engine.options)
    if options.get("pipeline") is not None and options.get("device") is None:
        options["device"] = PartialState().device
    loader: DataLoader[Any] = DataLoader(**arguments_of(adapter.base_dataloader), **options)
    loader._torchdali.crew = engine.take_crew(loader.dataset)
    adapter.base_dataloader = loader
    adapter.dl_state_dict = loader.state_dict()


@functools.cache
def _install() -> None:
    """Have accelerate's wrappers ask what they are made of."""
    construct = DataLoaderAdapter.__init__

    @functools.wraps(construct)
    def construct_with_engine(
        self: Any, dataset: Any, use_stateful_dataloader: bool = False, batch_sampler: Any = None, **arguments: Any
    ) -> None:
        construct(
            self, dataset, use_stateful_dataloader=use_stateful_dataloader, batch_sampler=batch_sampler, **arguments
        )
        engine = None if use_stateful_dataloader else _engine_of(batch_sampler, arguments.get("sampler"), dataset)
        if engine is not None:
            _take_over(self, engine)

    DataLoaderAdapter.__init__ = construct_with_engine


def keep_engine(prepared: Any, **options: Any) -> Any:
    """Give torchdali's engine to what ``accelerator.prepare`` made of a loader, of torch's for instance.

    Loaders of torchdali's have it without this.

    Args:
        prepared: returned by ``accelerator.prepare``; it is changed.
        **options: arguments of :class:`~torchdali.DataLoader` beyond torch's.

    Returns:
        ``prepared``.

    Raises:
        TypeError: it is nothing that accelerate has prepared.
    """
    if not issubclass(type(prepared), DataLoaderAdapter):
        raise TypeError(
            f"keep_engine() takes what accelerator.prepare() made of a DataLoader, and this is a {type(prepared).__name__}"
        )
    if not isinstance(prepared.base_dataloader, DataLoader):
        remember(prepared.base_dataloader, **options)
        _take_over(prepared, _Engine(options))
    return prepared
