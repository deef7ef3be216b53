"""What users rely on: the names, and what importing does not do."""

import inspect
import subprocess
import sys

import pytest
import torch

import torchdali


def test_the_public_names_are_these():
    assert sorted(torchdali.__all__) == [
        "BatchInfo",
        "CudaInitializedError",
        "DataLoader",
        "DecodeError",
        "ExternalSource",
        "JpegFolder",
        "Pipeline",
        "PipelineStateError",
        "PipelineStatistics",
        "SampleInfo",
        "TensorList",
        "WorkerDiedError",
        "__version__",
        "display",
        "errors",
        "fn",
        "ops",
        "pipeline_def",
        "pool",
        "ragged_collate",
        "source",
        "start",
        "types",
        "worker_info",
    ]
    assert sorted(torchdali.fn.__all__) == [
        "brightness",
        "brightness_contrast",
        "cast",
        "color_twist",
        "contrast",
        "crop",
        "crop_mirror_normalize",
        "decoders",
        "erase",
        "external_source",
        "flip",
        "gaussian_blur",
        "hsv",
        "hue",
        "normalize",
        "one_hot",
        "pad",
        "random",
        "random_resized_crop",
        "resize",
        "rotate",
        "saturation",
        "warp_affine",
    ]
    assert sorted(torchdali.pool.__all__) == [
        "Column",
        "DEFAULT_BYTES_PER_ITEM",
        "Items",
        "Job",
        "Memory",
        "MemoryHook",
        "OnWorkerDeath",
        "PoolStatistics",
        "Ragged",
        "Raised",
        "Stacked",
        "StartMethod",
        "WorkerInfo",
        "WorkerPool",
        "default_memory_limit",
        "deferred_interrupt",
        "empty",
        "worker_info",
        "worker_memory",
    ]
    for module in (torchdali, torchdali.fn, torchdali.ops, torchdali.pool, torchdali.source, torchdali.types):
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"


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
    out = run(
        "import sys, torchdali, torchdali.cli\n"
        "print([name for name in ('matplotlib', 'lightning', 'torchcodec', 'IPython', 'nbclient') if name in sys.modules])"
    )
    assert out.strip() == "[]"
