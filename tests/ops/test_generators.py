"""Random numbers of a stage: its own, the same however it runs, and nobody else's are taken."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.transforms import v2

from torchdali import ExternalSource, Pipeline
from torchdali.ops._generators import DrawKey, OwnGenerators

KEY = DrawKey(1, 2, 3, 4)
POSITIVE = torch.linspace(0, 1, 12).view(3, 4) + 0.5

CALLS = {
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn((3,), dtype=torch.float64),
    "randint": lambda: torch.randint(1000, (5,)),
    "randperm": lambda: torch.randperm(20),
    "out": lambda: torch.rand(3, out=torch.empty(3)),
    "rand_like": lambda: torch.rand_like(POSITIVE),
    "randint_like": lambda: torch.randint_like(POSITIVE, 1000),
    "randn_like": lambda: torch.randn_like(POSITIVE),
    "normal of numbers": lambda: torch.normal(0.0, 1.0, (3,)),
    "normal of tensors": lambda: torch.normal(POSITIVE, POSITIVE),
    "bernoulli": lambda: torch.bernoulli(POSITIVE.repeat(5, 5) / 2),
    "multinomial": lambda: torch.multinomial(POSITIVE, 4),
    "poisson": lambda: torch.poisson(POSITIVE * 100),
    "method": lambda: (POSITIVE / 2).multinomial(4),
    "in place": lambda: torch.empty(3).uniform_(2, 3),
    "exponential_": lambda: torch.empty(3).exponential_(),
    "Beta": lambda: torch.distributions.Beta(torch.tensor(1.0), torch.tensor(2.0)).sample((3,)),
    "Normal": lambda: torch.distributions.Normal(0.0, 1.0).sample((3,)),
    "init": lambda: nn.init.kaiming_uniform_(torch.empty(3, 4)),
    "dropout": lambda: functional.dropout(torch.ones(50)),
    "Dropout2d": lambda: nn.Dropout2d()(torch.ones(4, 10, 2, 2)),
    "dropout in place": lambda: functional.dropout(torch.ones(50), inplace=True),
    "gumbel_softmax": lambda: functional.gumbel_softmax(POSITIVE),
    "rrelu": lambda: functional.rrelu(-POSITIVE, training=True),
    "GaussianNoise": lambda: v2.GaussianNoise()(POSITIVE),
    "RandAugment": lambda: v2.RandAugment()(torch.arange(192, dtype=torch.uint8).view(3, 8, 8)),
    "MixUp": lambda: v2.MixUp(num_classes=3)(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))[1],
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_random_function_draws_by_the_key_and_leaves_torch_s_generator_alone(call):
    state = torch.get_rng_state()
    with OwnGenerators(KEY):
        first = call()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    with OwnGenerators(KEY) as generators:
        assert torch.equal(call(), first)
        generators.seed(KEY)
        assert torch.equal(call(), first)
        # Some of these take few values: one of a few more keys must give another.
        others = []
        for position in range(5, 15):
            generators.seed(KEY._replace(position=position))
            others.append(call())
    assert any(not torch.equal(other, first) for other in others)


def test_a_generator_that_is_given_is_used():
    with OwnGenerators(KEY):
        drawn = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_dropout_is_torch_s():
    batch = torch.rand(4, 3, 2, 2)
    for name in ("dropout", "dropout2d"):
        function = getattr(functional, name)
        torch.manual_seed(KEY.number())
        expected = function(batch, 0.3)
        with OwnGenerators(KEY):
            assert torch.equal(function(batch, 0.3), expected)
            assert torch.equal(function(batch, 0.3, training=False), batch)
            assert torch.equal(function(batch, 1.0), torch.zeros_like(batch))
            with pytest.raises(ValueError, match="probability"):
                function(batch, 1.5)


def test_it_holds_for_its_own_thread_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    drawn = []
    with OwnGenerators(KEY):
        thread = threading.Thread(target=lambda: drawn.append(torch.rand(3)))
        thread.start()
        thread.join()
    assert torch.equal(drawn[0], expected)


# --- in a pipeline ------------------------------------------------------------------------------------------------------


class Random(Pipeline):
    """Draws in all the ways that there are."""

    def __init__(self, **options):
        drawing = ExternalSource(lambda info: torch.rand(3), parallel=False)
        counting = ExternalSource(range_of_twenty_four)
        super().__init__(
            [counting, drawing], **{"batch_size": 4, "num_workers": 1, "device": "cpu", "seed": 7, **options}
        )
        self.crop = v2.RandomCrop(2)
        self.dropout = nn.Dropout()

    def forward(self, images, drawn):
        first = [int(image[0, 0, 0]) for image in images]
        return first, drawn, self.crop(images), torch.rand(4), self.dropout(images.as_tensor().double())


def range_of_twenty_four(info):
    if info.idx_in_epoch >= 24:
        raise StopIteration
    return torch.arange(48, dtype=torch.float32).view(3, 4, 4) + info.idx_in_epoch


def flat(batches):
    return [
        torch.cat([torch.as_tensor(part, dtype=torch.float64).flatten() for part in map(plain, batch)])
        for batch in batches
    ]


def plain(part):
    return part if isinstance(part, (list, torch.Tensor)) else part.as_tensor()


def test_draws_are_the_same_with_and_without_a_thread_and_for_any_workers_and_depth():
    with Random(stage_thread=False) as pipeline:
        expected = flat([*pipeline, *pipeline])
    assert not torch.equal(expected[0][4:], expected[6][4:]), "the second epoch draws others"
    for options in ({"prefetch": 1}, {"prefetch": 5, "num_workers": 3}):
        with Random(**options) as pipeline:
            for ours, theirs in zip(flat([*pipeline, *pipeline]), expected, strict=True):
                assert torch.equal(ours, theirs)


def test_the_training_s_draws_are_as_if_no_stage_ran_beside_it():
    torch.manual_seed(9)
    expected = [torch.rand(3) for _ in range(6)]
    for thread in (True, False):
        with Random(stage_thread=thread) as pipeline:
            torch.manual_seed(9)
            for _, drawn in zip(pipeline, expected, strict=True):
                assert torch.equal(torch.rand(3), drawn)
            state = torch.get_rng_state()
            pipeline.reset()
            pipeline.run()
            assert torch.equal(torch.get_rng_state(), state)
