"""Workers that decode a part of each batch: nothing that is seen depends on it."""

import types
import weakref
from itertools import chain

import numpy as np
import pytest
import torch

from tests.ops.decode.oddities import oddities, with_orientation
from tests.pipeline.sharing import GOOD, Decodes, compare, results
from tests.pipeline.support import folder_source, numbers
from tests.pool.support import Tally, wait_until
from torchdali import ExternalSource, JpegFolder, fn, ops, pipeline_def
from torchdali.pipeline import _staff
from torchdali.pipeline._held import Held
from torchdali.pipeline._share import HELD, SharingReader
from torchdali.pipeline._share_out import decode_in_worker
from torchdali.source import PHOTOGRAPHS

FILES = [*oddities().values(), (PHOTOGRAPHS / "cat.jpg").read_bytes()]


# --- the same images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "GRAY", "UNCHANGED"])
def test_odd_files_of_all_kinds_are_the_same_bit_for_bit(mode):
    for policy, exif in (("skip", True), ("replace", False)):

        def make(policy=policy, exif=exif, **options):
            return Decodes(FILES, ops.DecodeImage(mode, on_error=policy, apply_exif_orientation=exif), **options)

        compare(make, 1, at_least=0.4)


def test_errors_are_the_same_and_come_in_their_places():
    for share in (0.25, 1):
        compare(lambda **options: Decodes(FILES, **options), share, epochs=2)


def test_images_turned_by_exif_are_the_same():
    files = [with_orientation(orientation) for orientation in (1, 2, 3, 4, 5, 6, 7, 8)]
    compare(lambda **options: Decodes(files, **options), 1, at_least=0.6)


def test_what_has_too_many_pixels_for_the_operator_is_the_same():
    compare(lambda **options: Decodes(GOOD, ops.DecodeImage(max_pixels=2500, on_error="replace"), **options), 1)


@pytest.mark.parametrize(("share", "stage_thread"), [(0.25, True), (1, False), ("auto", True)])
def test_photographs_are_the_same_over_several_epochs(share, stage_thread):
    def make(**options):
        return Decodes(folder_source(PHOTOGRAPHS), stage_thread=stage_thread, **options)

    statistics = compare(make, share, epochs=2, at_least=0 if share == "auto" else 0.6 * share)
    if share != "auto":
        assert statistics.cpu_share_now == share


def test_parts_of_images_are_the_same_with_the_same_draws():
    for decode in (
        lambda: ops.DecodeRandomCrop(),
        lambda: ops.DecodeCrop(30, (ops.Uniform(0, 1), 0.5)),
        lambda: ops.DecodeSlice((0.1, 0.2), (0.5, 0.5), layout="HWC"),
    ):
        compare(lambda decode=decode, **options: Decodes(GOOD, decode(), **options), at_least=0.4)


def test_how_many_workers_there_are_and_how_they_start_makes_no_difference():
    for options in ({"num_workers": 1}, {"num_workers": 4, "prefetch": 1}, {"start_method": "zygote"}):
        compare(lambda options=options, **more: Decodes(GOOD, **options, **more), at_least=0.4)


def test_a_pipeline_function_has_the_option_too():
    @pipeline_def(batch_size=4, device_id=None, py_num_workers=2, cpu_share=0.5, last_batch="partial")
    def pipeline():
        files, labels = fn.external_source(JpegFolder(PHOTOGRAPHS), num_outputs=2, batch=False, parallel=True)
        return fn.decoders.image(files, device="mixed"), labels

    seen = []
    for share in (0, 0.5):
        with pipeline(cpu_share=share) as made:
            seen.append([[image.clone() for image in images] for images, _ in made])
            assert (made.statistics().cpu_share > 0.2) == bool(share)
    assert all(map(torch.equal, chain(*seen[0]), chain(*seen[1])))


# --- sources ------------------------------------------------------------------------------------------------------------


def batches_of(files):
    def epoch():
        for first in range(0, len(files), 4):
            part = files[first : first + 4]
            yield [np.frombuffer(file, np.uint8) for file in part], np.arange(first, first + len(part))

    return epoch


