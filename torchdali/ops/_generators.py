"""Random numbers of torch from generators of one's own, for what runs in a thread beside a training.

Torch's default generators belong to the whole process. A stage that drew from them in a thread would take numbers away from
the training, and get others depending on when it runs. Within :class:`OwnGenerators`, which like all of torch's function
modes holds for the thread that enters it, random functions draw from generators that nobody else has: those whose
``generator`` argument is left out get it. An operator that is given a generator keeps it.

Drawn from torch's default generators all the same: ``alpha_dropout`` and ``feature_alpha_dropout``, dropout within
attention and recurrent layers, and what extensions draw in C++. NumPy's and Python's generators know nothing of this.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn import functional, init
from torch.overrides import TorchFunctionMode

from torchdali._philox import words

__all__ = ["DrawKey", "OwnGenerators"]


class DrawKey(NamedTuple):
    """What random draws are determined by."""

    seed: int
    epoch: int
    stream: int
    """Which of the independent sequences of an epoch."""
    position: int
    """Of the sample or batch."""

    def number(self) -> int:
        """A seed for a generator: 63 random bits."""
        a, b, _, _ = words(*self)
        return int(a) << 31 | int(b) >> 1


def _named(holder: Any, names: str) -> set[Any]:
    return {getattr(holder, name) for name in names.split() if hasattr(holder, name)}


_FACTORIES = _named(torch, "rand randint randn randperm")
"""Make a tensor of a given size, where they are told to or on the default device."""

_FUNCTIONS = _named(
    torch,
    "_sample_dirichlet _standard_gamma bernoulli binomial multinomial normal poisson rand_like randint_like randn_like rrelu "
    "rrelu_",
) | _named(
    torch.Tensor,
    "bernoulli bernoulli_ cauchy_ exponential_ geometric_ log_normal_ multinomial normal_ random_ uniform_",
)
"""Draw where their first tensor is."""

_DROPOUTS = _named(torch, "dropout dropout_ feature_dropout feature_dropout_")
"""Take no generator."""

_PYTHON = _named(functional, "dropout dropout1d dropout2d dropout3d gumbel_softmax rrelu") | _named(
    init,
    "kaiming_normal_ kaiming_uniform_ normal_ orthogonal_ sparse_ trunc_normal_ uniform_ xavier_normal_ xavier_uniform_",
)
"""Written in Python: what they call is looked at instead."""


class OwnGenerators(TorchFunctionMode):
    """Context in which torch's random functions draw from generators of its own, one for each device.

    Args:
        key: what they are seeded by; :meth:`seed` changes it.

    It holds for the thread that enters it. Modes can be nested: the inner one's generators are used.
    """

    def __init__(self, key: DrawKey | None = None) -> None:
        super().__init__()
        self._key = key
        self._generators: dict[torch.device, torch.Generator] = {}
        self._seeded: set[torch.device] = set()

    def seed(self, key: DrawKey) -> None:
        """Begin the sequence of a key, on all devices."""
        self._key = key
        self._seeded.clear()  # a generator is seeded when it is used, most never are

    def generator(self, device: torch.device) -> torch.Generator:
        """That of a device.

        Raises:
            RuntimeError: no key was given yet.
        """
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        if device not in self._seeded:
            if self._key is None:
                raise RuntimeError("OwnGenerators has no key yet; call seed() first")
            if device not in self._generators:
                self._generators[device] = torch.Generator(device)
            self._generators[device].manual_seed(self._key.number())
            self._seeded.add(device)
        return self._generators[device]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = {} if kwargs is None else dict(kwargs)
        if func in _FACTORIES or func in _FUNCTIONS:
            if keywords.get("generator") is None and not _has_generator(args):
                device = _device_of_new(keywords) if func in _FACTORIES else _device_of_first(args, keywords)
                if device.type != "meta":
                    keywords["generator"] = self.generator(device)
        elif func in _PYTHON:
            with self:
                return _looked_into(func)(*args, **keywords)
        elif func in _DROPOUTS:
            return self._dropout(func, *args, **keywords)
        return func(*args, **keywords)

    def _dropout(self, func: Any, input: torch.Tensor, p: float, train: bool) -> torch.Tensor:
        """What ``torch.dropout`` does: zero with probability ``p``, else divide by ``1 - p``."""
        if not train or p == 0 or input.numel() == 0 or input.device.type == "meta" or not 0 <= p <= 1:
            return func(input, p, train)  # type: ignore[no-any-return]
        whole_channels = "feature" in func.__name__
        shape = (*input.shape[:2], *[1] * (input.dim() - 2)) if whole_channels else input.shape
        kept = torch.empty(shape, dtype=input.dtype, device=input.device)
        kept.bernoulli_(1 - p, generator=self.generator(input.device))
        if p < 1:
            kept.div_(1 - p)
        return input.mul_(kept) if func.__name__.endswith("_") else input * kept


def _has_generator(arguments: Iterable[Any]) -> bool:
    return any(isinstance(argument, torch.Generator) for argument in arguments)


def _device_of_new(keywords: Mapping[str, Any]) -> torch.device:
    out, device = keywords.get("out"), keywords.get("device")
    if isinstance(out, torch.Tensor):
        return out.device
    return torch.get_default_device() if device is None else torch.device(device)


def _device_of_first(arguments: Iterable[Any], keywords: Mapping[str, Any]) -> torch.device:
    # `rand_like` can be told a device; `normal` takes two numbers and a size as well as tensors.
    if keywords.get("device") is None:
        for value in (*arguments, *keywords.values()):
            if isinstance(value, torch.Tensor):
                return value.device
    return _device_of_new(keywords)


_copies: dict[Any, Callable[..., Any]] = {}


def _never(*arguments: Any) -> bool:
    return False


def _looked_into(function: Any) -> Callable[..., Any]:
    """A function of torch's whose own calls are seen by the mode, where it asks before whether there is one."""
    if function not in _copies:
        names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
        # The module's own dictionary would be changed for everybody, and `torch.overrides` is looked up by an attribute.
        namespace = {**function.__globals__, **dict.fromkeys(names, _never)}
        if isinstance(namespace.get("torch"), types.ModuleType):
            namespace["torch"] = _Torch()
        copy = types.FunctionType(
            function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__
        )
        copy.__kwdefaults__ = function.__kwdefaults__
        _copies[function] = copy
    return _copies[function]


class _Overrides:
    has_torch_function = has_torch_function_unary = has_torch_function_variadic = staticmethod(_never)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.overrides, name)


class _Torch:
    """The module ``torch``, but no function mode is known."""

    overrides = _Overrides()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
