"""Files on their way to an engine: their copies, and heights that end with what is wanted of an image."""

import ctypes

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import read_bytes
from tests.ops.decode.nvjpeg import CPU
from tests.ops.decode.oddities import encoded, picture, tensor
from torchdali import JpegFolder, TensorList
from torchdali.ops import DecodeCrop, DecodeImage, DecodeRandomCrop, DecodeSlice
from torchdali.ops._context import BatchContext, batch_context
from torchdali.ops._decoded import Given
from torchdali.ops.decode._staging import Staged, needed_rows, pieces_of


def together(files):
    return TensorList([tensor(file) for file in files]).pack()


def at_hand(count, device=CPU):
    return batch_context(BatchContext(5, 0, 0, np.arange(count), device, 1))


@pytest.fixture
def heights(library):
    """Those of the images that the engine was asked for, file by file."""
    found = []
    decode = library.nvjpegDecodeBatched

    def noting(handle, state, files, lengths, destinations, stream):
        found.extend(library_heights(files, library.prepared[0]))
        return decode(handle, state, files, lengths, destinations, stream)

    library.nvjpegDecodeBatched = noting
    return found


def library_heights(files, count):
    addresses = ctypes.cast(files, ctypes.POINTER(ctypes.c_uint64))[:count]
    for address in addresses:
        head = ctypes.string_at(address, 400)
        at = head.index(b"\xff\xc0")
        yield head[at + 5] << 8 | head[at + 6]


def test_rows_come_by_mcus_and_never_more_than_there_are():
    height, end = (array.ravel() for array in np.mgrid[1:200:7, 0:200:3])
    end = np.minimum(end, height)
    for step in (8, 16):
        rows = needed_rows(height, end, np.full_like(height, step), 64)
        assert (rows >= end).all()
        assert (rows <= height).all()
        assert ((rows % step == 0) | (rows == height)).all()
        assert (rows >= np.minimum(height, 64)).all()
        assert (rows < np.maximum(end, 64) + step).all()
    assert (needed_rows(height, end, np.zeros_like(height), 64) == height).all()


def test_what_lies_far_apart_is_copied_in_pieces():
    starts, lengths = np.array([900_000, 10, 300, 1_000_000]), np.array([5, 200, 50, 7])
    pieces, places = pieces_of(starts, lengths)
    assert pieces == [(10, 350), (900_000, 900_005), (1_000_000, 1_000_007)]
    assert places.tolist() == [340, 0, 290, 345]
    flat = torch.arange(1_000_007).to(torch.uint8)
    staged = Staged(flat, starts, lengths, CPU)
    for address, start, length in zip(staged.addresses.tolist(), starts, lengths, strict=True):
        offset = address - staged._memory.data_ptr()
        assert torch.equal(staged._memory[offset : offset + length], flat[start : start + length])
    assert staged._memory.numel() == 340 + 5 + 7


SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@pytest.mark.parametrize("kind", [*SAMPLINGS, "gray"])
def test_an_engine_decodes_no_further_than_what_is_wanted(decoder, heights, kind):
    image = picture(150, 200).convert("L" if kind == "gray" else "RGB")
    options = {} if kind == "gray" else {"subsampling": SAMPLINGS[kind]}
    files = together([encoded(image, quality=80, **options)] * 4)
    before = files.flat.clone()
    whole = DecodeImage()(files)
    parts = []
    for top in (0, 11, 100, 160):
        module = DecodeSlice((top, 20), (40, 60), normalized=False)
        module._decoders["cpu"] = decoder
        with at_hand(4):
            parts.append((top, module(files)))
    step = 16 if kind == "4:2:0" else 8
    wanted = [min(200, max(64, -(-(top + 40) // step) * step)) for top, _ in parts]
    assert heights == [height for height in wanted for _ in range(4)]
    for top, images in parts:
        for part, image in zip(images, whole, strict=True):
            # The stand-in makes smooth colours of the last row and one that would be below it; engines do not.
            assert torch.equal(part[:, :39], image[:, top : top + 39, 20:80])
            assert (part.int() - image[:, top : top + 40, 20:80].int()).abs().max() < 30
    assert torch.equal(files.flat, before)


def test_all_of_an_image_is_decoded_where_all_is_wanted_or_its_header_is_unusual(decoder, heights):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = [{"exif": exif}, {}, {}, {}]
    files = together([encoded(picture(150, 200), subsampling=0, **option) for option in options])
    module = DecodeCrop((30, 40), (0.0, 0.0))
    module._decoders["cpu"] = decoder
    with at_hand(4):
        images = module(files)
    expected = DecodeCrop((30, 40), (0.0, 0.0))(files)
    assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True))
    assert heights == [200, 64, 64, 64]
    heights.clear()
    whole = DecodeImage()
    whole._decoders["cpu"] = decoder
    with at_hand(4):
        whole(files)
    assert heights == [200] * 4


def test_outside_a_pipeline_windows_are_drawn_once_from_torch_s_generator(decoder, heights):
    files = together([encoded(picture(150, 200), subsampling=0)] * 6)
    module = DecodeRandomCrop((0.1, 0.2))
    module._decoders["cpu"] = decoder
    torch.manual_seed(3)
    images, then = module(files), torch.rand(3)
    torch.manual_seed(3)
    expected, same = DecodeRandomCrop((0.1, 0.2))(files), torch.rand(3)
    assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True))
    assert torch.equal(then, same)
    assert heights == [200] * 6


@pytest.mark.gpu
def test_on_a_gpu_the_rows_that_are_left_are_the_same(image_folder):
    files = TensorList([read_bytes(path) for path in JpegFolder(image_folder).files[:64]]).pack()
    module, count = DecodeRandomCrop(device="cuda"), len(files)
    device = torch.device("cuda", torch.cuda.current_device())
    with at_hand(count, device):
        parts = module(files)
        plan = module._plan(files, (), device, cut=True)
        whole = module._plan(files, (), device)
        windows = plan.glimpse.windows
    assert plan is not None
    assert (plan._rows < plan._height).sum() > count / 4
    whole.decode()
    images = whole.finish(Given.of({})).batch(windows, "CHW")
    assert all(torch.equal(part, image) for part, image in zip(parts, images, strict=True))
