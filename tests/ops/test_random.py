import numpy as np
import pytest
import torch

from torchdali._philox import words
from torchdali.ops import (
    BatchContext,
    Choice,
    CoinFlip,
    Normal,
    RandomOperator,
    Uniform,
    batch_context,
    number_streams,
)


def draw(operator, indices, seed=1, epoch=0):
    context = BatchContext(seed, epoch, 0, np.asarray(indices, np.int64), torch.device("cpu"), 1)
    with batch_context(context):
        return operator()


def test_a_sample_s_draw_does_not_depend_on_its_batch():
    operator = Uniform(1.0, 3.0)
    together = draw(operator, range(100))
    parts = torch.cat([draw(operator, range(first, first + 25)) for first in (0, 25, 50, 75)])
    assert torch.equal(together, parts)
    assert torch.equal(draw(operator, [42])[0], together[42])


def test_seed_and_epoch_change_the_draws():
    operator = Uniform(1.0, 3.0)
    base = draw(operator, range(8))
    assert torch.equal(base, draw(operator, range(8)))
    assert not torch.equal(base, draw(operator, range(8), seed=2))
    assert not torch.equal(base, draw(operator, range(8), epoch=1))
    own = Uniform(1.0, 3.0, seed=9)
    assert torch.equal(draw(own, range(8)), draw(own, range(8), seed=2))


def test_two_operators_of_a_pipeline_draw_independently():
    module = torch.nn.ModuleList([Uniform(0, 1), Uniform(0, 1)])
    number_streams(module)
    first, second = (draw(operator, range(1000)) for operator in module)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1


def test_draws_are_uniform_in_the_half_open_range():
    values = draw(Uniform(1.0, 3.0), range(100_000))
    assert values.dtype == torch.float32
    assert values.min() >= 1.0
    assert values.max() < 3.0
    counts = torch.histc(values, 20, 1.0, 3.0)
    # 5 000 expected in each of 20 bins: chi-squared with 19 degrees of freedom exceeds 43.8 once in a thousand.
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 43.8


def test_the_upper_end_is_never_drawn_even_by_rounding():
    almost_one = np.array([1 - 2.0**-53])
    assert Uniform(1.0, 3.0).transform(almost_one)[0] < 3.0
    assert Uniform(2.0, 2.0).transform(almost_one)[0] == 2.0


def test_choice_draws_each_value_as_often():
    values = draw(Choice([1.0, 5.0, 9.0]), range(30_000))
    assert set(values.tolist()) == {1.0, 5.0, 9.0}
    assert all(abs(int((values == value).sum()) - 10_000) < 500 for value in (1.0, 5.0, 9.0))


def test_outside_a_pipeline_torch_s_generator_is_used():
    torch.manual_seed(5)
    first = Uniform(0.0, 1.0)(4)
    torch.manual_seed(5)
    assert torch.equal(first, Uniform(0.0, 1.0)(4))
    with pytest.raises(TypeError, match="pass count"):
        Uniform(0.0, 1.0)()


def test_bad_ranges_are_named():
    with pytest.raises(ValueError, match=r"\[3, 1\)"):
        Uniform(3, 1)
    with pytest.raises(ValueError, match="inf"):
        Uniform(0, float("inf"))
    with pytest.raises(ValueError, match="empty"):
        Choice([])


def test_a_draw_is_a_function_of_seed_epoch_stream_and_sample():
    module = torch.nn.ModuleList([Uniform(0.0, 1.0), Choice([1.0, 2.0]), Uniform(0.0, 1.0)])
    number_streams(module)
    for stream, operator in ((0, module[0]), (2, module[2])):
        high, low, _, _ = words(1, 4, stream, 77)
        assert draw(operator, [77], epoch=4).item() == np.float32(((high >> 5 << 26) | low >> 6) / 2**53)


def test_an_operator_has_as_many_streams_as_numbers_a_sample():
    module = torch.nn.ModuleList([Uniform(0, 1), Uniform(0, 1, (2, 3)), CoinFlip(), Normal(shape=4)])
    number_streams(module)
    assert [operator.stream for operator in module] == [0, 1, 7, 8]
    assert [operator.label for operator in module] == ["0", "1", "2", "3"]
    draws = [draw(operator, range(500)).double().reshape(500, -1) for operator in module]
    correlation = np.corrcoef(torch.cat(draws, 1).numpy().T)
    assert correlation.shape == (12, 12)
    assert np.abs(correlation - np.eye(12)).max() < 0.2
    # The first of several numbers is the one that an operator with one draws.
    single = Uniform(0, 1)
    single.stream = 1
    assert torch.equal(draw(single, range(500)), draw(module[1], range(500))[:, 0, 0])


def test_arrays_do_not_depend_on_their_batch_either():
    operator = Normal(shape=(2, 2))
    together = draw(operator, range(40))
    assert together.shape == (40, 2, 2)
    assert torch.equal(torch.cat([draw(operator, range(30, 40)), draw(operator, range(30))]), together.roll(10, 0))


def test_uniforms_are_for_operators_of_one_s_own():
    class Angle(RandomOperator):
        def __init__(self):
            super().__init__()
            self.streams = 2

        def transform(self, uniform):
            return uniform

        def forward(self, count=None):
            x, y = self.uniforms(count, 2).T
            angles = torch.from_numpy(np.arctan2(y, x))
            self.record(angles)
            return angles

    operator = Angle()
    assert draw(operator, range(5)).shape == (5,)
    numbers = operator.uniforms(1000, 2)
    assert numbers.shape == (1000, 2)
    assert numbers.dtype == np.float64
    assert 0 <= numbers.min() < numbers.max() < 1
    with pytest.raises(ValueError, match="3 numbers a sample are wanted of a Angle that has 2 streams"):
        operator.uniforms(4, 3)


