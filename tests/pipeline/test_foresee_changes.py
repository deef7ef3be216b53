"""What changes from batch to batch, or is a user's own, is never foreseen otherwise than it comes."""

import threading
import time

import numpy as np
import pytest
import torch

from tests.pipeline.looking_ahead import Again, Decoding, Training, assert_same, epoch, patient, same
from torchdali import ops
from torchdali.ops import _foresight
from torchdali.pipeline import _foresee
from torchdali.pipeline._foresee import MOST_SURPRISES


@pytest.mark.parametrize("how", ["attribute", "array", "submodule"])
def test_settings_that_change_hold_from_the_next_batch_that_is_begun(early, how):
    factors = np.empty(4)

    def made(decode, **options):
        factors[:] = 2.0
        pipeline = Training(decode, **options)
        pipeline.prepare.get_submodule("1").brightness = factors
        return pipeline

    def change(pipeline):
        if how == "attribute":
            pipeline.prepare.get_submodule("0").size = (9, 10)
        elif how == "array":
            factors[:] = 0.25
        else:
            pipeline.contrast.low = pipeline.contrast.high = 3.0

    before = epoch(made(ops.DecodeImage(), stage_thread=False))
    changed = made(ops.DecodeImage(), stage_thread=False)
    change(changed)
    after = epoch(changed)
    found = []
    with made(early()) as pipeline:
        for number in range(15):
            found.append([image.clone() for image in pipeline.run()[0]])
            time.sleep(0.03)
            if number == 5:
                change(pipeline)
    first = next(n for n in range(15) if same(found[n], after[n]))
    assert 6 <= first <= 9  # some were ahead
    assert_same(found[: first - 1], before[: first - 1])
    assert_same(found[first:], after[first:])


@pytest.mark.parametrize("how", ["in place", "as an array"])
def test_what_is_done_to_draws_before_they_are_used_counts(early, how):
    class Doubling(Decoding):
        def __init__(self, decode, **options):
            super().__init__(decode, Again(), **options)
            self.draw, self.enhance = ops.Uniform(0.5, 0.7), ops.BrightnessContrast()

        def forward(self, files):
            factors = self.draw()
            images = self.decode(files)
            if how == "in place":
                factors *= 2
            else:
                factors.numpy()[:] *= 2
            return self.enhance(images, brightness=factors)

    expected = epoch(Doubling(ops.DecodeImage(), stage_thread=False))
    assert_same(patient(Doubling(early())), expected)


def test_a_hook_that_is_set_later_is_called_from_then_on(early):
    calls = []
    pipeline = Training(early())
    with pipeline:
        for number in range(15):
            pipeline.run()
            time.sleep(0.03)
            if number == 5:
                pipeline.contrast.register_forward_hook(lambda *arguments: calls.append(True))
    assert 6 <= len(calls) <= 9


def test_the_area_of_crops_that_changes_holds_from_the_next_batch_that_is_begun(early):
    def made(decode, **options):
        return Decoding(decode, Again(), **options)

    before = epoch(made(ops.DecodeRandomCrop(), stage_thread=False))
    after = epoch(made(ops.DecodeRandomCrop((0.1, 0.2)), stage_thread=False))
    found = []
    with made(early(ops.DecodeRandomCrop)) as pipeline:
        for number in range(15):
            found.append([image.clone() for image in pipeline.run()[0]])
            time.sleep(0.03)
            if number == 5:
                pipeline.decode.area = (0.1, 0.2)
    first = next(n for n in range(15) if same(found[n], after[n]))
    assert 6 <= first <= 11  # some were begun
    assert_same(found[:first], before[:first])
    assert_same(found[first:], after[first:])


def test_a_stage_that_does_something_else_each_time_is_left_alone(early, monkeypatch):
    asked = []
    submit = _foresee.Foresight.ask
    monkeypatch.setattr(_foresee.Foresight, "ask", lambda self, *a: asked.append(submit(self, *a)) or asked[-1])

    class Fickle(Decoding):
        def __init__(self, decode, **options):
            super().__init__(decode, Again(120), **options)
            self.enhance = ops.BrightnessContrast(contrast=ops.Uniform(1, 2))

        def forward(self, files):
            return self.enhance(self.decode(files), brightness=1 / (1 + ops.current_batch().iteration))

    expected = epoch(Fickle(ops.DecodeImage(), stage_thread=False))
    assert_same(patient(Fickle(early())), expected)
    assert sum(answer is not None for answer in asked) <= MOST_SURPRISES + 3
    assert asked[-5:] == [None] * 5


