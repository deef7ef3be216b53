"""Random draws in the device stage: of the seed and the batch's number alone, and nobody else's."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from tests.loader.support_faults import Numbers, ints
from torchdali import DataLoader, ops, ragged_collate

pytestmark = pytest.mark.timeout(60)


class Noise(nn.Module):
    """A number of each kind that a module can draw."""

    def forward(self, batch):
        return (
            batch,
            torch.rand(2),
            torch.randint(1 << 60, (1,)),
            torch.randperm(20),
            nn.functional.dropout(torch.ones(9)),
        )


class Operators(nn.Module):
    """Draws one number for each sample."""

    def __init__(self):
        super().__init__()
        self.one, self.other = ops.Uniform(0, 1), ops.Choice(range(1000))

    def forward(self, batch):
        return batch, self.one(), self.other()


class Jitter(nn.Module):
    def __init__(self):
        super().__init__()
        self.transform = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomCrop(4), v2.ColorJitter(0.5)])

    def forward(self, batch):
        images = torch.arange(len(batch) * 3 * 64, dtype=torch.float32).reshape(len(batch), 3, 8, 8) / 1000
        return batch, self.transform(images)


KINDS = pytest.mark.parametrize("kind", [Noise, Operators, Jitter])


def epochs(kind, count=2, *, seed=1, interfere=False, size=30, **options):
    """What the module drew in some epochs, by first number of the batch."""
    options = {"batch_size": 3, "num_workers": 2, "generator": torch.Generator().manual_seed(seed), **options}
    loader = DataLoader(Numbers(size), pipeline=kind(), **options)
    found = []
    for _ in range(count):
        drawn = {}
        for batch, *draws in loader:
            drawn[ints(batch)[0]] = [draw.tolist() for draw in draws]
            if interfere:
                torch.rand(7)
                torch.manual_seed(len(drawn))
                random.random()
        found.append(drawn)
    return found


@KINDS
@pytest.mark.parametrize(
    "options",
    [
        {"prefetch": 1},
        {"prefetch": 7},
        {"num_workers": 0},
        {"num_workers": 1},
        {"num_workers": 2, "prefetch_factor": 5},
        {"in_order": False},
        {"interfere": True},
        {"interfere": True, "num_workers": 0},
    ],
    ids=str,
)
def test_draws_depend_on_the_seed_and_the_batch_alone(kind, options):
    assert epochs(kind, **options) == epochs(kind)


@KINDS
@pytest.mark.parametrize("persistent", [False, True])
def test_draws_differ_between_batches_epochs_and_seeds(kind, persistent):
    found = epochs(kind, 3, persistent_workers=persistent)
    found += epochs(kind, 1, seed=2, persistent_workers=persistent)
    texts = [str(draws) for drawn in found for draws in drawn.values()]
    assert len(texts) == len(set(texts)) == 40
    assert epochs(kind, 3, persistent_workers=persistent) == found[:3]


@KINDS
def test_an_epoch_that_was_left_does_not_change_the_draws_of_the_next(kind):
    def third(taken):
        loader = DataLoader(
            Numbers(30),
            batch_size=3,
            num_workers=2,
            persistent_workers=True,
            pipeline=kind(),
            generator=torch.Generator().manual_seed(1),
        )
        for count in (taken, 10 - taken):
            iterator = iter(loader)
            for _ in range(count):
                next(iterator)
        return [[part.tolist() for part in parts] for parts in loader]

    assert third(1) == third(6)


@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_the_user_s_generators_are_left_alone(kind, workers):
    def states(pipeline):
        torch.manual_seed(4)
        random.seed(4)
        np.random.seed(4)
        found = []
        for _ in range(2):
            for _ in DataLoader(Numbers(12), batch_size=3, num_workers=workers, shuffle=True, pipeline=pipeline):
                found.append(torch.rand(1).item())
        return found, torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    assert states(kind()) == states(None)


def test_the_user_s_generators_are_left_alone_also_by_a_module_that_raises():
    def stage(batch):
        torch.rand(3)
        raise LookupError

    iterator = iter(DataLoader(Numbers(12), batch_size=3, num_workers=2, pipeline=stage))
    before = torch.get_rng_state()
    for _ in range(4):
        with pytest.raises(LookupError):
            next(iterator)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_comes_from_torch_s_generator_where_the_loader_has_none():
    def drawn():
        return [
            [part.tolist() for part in parts[1:]] for parts in DataLoader(Numbers(9), batch_size=3, pipeline=Noise())
        ]

    torch.manual_seed(7)
    first = drawn()
    second = drawn()
    torch.manual_seed(7)
    assert drawn() == first != second


def test_operators_draw_one_number_a_sample_also_in_the_last_incomplete_batch():
    (drawn,) = epochs(Operators, 1, size=31)
    assert [len(draws[0]) for draws in drawn.values()] == [3] * 10 + [1]
    values = [value for draws in drawn.values() for value in draws[0]]
    assert len(set(values)) == 31


def test_the_draws_of_a_sample_do_not_depend_on_the_batch_size():
    def values(batch_size):
        (drawn,) = epochs(Operators, 1, batch_size=batch_size)
        return [value for draws in drawn.values() for value in draws[0]]

    assert values(3) == values(5) == values(30)


def test_operators_draw_for_each_sample_of_a_ragged_batch():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = ops.Uniform(0, 1)

        def forward(self, images, labels):
            return images, self.factor(), labels

    samples = [(torch.ones(2 + i % 3, 4), i) for i in range(12)]
    loader = DataLoader(samples, batch_size=4, num_workers=2, collate_fn=ragged_collate, pipeline=Scale())
    factors = []
    for number, (images, factor, labels) in enumerate(loader):
        assert [image.shape[0] for image in images] == [2 + i % 3 for i in range(4 * number, 4 * number + 4)]
        assert labels.tolist() == list(range(4 * number, 4 * number + 4))
        factors += factor.tolist()
    assert len(set(factors)) == 12
