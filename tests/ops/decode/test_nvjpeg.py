"""nvJPEG's decoder: what goes to the engine, where it writes, and what becomes of what it refuses."""

import contextlib
import ctypes
import types

import numpy as np
import pytest
import torch

from tests.helpers import read_bytes
from tests.ops.decode.nvjpeg import CPU, STREAM, Library
from tests.ops.decode.oddities import encoded, oddities, picture, tensor
from torchdali import JpegFolder
from torchdali.ops.decode import _nvjpeg, _nvjpeg_library
from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._inspect import inspect
from torchdali.ops.decode._interface import CannotDecodeError
from torchdali.ops.decode._nvjpeg import NvjpegDecoder
from torchdali.ops.decode._nvjpeg_library import Engine, EngineError, engine_of, library_path


def infos(files):
    return [inspect(bytes(file.numpy())) for file in files]


def inspectable(data):
    try:
        return inspect(data)
    except CannotDecodeError:
        return None


def expected(file, mode=3):
    return torch.ops.image.decode_jpeg(file, mode, False)


def decode_one(engine, file):
    """Of 70 x 80 pixels."""
    arrays = (np.array([value]) for value in (file.data_ptr(), file.numel(), 70, 80, 80))
    buffer, (start,) = engine.decode(*arrays, 3)
    return buffer[start : start + 3 * 70 * 80].view(3, 70, 80)


def waited_for(library):
    """A stream, and how often the engine had been called whenever it was waited for."""
    waited = []
    return types.SimpleNamespace(cuda_stream=8, synchronize=lambda: waited.append(len(library.streams))), waited


@pytest.mark.parametrize("mode", ["RGB", "GRAY"])
def test_each_image_is_written_to_its_own_place(decoder, library, image_folder, mode):
    files = [
        file
        for path in JpegFolder(image_folder).files[:9]
        if inspect(bytes((file := read_bytes(path)).numpy())).baseline
    ]
    assert len(files) > 2
    for _ in range(2):
        images = decoder.decode(files, infos(files), mode, CPU)
        for image, file in zip(images, files, strict=True):
            assert torch.equal(image, expected(file, 1 if mode == "GRAY" else 3))
            assert image.is_contiguous()
    assert library.batches == ["prepared", len(files), len(files)]


def test_images_come_to_be_on_the_engine_s_own_stream(library, monkeypatch):
    """The stream that is current may have kernels pending that use the memory, for which nvJPEG does not wait."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=7))
    own, waited = waited_for(library)
    file = tensor(encoded(picture(80, 70)))
    assert torch.equal(decode_one(Engine(library, CPU, own), file), expected(file))
    assert library.streams == [8]
    assert waited == [0, 1], "nothing was pending there before, and the images are complete"


def test_an_engine_that_fails_is_waited_for_before_memory_is_given_back(library):
    own, waited = waited_for(library)
    library.statuses = [6]
    with pytest.raises(EngineError, match="execution failed"):
        decode_one(Engine(library, CPU, own), tensor(encoded(picture(80, 70))))
    assert waited == [0, 1]


def test_the_library_is_prepared_anew_for_another_number_of_images(decoder, library):
    files = [tensor(encoded(picture(80 + n, 70))) for n in range(3)]
    for count in (3, 2, 2, 3):
        decoder.decode(files[:count], infos(files[:count]), "RGB", CPU)
    assert library.batches == ["prepared", 3, "prepared", 2, 2, "prepared", 3]


def test_only_what_every_engine_takes_is_given_to_it(decoder, library):
    plain = encoded(picture(96, 80))
    files = [
        plain,
        encoded(picture(96, 80), progressive=True),
        encoded(picture(63, 96)),
        encoded(picture(96, 80).convert("L")),
        encoded(picture(96, 80), subsampling=0),
        encoded(picture(96, 80).convert("CMYK")),
    ]
    images = decoder.decode([tensor(file) for file in files], infos([tensor(file) for file in files]), "RGB", CPU)
    assert library.batches == ["prepared", 3]
    for image, file in zip(images, files, strict=True):
        assert torch.equal(image, expected(tensor(file)))


def test_of_odd_files_baseline_ones_only_count_as_such():
    found = {name: info for name, data in oddities().items() if (info := inspectable(data)) is not None}
    assert {name for name, info in found.items() if info.baseline} <= {
        n for n, info in found.items() if info.suits_engine
    }
    assert not any(info.baseline for name, info in found.items() if "progressive" in name or "CMYK" in name)


def test_the_other_jpegs_are_torchvision_s_where_it_is_there(decoder):
    asked = []

    def decode_jpegs(files, infos, mode, device):
        asked.extend(infos)
        return [expected(file) for file in files]

    decoder._others = types.SimpleNamespace(decode_jpegs=decode_jpegs)
    files = [tensor(encoded(picture(96, 80), progressive=progressive)) for progressive in (True, False, True)]
    images = decoder.decode(files, infos(files), "RGB", CPU)
    assert [info.baseline for info in asked] == [False, False]
    assert all(torch.equal(image, expected(file)) for image, file in zip(images, files, strict=True))


def test_a_refused_image_costs_the_others_nothing(decoder, library):
    files = [tensor(encoded(picture(80 + n, 70))) for n in range(4)]
    library.statuses = [3]
    images = decoder.decode(files, infos(files), "RGB", CPU)
    assert all(torch.equal(image, expected(file)) for image, file in zip(images, files, strict=True))
    assert library.batches == ["prepared", "prepared", 2, 2]


def test_what_a_status_means_is_said(library):
    file = tensor(encoded(picture(80, 70)))
    library.statuses = [4]
    with pytest.raises(EngineError, match="nvjpegDecodeBatched: nvJPEG's status 4, JPEG not supported"):
        decode_one(Engine(library, CPU, STREAM), file)


def test_where_memory_is_short_torch_gives_back_what_it_keeps(library, monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    file = tensor(encoded(picture(80, 70)))
    library.statuses = [5]
    image = decode_one(Engine(library, CPU, STREAM), file)
    assert emptied == [True]
    assert torch.equal(image, expected(file))
    library.statuses = [5, 5]
    with pytest.raises(torch.OutOfMemoryError, match="its memory is not torch's"):
        decode_one(Engine(library, CPU, STREAM), file)


def test_without_an_engine_all_is_left_to_others(monkeypatch):
    class Without(Library):
        def nvjpegCreateEx(self, *arguments):
            return 7

    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: STREAM)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: STREAM)
    monkeypatch.setattr(_nvjpeg_library.ctypes, "CDLL", lambda path: Without())
    monkeypatch.setattr(_nvjpeg_library, "library_path", lambda: "libnvjpeg.so")
    engine_of.cache_clear()
    try:
        assert engine_of(torch.device("cuda", 0)) is None
        decoder = NvjpegDecoder(CpuDecoder())
        decoder._others = None
        file = tensor(encoded(picture(80, 70)))
        monkeypatch.setattr(_nvjpeg, "engine_of", engine_of)
        (result,) = decoder.decode_jpegs([file], infos([file]), "RGB", torch.device("cuda", 0))
        assert result is None
    finally:
        engine_of.cache_clear()


def test_the_library_of_torchvision_s_cuda_builds_is_found():
    if torch.version.cuda is None:
        pytest.skip("torch is no CUDA build")
    path = library_path()
    assert path is not None
    assert hasattr(ctypes.CDLL(path), "nvjpegDecodeBatched")
