"""What users rely on: the names, and what importing does not do."""

import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import FunctionType, MethodType

import pytest
import torch

import torchdali

PINNED = Path(__file__).parent / "public_api.txt"
MODULES = ("", ".display", ".errors", ".fn", ".fn.decoders", ".fn.random", ".ops", ".pool", ".source", ".types")


def public_things() -> Iterator[tuple[str, object]]:
    """What users rely on: names of the public modules, and those that classes of the package define."""
    for suffix in MODULES:
        module = importlib.import_module(f"torchdali{suffix}")
        for name in sorted(module.__all__):
            thing = getattr(module, name)
            yield f"{module.__name__}.{name}", thing
            if inspect.isclass(thing):
                own = {name for base in thing.__mro__ if is_ours(base) for name in vars(base)}
                for member in sorted(name for name in own if not name.startswith("_")):
                    value = inspect.getattr_static(thing, member)
                    of_class = isinstance(value, (staticmethod, classmethod))
                    yield f"{module.__name__}.{name}.{member}", getattr(thing, member) if of_class else value


def is_ours(base: type) -> bool:
    return base.__module__.startswith("torchdali")


def arguments(thing: object) -> str:
    """The arguments of a function, or of a class of the package that has a constructor of its own; without types."""
    if inspect.isclass(thing):
        made = [base for base in thing.__mro__ if "__init__" in vars(base) or "__new__" in vars(base)]
        if issubclass(thing, Enum) or not is_ours(made[0]):
            return ""
    elif not (inspect.isfunction(thing) or inspect.ismethod(thing)):
        return ""
    signature = inspect.signature(thing)
    shown = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=shown, return_annotation=inspect.Signature.empty))


def test_names_and_arguments_are_as_pinned():
    """A change of what users rely on is meant: TORCHDALI_WRITE_API=1 writes it down, and the changelog tells of it."""
    lines = "".join(f"{path}{arguments(thing)}\n" for path, thing in public_things())
    if os.environ.get("TORCHDALI_WRITE_API"):
        PINNED.write_text(lines)
    assert lines == PINNED.read_text()


def test_every_public_class_function_and_property_is_documented():
    kinds = (type, FunctionType, MethodType, property)
    assert [path for path, thing in public_things() if isinstance(thing, kinds) and not documented(path, thing)] == []


def documented(path: str, thing: object) -> bool:
    """Methods that are overridden may have the docstring of those that they override."""
    if inspect.getdoc(thing):
        return True
    owner = eval(path.rpartition(".")[0], {"torchdali": torchdali})
    return inspect.isclass(owner) and bool(inspect.getdoc(getattr(owner, path.rpartition(".")[2])))


def test_the_loader_has_the_arguments_of_torch_and_these():
    ours = inspect.signature(torchdali.DataLoader.__init__).parameters
    stock = inspect.signature(torch.utils.data.DataLoader.__init__).parameters
    for name, parameter in stock.items():
        assert ours[name].kind is parameter.kind, name
        assert ours[name].default == parameter.default, name
    assert {name: ours[name].default for name in ours if name not in stock} == {
        "on_worker_death": "raise",
        "memory_limit": None,
        "snapshot_every_n_steps": 1,
        "pipeline": None,
        "device": None,
        "prefetch": 2,
    }
    assert [name for name in ours if name in stock] == list(stock)


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_importing_starts_no_process_and_no_thread_and_leaves_cuda_alone():
    out = run(
        "import threading, torch, os\n"
        "import torchvision\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "import torchdali, torchdali.fn, torchdali.cli\n"
        "print(torch.cuda.is_initialized(), threading.active_count(), len(os.listdir('/proc/self/task')) - before)\n"
        "print(open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read())\n"
    )
    assert out.split() == ["False", "1", "0"]


@pytest.mark.gpu
def test_cuda_works_in_a_process_forked_after_the_import():
    out = run(
        "import os, torch, torchdali, torchdali.cli\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    print(torch.ones(3, device='cuda').sum().item(), flush=True)\n"
        "    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    assert out.split() == ["3.0"]


def test_importing_brings_in_no_optional_library():
    optional = "matplotlib lightning pytorch_lightning accelerate transformers torchcodec IPython nbclient"
    out = run(
        f"import sys, torchdali, torchdali.cli\nprint([name for name in '{optional}'.split() if name in sys.modules])"
    )
    assert out.strip() == "[]"
