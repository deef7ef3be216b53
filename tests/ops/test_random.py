import numpy as np
import pytest
import torch

from torchdali.ops import BatchContext, Choice, Uniform, batch_context, number_streams


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
