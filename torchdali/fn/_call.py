"""What functions that add an operator on images to a pipeline have in common."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from torchdali.ops._geometry_arguments import GIVEN_IN_THE_CALL
from torchdali.pipeline import DataNode, current_trace
from torchdali.types import DALIInterpType

__all__ = ["Device", "add_call", "filter_name", "without_nodes"]

Device = Literal["cpu", "gpu"]


def without_nodes(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, DataNode]]:
    """Arguments for a module's constructor, and those of them that are nodes, for its calls."""
    nodes = {name: value for name, value in arguments.items() if isinstance(value, DataNode)}
    return {name: GIVEN_IN_THE_CALL if name in nodes else value for name, value in arguments.items()}, nodes


def add_call(
    name: str, module: nn.Module, images: DataNode, device: Device | None, nodes: dict[str, DataNode]
) -> DataNode:
    """Add a module to the pipeline function that is running, and a call of it where ``device`` says.

    Raises:
        ValueError: there is no such device.
    """
    trace = current_trace(name)
    if device is not None and isinstance(images, DataNode):
        if device not in ("cpu", "gpu"):
            raise ValueError(f"fn.{name} has no device {device!r}; it is one of cpu, gpu")
        images = images.gpu() if device == "gpu" else images.cpu()
    return trace.call(name, module, images, **nodes)


def filter_name(interp_type: DALIInterpType | str, antialias: bool = True) -> tuple[Any, bool]:
    """The filter, and whether it is antialiased, that one of ``types.INTERP_*`` stands for; a filter's name as it is."""
    if interp_type is DALIInterpType.INTERP_TRIANGULAR:
        return "linear", True
    return interp_type.value if isinstance(interp_type, DALIInterpType) else interp_type, antialias
