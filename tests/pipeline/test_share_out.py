"""Which files workers decode, and that what they made is used only where it is right."""

from itertools import chain

import numpy as np
import pytest
import torch

from tests.pipeline.sharing import GOOD, Decodes, compare, results
from torchdali import ExternalSource, Pipeline, ops
from torchdali.pipeline import _staff
from torchdali.pipeline._share_out import choose


def test_the_positions_are_spread_evenly_and_always_the_same():
    for share in (0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 1):
        for size in (10, 64, 256):
            chosen = choose(np.arange(size), share)
            assert abs(len(chosen) - share * size) < 1
            assert np.array_equal(chosen, choose(np.arange(size), share))
            assert len(chosen) < 2 or np.ptp(np.diff(chosen)) <= 1
        pairs = sum(len(choose(np.arange(first, first + 2), share)) for first in range(0, 100, 2))
        assert abs(pairs - 100 * share) < 1
    assert len(choose(np.arange(10), 0.1)) == 1


def test_nothing_is_shared_out_where_two_operators_want_different_things_of_the_files():
    class Both(Decodes):
        def forward(self, files, labels):
            gray = self.gray(files)
            return self.decode(files, torch.tensor([image.float().mean() for image in gray]))

    def make(mode):
        pipeline = Both(GOOD, cpu_share=1)
        pipeline.gray = ops.DecodeImage(mode)
        return pipeline

    for mode, shared in (("GRAY", False), ("RGB", True)):
        with make(mode) as pipeline:
            results(pipeline)
            assert (pipeline.statistics().cpu_share > 0) == shared


def test_two_operators_with_one_setting_get_images_of_their_own():
    class Twice(Decodes):
        def forward(self, files, labels):
            first, second = self.decode(files), self.decode(files)
            for image in first:
                image.zero_()
            return second, labels

    compare(lambda **options: Twice(GOOD, **options), 1, at_least=0.6)


def test_of_two_outputs_with_files_the_first_is_shared_out():
    class Pairs(Pipeline):
        def __init__(self, **options):
            super().__init__(pairs, batch_size=4, num_workers=2, device="cpu", **options)
            self.left, self.right = ops.DecodeImage(), ops.DecodeImage("GRAY")

        def forward(self, left, right):
            right = self.right(right)
            return self.left(left), right

    pairs = ExternalSource(
        lambda info: tuple(np.frombuffer(GOOD[(info.idx_in_epoch + n) % 20], np.uint8) for n in (0, 1)), num_outputs=2
    )
    seen = []
    for share in (0, 1):
        with Pairs(cpu_share=share) as pipeline:
            seen.append([[image.clone() for batch in pipeline.run() for image in batch] for _ in range(6)])
            assert (pipeline.left.statistics.given_images > 12) == bool(share)
            assert pipeline.right.statistics.given_images == 0
    assert all(map(torch.equal, chain(*seen[0]), chain(*seen[1])))


def test_what_the_stage_has_written_to_is_decoded_as_it_is_then():
    class Overwrites(Decodes):
        def forward(self, files, labels):
            files[1][:] = torch.frombuffer(
                bytearray(GOOD[7][: len(files[1])].ljust(len(files[1]), b"\0")), dtype=torch.uint8
            )
            return self.decode(files, labels)

    longest = max(GOOD, key=len)
    files = [longest + bytes(number) for number in range(16)]
    statistics = compare(lambda **options: Overwrites(files, ops.DecodeImage(on_error="replace"), **options), 1)
    assert statistics.cpu_share < 0.8, "what was decoded before is not taken"


def test_parts_and_copies_of_files_are_decoded_as_they_are():
    class Cuts(Decodes):
        def forward(self, files, labels):
            return self.decode([files[0][:-30], files[1].clone(), *list(files)[2:]], labels)

    compare(lambda **options: Cuts(GOOD, ops.DecodeImage(on_error="replace"), **options), 1, at_least=0.3)


def test_a_setting_that_changes_holds_at_once():
    with Decodes(GOOD * 3, cpu_share=1, stage_thread=False) as pipeline:
        for _ in range(3):
            assert {len(image) for image in pipeline.run()[0]} == {3}
        pipeline.decode.mode = "GRAY"
        before = pipeline.decode.statistics.given_images
        for _ in range(8):
            assert {len(image) for image in pipeline.run()[0]} == {1}
        assert before > 0
        assert pipeline.decode.statistics.given_images > before


def test_large_images_are_left_to_the_stage(monkeypatch):
    monkeypatch.setattr("torchdali.pipeline._share_out.SHARE_OF_MEMORY", 1 << 40)
    assert compare(lambda **options: Decodes(GOOD, **options), 1).cpu_share == 0


@pytest.mark.filterwarnings("ignore:.*results are copied from here on")
def test_without_shared_memory_small_files_are_sent(monkeypatch):
    monkeypatch.setattr(_staff, "Reader", limited(_staff.Reader))
    monkeypatch.setattr("torchdali.pipeline._share_out.SHARE_OF_MEMORY", 1e-6)
    compare(lambda **options: Decodes(GOOD, **options), 1, at_least=0.5)


def limited(reader):
    """With next to no shared memory."""

    def make(*arguments, pool_options, **options):
        return reader(*arguments, pool_options={**pool_options, "memory_limit": 1}, **options)

    return make