class Strange(ops.BrightnessContrast):
    """An operator of a user's, which counts its calls."""

    calls = 0

    def step(self, *arguments, **keywords):
        self.calls += 1
        return super().step(*arguments, **keywords)


@pytest.mark.parametrize("what", ["class", "hook"])
def test_a_user_s_own_operator_is_called_here_and_once_a_batch(early, what):
    class Mine(Decoding):
        def __init__(self, decode, **options):
            super().__init__(decode, Again(), **options)
            self.mine = Strange(contrast=ops.Uniform(1, 2)) if what == "class" else ops.Hue(ops.Uniform(0, 90))

        def forward(self, files):
            return self.mine(self.decode(files))

    expected = epoch(Mine(ops.DecodeImage(), stage_thread=False))
    pipeline = Mine(early())
    threads = []
    if what == "hook":
        pipeline.mine.get_submodule("hue").register_forward_hook(
            lambda *arguments: threads.append(threading.current_thread().name)
        )
    assert_same(patient(pipeline), expected)
    assert (pipeline.mine.calls if what == "class" else len(threads)) == 15


def test_a_glimpse_of_files_is_of_no_use_to_a_decoder_that_was_changed():
    decode = ops.DecodeRandomCrop()
    script = _foresight.Script([_foresight.Call(decode, _foresight.OfSource(0), (("cuts_alike", True),))])
    foreseen = _foresee.Foreseen(script, [_foresight.Found("a glimpse", {})])
    assert foreseen.of(decode) == "a glimpse"
    assert foreseen.of(ops.DecodeRandomCrop()) is None
    decode.area = (0.1, 0.2)
    assert foreseen.of(decode) is None


def change_a_number(module):
    module.contrast_center = 3.0


def add_an_attribute(module):
    module.more = 1


def remove_an_attribute(module):
    del module.dtype


def write_to_a_list(module):
    module.some[0] = 5


def write_to_a_buffer(module):
    module.table[1] = 7.0


def put_another_in_place_of_a_child(module):
    module.contrast = ops.Uniform(1, 2)


def set_a_hook(module):
    module.contrast.register_forward_pre_hook(lambda *arguments: None)


def become_another_class(module):
    module.__class__ = Strange


CHANGES = [
    change_a_number,
    add_an_attribute,
    remove_an_attribute,
    write_to_a_list,
    write_to_a_buffer,
    put_another_in_place_of_a_child,
    set_a_hook,
    become_another_class,
]


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_an_operator_is_what_it_was_until_something_of_it_changes(change):
    module = ops.BrightnessContrast(contrast=ops.Uniform(1, 2), contrast_center=128.0)
    module.some = [1, 2]
    module.register_buffer("table", torch.zeros(3))
    script = _foresight.Script([_foresight.Call(module, _foresight.Result(0), ())])
    assert script.holds(0)
    module.contrast_center += 0.0  # an equal number
    module._noted = 1  # not a setting
    if change is not None:
        change(module)
    assert script.holds(0) == (change is None)


def test_equal_tokens_are_of_equal_values_only():
    values = [
        1,
        1.0,
        True,
        "1",
        None,
        (1,),
        [1],
        (1, 2),
        np.ones(1),
        np.ones(1, np.float32),
        np.ones((1, 1)),
        np.zeros(1),
        torch.float32,
        torch.device("cpu"),
        torch.tensor([2.0]),
        torch.tensor([2.0], dtype=torch.bfloat16),
    ]
    for n, value in enumerate(values):
        for m, other in enumerate(values):
            assert (_foresight._token(value) == _foresight._token(other)) == (n == m), (value, other)
    assert _foresight._token(np.zeros(10_000)) != _foresight._token(np.zeros(10_000))
    assert _foresight._token(values.append) != _foresight._token(values.append)