def steps(source, share):
    with Decodes(source, cpu_share=share) as pipeline:
        seen = []
        for _ in range(11):
            try:
                images, labels = pipeline.run()
                seen.append((labels.as_tensor().tolist(), [int(image.sum()) for image in images]))
            except StopIteration:
                seen.append("end")
            seen.append(pipeline.epoch_idx)
        return seen, pipeline.statistics().cpu_share


@pytest.mark.parametrize("parallel", [True, False])
def test_epochs_of_iterables_begin_and_end_in_the_same_places(parallel):
    for cycle in ("raise", "quiet", False):
        source = ExternalSource(batches_of(GOOD[:12]), num_outputs=2, cycle=cycle, parallel=parallel, batch=True)
        (expected, _), (seen, share) = steps(source, 0), steps(source, 1)
        assert seen == expected
        assert (share > 0) == parallel


def test_files_of_one_length_that_come_as_one_block_are_shared_out_too():
    longest = max(map(len, GOOD))
    compare(lambda **options: Decodes([file.ljust(longest, b"\0") for file in GOOD], **options), 1, at_least=0.6)


def test_a_serial_source_is_decoded_in_the_stage():
    serial = ExternalSource(JpegFolder(PHOTOGRAPHS), num_outputs=2, parallel=False)
    assert compare(lambda **options: Decodes(serial, **options), 1).cpu_share == 0


def test_errors_of_the_source_come_in_their_places():
    def source(info):
        if info.idx_in_epoch == 9:
            raise ZeroDivisionError
        if info.idx_in_epoch >= 20:
            raise StopIteration
        return np.frombuffer(GOOD[info.idx_in_epoch], np.uint8), info.idx_in_epoch

    with Decodes(ExternalSource(source, num_outputs=2), cpu_share=1) as pipeline:
        for _ in range(2):
            seen = []
            while "end" not in seen:
                try:
                    seen += numbers([label.reshape(1) for label in pipeline.run()[1]])
                except ZeroDivisionError:
                    seen.append("error")
                except StopIteration:
                    seen.append("end")
            assert seen == [*range(8), "error", *range(12, 20), "end"]
            pipeline.reset()


def test_a_reset_in_the_middle_begins_anew_and_gives_all_memory_back():
    with Decodes(GOOD, cpu_share=1, prefetch=1) as pipeline:
        for length in (1, 3, 2, 5, 1, 4):
            pipeline.reset()
            for first in range(length):
                images, labels = pipeline.run()
                assert numbers([label.reshape(1) for label in labels]) == list(range(4 * first, 4 * first + 4))
        expected = results(pipeline)
        assert len(expected) == 7
        del images, labels
        pool = pipeline._reader._pool
        assert wait_until(lambda: pool.statistics().slots <= 1)


def test_workers_begin_to_decode_before_the_batch_is_wanted():
    decoded = Tally(1)
    calls = []

    def note(item):
        decoded.add(0)
        return decode_in_worker(item)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_staff, "decode_in_worker", note)
        with Decodes(GOOD, cpu_share=1, stage_thread=False) as pipeline:
            for _ in range(2 + HELD):
                pipeline.run()
            calls.append(decoded[0])
            assert decoded.wait(0, 4 * (1 + HELD))


# --- arguments ----------------------------------------------------------------------------------------------------------


def test_what_is_no_share_is_refused():
    for share in (-0.1, 1.1, float("nan"), True, "half", None, [0.5]):
        with pytest.raises(ValueError, match="cpu_share is .*from 0 to 1"):
            Decodes(GOOD, cpu_share=share)


def test_without_a_share_nothing_is_in_between():
    for share in (0, 0.0):
        with Decodes(GOOD, cpu_share=share) as pipeline:
            assert not isinstance(pipeline._reader, SharingReader)


def test_files_are_held_while_a_worker_looks_at_them_although_its_answer_is_too_late():
    job = types.SimpleNamespace(arrived=False)
    busy = types.SimpleNamespace(pool=object(), wait=lambda seconds: "workers are at work")
    reader = SharingReader(busy, 0.0, foresight=types.SimpleNamespace(answer=lambda asked: None))
    batch = set()  # anything that can be referred to weakly
    alive = weakref.ref(batch)
    held = Held(batch, asked=(None, job))
    reader._look_at_answer(held)
    assert held.asked is None
    del batch, held
    reader._look_ahead()
    assert alive() is not None
    job.arrived = True
    reader._look_ahead()
    assert alive() is None
