"""What tests of pipelines have in common."""

import threading

import pytest
import torch

from tests.ops.decode.nvjpeg import CPU, STREAM, Library
from torchdali import ops
from torchdali.ops.decode import _nvjpeg
from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._nvjpeg import NvjpegDecoder
from torchdali.ops.decode._nvjpeg_library import Engine
from torchdali.pipeline import _staff


@pytest.fixture
def library():
    return Library()


@pytest.fixture
def early(library, monkeypatch):
    """Has pipelines begin early although they are on the CPU, with a stand-in for the engine; lists who decoded."""
    threads = []
    engine = Engine(library, CPU, STREAM)
    decode = engine._decode
    monkeypatch.setattr(engine, "_decode", lambda *a: (threads.append(threading.current_thread().name), decode(*a)))
    monkeypatch.setattr(_nvjpeg, "engine_of", lambda device: engine)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: STREAM)
    monkeypatch.setattr(_staff, "expected_device", lambda request: torch.device("cuda", 0))

    def made(operator=ops.DecodeImage, **options):
        module = operator(**options)
        decoder = NvjpegDecoder(CpuDecoder())
        decoder._others = None
        module._decoders["cpu"] = decoder
        return module

    made.threads = threads
    return made