def test_normal_draws_have_the_normal_distribution():
    values = draw(Normal(5.0, 2.0), range(100_000)).double()
    assert abs(values.mean().item() - 5.0) < 0.03
    assert abs(values.std().item() - 2.0) < 0.03
    uniform = 0.5 * (1 + torch.erf((values - 5) / (2 * 2**0.5)))
    counts = torch.histc(uniform, 20, 0.0, 1.0)
    # Chi-squared with 19 degrees of freedom exceeds 43.8 once in a thousand.
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 43.8


def test_even_the_ends_of_the_uniform_numbers_have_normal_values():
    low, middle, high = Normal().transform(np.array([0.0, 0.5, 1 - 2.0**-53]))
    assert -9 < low < -8
    assert middle == 0
    assert 8 < high < 9
    assert Normal(3.0, 0.0).transform(np.array([0.0, 0.9])).tolist() == [3.0, 3.0]


def test_coins_fall_with_their_probability():
    flips = draw(CoinFlip(0.3), range(20_000))
    assert flips.dtype == torch.int32
    assert set(flips.tolist()) == {0, 1}
    assert abs(flips.double().mean().item() - 0.3) < 0.015
    assert draw(CoinFlip(0.0), range(100)).sum() == 0
    assert draw(CoinFlip(1.0), range(100)).sum() == 100
    assert CoinFlip(0.0).transform(np.array([0.0])) == 0


def test_draws_come_in_the_type_that_is_asked_for():
    assert draw(Uniform(0.0, 1.0, dtype=torch.float64), range(9)).double().float().tolist() == (
        draw(Uniform(0.0, 1.0), range(9)).tolist()
    )
    integers = draw(Uniform(-0.5, 3.5, dtype=torch.uint8), range(4000))
    assert integers.dtype == torch.uint8
    assert set(integers.tolist()) == {0, 1, 2, 3}
    assert draw(CoinFlip(dtype=torch.bool), range(4)).dtype == torch.bool
    assert set(draw(Choice([2.5, 300.0], dtype=torch.uint8), range(50)).tolist()) == {2, 255}


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_large_integers_are_drawn_with_all_their_digits(dtype):
    values = draw(Uniform(2**24, 2**25, dtype=dtype), range(2000))
    assert abs(int((values % 2).sum()) - 1000) < 150
    assert values.min() >= 2**24
    assert values.max() <= 2**25
    exact = draw(Uniform(2**24, 2**25, dtype=torch.float64), range(2000))
    assert torch.equal(values, exact.round().to(dtype))


def test_draws_are_recorded_where_the_batch_has_a_place_for_them():
    module = torch.nn.ModuleDict({"contrast": Uniform(0.0, 1.0), "flip": CoinFlip()})
    number_streams(module)
    context = BatchContext(1, 0, 0, np.arange(3), torch.device("cpu"), 1, draws={})
    with batch_context(context):
        drawn = {name: operator() for name, operator in module.items()}
        CoinFlip(shape=2)()
    assert list(context.draws) == ["contrast", "flip", "CoinFlip"]
    assert all(torch.equal(context.draws[name], values) for name, values in drawn.items())


def test_what_is_no_number_is_named_and_who_needs_one():
    for make, message in (
        (lambda: Uniform(None, 1), "low is None; it is one number"),
        (lambda: Uniform(0, "1.5"), "high is '1.5'; it is one number"),
        (lambda: Uniform([0, 1], 2), r"low is \[0, 1\]; it is one number"),
        (lambda: Normal(torch.zeros(2)), r"mean is tensor\(\[0., 0.\]\); it is one number"),
        (lambda: Normal(0, 1j), "stddev is 1j; it is one number"),
        (lambda: CoinFlip(np.array(["a", "b"])), "probability is array.*; it is one number"),
        (lambda: CoinFlip(Uniform()), r"probability is Uniform\(-1.0, 1.0\); it is one number"),
        (lambda: Choice(3), "values is 3; it is a sequence of numbers"),
        (lambda: Choice("12"), "values is '12'; it is a sequence of numbers"),
        (lambda: Choice([1, None]), "one of values is None"),
        (lambda: Uniform(seed="1.5"), "seed is '1.5'; it is an integer, or None"),
        (lambda: CoinFlip(seed=float("nan")), "seed is nan; it is an integer, or None"),
    ):
        with pytest.raises(TypeError, match=message):
            make()
    assert repr(Uniform(np.float32(0), torch.tensor(2), seed=np.int64(3))) == "Uniform(0.0, 2.0, seed=3)"
    assert Choice(torch.tensor([1, 2])).values == (1.0, 2.0)


def test_bad_distributions_are_named():
    for make, message in (
        (lambda: CoinFlip(1.5), "probability is 1.5"),
        (lambda: CoinFlip(float("nan")), "probability is nan"),
        (lambda: Normal(0.0, -1.0), "stddev=-1.0"),
        (lambda: Normal(float("inf")), "mean=inf"),
        (lambda: Uniform(shape=(2, 0)), r"shape is \(2, 0\)"),
        (lambda: Uniform(shape=-1), "shape is -1"),
        (lambda: Uniform(dtype=torch.complex64), "dtype is torch.complex64"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert repr(Normal(0.0, 2.0, 3, seed=5)) == "Normal(0.0, 2.0, shape=(3,), seed=5)"
    assert repr(CoinFlip(0.25)) == "CoinFlip(0.25)"
