import numpy as np
import pytest
import torch

from tests.ops.decode.oddities import encoded, picture, tensor, with_orientation
from torchdali.ops import (
    BatchContext,
    DecodeCrop,
    DecodeImage,
    DecodeRandomCrop,
    DecodeSlice,
    Uniform,
    batch_context,
    number_streams,
)

FILES = [tensor(data) for data in (encoded(picture(90, 60)), with_orientation(6), encoded(picture(31, 80)))]


def context(indices=range(3)):
    return BatchContext(9, 1, 0, np.array(indices), torch.device("cpu"), 1)


def is_part_of(part, whole):
    """Whether a view shows a part of an image's pixels, and where."""
    height, width = part.shape[1:]
    views = whole.unfold(1, height, 1).unfold(2, width, 1)  # (C, places, places, height, width)
    return bool((views == part[:, None, None]).all(0).all(-1).all(-1).any())


def test_a_random_crop_is_a_part_of_the_upright_image_and_no_copy():
    whole = DecodeImage()(FILES)
    with batch_context(context()):
        parts = DecodeRandomCrop((0.2, 0.4))(FILES)
    for part, image in zip(parts, whole, strict=True):
        assert part.shape[1:] < image.shape[1:]
        assert is_part_of(part, image)
        assert part._base is not None
        assert 0.15 < part[0].numel() / image[0].numel() < 0.45


def test_windows_depend_on_seed_and_sample_and_not_on_the_batch():
    crop = DecodeRandomCrop()
    number_streams(crop)
    with batch_context(context()):
        together = crop(FILES)
    for position, file in enumerate(FILES):
        with batch_context(context([position])):
            assert torch.equal(crop([file])[0], together[position])
    with batch_context(context([5, 6, 7])):
        assert crop(FILES).shape() != together.shape()


def test_windows_are_recorded_where_the_batch_has_a_place_for_draws():
    crop = DecodeRandomCrop(on_error="skip")
    number_streams(torch.nn.ModuleDict({"decode": crop}))
    for files in (FILES, [FILES[0], FILES[1][:100], FILES[2]]):
        draws = {}
        with batch_context(context()._replace(draws=draws)):
            images = crop(files)
        assert list(draws) == ["decode.draw"]
        windows = draws["decode.draw"][crop.last_kept]
        assert draws["decode.draw"].shape == (3, 4)
        assert [tuple(image.shape[1:]) for image in images] == [tuple(window) for window in windows[:, 2:].tolist()]


def test_a_bad_image_changes_no_other_window():
    crop = DecodeRandomCrop(on_error="skip")
    with batch_context(context()):
        good = crop(FILES)
    with batch_context(context()):
        others = crop([FILES[0], FILES[1][:100], FILES[2]])
    assert torch.equal(others[0], good[0])
    assert torch.equal(others[1], good[2])


def test_channels_last_give_the_same_parts():
    with batch_context(context()):
        planar, interleaved = DecodeRandomCrop()(FILES), DecodeRandomCrop(layout="HWC")(FILES)
    for one, other in zip(planar, interleaved, strict=True):
        assert torch.equal(one.permute(1, 2, 0), other)


@pytest.mark.parametrize(("position", "top", "left"), [((0, 0), 0, 0), ((0.5, 0.5), 20, 29), ((1.0, 0.25), 40, 14)])
def test_a_crop_lies_where_its_position_says(position, top, left):
    (whole,), (part,) = DecodeImage()(FILES[:1]), DecodeCrop((20, 33), position)(FILES[:1])
    assert torch.equal(part, whole[:, top : top + 20, left : left + 33])


def test_positions_can_differ_from_image_to_image_and_be_drawn():
    crop = DecodeCrop(20, (Uniform(0.0, 1.0), 0.5))
    assert any(isinstance(module, Uniform) for module in crop.modules())
    with batch_context(context()):
        drawn = crop(FILES)
        given = crop(FILES, position_y=Uniform(0.0, 1.0)(), position_x=[0.5, 0.5, 0.5])
    assert all(torch.equal(one, other) for one, other in zip(drawn, given, strict=True))
    tops = crop(FILES, position_y=[0.0, 1.0, 0.0])
    assert torch.equal(tops[1], DecodeCrop(20, (1.0, 0.5))(FILES)[1])


def test_a_slice_is_given_by_shares_or_pixels():
    (whole,) = DecodeImage()(FILES[:1])
    (shares,) = DecodeSlice((0.25, 0.5), (0.5, 0.5))(FILES[:1])
    (pixels,) = DecodeSlice((15, 45), (30, 45), normalized=False)(FILES[:1])
    assert torch.equal(shares, whole[:, 15:45, 45:90])
    assert torch.equal(pixels, shares)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecodeCrop((61, 20))(FILES[:1]), "an image of 60 x 90 is too small for a crop of 61 x 20"),
        (lambda: DecodeCrop(20, (1.5, 0.0))(FILES), r"a position is 1.5; it is within \[0, 1\]"),
        (lambda: DecodeCrop(20, (float("nan"), 0.0))(FILES), "a position is nan"),
        (lambda: DecodeCrop(0), "size is 0"),
        (lambda: DecodeCrop((1, 2, 3)), "size is"),
        (lambda: DecodeSlice((0, 50), (10, 50), normalized=False)(FILES[:1]), "beyond an image of 60 x 90"),
        (lambda: DecodeSlice((0.6, 0.0), (0.5, 1.0)), "add up to 1 at most"),
        (lambda: DecodeSlice((-0.1, 0.0), (0.5, 1.0)), "anchor is"),
        (lambda: DecodeRandomCrop((0.0, 1.0)), "area is"),
        (lambda: DecodeRandomCrop(decoder="none"), "decoder is 'none'"),
    ],
)
def test_parts_that_make_no_sense_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
