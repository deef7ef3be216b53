import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.tv_tensors import BoundingBoxes

import torchdali
from torchdali import TensorList

RED, BLUE = (220, 30, 40), (30, 50, 210)
CELL = (60, 40)


def draw(batch, **options):
    return torchdali.show(batch, **{"save": False, "cell": CELL, **options})


def flat(colour: tuple[int, int, int], height: int = 20, width: int = 30) -> torch.Tensor:
    """A (3, H, W) picture of one colour."""
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width).contiguous()


def gradient() -> torch.Tensor:
    """(3, 20, 30) with every third value from 0 to 255."""
    return (torch.arange(1800) % 86 * 3).to(torch.uint8).reshape(3, 20, 30)


def box_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    assert len(rows), f"{colour} is nowhere"
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def ink(sheet: Image.Image) -> int:
    return int((np.asarray(sheet).max(axis=2) < 100).sum())


def test_all_forms_of_a_batch_make_the_same_picture():
    one, other = gradient(), gradient().flip(2)
    both = torch.stack([one, other])
    expected = draw([one, other])
    for batch in (
        both,
        both.permute(0, 2, 3, 1),
        both.permute(0, 2, 3, 1).numpy(),
        TensorList([one, other], "CHW"),
        TensorList([one.permute(1, 2, 0), other.permute(1, 2, 0)], "HWC"),
        [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in (one, other)],
        both.to(torch.int64),
        both.float(),
        both.double() / 255,
        both.bfloat16() / 255,
    ):
        drawn = draw(batch)
        assert drawn.size == expected.size
        worst = np.abs(np.asarray(drawn, np.int16) - np.asarray(expected, np.int16)).max()
        assert worst <= (2 if torch.is_tensor(batch) and batch.dtype == torch.bfloat16 else 0)


def test_a_single_image_and_a_batch_of_one_are_the_same():
    assert draw(gradient()).tobytes() == draw(gradient()[None]).tobytes()
    assert draw(gradient()[0]).tobytes() == draw(gradient()[:1]).tobytes()


def test_images_of_any_sizes_are_drawn():
    sheet = draw(TensorList([flat(RED, 20, 30), flat(BLUE, 80, 10)], "CHW"))
    red, blue = box_of(sheet, RED), box_of(sheet, BLUE)
    assert (red[2] - red[0], red[3] - red[1]) == (60, 40)
    assert (blue[2] - blue[0], blue[3] - blue[1]) == (5, 40)


@pytest.mark.parametrize(("mean", "std"), [([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]), ([0.485, 0.456, 0.406], 0.22)])
def test_a_normalisation_is_taken_back(mean, std):
    unit = 255 if max(mean) < 1 else 1
    normalised = (gradient() / unit - torch.tensor(mean)[:, None, None]) / torch.tensor(std).reshape(-1, 1, 1)
    assert draw(normalised, mean=mean, std=std).tobytes() == draw(gradient()).tobytes()
    with pytest.raises(ValueError, match=r"values from -\d.* to \d.*were they normalised\? Then give mean= and std="):
        draw(normalised)


def test_what_the_values_mean_is_judged_by_the_whole_batch():
    dark = flat((3, 3, 3)).float()
    sheet = draw([dark, flat(RED).float()])
    box_of(sheet, (3, 3, 3))
    box_of(sheet, RED)


def test_masks_of_bools_are_black_and_white():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[:, :15] = True
    assert (np.asarray(draw(mask)) == 0).all(axis=2).sum() == 30 * 40


def test_values_that_are_not_finite_are_said():
    image = torch.zeros(3, 4, 4)
    image[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="picture 1 has values that are not finite: 1 of 48"):
        draw([torch.zeros(3, 4, 4), image])


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1],
        torch.tensor([0, 1]),
        torch.tensor([[0], [1]]),
        np.array([0, 1]),
        TensorList([torch.tensor([0]), torch.tensor([1])]),
        ["cat", "dog"],
    ],
)
@pytest.mark.parametrize("names", [["cat", "dog"], ["cat", "dog"].__getitem__])
def test_labels_in_any_form_are_written_with_the_names_of_their_classes(labels, names):
    expected = draw([flat(RED), flat(BLUE)], labels=["cat", "dog"])
    assert ink(expected) > 20
    assert draw([flat(RED), flat(BLUE)], labels=labels, names=names).tobytes() == expected.tobytes()


