"""The decoders on a GPU: the same results as on the CPU for each file, whichever decoder and whatever its neighbours."""

import contextlib
import ctypes
import gc
import itertools
import types

import numpy as np
import pytest
import torch

from tests.helpers import read_bytes
from tests.ops.decode.oddities import encoded, oddities, picture, tensor, with_bad_tables
from tests.ops.decode.table import NOT_RUN, ON_CUDA, cuda_cell, read_table, write_column, write_is_wanted
from torchdali import DecodeError, JpegFolder
from torchdali.ops import DecodeCrop, DecodeImage
from torchdali.ops.decode import _nvjpeg
from torchdali.ops.decode._nvjpeg_library import Engine, engine_of, library_path
from torchdali.ops.decode._select import _ON_CUDA
from torchdali.tensorlist import TensorList

pytestmark = pytest.mark.gpu

THERE = [candidate.name for candidate in _ON_CUDA if candidate.is_there()]


@pytest.fixture(params=ON_CUDA)
def decoder(request):
    if request.param not in THERE:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def mean_difference(image, expected):
    return (image.cpu().int() - expected.cpu().int()).abs().float().mean().item()


def test_the_table_says_what_happens_on_cuda(decoder, monkeypatch):
    """TORCHDALI_WRITE_DOCS=1 writes it anew."""
    happens = {name: cuda_cell(data, decoder, monkeypatch) for name, data in oddities().items()}
    print(f"{decoder}: {happens}")
    assert all(cell.startswith("the same") for cell in happens.values())
    column = f"CUDA, {decoder}"
    if write_is_wanted():
        write_column(column, happens)
    documented = {name: cells[column] for name, cells in read_table().items()}
    assert documented == happens or set(documented.values()) == {NOT_RUN}


@pytest.mark.parametrize("mode", ["RGB", "GRAY", "UNCHANGED"])
def test_files_that_break_decoders_give_the_cpu_s_pixels_or_its_error(decoder, mode, odd_folder):
    for path in sorted(odd_folder.glob("*.jpg")):
        try:
            (expected,) = DecodeImage(mode)([read_bytes(path)])
        except DecodeError as error:
            with pytest.raises(DecodeError) as caught:
                DecodeImage(mode, device="cuda", decoder=decoder)([read_bytes(path)])
            assert str(caught.value) == str(error)
            continue
        (image,) = DecodeImage(mode, device="cuda", decoder=decoder)([read_bytes(path)])
        assert image.shape == expected.shape, path.name
        assert mean_difference(image, expected) < 3.0, path.name


@pytest.mark.parametrize("orientation", [True, False])
def test_photographs_are_as_on_the_cpu(decoder, image_folder, orientation):
    files = [read_bytes(path) for path in JpegFolder(image_folder).files[:64]]
    on_gpu = DecodeImage(device="cuda", decoder=decoder, apply_exif_orientation=orientation)(files)
    on_cpu = DecodeImage(apply_exif_orientation=orientation)(files)
    assert on_gpu.device == torch.device("cuda", torch.cuda.current_device())
    assert on_gpu.shape() == on_cpu.shape()
    worst = max(mean_difference(image, expected) for image, expected in zip(on_gpu, on_cpu, strict=True))
    print(f"{decoder}: mean difference of the worst image {worst:.3f}")
    assert worst < 3.0


