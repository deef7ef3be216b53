"""The look at all headers of a batch at once says what the look at each says, or nothing."""

import random
import re

import numpy as np
import pytest
import torch

from torchdali import TensorList
from torchdali.ops.decode._glance import glance
from torchdali.ops.decode._inspect import MAX_PIXELS, inspect
from torchdali.ops.decode._interface import CannotDecodeError


def looked_at(file, max_pixels=MAX_PIXELS):
    try:
        return inspect(file, max_pixels)
    except CannotDecodeError:
        return None


def together(files):
    return TensorList([torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]).pack()


def assert_agree(files, max_pixels=MAX_PIXELS):
    """Returns of how many files something was said."""
    seen = glance(together(files), max_pixels)
    for file, info in zip(files, seen, strict=True):
        assert info is None or info == looked_at(file, max_pixels)
    return sum(info is not None for info in seen)


@pytest.fixture
def jpegs(image_folder):
    paths = sorted(path for path in image_folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    return [path.read_bytes() for path in paths[:60]]


def test_of_photographs_it_says_what_their_headers_say(jpegs):
    assert assert_agree(jpegs) > 0.5 * len(jpegs)
    assert assert_agree(jpegs, max_pixels=200_000) < assert_agree(jpegs)


def test_wherever_a_header_is_changed_it_says_the_same_or_nothing(jpegs):
    chance = random.Random(5)
    said = 0
    for _ in range(12):
        changed = []
        for jpeg in jpegs:
            file = bytearray(jpeg)
            for _ in range(chance.randint(1, 3)):
                file[chance.randrange(min(len(file), 640))] = chance.choice(
                    [0, 1, 8, 17, 0xC0, 0xDA, 0xE1, 0xFF, chance.randrange(256)]
                )
            changed.append(bytes(file))
        said += assert_agree(changed)
    assert said > 0


def test_of_what_is_cut_or_no_jpeg_it_says_nothing(jpegs, odd_folder):
    cut = [jpeg[: 1 + number * len(jpeg) // 60] for number, jpeg in enumerate(jpegs)]
    assert assert_agree(cut) == sum(looked_at(file) is not None and file[-2:] == b"\xff\xd9" for file in cut)
    assert_agree([path.read_bytes() for path in sorted(odd_folder.iterdir()) if path.is_file()])


def test_small_files_and_ends_of_the_buffer_are_safe(jpegs):
    whole = jpegs[0]
    pieces = [whole[:length] for length in range(1, 80)] + [
        b"\xff\xd8" + bytes(60) + b"\xff\xd9",
        whole[:30] + b"\xff\xd9",
    ]
    assert assert_agree(pieces) == 0
    assert assert_agree([b"\xff\xd8" + b"\xff\xe0\x00\x02" * 400 + b"\xff\xd9"]) == 0  # segments without an end


def test_of_files_that_lie_apart_it_says_nothing(jpegs):
    apart = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs[:3]]
    for files in (
        apart,
        TensorList(apart),
        TensorList([]),
        TensorList([torch.zeros(2, 50, dtype=torch.uint8)] * 2).pack(),
    ):
        assert glance(files, MAX_PIXELS) == [None] * len(files)
    lengths = [len(jpeg) for jpeg in jpegs[:3]]
    gaps = np.cumsum([5, *[length + 7 for length in lengths]])[:-1]
    flat = torch.zeros(int(gaps[-1]) + lengths[-1], dtype=torch.uint8)
    for start, tensor in zip(gaps, apart, strict=True):
        flat[start : start + len(tensor)] = tensor
    batch = TensorList.from_flat(flat, [[length] for length in lengths], offsets=gaps)
    assert glance(batch, MAX_PIXELS) == glance(batch.pack(), MAX_PIXELS)


def test_what_decides_of_a_header_decides_here_too(jpegs):
    """Colour or not, for the engine or not, whole or not: each by the bytes that say it."""
    colour = next(
        jpeg for jpeg in jpegs if assert_agree([jpeg]) and looked_at(jpeg).suits_engine and b"JFIF\0" in jpeg[:40]
    )
    frame = re.search(rb"\xff[\xc0\xc2]\x00\x11\x08", colour).start()
    assert looked_at(colour).channels == 3

    def changed(*edits):
        file = bytearray(colour)
        for place, value in edits:
            file[place : place + len(value)] = value
        return bytes(file)

    no_jfif = colour.index(b"JFIF\0"), b"JFIX"
    rgb = [(frame + 10 + 3 * number, letter) for number, letter in enumerate((b"R", b"G", b"B"))]
    files = [
        changed(no_jfif),
        changed(*rgb),
        changed(no_jfif, *rgb),
        changed((frame + 2, b"\x00\x08")),  # a frame header that is too short for its components
        changed((frame + 2, b"\x00\x10")),
        changed((frame + 4, b"\x0c")),
        changed((frame + 1, b"\xc9")),
        changed((frame + 5, b"\x00\x00")),
        changed((frame + 9, b"\x04")),
        changed((frame + 11, b"\x14")),
        changed((frame + 14, b"\x12")),
        changed((frame + 2, b"\xff\xff")),
        changed((len(colour) - 1, b"\x00")),
        changed((len(colour) - 2, b"\x00")),
    ]
    seen = glance(together(files), MAX_PIXELS)
    assert [info is not None and info.suits_engine for info in seen[:3]] == [True, True, False]
    assert all(info is None or info == looked_at(file) for info, file in zip(seen, files, strict=True))
    assert all(info is None for info in seen[-3:])
    assert not any(info is not None and info.suits_engine for info in seen[3:])
