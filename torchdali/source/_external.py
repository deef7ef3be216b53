"""What data comes from: the user's callable, iterable or generator, with the rules under which it is asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

__all__ = ["CallKind", "ExternalSource"]

CallKind = Literal["sample", "batch", "iterable"]


def _positional_arguments(source: Callable[..., Any], name: str) -> int:
    """How many arguments the callable takes: 0 or 1."""
    try:
        parameters = inspect.signature(source).parameters.values()
    except (TypeError, ValueError):  # a builtin that tells nothing
        return 1
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY) and (
            parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty
        ):
            raise TypeError(
                f"the source {name} takes `{parameter}`; it has to take exactly one positional argument for samples, "
                "or none or one for batches"
            )
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if len(required) > 1:
        raise TypeError(
            f"the source {name} takes {len(required)} arguments ({', '.join(p.name for p in required)}); it is called "
            "with one, a SampleInfo or BatchInfo"
        )
    return min(1, len(positional))


class ExternalSource:
    """A source of samples for a pipeline.

    Args:
        source: one of

            - a callable of one argument, with ``batch=False``: called with a :class:`SampleInfo` for each sample;
            - a callable of none or one argument, with ``batch=True``: called for each batch with the iteration in the
              epoch, or with a :class:`BatchInfo` if ``batch_info``;
            - an iterable or a generator function, which yields batches (``batch=True``) or samples.
        num_outputs: number of outputs; the source then returns a tuple or list of that length. None: one output, which
            is what the source returns.
        batch: whether a call makes a batch or a sample.
        batch_info: pass a :class:`BatchInfo` to batch callables.
        parallel: run the source in worker processes. An iterable of batches has a worker of its own, as its state can only
            be in one process; an iterable of samples runs in the main process.
        prefetch_queue_depth: batches that workers prepare ahead; None: the pipeline's.
        cycle: for iterables, what happens at their end. ``False``/``"no"``: StopIteration until the pipeline is reset.
            ``True``/``"quiet"``: they start again and the epoch never ends. ``"raise"``: StopIteration, and they start
            again without a reset.
        bytes_per_sample_hint: expected bytes of a sample, all outputs together; it adapts.
        name: for messages; by default that of the source.

    A callable ends the epoch by raising StopIteration, and goes on raising it when asked beyond the end, since samples
    are asked for ahead.

    Raises:
        TypeError: the source is no such callable or iterable, or has another signature.
        ValueError: an argument is out of its range or does not go with another.
    """

    def __init__(
        self,
        source: Callable[..., Any] | Iterable[Any],
        num_outputs: int | None = None,
        *,
        batch: bool = False,
        batch_info: bool = False,
        parallel: bool = True,
        prefetch_queue_depth: int | None = None,
        cycle: bool | Literal["no", "quiet", "raise"] | None = None,
        bytes_per_sample_hint: int | None = None,
        name: str | None = None,
    ) -> None:
        self.source = source
        self.name = name or getattr(source, "__name__", None) or type(source).__name__
        self.num_outputs = num_outputs
        self.batch = batch
        self.batch_info = batch_info
        self.parallel = parallel
        self.prefetch_queue_depth = prefetch_queue_depth
        self.bytes_per_sample_hint = bytes_per_sample_hint
        self.cycle = _cycle(cycle)
        for argument in ("num_outputs", "prefetch_queue_depth", "bytes_per_sample_hint"):
            value = getattr(self, argument)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{argument} is {value!r}; it has to be a positive integer, or None")
        self.kind: CallKind = self._classify()
        self.takes_argument = self.kind == "sample" or (self.kind == "batch" and self._arguments == 1)

    def _classify(self) -> CallKind:
        source = self.source
        generator_function = inspect.isgeneratorfunction(source)
        if not callable(source) or generator_function:
            if not generator_function and not isinstance(source, Iterable):
                raise TypeError(f"a source is a callable or an iterable, not {type(source).__name__} {source!r}")
            if self.parallel and not self.batch:
                raise TypeError(
                    f"the source {self.name} is an iterable of samples, whose state only one process can have: pass "
                    "batch=True and yield batches, which a worker of its own then makes; or pass parallel=False; or make it "
                    "a callable of one argument that can be called for any sample"
                )
            if inspect.isgenerator(source) and self.cycle != "no":
                raise TypeError(
                    f"the source {self.name} is a generator, which cannot start again: cycle={self.cycle!r}; give the generator "
                    "function itself, without calling it"
                )
            return "iterable"
        if self.cycle != "no":
            raise ValueError(
                f"cycle={self.cycle!r} is for iterables; the callable {self.name} ends an epoch by StopIteration"
            )
        self._arguments = _positional_arguments(source, self.name)
        if self.batch:
            return "batch"
        if self._arguments == 0:
            raise TypeError(
                f"the source {self.name} takes no argument, but with batch=False it is called with a SampleInfo for each "
                "sample. Add an argument, or pass batch=True if it returns batches"
            )
        return "sample"

    @property
    def begins_anew(self) -> bool:
        """Whether an iterable begins again for each epoch; generators and iterators go on where they are."""
        return inspect.isgeneratorfunction(self.source) or not isinstance(self.source, Iterator)

    def __len__(self) -> int:
        """Number of samples in an epoch, where the source has a length.

        Raises:
            TypeError: it has none.
        """
        length = getattr(self.source, "__len__", None)
        if length is None:
            raise TypeError(
                f"the source {self.name} has no __len__, so the length of an epoch is not known; give it one, or iterate "
                "without len()"
            )
        return int(length())

    def __repr__(self) -> str:
        where = "parallel" if self.parallel else "main process"
        return f"ExternalSource({self.name}, {self.kind}, num_outputs={self.num_outputs}, {where})"


def _cycle(value: bool | str | None) -> Literal["no", "quiet", "raise"]:
    if value in (None, False, "no"):
        return "no"
    if value in (True, "quiet"):
        return "quiet"
    if value == "raise":
        return "raise"
    raise ValueError(f"cycle is {value!r}; it is one of False, 'no', True, 'quiet', 'raise'")
