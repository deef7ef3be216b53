"""Random crops that are resized: where the windows lie, and that pixels are those of crop and resize."""

import numpy as np
import pytest
import torch

from tests.ops.images import batch, interleaved, random_image
from torchdali import TensorList
from torchdali.ops import BatchContext, RandomResizedCrop, Resize, batch_context, number_streams


def context(indices, epoch=0, seed=7):
    return batch_context(BatchContext(seed, epoch, 0, np.array(indices), torch.device("cpu"), 1))


def windows(operator, sizes):
    return operator.step(np.array([(3, *size) for size in sizes]), torch.uint8).window


def test_areas_and_aspect_ratios_are_distributed_as_asked():
    torch.manual_seed(0)
    drawn = windows(RandomResizedCrop(8, (0.1, 0.5), (0.5, 2.0)), [(400, 600)] * 4000)
    top, left, height, width = drawn.T
    assert (drawn >= 0).all()
    assert (top + height <= 400).all()
    assert (left + width <= 600).all()
    area = height * width / (400 * 600)
    assert 0.098 < area.min() < 0.12
    assert 0.46 < area.max() < 0.502
    ratio = np.log(width / height) / np.log(2)
    assert ratio.min() > -1.01
    assert ratio.max() < 1.01
    small = area < 0.25  # where every window fits there is no selection: uniform
    assert abs(area[small].mean() - 0.175) < 0.006
    assert abs(ratio[small].mean()) < 0.06
    assert abs(ratio[small].std() - 2 / np.sqrt(12)) < 0.05
    place = top / (400 - height + 1)
    assert abs(place.mean() - 0.5) < 0.02
    assert abs(place.std() - 1 / np.sqrt(12)) < 0.02
    assert abs(np.corrcoef(place, left / (600 - width + 1))[0, 1]) < 0.06


def test_pixels_are_those_of_the_window_resized():
    images = batch((20, 30), (40, 33))
    operator = RandomResizedCrop((8, 9), filter="cubic")
    with context([3, 4]):
        results = operator(images)
        drawn = operator.step(np.array([(3, 20, 30), (3, 40, 33)]), torch.uint8).window
    for image, result, (top, left, height, width) in zip(images, results, drawn, strict=True):
        part = image[:, top : top + height, left : left + width]
        assert torch.equal(result, Resize((8, 9), filter="cubic")(part[None])[0])


def test_both_layouts_draw_and_give_the_same():
    images = batch((20, 30), (1, 1), (40, 33), dtype=torch.float32)
    operator = RandomResizedCrop(8)
    with context([0, 1, 2]):
        planar, other = operator(images), operator(interleaved(images))
    assert planar.shape() == [(3, 8, 8)] * 3
    assert other.layout == "HWC"
    assert all(torch.equal(one, two.permute(2, 0, 1)) for one, two in zip(planar, other, strict=True))


def test_a_window_depends_on_the_sample_and_not_on_its_batch():
    operator = torch.nn.ModuleList([RandomResizedCrop(8), RandomResizedCrop(8)])
    number_streams(operator)
    with context(range(10)):
        together = windows(operator[0], [(50, 60)] * 10)
        other = windows(operator[1], [(50, 60)] * 10)
    with context([7]):
        alone = windows(operator[0], [(50, 60)])
    with context([7], epoch=1):
        later = windows(operator[0], [(50, 60)])
    assert alone[0].tolist() == together[7].tolist()
    assert later[0].tolist() != together[7].tolist()
    assert len({tuple(window) for window in together.tolist()}) == 10
    assert not (together == other).all(1).any()


def test_a_seed_of_its_own_is_used():
    first, second = RandomResizedCrop(8, seed=1), RandomResizedCrop(8, seed=1)
    with context([0, 1], seed=5):
        one = windows(first, [(50, 60)] * 2)
    with context([0, 1], seed=6):
        assert windows(second, [(50, 60)] * 2).tolist() == one.tolist()


def test_images_that_no_window_fits_give_the_largest_that_is_allowed():
    drawn = windows(RandomResizedCrop(8, (0.9, 1.0), (1.0, 1.0)), [(10, 1000), (1000, 10), (1, 1)])
    assert drawn[:, 2:].tolist() == [[10, 10], [10, 10], [1, 1]]


def test_the_size_can_differ_from_sample_to_sample():
    images = batch((20, 30), (20, 30))
    assert RandomResizedCrop(torch.tensor([[3, 4], [5, 6]]))(images).shape() == [(3, 3, 4), (3, 5, 6)]
    assert RandomResizedCrop(2)(images, size=4).shape() == [(3, 4, 4)] * 2


def test_the_type_is_kept_or_changed():
    image = random_image(20, 30, dtype=torch.int16)
    assert RandomResizedCrop(4)(image[None]).dtype == torch.int16
    assert RandomResizedCrop(4, dtype=torch.float32)(image[None]).dtype == torch.float32


def test_the_module_prints_its_arguments():
    text = repr(RandomResizedCrop(224, (0.2, 1), seed=3))
    assert "size=224" in text
    assert "area=(0.2, 1.0)" in text
    assert "seed=3" in text


def test_arguments_that_make_no_sense_are_refused():
    for arguments, error, message in [
        ({"area": (0, 1)}, ValueError, "area is"),
        ({"area": 0.5}, TypeError, "area is 0.5; it is a pair"),
        ({"aspect_ratio": (2, 1)}, ValueError, "aspect_ratio is"),
        ({"attempts": 0}, ValueError, "attempts is 0"),
        ({"filter": "best"}, ValueError, "filter is 'best'"),
    ]:
        with pytest.raises(error, match=message):
            RandomResizedCrop(8, **arguments)
    for size in (0, 2.5, -4):
        with pytest.raises(ValueError, match=f"size is .*{size}"):
            RandomResizedCrop(size)(batch((7, 9)))


def test_an_empty_batch_stays_empty():
    assert len(RandomResizedCrop(8)(TensorList([], "HWC", dtype=torch.uint8))) == 0