def test_a_label_without_a_name_is_a_number():
    batch = [flat(RED)]
    assert draw(batch, labels=[7], names=["cat"]).tobytes() == draw(batch, labels=["7"]).tobytes()


def test_columns_say_how_many_stand_in_a_row():
    sheet = draw([flat(RED), flat(RED), flat(BLUE)], columns=2)
    red, blue = box_of(sheet, RED), box_of(sheet, BLUE)
    assert blue[1] > red[3] - 1, "the third is in a second row"
    assert blue[0] == red[0]
    assert draw([flat(RED)] * 9).width == draw([flat(RED)] * 3, columns=3).width, "nine make a square"


def test_what_was_before_stands_to_the_left():
    sheet = draw([flat(BLUE), flat(BLUE)], before=[flat(RED), flat(RED)], columns=1)
    red, blue = box_of(sheet, RED), box_of(sheet, BLUE)
    assert red[2] < blue[0]
    assert (red[1], red[3]) == (blue[1], blue[3])
    assert ink(sheet.crop((0, 0, sheet.width, red[1]))) > 40, "titles above both"


def test_bytes_from_before_a_normalisation_are_left_as_they_are():
    normalised = (flat(BLUE).float() - 100) / 50
    sheet = draw([normalised], before=[flat(RED)], mean=100, std=50)
    box_of(sheet, RED)
    box_of(sheet, BLUE)


def test_a_line_says_how_many_there_are_beyond_those_drawn():
    few, many = draw([flat(RED)] * 3), draw([flat(RED)] * 40, most=3)
    assert many.width == few.width
    assert ink(many.crop((0, box_of(many, RED)[3], many.width, many.height))) > 40
    assert ink(few) == 0


def test_boxes_are_drawn_where_they_are_however_the_picture_is_scaled():
    sheet = draw([flat((255, 255, 255), 200, 300)], boxes=[[[75, 50, 225, 150]]], cell=(150, 100))
    left, top, right, bottom = box_of(sheet, (230, 25, 75))
    picture_left, picture_top = (sheet.width - 150) // 2, sheet.height - 100 - (sheet.width - 150) // 2
    assert abs(left - picture_left - 37.5) <= 1
    assert abs(top - picture_top - 25) <= 1
    assert (right - left, bottom - top) == (pytest.approx(76, abs=1.5), pytest.approx(51, abs=1.5))


def test_boxes_of_torchvision_say_their_format_themselves():
    corners = torch.tensor([[5, 5, 15, 15]])
    sized = BoundingBoxes(torch.tensor([[5, 5, 10, 10]]), format="XYWH", canvas_size=(20, 30))
    batch = [flat(RED), flat(BLUE)]
    plain = draw(batch)
    drawn = draw(batch, boxes=[sized, None])
    assert drawn.tobytes() == draw(batch, boxes=[corners, torch.zeros(0, 4)]).tobytes() != plain.tobytes()


def test_masks_colour_their_part_and_nothing_else():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[:, :15] = True
    white = flat((255, 255, 255))
    sheet = draw([white], masks=[mask])
    tinted = (np.asarray(sheet) != 255).any(axis=2)
    assert tinted.sum() == 30 * 40
    for same in ([mask[None]], mask[None], [mask.to(torch.int64)], [mask.long() * 7], TensorList([mask])):
        assert draw([white], masks=same).tobytes() == sheet.tobytes()
    assert draw([white], masks=[mask & False]).tobytes() == draw([white]).tobytes()
    assert draw([white], masks=[torch.zeros(20, 30, dtype=torch.int64)]).tobytes() == draw([white]).tobytes()


def test_outside_a_notebook_a_file_is_written_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sheet = torchdali.show(flat(RED))
    assert capsys.readouterr().out == "torchdali_show.png\n"
    assert Image.open("torchdali_show.png").tobytes() == sheet.tobytes()
    torchdali.show(flat(RED), save="other.png")
    torchdali.show(flat(RED), save=False)
    assert sorted(os.listdir()) == ["other.png", "torchdali_show.png"]
    assert capsys.readouterr().out == ""


def test_in_a_notebook_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    torchdali.show(flat(RED))
    assert (os.listdir(), capsys.readouterr().out) == ([], "")
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))  # imported, but not running
    torchdali.show(flat(RED))
    assert os.listdir() == ["torchdali_show.png"]


