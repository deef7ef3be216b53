"""An engine begins with the next batch while the stage is at work: the results are those of a stage that does all itself."""

import ctypes
import threading
import time

import numpy as np
import pytest
import torch

import torchdali
from tests.ops.decode.oddities import encoded, picture
from tests.pipeline.looking_ahead import FILES, Decoding, Read, assert_same, epoch
from torchdali import DecodeError, ops
from torchdali.ops.decode import _at_once
from torchdali.pipeline._early import MOST_WASTED


def ahead(threads):
    return sum("engine" in name for name in threads)


@pytest.mark.parametrize("operator", [ops.DecodeImage, ops.DecodeRandomCrop])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_all_but_the_first_batch_is_begun_early_and_comes_out_the_same(early, operator, share):
    expected = epoch(Decoding(operator()))
    early.threads.clear()
    pipeline = Decoding(early(operator), cpu_share=share)
    found = epoch(pipeline)
    assert_same(found, expected)
    assert len(early.threads) == 5
    assert ahead(early.threads) >= 4


def test_the_engine_is_at_work_while_the_stage_is(early, library):
    together = []
    at_work = threading.Event()
    decode = library.nvjpegDecodeBatched

    def slow(*arguments):
        at_work.set()
        time.sleep(0.05)
        at_work.clear()
        return decode(*arguments)

    library.nvjpegDecodeBatched = slow

    def forward(images):
        time.sleep(0.02)
        together.append(at_work.is_set())
        return images

    class Slow(Decoding):
        def forward(self, files):
            return forward(self.decode(files))

    epoch(Slow(early()))
    assert sum(together) >= 3


def heights_at(library):
    """Those of the images that the engine was asked for."""
    found = []
    decode = library.nvjpegDecodeBatched

    def noting(handle, state, files, lengths, destinations, stream):
        addresses = ctypes.cast(files, ctypes.POINTER(ctypes.c_uint64))[: library.prepared[0]]
        for address in addresses:
            head = ctypes.string_at(address, 400)
            at = head.index(b"\xff\xc0")
            found.append(head[at + 5] << 8 | head[at + 6])
        return decode(handle, state, files, lengths, destinations, stream)

    library.nvjpegDecodeBatched = noting
    return found


def test_the_engine_goes_no_further_than_the_crops(early, library):
    heights = heights_at(library)
    crops = {"area": (0.1, 0.2)}
    expected = epoch(Decoding(ops.DecodeRandomCrop(**crops)))
    assert_same(epoch(Decoding(early(ops.DecodeRandomCrop, **crops))), expected)
    assert sum(height < 80 + n for n, height in enumerate(heights)) > 10


class Moving(Decoding):
    """Crops at places that each call has for itself."""

    def forward(self, files):
        place = torch.linspace(0, 1, len(files)) * (files.sizes[:, 0].sum() % 97 / 97)
        return self.decode(files, position_y=place)


def test_places_that_the_call_alone_knows_are_waited_for(early):
    expected = epoch(Moving(ops.DecodeCrop((30, 40))))
    assert_same(epoch(Moving(early(ops.DecodeCrop, size=(30, 40)))), expected)
    assert ahead(early.threads) >= 4


class Remembering(ops.DecodeImage):
    """A user's decoder, whose windows depend on what its forward was given."""

    def forward(self, files):
        self.sizes_of_files = files.sizes[:, 0]
        return super().forward(files)

    def windows(self, sizes, valid):
        height = 20 + self.sizes_of_files % 30
        return np.stack([0 * height, 0 * height, height, 0 * height + 40], 1)


def test_windows_of_a_user_s_decoder_are_asked_for_when_it_is_called(early):
    expected = epoch(Decoding(Remembering()))
    assert_same(epoch(Decoding(early(Remembering))), expected)
    assert ahead(early.threads) >= 4


def test_epochs_end_and_begin_as_without(early):
    with Decoding(early()) as pipeline, Decoding(ops.DecodeImage(), stage_thread=False) as other:
        for _ in range(3):
            assert_same([list(i) for i in pipeline], [list(i) for i in other])
        next(iter(pipeline))
        pipeline.reset()
        assert_same([list(i) for i in pipeline], [list(i) for i in other])


def test_what_forward_changes_is_decoded_there(early):
    def flip(files):
        return torchdali.TensorList(list(files)[::-1])

    expected = epoch(Decoding(ops.DecodeImage(), change=flip))
    found = epoch(Decoding(early(), change=flip))
    assert_same(found, expected)
    assert ahead(early.threads) <= MOST_WASTED + 1 < 5


def test_a_file_that_was_written_to_since_is_decoded_anew(early):
    gray = [torch.from_numpy(np.frombuffer(encoded(picture(70, 80).convert("L")), np.uint8).copy()) for _ in FILES]

    def overwrite(files):
        for file, other in zip(files, gray, strict=False):
            file[:] = 0xFF
            file[-2:] = torch.tensor([0xFF, 0xD9], dtype=torch.uint8)
            file[: len(other)] = other
        return files

    found = epoch(Decoding(early(), change=overwrite))
    for batch in found:
        for image in batch:
            assert image.shape == (3, 80, 70)
            assert torch.equal(image[0], image[2])


def test_bad_files_are_told_of_in_their_places(early):
    source = Read({6: FILES[6][:300], 9: np.frombuffer(b"no image", np.uint8)})
    with Decoding(early(), source) as pipeline:
        told = []
        batches = []
        while True:
            try:
                batches.append(pipeline.run())
            except StopIteration:
                break
            except DecodeError as error:
                told.append(error.index)
    assert told == [6, 9]
    assert len(batches) == 3


def test_an_error_of_the_engine_comes_at_its_batch(early, monkeypatch):
    calls = []
    decode = _at_once.AtOnce.decode

    def failing(self):
        calls.append(True)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("none left")
        decode(self)

    monkeypatch.setattr(_at_once.AtOnce, "decode", failing)
    with Decoding(early()) as pipeline:
        for number in range(5):
            if number == 2:
                with pytest.raises(torch.OutOfMemoryError, match="none left"):
                    pipeline.run()
            else:
                pipeline.run()


def test_no_thread_is_left_behind(early):
    pipeline = Decoding(early())
    pipeline.run()
    pipeline.run()
    assert any("engine" in thread.name for thread in threading.enumerate())
    pipeline.close()
    assert not any("engine" in thread.name for thread in threading.enumerate())
    dropped = Decoding(early())
    dropped.run()
    dropped.run()
    del dropped
    deadline = time.monotonic() + 5
    while any("engine" in thread.name for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any("engine" in thread.name for thread in threading.enumerate())


def test_on_a_cpu_nothing_looks_ahead(library):
    with Decoding(ops.DecodeImage()) as pipeline:
        assert type(pipeline._reader).__name__ == "Reader"
