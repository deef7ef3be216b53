"""What tests of decoders have in common."""

import pytest
import torch

from tests.ops.decode.nvjpeg import CPU, STREAM, Library
from torchdali.ops.decode import _nvjpeg
from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._nvjpeg import NvjpegDecoder
from torchdali.ops.decode._nvjpeg_library import Engine


@pytest.fixture
def library():
    return Library()


@pytest.fixture
def decoder(library, monkeypatch):
    engine = Engine(library, CPU, STREAM)
    monkeypatch.setattr(_nvjpeg, "engine_of", lambda device: engine)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: STREAM)
    decoder = NvjpegDecoder(CpuDecoder())
    decoder._others = None
    return decoder