@pytest.mark.parametrize("name", ["nowhere/batch.png", "batch.nothing"])
def test_a_file_that_cannot_be_written_is_named_with_a_way_out(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=rf"cannot be written to '{name}'.*save= takes"):
        torchdali.show(flat(RED), save=name)


@pytest.mark.gpu
def test_a_batch_on_a_gpu_is_drawn():
    batch = torch.stack([gradient(), gradient().flip(1)])
    options = {"labels": [1, 2], "boxes": torch.tensor([[[2, 2, 9, 9]]] * 2), "masks": batch[:, 0] > 100}
    there = {name: value.cuda() if torch.is_tensor(value) else value for name, value in options.items()}
    expected = draw(batch, **options).tobytes()
    assert draw(batch.cuda(), **there).tobytes() == expected
    assert draw(TensorList(list(batch.cuda()), "CHW"), **there).tobytes() == expected


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        ([], {}, "batch is empty"),
        (torch.zeros(3), {}, r"batch has shape \(3,\); a batch of images is"),
        (torch.zeros(2, 4, 5, 6), {}, r"image 0 of batch has shape \(4, 5, 6\)"),
        (torch.zeros(2, 3, 5, 6), {"layout": "HWC"}, r"shape \(3, 5, 6\) in layout HWC"),
        (torch.zeros(2, 3, 5, 6), {"layout": "NCHW"}, "layout is 'NCHW'"),
        (torch.zeros(2, 3, 5, 6), {"labels": [1]}, "labels has 1 entries and there are 2 images"),
        (torch.zeros(2, 3, 5, 6), {"boxes": [None]}, "boxes has 1 entries and there are 2 images"),
        (torch.zeros(2, 3, 5, 6), {"before": torch.zeros(1, 3, 5, 6)}, "before has 1 images and the batch has 2"),
        (torch.zeros(2, 3, 5, 6), {"mean": 0.5}, "mean is 0.5 and std is None; give both"),
        (
            torch.zeros(2, 3, 5, 6),
            {"mean": [1, 2], "std": 1},
            "mean is .1, 2.; it is one finite number, or one for each",
        ),
        (torch.zeros(2, 3, 5, 6), {"columns": 0}, "columns is 0"),
        (torch.zeros(2, 3, 5, 6), {"most": 0}, "most is 0"),
        (torch.zeros(2, 3, 5, 6), {"cell": (0, 9)}, "cell is"),
        (torch.zeros(1, 3, 5, 6), {"boxes": [[1, 2, 3]]}, r"the boxes of image 0 have shape \(1, 3\)"),
        (torch.zeros(1, 3, 5, 6), {"boxes": [[4, 2, 3, 9]]}, r"box 0 of image 0 is \[4\.0.*box_convert"),
        (torch.zeros(1, 3, 5, 6), {"masks": [torch.ones(6, 5)]}, r"the masks of image 0 have shape .* 5 x 6"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_value(batch, options, message):
    with pytest.raises(ValueError, match=message):
        draw(batch, **options)


def test_a_whole_batch_of_a_pipeline_is_refused_with_what_to_write_instead():
    with pytest.raises(TypeError, match=r"images, labels = batch; show\(images, labels=labels\)"):
        draw((torch.zeros(2, 3, 5, 6), torch.zeros(2)))
    with pytest.raises(TypeError, match="image 0 of batch is a dict"):
        draw({})
    with pytest.raises(TypeError, match="images of float32 and uint8"):
        draw([torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)])
    with pytest.raises(TypeError, match="complex"):
        draw(torch.zeros(3, 4, 4, dtype=torch.complex64))


def test_the_layout_of_a_tensorlist_or_as_it_is_said_decides_where_shapes_do_not_tell():
    pixels = torch.zeros(3, 5, 3, dtype=torch.uint8)
    pixels[:, :, 0] = 200  # red as (H, W, C); as (C, H, W), columns of white and black
    red, gray = draw(pixels, layout="HWC"), draw(pixels, layout="CHW")
    assert ((np.asarray(red)[..., 0] == 200) & (np.asarray(red)[..., 1] == 0)).any()
    assert (np.asarray(gray)[..., 0] == np.asarray(gray)[..., 1]).all()
    assert draw(TensorList([pixels], "CHW")).tobytes() == gray.tobytes()
    assert draw(TensorList([pixels], "HWC"), layout="CHW").tobytes() == red.tobytes(), "the list's own counts"
