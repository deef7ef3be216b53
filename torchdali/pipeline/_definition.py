"""``@pipeline_def``: a function of ``fn`` calls becomes a pipeline, with DALI's names and rules."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

import torch
from torch import fx

from torchdali.pipeline._device import DeviceRequest
from torchdali.pipeline._pipeline import Pipeline
from torchdali.pipeline._placement import Placement
from torchdali.pipeline._share_control import CpuShare
from torchdali.pipeline._trace import Trace, tracing
from torchdali.pool import OnWorkerDeath, StartMethod
from torchdali.source import ExternalSource
from torchdali.tensorlist import TensorList

__all__ = ["TracedPipeline", "pipeline_def"]

Definition = TypeVar("Definition", bound=Callable[..., Any])

_IGNORED = ("bytes_per_sample", "exec_async", "exec_dynamic", "exec_pipelined", "set_affinity")
"""DALI's options that only say how its executor works."""


class TracedPipeline(Pipeline):
    """A pipeline whose stage is a graph of operators.

    :meth:`run` returns a tuple of :class:`~torchdali.TensorList`, images as (H, W, C), each on the device where its last
    operator left it: labels stay on the CPU unless ``.gpu()`` is called on them.
    """

    def __init__(self, stage: fx.GraphModule, sources: list[ExternalSource], **options: Any) -> None:
        super().__init__(sources, **options)
        self.stage = stage

    @property
    def graph(self) -> fx.Graph:
        """The operators and how they are connected; print it."""
        return self.stage.graph

    def forward(self, *inputs: TensorList) -> tuple[Any, ...]:
        """Run the graph on the sources' outputs."""
        outputs: tuple[Any, ...] = self.stage(*inputs)
        return outputs

    def _measured(self) -> torch.nn.Module:
        return self.stage

    def _finish(self, outputs: Any) -> Any:
        return tuple(TensorList.from_batch(output) for output in outputs)


def _options(
    *,
    batch_size: int | None = None,
    max_batch_size: int | None = None,
    num_threads: int | None = None,
    device_id: DeviceRequest = "auto",
    seed: int | None = None,
    py_num_workers: int = 1,
    py_start_method: StartMethod = "fork",
    prefetch_queue_depth: int | dict[str, int] = 2,
    last_batch: Literal["drop", "partial"] = "drop",
    stage_thread: bool = True,
    record_draws: bool = False,
    on_worker_death: OnWorkerDeath = "raise",
    placement: Placement = "main",
    gpu_workers: int | None = None,
    cpu_share: CpuShare = 0,
) -> dict[str, Any]:
    """DALI's names to those of :class:`Pipeline`."""
    batch_size = max_batch_size if batch_size is None else batch_size
    if batch_size is None:
        raise ValueError("batch_size is missing: give it to @pipeline_def or to the call of the pipeline function")
    if isinstance(prefetch_queue_depth, dict):
        unknown = set(prefetch_queue_depth) - {"cpu_size", "gpu_size"}
        if unknown or not prefetch_queue_depth:
            raise ValueError(
                f'prefetch_queue_depth is {prefetch_queue_depth!r}; its keys are "cpu_size" and "gpu_size"'
            )
        prefetch_queue_depth = max(prefetch_queue_depth.values())
    for name, value in (("batch_size", batch_size), ("py_num_workers", py_num_workers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; it has to be a positive integer")
    return {
        "batch_size": batch_size,
        "num_threads": num_threads,
        "device": device_id,
        "seed": None if seed is None or seed < 0 else seed,
        "num_workers": py_num_workers,
        "prefetch": prefetch_queue_depth,
        "last_batch": last_batch,
        "stage_thread": stage_thread,
        "record_draws": record_draws,
        "on_worker_death": on_worker_death,
        "placement": placement,
        "gpu_workers": gpu_workers,
        "start_method": py_start_method,
        "cpu_share": cpu_share,
    }


_NAMES = frozenset(inspect.signature(_options).parameters) | frozenset(_IGNORED)


@overload
def pipeline_def(definition: Definition) -> Callable[..., TracedPipeline]: ...


@overload
def pipeline_def(**options: Any) -> Callable[[Definition], Callable[..., TracedPipeline]]: ...


def pipeline_def(definition: Definition | None = None, **options: Any) -> Any:
    """Decorate a function of ``fn`` calls; calling it then makes a :class:`TracedPipeline`.

    Options can be given here and to the call, where they override these; all other arguments of the call go to the
    function.

    Args:
        definition: the function; it returns one or several outputs of ``fn`` calls.
        **options: ``batch_size`` (needed; also ``max_batch_size``), ``num_threads``, ``device_id`` (an index; None: the CPU;
            by default the current CUDA device where there is one; also what :class:`Pipeline` takes as ``device``),
            ``seed``, ``py_num_workers``, ``py_start_method`` (``"fork"``, ``"spawn"``, ``"zygote"``, ``"forkserver"``),
            ``prefetch_queue_depth``, ``last_batch`` (``"drop"``, as in DALI, or ``"partial"``), ``on_worker_death``,
            ``stage_thread``, ``record_draws``, ``cpu_share``, ``placement``, ``gpu_workers``
            (as of :class:`Pipeline`).
            Options that only tune DALI's executor are accepted and have no effect.

    Raises:
        TypeError: an option has no meaning here.
    """
    unknown = sorted(set(options) - _NAMES)
    if unknown:
        raise TypeError(f"@pipeline_def has no option {', '.join(unknown)}; it has {', '.join(sorted(_NAMES))}")
    if definition is None:
        return functools.partial(_decorate, options=options)
    return _decorate(definition, options={})


def _decorate(definition: Callable[..., Any], options: dict[str, Any]) -> Callable[..., TracedPipeline]:
    name = getattr(definition, "__name__", "pipeline")
    clash = sorted(_NAMES & set(inspect.signature(definition).parameters))
    if clash:
        raise TypeError(
            f"the pipeline function {name} has a parameter {', '.join(clash)}, which is an option of @pipeline_def"
        )

    @functools.wraps(definition)
    def make(*arguments: Any, **keywords: Any) -> TracedPipeline:
        chosen = {**options, **{key: keywords.pop(key) for key in list(keywords) if key in _NAMES}}
        translated = _options(**{key: value for key, value in chosen.items() if key not in _IGNORED})
        trace = Trace(name)
        with tracing(trace):
            outputs = definition(*arguments, **keywords)
        stage = trace.finish(outputs)
        if not trace.sources:
            raise ValueError(
                f"the pipeline function {name} has no fn.external_source, so it has no data; call it in the function, and "
                "give its outputs to the other operators"
            )
        return TracedPipeline(stage, trace.sources, name=name, **translated)

    return make
