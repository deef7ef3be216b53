import numpy as np
import pytest
import torch
from PIL import Image

from torchdali import TensorList
from torchdali.display import grid

RED, GREEN, BLUE = (220, 30, 40), (20, 200, 60), (30, 50, 210)


def flat(colour: tuple[int, int, int], height: int = 30, width: int = 40) -> torch.Tensor:
    """A (H, W, 3) picture of one colour."""
    return torch.tensor(colour, dtype=torch.uint8).expand(height, width, 3).contiguous()


def boxes(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    assert len(rows), f"{colour} is nowhere"
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def size_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int]:
    left, top, right, bottom = boxes(sheet, colour)
    return right - left, bottom - top


def ink(sheet: Image.Image) -> int:
    """Number of dark pixels: text, where pictures are bright."""
    return int((np.asarray(sheet).max(axis=2) < 100).sum())


def test_pictures_stand_in_their_column_and_row():
    sheet = grid(
        [("left", [flat(RED), flat(GREEN)], ["a", "b"]), ("right", [flat(BLUE)], ["c"])],
        cell=(80, 60),
    )
    red, green, blue = boxes(sheet, RED), boxes(sheet, GREEN), boxes(sheet, BLUE)
    assert red[0] == green[0], "the same column"
    assert red[3] < green[1], "one below the other"
    assert red[2] < blue[0], "the second column is to the right"
    assert (red[1], red[3]) == (blue[1], blue[3]), "the same row"
    assert blue[2] < sheet.width
    assert green[3] < sheet.height


def test_a_picture_fills_its_cell_where_the_shapes_agree():
    sheet = grid([("", [flat(RED, 30, 40)], [""])], cell=(80, 60))
    assert size_of(sheet, RED) == (80, 60)


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (333, 500), (7, 7)])
def test_the_aspect_is_kept_and_the_picture_touches_its_cell(height, width):
    sheet = grid([("", [flat(RED, height, width)], [""])], cell=(120, 90))
    drawn_width, drawn_height = size_of(sheet, RED)
    assert drawn_width <= 120
    assert drawn_height <= 90
    assert drawn_width == 120 or drawn_height == 90
    assert abs(drawn_width * height - drawn_height * width) <= max(height, width), "within half a pixel"


def test_pictures_of_a_row_stand_on_one_line_in_the_middle_of_their_cells():
    sheet = grid([("", [flat(RED, 10, 100)], [""]), ("", [flat(BLUE, 100, 10)], [""])], cell=(100, 100))
    red, blue = boxes(sheet, RED), boxes(sheet, BLUE)
    assert red[3] == blue[3]
    assert red[0] == sheet.width - (blue[0] + blue[2] + 100) // 2, (
        "as far from the left as the right cell from the right"
    )


def test_a_line_of_pixels_is_not_scaled_away():
    assert size_of(grid([("", [flat(RED, 1, 4000)], [""])], cell=(40, 40)), RED) == (40, 1)


def test_hwc_and_chw_make_the_same_picture():
    pixels = torch.randint(0, 256, (23, 31, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    sheets = [
        grid([("t", pictures, ["c"])], cell=(64, 64))
        for pictures in (
            TensorList([pixels], "HWC"),
            TensorList([pixels.permute(2, 0, 1)], "CHW"),
            [pixels],
            [pixels.permute(2, 0, 1)],
            pixels.unsqueeze(0),
            [pixels.numpy()],
            pixels.permute(2, 0, 1).unsqueeze(0).numpy(),
        )
    ]
    for sheet in sheets[1:]:
        assert sheet.tobytes() == sheets[0].tobytes()


def test_the_layout_of_a_tensorlist_decides_where_the_shape_does_not():
    pixels = torch.zeros((3, 5, 3), dtype=torch.uint8)
    pixels[:, :, 0] = 200  # red as (H, W, C); as (C, H, W), columns of white and black
    as_hwc = np.asarray(grid([("", TensorList([pixels], "HWC"), [""])], cell=(50, 30)))
    as_chw = np.asarray(grid([("", TensorList([pixels], "CHW"), [""])], cell=(30, 50)))
    assert ((as_hwc[..., 0] == 200) & (as_hwc[..., 1] == 0)).any()
    assert (as_chw[..., 0] == as_chw[..., 1]).all(), "gray"


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (1, 20, 30)])
def test_gray_pictures_are_gray(shape):
    sheet = grid([("", [torch.full(shape, 90, dtype=torch.uint8)], [""])], cell=(60, 40))
    assert size_of(sheet, (90, 90, 90)) == (60, 40)


