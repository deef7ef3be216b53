"""Ordinary modules in a pipeline's ``forward``: what they get in place of a ragged batch.

Operators of torchdali take a :class:`~torchdali.TensorList`. Any other module knows tensors only; worse, torchvision's
transforms return what they do not know as it was. So each such module of a pipeline is adapted when the pipeline is
built: called with a TensorList, by itself or within tuples, lists and dicts,

- a torchvision transform is applied image by image, so that random ones draw for each image, from generators of their
  own that are seeded for each image by the pipeline's seed, the epoch, the sample and how many calls in this batch went before.
  Torch's are left as they are. ``MixUp`` and ``CutMix`` get the batch, of images of equal shape;
- any other module gets one tensor (N, ...) where shapes agree, and is applied sample by sample, to (1, ...), where not.

Images reach both with their channels first, whatever the layout of the batch. A tensor (N, ...) beside a batch is taken for
one, and goes sample by sample with it.

Containers that only pass on what they get are left alone; what is in them is adapted. A module of the user's that has operators
in it gets ragged batches as they are, since these know them, and what else is in it is adapted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from torchdali.ops import BatchContext, Operator, RandomOperator, current_batch
from torchdali.ops._generators import DrawKey, OwnGenerators
from torchdali.tensorlist import TensorList

__all__ = ["adapt_modules"]

_TRANSPARENT = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, fx.GraphModule)
_TRANSFORM_STREAM = 0xFFFFFFFE  # operators count theirs from 0, sources use the last
_CALL = 0x10000  # streams from one call of a transform in a batch to the next
_NO_SAMPLE = 1 << 62  # beyond all samples: draws for batches that are not the pipeline's


def _is_transform(module: nn.Module) -> bool:
    """Whether it is one of torchvision's, of either generation, or made of them, compiled or not."""
    kinds = type(getattr(module, "_orig_mod", module)).__mro__
    return any(kind.__module__.startswith("torchvision.transforms") for kind in kinds)


def _mixes(module: Any) -> bool:
    """Whether it is a transform of whole batches, or has one."""
    from torchvision.transforms import v2

    if isinstance(module, (v2.MixUp, v2.CutMix)):
        return True
    parts = getattr(module, "transforms", ())
    return isinstance(parts, (list, tuple)) and any(map(_mixes, parts))


def _has_operators(module: nn.Module) -> bool:
    return any(isinstance(part, (Operator, RandomOperator)) for part in module.modules())