def test_a_bad_image_costs_the_others_nothing(decoder):
    good = [tensor(encoded(picture(64 + n, 48), quality=95)) for n in range(7)]
    bad = tensor(with_bad_tables(encoded(picture())))
    cut = good[0][: len(good[0]) // 2]
    expected = DecodeImage(device="cuda", decoder=decoder)(good)
    batch = [*good[:3], bad, *good[3:], cut]
    with pytest.raises(DecodeError, match="sample 3 of the batch"):
        DecodeImage(device="cuda", decoder=decoder)(batch)
    decode = DecodeImage(device="cuda", decoder=decoder, on_error="skip")
    images, labels = decode(batch, torch.arange(9, device="cuda"))
    assert labels.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert all(torch.equal(image, alone) for image, alone in zip(images, expected, strict=True))
    replaced = DecodeImage(device="cuda", decoder=decoder, on_error="replace")(batch)
    assert replaced.device.type == "cuda"
    assert not replaced[3].any()
    assert not replaced[8].any()
    assert replaced.shape()[8] == (3, 48, 64)


def test_parts_are_views_of_what_was_decoded(decoder):
    file = tensor(encoded(picture()))
    (whole,) = DecodeImage(device="cuda", decoder=decoder)([file])
    (part,) = DecodeCrop((20, 30), device="cuda", decoder=decoder)([file])
    assert torch.equal(part, whole[:, 22:42, 33:63])
    assert part._base is not None


@pytest.mark.slow
def test_none_of_many_small_batches_is_spoilt_by_pending_kernels(decoder):
    """Each is decoded while kernels are pending that write to the images before, which have been given back."""
    files = [tensor(encoded(picture(64, 64 + n), quality=80)) for n in range(2)]
    decode = DecodeImage(device="cuda", decoder=decoder)
    expected = [image.clone() for image in decode(files)]
    spoilt = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(10_000):
        images = list(decode(files))
        spoilt += sum((image != other).any() for image, other in zip(images, expected, strict=True))
        torch.cuda._sleep(1_000_000)  # about 0.5 ms of clock cycles: longer than it takes to begin with the next one
        for image in images:
            image.fill_(77)
        del images, image
    assert spoilt.item() == 0


def spoilt_by_pending_kernels(decode, files):
    """How many of 10 batches are, where kernels are pending that write to the images before, which have been given back."""
    expected = [image.clone() for image in decode(files)]
    spoilt = 0
    for _ in range(10):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # so that no other memory is there to be given out
        images = list(decode(files))
        torch.cuda._sleep(100_000_000)  # about 50 ms of clock cycles
        for image in images:
            image.fill_(77)
        del images, image
        images = list(decode(files))
        spoilt += any(not torch.equal(image, other) for image, other in zip(images, expected, strict=True))
        del images
    return spoilt


def in_one_buffer(files):
    return TensorList.from_flat(torch.cat(files), np.array([[file.numel()] for file in files]))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("side", [False, True])
def test_images_are_not_spoilt_by_kernels_that_still_write_to_those_before(decoder, image_folder, together, side):
    files = [read_bytes(path) for path in JpegFolder(image_folder).files[:16]]
    decode = DecodeImage(device="cuda", decoder=decoder)
    with torch.cuda.stream(torch.cuda.Stream() if side else torch.cuda.default_stream()):
        assert spoilt_by_pending_kernels(decode, in_one_buffer(files) if together else files) == 0


def test_nor_where_torch_has_given_the_engine_s_stream_to_others_too(image_folder):
    """It has 32 of them, and begins again with the first."""
    device = torch.device("cuda", torch.cuda.current_device())
    engine = engine_of(device)
    if engine is None:
        pytest.skip("the GPU has no JPEG engine")
    streams = (torch.cuda.Stream(device) for _ in range(64))
    same = next(stream for stream in streams if stream.cuda_stream == engine._stream.cuda_stream)
    files = in_one_buffer([read_bytes(path) for path in JpegFolder(image_folder).files[:16]])
    with torch.cuda.stream(same):
        assert spoilt_by_pending_kernels(DecodeImage(device="cuda", decoder="nvjpeg"), files) == 0


def test_an_engine_that_writes_to_memory_of_the_current_stream_spoils_images(image_folder, monkeypatch):
    """Why an engine has a stream of its own: nvJPEG does not wait for what is pending on the stream that it is given."""
    device = torch.device("cuda", torch.cuda.current_device())
    if engine_of(device) is None:
        pytest.skip("the GPU has no JPEG engine")
    stream = torch.cuda.current_stream(device)
    waits = itertools.cycle([lambda: None, stream.synchronize])  # not before it begins, and when it has
    own = types.SimpleNamespace(cuda_stream=stream.cuda_stream, synchronize=lambda: next(waits)())
    engine = Engine(ctypes.CDLL(library_path()), device, own)
    monkeypatch.setattr(engine, "_on_stream", contextlib.nullcontext)
    monkeypatch.setattr(_nvjpeg, "engine_of", lambda device: engine)
    files = in_one_buffer([read_bytes(path) for path in JpegFolder(image_folder).files[:16]])
    spoilt = spoilt_by_pending_kernels(DecodeImage(device="cuda", decoder="nvjpeg"), files)
    print(f"batches spoilt of 10: {spoilt} without a stream of its own")
    assert spoilt > 0


@pytest.mark.parametrize("together", [False, True])
def test_who_decodes_faster_than_the_device_works_takes_no_more_and_more_memory(decoder, image_folder, together):
    files = [read_bytes(path) for path in JpegFolder(image_folder).files[:16]]
    given = in_one_buffer(files) if together else files
    decode = DecodeImage(device="cuda", decoder=decoder)
    size = sum(image.numel() for image in decode(given))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(50):
        images = list(decode(given))
        torch.cuda._sleep(20_000_000)  # about 10 ms of clock cycles
        for image in images:
            image.add_(1)
        del images, image
    # The allocator takes 20 MB at a time for such blocks; 50 batches would be 50 times the size.
    assert torch.cuda.memory_reserved() - before < 12 * size


def test_decoded_images_outlive_the_decoder(decoder):
    decode = DecodeImage(device="cuda", decoder=decoder)
    file = tensor(encoded(picture()))
    (image,) = decode([file])
    before = image.clone()
    del decode
    gc.collect()
    (again,) = DecodeImage(device="cuda", decoder=decoder)([file])
    assert torch.equal(image, before)
    assert torch.equal(image, again)
