"""What the hand-over finds in a batch, and what it does where there is no device."""

import types
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from torchdali import TensorList
from torchdali.pipeline._handover import Handover, batches_in


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass
class Sample:
    image: Any


@dataclass(slots=True)
class Slotted:
    image: Any
    missing: Any = field(init=False)


class Callable(Slotted):
    __slots__ = ("__own",)

    def __init__(self, image, own):
        super().__init__(image)
        self.__own = own

    def __call__(self):
        return self.__own


def test_tensors_are_found_wherever_forward_puts_them():
    tensors = [torch.full((1,), number) for number in range(9)]
    ragged = TensorList([torch.zeros(2), torch.zeros(3)])
    circle: list[Any] = [tensors[5]]
    circle.append(circle)
    value = (
        tensors[0],
        {"a": [tensors[1], "text", 3, None, len, torch.nn.Linear(1, 1)]},
        Pair(tensors[2], ragged),
        Sample(tensors[3]),
        types.SimpleNamespace(inner={"deep": (tensors[4],)}),
        circle,
        Slotted([tensors[6]]),
        Callable(tensors[8], own=tensors[7]),
    )
    found = list(batches_in(value))
    assert [id(entry) for entry in found] == [id(entry) for entry in (*tensors[:3], ragged, *tensors[3:])]


def test_on_the_cpu_there_is_nothing_to_wait_for():
    handover = Handover(torch.device("cpu"), torch.device("cpu"))
    with handover.stage():
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert handover.stream is None
    assert handover.finished() is None
    handover.receive([torch.zeros(1)], None)
    handover.synchronize()


def test_the_stage_has_the_default_device_of_who_built_it():
    with Handover(torch.device("cpu"), torch.device("meta")).stage():
        assert torch.zeros(1).device.type == "meta"
    assert torch.zeros(1).device.type == "cpu"
