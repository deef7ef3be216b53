"""A bar for a loop over a pipeline or a loader."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

from torchdali.report._meter import Meter, meter_of

__all__ = ["progress"]


def progress(loader: Any, desc: str | None = None, *, disable: bool | None = None, **options: Any) -> Iterator[Any]:
    """Iterate over a pipeline or a loader, with a bar.

    It shows images a second, and the share of the consumer's time that is waited::

        for images, labels in torchdali.progress(loader):
            ...

    Args:
        loader: a :class:`~torchdali.Pipeline` or a :class:`~torchdali.DataLoader`.
        desc: stands before the bar.
        disable: no bar. None: where there is neither a terminal nor a notebook.
        **options: further ones of ``tqdm.auto.tqdm``.

    Returns:
        An iterator over its batches, as they are.

    Raises:
        TypeError: it is neither.
    """
    meter = meter_of(loader)
    if meter is None:
        raise TypeError(
            f"progress got a {type(loader).__name__}; it takes a torchdali Pipeline or DataLoader, whose waits it shows. For "
            "anything else there is tqdm"
        )
    return _iterate(loader, meter, desc, disable, options)


def _iterate(
    loader: Any, meter: Meter, desc: str | None, disable: bool | None, options: dict[str, Any]
) -> Iterator[Any]:
    if disable is None:
        disable = not _is_watched(options.get("file"))
    if disable:
        yield from loader
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of widgets that a notebook lacks: the bar is text then
        from tqdm.auto import tqdm
    chosen = {"total": _expected(loader), "unit": " images", "dynamic_ncols": True, **options}
    with tqdm(desc=desc, **chosen) as bar:
        counts = meter.counts
        images, wait, step = counts.samples, counts.wait, counts.step
        for batch in loader:
            bar.set_postfix_str(_waiting(counts.wait - wait, counts.step - step), refresh=False)
            bar.update(counts.samples - images)
            images = counts.samples
            yield batch
        if bar.total is not None:  # what was expected is an estimate where samples are left out
            bar.total = bar.n
        bar.set_postfix_str(_waiting(counts.wait - wait, counts.step - step))


def _waiting(wait: float, step: float) -> str:
    return f"waiting {wait / max(wait + step, 1e-12):.0%}"


def _is_watched(file: Any) -> bool:
    stream = sys.stderr if file is None else file
    kernel = sys.modules.get("IPython")
    shell = None if kernel is None else kernel.get_ipython()
    return bool(getattr(stream, "isatty", bool)()) or (shell is not None and hasattr(shell, "kernel"))


def _expected(loader: Any) -> int | None:
    """Images in an epoch, as far as that is known."""
    try:
        batches = len(loader)
    except TypeError:
        return None
    size = getattr(loader, "batch_size", None)
    return batches * size if isinstance(size, int) else batches
