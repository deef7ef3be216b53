import copy
import pickle

import numpy as np
import pytest
import torch

import torchdali
from tests.ops.decode.oddities import encoded, picture, tensor, with_bad_tables, with_orientation, with_size
from torchdali import DecodeError, ExternalSource, TensorList
from torchdali.ops import BatchContext, DecodeCrop, DecodeImage, Uniform, batch_context, current_batch
from torchdali.ops._foresight import Call, OfSource, Script

GOOD = encoded(picture())
BAD = (
    b"",
    GOOD[: len(GOOD) // 2],
    with_bad_tables(GOOD),
)


def batch():
    """Bad ones at 1, 3 and 4."""
    return [tensor(data) for data in (GOOD, BAD[0], GOOD, BAD[1], BAD[2])]


def test_the_error_names_file_sample_and_position():
    context = BatchContext(1, 2, 3, np.arange(70, 75), torch.device("cpu"), 1)
    with batch_context(context), pytest.raises(DecodeError) as caught:
        DecodeImage()(batch(), names=["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"])
    error = caught.value
    assert str(error).startswith(
        "sample 71 of epoch 2 (position 1 in iteration 3), 'b.jpg', cannot be decoded: it is empty"
    )
    assert (error.position, error.index, error.name) == (1, 71, "b.jpg")


def test_skipped_images_take_their_labels_along():
    labels, names = torch.arange(5), list("abcde")
    ragged = TensorList([torch.ones(n + 1) for n in range(5)], "X")
    decode = DecodeImage(on_error="skip")
    images, *others = decode(batch(), labels, ragged, labels.numpy(), names, TensorList.from_batch(labels))
    assert len(images) == 2
    assert torch.equal(others[0], torch.tensor([0, 2]))
    assert (others[1].shape(), others[1].layout) == ([(1,), (3,)], "X")
    assert others[2].tolist() == [0, 2]
    assert others[3] == ["a", "c"]
    assert torch.equal(others[4].as_tensor(), torch.tensor([0, 2]))
    assert decode.last_kept == [0, 2]
    assert [error.position for error in decode.last_errors] == [1, 3, 4]


def test_no_labels_are_passed_on_as_none():
    for files in (batch(), batch()[:1]):
        images, labels = DecodeImage(on_error="skip")(files, None)
        assert labels is None
        assert len(images) in (1, 2)


def test_a_batch_without_bad_images_is_passed_on_as_it_is():
    labels = torch.arange(2)
    decode = DecodeImage(on_error="skip")
    images, passed = decode([tensor(GOOD)] * 2, labels)
    assert passed is labels
    assert len(images) == 2
    assert decode.last_errors == []


def test_a_batch_of_bad_images_alone_becomes_empty():
    images, labels = DecodeImage(on_error="skip")([tensor(data) for data in BAD], torch.arange(3))
    assert (len(images), len(labels)) == (0, 0)
    assert images.dtype == torch.uint8


@pytest.mark.parametrize("mode", ["RGB", "GRAY"])
def test_by_default_zeros_of_the_size_in_the_header_stand_for_a_bad_image(mode):
    channels = 3 if mode == "RGB" else 1
    images = DecodeImage(mode, on_error="replace")(batch())
    assert images.shape() == [(channels, *size) for size in ((64, 96), (1, 1), (64, 96), (64, 96), (64, 96))]
    assert [bool(image.any()) for image in images] == [True, False, True, False, False]


def test_the_size_is_that_of_the_upright_image():
    cut = tensor(with_orientation(6)[:-10])
    assert DecodeImage(on_error="replace")([cut]).shape() == [(3, 96, 64)]
    assert DecodeImage(on_error="replace", apply_exif_orientation=False)([cut]).shape() == [(3, 64, 96)]


def test_a_header_that_claims_too_much_gives_one_pixel():
    for data in (with_size(GOOD, 65500, 65500), with_size(GOOD, 65500, 65500)[:-9]):
        assert DecodeImage(on_error="replace")([tensor(data)]).shape() == [(3, 1, 1)]


def test_a_value_or_an_image_can_stand_for_bad_ones():
    filled = DecodeImage(on_error="replace", replacement=128)([tensor(BAD[1])])[0]
    assert (filled == 128).all()
    assert filled.shape == (3, 64, 96)
    stand_in = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    for layout, expected in (("CHW", stand_in), ("HWC", stand_in.permute(1, 2, 0))):
        assert torch.equal(DecodeImage("RGB", layout, on_error="replace", replacement=stand_in)(batch())[1], expected)


def test_who_writes_to_a_replacement_changes_no_other():
    decode = DecodeImage(on_error="replace", replacement=torch.full((3, 5, 7), 7, dtype=torch.uint8))
    first, second = decode([tensor(BAD[1])] * 2)
    first.fill_(99)
    assert (second == 7).all()
    assert (decode([tensor(BAD[1])])[0] == 7).all()


def test_in_a_crop_a_bad_image_has_the_size_of_its_part():
    assert DecodeCrop((8, 9), on_error="replace")(batch()).shape() == [(3, 8, 9), (3, 1, 1), *[(3, 8, 9)] * 3]


def test_bad_images_are_counted_whatever_is_done_about_them():
    for policy in ("skip", "replace"):
        decode = DecodeImage(on_error=policy)
        decode(batch())
        decode(batch()[:1])
        assert (decode.statistics.images, decode.statistics.bad_images) == (6, 3)
    decode = DecodeImage()
    with pytest.raises(DecodeError):
        decode(batch())
    assert decode.statistics.bad_images == 1


def test_what_is_drawn_after_a_skip_is_drawn_for_the_samples_that_are_left():
    context = BatchContext(1, 0, 0, np.arange(5), torch.device("cpu"), 1)
    with batch_context(context):
        all_draws = Uniform()()
    with batch_context(context):
        DecodeImage(on_error="skip")(batch())
        assert current_batch().indices.tolist() == [0, 2]
        assert torch.equal(Uniform()(), all_draws[[0, 2]])
    assert current_batch() is None


def test_a_decoder_that_has_met_a_bad_image_is_copied_and_sent_to_workers_without_it():
    decode = DecodeImage(on_error="skip")
    decode(batch())
    ((sent, *_),) = pickle.loads(Script([Call(decode, OfSource(0), ())]).packed)
    for copied in (copy.deepcopy(decode), pickle.loads(pickle.dumps(decode)), sent):
        assert copied.last_errors == []
        assert len(copied(batch())) == 2
    assert len(decode.last_errors) == 3


def test_an_error_that_is_pickled_says_the_same():
    decode = DecodeImage(on_error="skip")
    decode(batch(), names=list("abcde"))
    error = decode.last_errors[1]
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert isinstance(copied, DecodeError)
        assert (str(copied), copied.position, copied.index, copied.name) == (str(error), 3, None, "d")


def test_a_pipeline_loses_the_bad_sample_and_nothing_else():
    class Skipping(torchdali.Pipeline):
        def __init__(self):
            super().__init__(ExternalSource(self.read, num_outputs=2, parallel=False), batch_size=4)
            self.decode = DecodeImage(on_error="skip")

        @staticmethod
        def read(info):
            data = GOOD[:200] if info.idx_in_epoch == 2 else GOOD
            return np.frombuffer(data, np.uint8), np.int64(info.idx_in_epoch)

        def forward(self, jpegs, numbers):
            return self.decode(jpegs, numbers)

    with Skipping() as pipeline:
        images, numbers = pipeline.run()
        assert [int(number) for number in numbers] == [0, 1, 3]
        assert len(images) == 3
        assert len(pipeline.run()[0]) == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on_error": "ignore"}, ValueError, "on_error is 'ignore'"),
        ({"replacement": 3}, ValueError, "on_error is 'raise'"),
        ({"on_error": "replace", "replacement": 256}, ValueError, "0 to 255"),
        ({"on_error": "replace", "replacement": 0.5}, TypeError, "replacement is 0.5"),
        ({"on_error": "replace", "replacement": torch.zeros(3, 4, 4)}, TypeError, "float32 tensor"),
        (
            {"on_error": "replace", "replacement": torch.zeros(1, 4, 4, dtype=torch.uint8)},
            ValueError,
            "1 channels; images have 3",
        ),
    ],
)
def test_policies_that_make_no_sense_are_named(options, error, message):
    with pytest.raises(error, match=message):
        DecodeImage(**options)


def test_batches_of_another_length_do_not_go_together():
    with pytest.raises(ValueError, match="input 1 has 3 entries and there are 5 files"):
        DecodeImage()(batch(), torch.arange(3))
    with pytest.raises(ValueError, match="names has 1 entries"):
        DecodeImage()(batch(), names=["a"])
