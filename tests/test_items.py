"""Items of an iterator, of which Ctrl-C loses none."""

import pytest

from torchdali._items import Items


class Late(list):
    """Ctrl-C comes just behind what it was extended with, once."""

    interrupts = 1

    def extend(self, items):
        super().extend(items)
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt


def counting(end, interrupted_at=None):
    for number in range(end):
        if number == interrupted_at:
            raise KeyboardInterrupt
        yield number


def test_a_list_is_filled_as_far_as_the_iterator_goes():
    items, numbers = [], Items(iter(range(5)), "it")
    assert numbers.fill(items, 2)
    assert items == [0, 1]
    assert numbers.fill(items, 2), "it has so many already"
    assert not numbers.fill(items, 9)
    assert (items, numbers.taken) == ([0, 1, 2, 3, 4], 5)


def test_an_iterator_is_not_begun_anew():
    class Own:
        begun = 0

        def __iter__(self):
            self.begun += 1
            return self

        def __next__(self):
            return self.begun

    items: list[int] = []
    assert Items(iter(Own()), "it").fill(items, 3)
    assert items == [1, 1, 1]


def test_an_exception_leaves_what_came_before_it():
    def raising():
        yield 1
        raise LookupError

    items, numbers = [], Items(raising(), "it")
    with pytest.raises(LookupError):
        numbers.fill(items, 3)
    assert (items, numbers.taken) == ([1], 1)


def test_who_asks_on_after_ctrl_c_in_a_generator_is_told_that_it_has_ended_once():
    items, numbers = [], Items(counting(5, interrupted_at=3), "the generator")
    with pytest.raises(KeyboardInterrupt):
        numbers.fill(items, 4)
    with pytest.raises(RuntimeError, match="while the generator was at work; .* ended after 3 items"):
        numbers.fill(items, 4)
    assert not numbers.fill(items, 4)
    assert items == [0, 1, 2]


@pytest.mark.parametrize("end", [3, 4, 5])
def test_ctrl_c_behind_a_generator_ends_nothing(end):
    """Also where that was at its end by itself."""
    items, numbers = Late(), Items(counting(end), "it")
    with pytest.raises(KeyboardInterrupt):
        numbers.fill(items, 4)
    assert numbers.fill(items, 4) is (end >= 4)
    assert items == [*range(min(end, 4))]