def test_the_background_is_white_and_text_is_on_it():
    without = grid([("", [flat(RED)], [""])], cell=(160, 120))
    titled = grid([("training", [flat(RED)], [""])], cell=(160, 120))
    captioned = grid([("", [flat(RED)], ["a cat"])], cell=(160, 120))
    assert without.getpixel((0, 0)) == (255, 255, 255)
    assert set(map(tuple, np.unique(np.asarray(without).reshape(-1, 3), axis=0).tolist())) == {(255, 255, 255), RED}
    assert ink(without) == 0
    bottom = boxes(without, RED)[3]
    assert ink(titled.crop((0, 0, titled.width, boxes(titled, RED)[1]))) > 20, "a title is above"
    assert ink(captioned.crop((0, bottom, captioned.width, captioned.height))) > 20, "a caption is below"


def test_text_that_is_too_long_stays_in_its_column():
    long = "a very long name indeed " * 400
    sheet = grid([(long, [flat(RED)], [long]), ("", [flat(BLUE)], [""])], cell=(160, 120))
    right = boxes(sheet, BLUE)[0]
    assert ink(sheet.crop((0, 0, right, sheet.height))) > 100
    assert ink(sheet.crop((right, 0, sheet.width, sheet.height))) == 0


def test_a_caption_of_several_lines_is_one_line():
    assert grid([("a\nb", [flat(RED)], ["c\nd"])]).tobytes() == grid([("a b", [flat(RED)], ["c d"])]).tobytes()


def test_empty_columns_are_drawn_too():
    sheet = grid([("nothing", [], []), ("nothing either", TensorList([], "HWC"), [])], cell=(100, 100))
    assert ink(sheet) > 20


def test_the_pictures_are_left_as_they_were():
    pixels = flat(RED)
    grid([("", TensorList([pixels], "HWC"), ["x"])])
    assert torch.equal(pixels, flat(RED))


@pytest.mark.gpu
def test_pictures_on_a_gpu_are_drawn():
    pixels = flat(RED)
    expected = grid([("", [pixels], [""])])
    assert grid([("", TensorList([pixels.cuda()], "HWC"), [""])]).tobytes() == expected.tobytes()
    assert grid([("", [pixels.cuda()], [""])]).tobytes() == expected.tobytes()


def test_float_pictures_are_refused():
    with pytest.raises(TypeError, match=r"picture 0 of column 'training' is torch\.float32; a picture is uint8"):
        grid([("training", [torch.zeros(3, 4, 4)], [""])])


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match="is a str; a picture is uint8"):
        grid([("", ["cat.jpg"], [""])])  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(5,), (4, 4, 4), (2, 3, 4, 4), (0, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="has shape"):
        grid([("", [torch.zeros(shape, dtype=torch.uint8)], [""])])


def test_each_picture_needs_a_caption():
    with pytest.raises(ValueError, match="column 'training' has 2 pictures and 1 captions"):
        grid([("training", [flat(RED), flat(RED)], ["one"])])


def test_a_grid_needs_a_column_and_a_cell():
    with pytest.raises(ValueError, match="nothing to draw"):
        grid([])
    with pytest.raises(ValueError, match="at least 1 pixel"):
        grid([("", [flat(RED)], [""])], cell=(0, 10))
