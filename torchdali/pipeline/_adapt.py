"""Ordinary modules in a pipeline's ``forward``: what they get in place of a ragged batch.

Operators of torchdali take a :class:`~torchdali.TensorList`. Any other module knows tensors only; worse, torchvision's
transforms return what they do not know as it was. So each such module of a pipeline is adapted when the pipeline is
built: called with a TensorList,

- a torchvision v2 transform is applied image by image, so that random ones draw for each image, from generators of their
  own that are seeded for each image by the pipeline's seed, the epoch and the sample. Torch's are left as they are;
- any other module gets one tensor (N, ...) where shapes agree, and is applied sample by sample, to (1, ...), where not.

Containers that only pass on what they get are left alone; what is in them is adapted.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import fx, nn

from torchdali.ops import Operator, RandomOperator, current_batch
from torchdali.ops._generators import DrawKey, OwnGenerators
from torchdali.tensorlist import TensorList

__all__ = ["adapt_modules"]

_TRANSPARENT = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, fx.GraphModule)
_TRANSFORM_STREAM = 0xFFFFFFFE  # operators count theirs from 0, sources use the last


def _is_transform(module: nn.Module) -> bool:
    from torchvision.transforms import v2

    return isinstance(module, (v2.Transform, v2.Compose))


class _Adapted:
    """Takes the place of a module's ``forward``."""

    def __init__(self, module: nn.Module, number: int) -> None:
        self._module = module
        self._number = number
        self._each = _is_transform(module)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        forward = type(self._module).forward
        lists = [value for value in (*arguments, *keywords.values()) if isinstance(value, TensorList)]
        if not lists:
            return forward(self._module, *arguments, **keywords)
        if not self._each and all(len(batch) and batch.is_dense_tensor() for batch in lists):
            return forward(
                self._module,
                *(_dense(value) for value in arguments),
                **{name: _dense(value) for name, value in keywords.items()},
            )
        counts = {len(batch) for batch in lists}
        if len(counts) > 1:
            raise ValueError(
                f"{type(self._module).__name__} was called with batches of {sorted(counts)} samples; what goes through it "
                "together has the same number: pass along what an operator with on_error='skip' may leave out"
            )
        results = []
        context = current_batch()
        generators = OwnGenerators()
        with nullcontext() if context is None else generators:
            for position in range(counts.pop()):
                if context is not None:
                    stream, index = _TRANSFORM_STREAM - self._number, int(context.indices[position])
                    generators.seed(DrawKey(context.seed, context.epoch, stream, index))
                result = forward(
                    self._module,
                    *(self._sample(value, position) for value in arguments),
                    **{name: self._sample(value, position) for name, value in keywords.items()},
                )
                results.append(result if self._each else _without_batch(result))
        return _gather(results, lists[0])

    def _sample(self, value: Any, position: int) -> Any:
        if not isinstance(value, TensorList):
            return value
        sample = value[position]
        if not self._each:
            return sample.unsqueeze(0)
        return sample.permute(2, 0, 1) if value.layout == "HWC" else sample


def _dense(value: Any) -> Any:
    return value.as_tensor() if isinstance(value, TensorList) else value


def _without_batch(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return result.squeeze(0)
    if isinstance(result, tuple):
        return tuple(map(_without_batch, result))
    return result


def _gather(results: list[Any], like: TensorList) -> Any:
    if results and isinstance(results[0], tuple):
        return tuple(_gather(list(column), like) for column in zip(*results, strict=True))
    if not all(isinstance(result, torch.Tensor) for result in results):
        return results
    plain = [result.as_subclass(torch.Tensor) for result in results]
    layout = "CHW" if like.layout in ("CHW", "HWC") and all(result.dim() == 3 for result in plain) else ""
    return TensorList(plain, layout, dtype=like.dtype, device=like.device)


def _foreign(module: nn.Module) -> list[nn.Module]:
    """The outermost modules below this one that do not know batches."""
    if isinstance(module, (Operator, RandomOperator)):
        return []
    if isinstance(module, _TRANSPARENT):
        return [foreign for child in module.children() for foreign in _foreign(child)]
    return [module]


def adapt_modules(pipeline: nn.Module) -> None:
    """Make all modules of a pipeline callable with a TensorList."""
    foreign = [found for child in pipeline.children() for found in _foreign(child)]
    for number, module in enumerate(foreign):
        if "forward" not in vars(module):
            module.forward = _Adapted(module, number)
