import dataclasses

import numpy as np
import pytest
import torch

from torchdali import TensorList
from torchdali.bench import _ops_measure
from torchdali.bench._ops_cases import CASES
from torchdali.bench._ops_measure import (
    OperatorResult,
    UnequalResultsError,
    bytes_read,
    bytes_written,
    measure_case,
    names_of_others,
)
from torchdali.bench._summary import Summary
from torchdali.ops._colour import Colour
from torchdali.ops._erase import Erase
from torchdali.ops._resample import Resample

SIZES = np.array([[3, 40, 50], [3, 60, 30]])
NO_FLIP = np.zeros((2, 2), bool)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(3)
    return TensorList(
        [torch.randint(1, 255, size, dtype=torch.uint8, generator=generator) for size in ((3, 24, 30), (3, 33, 20))],
        "CHW",
    )


def result(**changes):
    one = OperatorResult(
        name="blur",
        title="blur",
        bytes_read=6_000_000,
        bytes_written=2_000_000,
        device_ms=Summary.of([4.0, 2.0, 5.0]),
        python_ms=Summary.of([0.3, 0.4, 0.9]),
        elapsed_ms=Summary.of([4.5]),
        copy_ms=Summary.of([2.0, 1.9, 4.0]),
        others={},
        share_bar=0.7,
        python_bar=0.5,
    )
    return dataclasses.replace(one, **changes)


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_all_of_an_image_is_read_where_only_its_colours_change_and_each_result_is_written():
    steps = [Colour(np.ones(2), np.zeros(2), torch.float16)]
    assert bytes_read(steps, SIZES, torch.uint8) == 3 * (40 * 50 + 60 * 30)
    assert bytes_written(steps, SIZES, torch.uint8) == 2 * 3 * (40 * 50 + 60 * 30)


def test_of_a_window_only_what_is_inside_the_image_is_read():
    window = np.array([[-4, 20, 9, 7], [50, 20, 30, 30]])
    crop = Resample(window, np.full((2, 2), 8), NO_FLIP, fill=np.zeros(1))
    whole = Resample(np.tile([0, 0, 8, 8], (2, 1)), np.full((2, 2), 8), ~NO_FLIP)
    assert bytes_read([crop, whole], SIZES, torch.float32) == 4 * 3 * (5 * 7 + 10 * 10)
    assert bytes_written([crop, whole], SIZES, torch.float32) == 4 * 3 * 2 * 8 * 8


def test_what_is_erased_is_written_but_not_read():
    erase = Erase(np.array([[[0, 0, 10, 10]], [[5, 5, 0, 0]]]), np.zeros((2, 1)))
    assert bytes_read([erase], SIZES, torch.uint8) == 3 * (40 * 50 - 100 + 60 * 30)
    assert bytes_written([erase], SIZES, torch.uint8) == 3 * (40 * 50 + 60 * 30)


# --- shares and bars --------------------------------------------------------------------------------------------------


def test_rates_are_bytes_by_times_and_shares_are_of_the_copy_of_the_same_round():
    one = result()
    assert one.gigabytes_per_second.rounds == pytest.approx([2.0, 4.0, 1.6])
    assert one.copy_gigabytes_per_second.rounds == pytest.approx([4.0, 8 / 1.9, 2.0])
    assert one.share.rounds == pytest.approx([0.5, 0.95, 0.8])
    assert one.share.median == pytest.approx(0.8)


def test_bars_are_reached_by_medians_and_not_judged_without_them_or_on_the_cpu():
    assert result().reaches_bars is True
    assert result(share_bar=0.81).reaches_bars is False
    assert result(python_bar=0.39).reaches_bars is False
    assert result(share_bar=None).reaches_bars is True
    assert result(python_bar=None).reaches_bars is True
    assert result(share_bar=None, python_bar=None).reaches_bars is None
    assert result(python_ms=None).reaches_bars is None


# --- measuring --------------------------------------------------------------------------------------------------------


def test_a_case_is_measured_on_the_cpu_and_what_it_is_compared_with_three_times_at_most(images):
    for name, others, written in (
        ("erase", ["per_image", "torchvision"], images.nbytes),
        ("training", ["in_turn", "per_image", "torchvision"], 2 * 3 * 224 * 224 * 2),
    ):
        steps = []
        case = CASES[name]()
        others += ["kornia"] if case.in_kornia and _ops_measure.has_kornia() else []
        measured = measure_case(case, images, rounds=4, step=steps.append)
        assert list(measured.others) == others
        assert steps == [f"{name}: {engine}" for engine in ("torchdali", *others)]
        assert measured.python_ms is None
        assert len(measured.device_ms.rounds) == len(measured.copy_ms.rounds) == 4
        assert measured.elapsed_ms == measured.device_ms
        for other in measured.others.values():
            assert len(other.elapsed_ms.rounds) == 3
            assert other.ratio == pytest.approx(other.elapsed_ms.median / measured.elapsed_ms.median)
        assert 0 < measured.bytes_read < images.nbytes
        assert measured.bytes_written == written


def test_the_copy_moves_as_many_bytes_as_the_operators(images, monkeypatch):
    copied = []
    copy_ = torch.Tensor.copy_
    monkeypatch.setattr(torch.Tensor, "copy_", lambda to, source: (copied.append(to.nbytes), copy_(to, source))[1])
    measured = measure_case(CASES["cast"](), images, rounds=1, step=str)
    assert set(copied) == {measured.nbytes // 2}


def test_the_same_is_drawn_in_each_call(images, monkeypatch):
    case = CASES["brightness_contrast"]()
    drawn = []
    draw = type(case.operator.contrast).forward
    monkeypatch.setattr(
        type(case.operator.contrast), "forward", lambda self, count: (drawn.append(draw(self, count)), drawn[-1])[1]
    )
    measure_case(case, images, rounds=3, step=str)
    pairs = {tuple(values.tolist()) for values in drawn}
    assert len(drawn) > 6
    assert len(pairs) == 2, "of brightness and of contrast"


def test_operators_that_do_not_what_they_are_defined_to_do_are_not_measured(images):
    case = CASES["flip"]()
    case.whole = CASES["cast"]().whole
    with pytest.raises(UnequalResultsError, match=r"flip made \(3, 24, 30\) of torch.float32 of image 0"):
        measure_case(case, images, rounds=1, step=str)
    case.whole = CASES["brightness_contrast"]().whole
    with pytest.raises(UnequalResultsError, match=r"flip made of image 0 what is \d+\.\d% of its range from"):
        measure_case(case, images, rounds=1, step=str)


def test_kornia_is_compared_with_where_it_is_installed_and_has_a_function(monkeypatch):
    monkeypatch.setattr(_ops_measure, "has_kornia", lambda: True)
    assert names_of_others(CASES["flip"]()) == ["per_image", "torchvision", "kornia"]
    assert names_of_others(CASES["erase"]()) == ["per_image", "torchvision"]
    monkeypatch.setattr(_ops_measure, "has_kornia", lambda: False)
    assert names_of_others(CASES["flip"]()) == ["per_image", "torchvision"]
