import pytest

from torchdali.bench._summary import Summary, ratios


@pytest.mark.parametrize(
    ("values", "median", "least", "most"),
    [([3.0], 3.0, 3.0, 3.0), ([9.0, 1.0, 2.0], 2.0, 1.0, 9.0), ([4.0, 1.0, 2.0, 100.0], 3.0, 1.0, 100.0)],
)
def test_it_has_the_median_and_the_extremes_and_keeps_the_order(values, median, least, most):
    assert Summary.of(values) == Summary(median, least, most, values)


def test_ratios_are_of_each_round_and_not_of_the_medians():
    above, below = Summary.of([10.0, 30.0, 20.0]), Summary.of([1.0, 10.0, 20.0])
    assert ratios(above, below) == Summary(3.0, 1.0, 10.0, [10.0, 3.0, 1.0])
    assert above.median / below.median != ratios(above, below).median


def test_ratios_of_different_numbers_of_rounds_are_refused():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        ratios(Summary.of([1.0]), Summary.of([1.0, 2.0]))