class _Adapted:
    """Takes the place of a module's ``forward``."""

    def __init__(self, module: nn.Module, number: int) -> None:
        self._module = module
        self._number = number
        self._mixes = _is_transform(module) and _mixes(getattr(module, "_orig_mod", module))
        self._each = _is_transform(module) and not self._mixes
        self._knows = _has_operators(module)
        self._own = vars(module).get("forward")
        """Of this instance, as a compiled module has one."""

    def _forward(self, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        if self._own is not None:
            return self._own(*arguments, **keywords)
        return type(self._module).forward(self._module, *arguments, **keywords)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        leaves, tree = pytree.tree_flatten((arguments, keywords))
        batches = [leaf for leaf in leaves if isinstance(leaf, TensorList)]
        if not batches:
            return self._forward(arguments, keywords)

        def call(change: Callable[[Any], Any]) -> Any:
            return self._forward(*pytree.tree_unflatten([change(leaf) for leaf in leaves], tree))

        if not self._each and all(batch.is_dense_tensor() for batch in batches):
            try:
                return call(_dense)
            except Exception:
                if all(map(len, batches)):  # else it may be one that cannot do with no samples
                    raise
        if self._knows:
            return self._forward(arguments, keywords)
        if self._mixes:
            raise ValueError(
                f"{type(self._module).__name__} mixes the images of a batch, and these differ in shape: resize or crop them "
                "to one size first"
            )
        counts = {len(batch) for batch in batches}
        if len(counts) > 1:
            raise ValueError(
                f"{type(self._module).__name__} was called with batches of {sorted(counts)} samples; what goes through it "
                "together has the same number: pass along what an operator with on_error='skip' may leave out"
            )
        count, results = counts.pop(), []
        if not count:
            return _nothing((*arguments, *keywords.values())) if self._each else _list([], batches[0])
        context = current_batch()
        call_number = self._count(context)
        generators = OwnGenerators()
        with nullcontext() if context is None else generators:
            for position in range(count):
                if context is not None:
                    generators.seed(self._key(context, call_number, count, position))
                results.append(call(functools.partial(self._sample, position=position, count=count)))
        if not self._each:
            results = [pytree.tree_map_only(torch.Tensor, _squeezed, result) for result in results]
        return _gather(results, batches[0])

    def _count(self, context: BatchContext | None) -> int:
        """How often this was called for the batch before."""
        if context is None or context.calls is None:
            return 0
        before = context.calls.get(self._number, 0)
        context.calls[self._number] = before + 1
        return before

    def _key(self, context: BatchContext, call: int, count: int, position: int) -> DrawKey:
        stream = _TRANSFORM_STREAM - self._number - _CALL * call
        if len(context.indices) == count:
            return DrawKey(context.seed, context.epoch, stream, int(context.indices[position]))
        # Of a part of the batch, or more than it, nobody knows which sample is which.
        return DrawKey(context.seed, context.epoch, stream, _NO_SAMPLE | context.iteration << 24 | position)

    def _sample(self, value: Any, position: int, count: int) -> Any:
        if isinstance(value, TensorList):
            sample = value[position]
            sample = sample.permute(2, 0, 1) if value.layout == "HWC" else sample
            return sample if self._each else sample.unsqueeze(0)
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == count:
            return value[position] if self._each else value[position : position + 1]
        return value


def _squeezed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.squeeze(0)


def _dense(value: Any) -> Any:
    if not isinstance(value, TensorList):
        return value
    tensor = value.as_tensor()
    return tensor.permute(0, 3, 1, 2) if value.layout == "HWC" else tensor


def _nothing(given: tuple[Any, ...]) -> Any:
    """What a transform makes of batches of no samples: as many, of shapes that nobody knows."""
    results = pytree.tree_map_only(TensorList, lambda batch: _list([], batch), given)
    return results if len(given) > 1 else results[0]


def _gather(results: list[Any], like: TensorList) -> Any:
    """What came of the samples, one structure of batches where they are of one structure."""
    leaves, trees = zip(*map(pytree.tree_flatten, results), strict=True)
    if any(tree != trees[0] for tree in trees):
        return results
    columns = [_column(list(column), like) for column in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(columns, trees[0])


def _column(results: list[Any], like: TensorList) -> Any:
    if not all(isinstance(result, torch.Tensor) for result in results):
        return results
    return _list([result.as_subclass(torch.Tensor) for result in results], like)


def _list(samples: list[torch.Tensor], like: TensorList) -> TensorList:
    layout = "CHW" if like.layout in ("CHW", "HWC") and all(sample.dim() == 3 for sample in samples) else ""
    return TensorList(samples, layout, dtype=like.dtype, device=like.device)


def _foreign(module: nn.Module) -> list[nn.Module]:
    """The outermost modules below this one that do not know batches."""
    if isinstance(module, (Operator, RandomOperator, torch.jit.ScriptModule)):
        return []
    within = [foreign for child in module.children() for foreign in _foreign(child)]
    if isinstance(module, _TRANSPARENT):
        return within
    return [module, *within] if _has_operators(module) else [module]


def adapt_modules(pipeline: nn.Module) -> None:
    """Make all modules of a pipeline callable with a TensorList."""
    foreign = [found for child in pipeline.children() for found in _foreign(child)]
    for number, module in enumerate(foreign):
        if not isinstance(vars(module).get("forward"), _Adapted):
            # Not by __setattr__: a compiled module's sets it of the module within.
            vars(module)["forward"] = _Adapted(module, number)
