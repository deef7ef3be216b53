"""From calls of ``fn`` to a graph of modules.

While a pipeline function runs, each call of ``torchdali.fn`` makes a module and a node of a ``torch.fx.Graph`` that calls
it. The graph then is the pipeline's ``forward``: one set of operators, one executor, whichever way it is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import NoReturn

import torch
from torch import fx, nn

from torchdali.ops import Operator, current_batch
from torchdali.source import ExternalSource
from torchdali.tensorlist import TensorList

__all__ = ["DataNode", "Trace", "current_trace", "tracing"]


class ToDevice(Operator):
    """Moves a batch to the CPU, or to the pipeline's device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def forward(self, batch: TensorList | torch.Tensor) -> TensorList | torch.Tensor:
        """The batch there; itself when it is there already."""
        context = current_batch()
        target = torch.device("cpu") if self.device == "cpu" or context is None else context.device
        return batch.to(target)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return self.device


class WithLayout(Operator):
    """Says what the dimensions of samples are."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, batch: TensorList | torch.Tensor) -> TensorList:
        """The batch with that layout, in the same memory."""
        samples = TensorList.from_batch(batch)
        if samples.block is not None:
            return TensorList.from_batch(samples.block, self.layout)
        if samples.flat is not None:
            return TensorList.from_flat(
                samples.flat, samples.sizes, self.layout, offsets=samples.offsets, order=samples.order
            )
        return TensorList(list(samples), self.layout, dtype=samples.dtype, device=samples.device)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return self.layout


class DataNode:
    """A batch that a pipeline function handles, before there is data: an output of a source or of an operator."""

    def __init__(self, trace: Trace, node: fx.Node) -> None:
        self.trace = trace
        self.node = node

    def gpu(self) -> DataNode:
        """The batch on the pipeline's device."""
        return self.trace.call("gpu", ToDevice("gpu"), self)

    def cpu(self) -> DataNode:
        """The batch in CPU memory."""
        return self.trace.call("cpu", ToDevice("cpu"), self)

    def _no_data(self, what: str) -> NoReturn:
        raise TypeError(
            f"{what} a DataNode, which has no data: the pipeline function only says what is to be done, once. Use operators "
            "of torchdali.fn, or write the pipeline as a torchdali.Pipeline, whose forward gets the data"
        )

    def __bool__(self) -> bool:  # noqa: PLE0304  it raises
        self._no_data("`if`, `and`, `or`, `not` need the value of")

    def __iter__(self) -> Iterator[DataNode]:
        self._no_data("cannot iterate over")

    def __len__(self) -> int:  # noqa: PLE0303  it raises
        self._no_data("cannot take the length of")

    def __repr__(self) -> str:
        return f"DataNode({self.node.name})"


class Trace:
    """What a pipeline function has said so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.sources: list[ExternalSource] = []
        self._last_input: fx.Node | None = None

    def add_source(self, source: ExternalSource, layouts: Sequence[str] = ()) -> DataNode | list[DataNode]:
        """Add a source; returns its outputs, of which the first ones have layouts, where these are not empty."""
        self.sources.append(source)
        outputs = [self._add_input(f"source{len(self.sources) - 1}_{i}") for i in range(source.num_outputs or 1)]
        for number, layout in enumerate(layouts):
            if layout:
                outputs[number] = self.call("layout", WithLayout(layout), outputs[number])
        return outputs[0] if source.num_outputs is None else outputs

    def _add_input(self, name: str) -> DataNode:
        # Inputs come first in a graph, also those of a source that is defined after an operator.
        if self._last_input is None:
            place = self.graph.inserting_before(next(iter(self.graph.nodes), None))
        else:
            place = self.graph.inserting_after(self._last_input)
        with place:
            self._last_input = self.graph.placeholder(name)
        return DataNode(self, self._last_input)

    def call(self, name: str, module: nn.Module, *inputs: DataNode, **keywords: DataNode) -> DataNode:
        """Add a call of ``module``."""
        for node in (*inputs, *keywords.values()):
            if not isinstance(node, DataNode):
                raise TypeError(
                    f"fn.{name} was given a {type(node).__name__} {node!r}; its inputs are outputs of other fn calls"
                )
            if node.trace is not self:
                raise ValueError(
                    f"fn.{name} was given an output of another pipeline; make all that it uses in the same pipeline function"
                )
        key = name.replace(".", "_")
        if hasattr(self.root, key):
            key = next(
                f"{key}_{i}" for i in range(1, len(self.graph.nodes) + 1) if not hasattr(self.root, f"{key}_{i}")
            )
        self.root.add_module(key, module)
        arguments = tuple(node.node for node in inputs)
        return DataNode(
            self, self.graph.call_module(key, arguments, {name: node.node for name, node in keywords.items()})
        )

    def finish(self, outputs: object) -> fx.GraphModule:
        """The graph as a module, given what the function returned."""
        returned = tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
        for position, output in enumerate(returned):
            if not isinstance(output, DataNode):
                raise TypeError(
                    f"the pipeline function {self.name} returned {output!r} as output {position}; it returns outputs of fn "
                    "calls" + (" (is a `return` missing?)" if output is None else "")
                )
            if output.trace is not self:
                raise ValueError(
                    f"output {position} of the pipeline function {self.name} belongs to another pipeline; return what the "
                    "function itself made"
                )
        self.graph.output(tuple(output.node for output in returned))
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph, class_name=self.name)


_current: ContextVar[Trace | None] = ContextVar("torchdali_trace", default=None)


def current_trace(what: str) -> Trace:
    """The pipeline function that is running.

    Raises:
        RuntimeError: none is.
    """
    trace = _current.get()
    if trace is None:
        raise RuntimeError(
            f"fn.{what} was called outside a pipeline function; call it in a function with the decorator @pipeline_def, or use "
            "the operators of torchdali.ops, which are modules"
        )
    return trace


@contextlib.contextmanager
def tracing(trace: Trace) -> Iterator[None]:
    """Make a trace current while its pipeline function runs."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)
