"""Pickling by value, by cloudpickle, so that functions and classes of a notebook's cell or a script pass."""

from __future__ import annotations

import importlib
import io
import sys
import types
from typing import Any

import cloudpickle

__all__ = ["ByValue", "dumps"]


class ByValue(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle tells no types
    """Also takes modules that are objects of classes of their own, as ``torch.ops`` and ``torch.backends.cudnn`` are.

    cloudpickle sends the submodules that a function may mean by its names: one that says ``torch`` and ``ops`` may mean
    ``torch.ops``, which it cannot pickle.
    """

    def reducer_override(self, obj: Any) -> Any:
        """By name, if that is what an import of the name gives."""
        if isinstance(obj, types.ModuleType) and type(obj) is not types.ModuleType:
            name = getattr(obj, "__name__", None)
            if isinstance(name, str) and sys.modules.get(name) is obj:
                return importlib.import_module, (name,)
        return super().reducer_override(obj)


def dumps(value: Any) -> bytes:
    """Pickle by value.

    Raises:
        Exception: it cannot be pickled.
    """
    stream = io.BytesIO()
    ByValue(stream, protocol=5).dump(value)
    return stream.getvalue()
