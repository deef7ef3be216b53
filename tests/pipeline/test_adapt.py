import numpy as np
import pytest
import torch
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from torchdali import ExternalSource, JpegFolder, Pipeline, TensorList, ops


class Staged(Pipeline):
    """Decodes, then applies any module."""

    def __init__(self, folder, stage, **options):
        source = ExternalSource(JpegFolder(folder), num_outputs=2)
        super().__init__(source, **{"batch_size": 4, "num_workers": 2, "device": "cpu", "seed": 5, **options})
        self.decode = ops.DecodeImage()
        self.stage = stage

    def forward(self, jpegs, labels):
        return self.stage(self.decode(jpegs)), labels


def images_of(pipeline):
    with pipeline:
        return [image for images, _ in pipeline for image in images]


def test_a_transform_is_applied_to_every_image_of_a_ragged_batch(photographs):
    images = images_of(Staged(photographs, v2.Resize((32, 48))))
    originals = images_of(Staged(photographs, nn.Identity()))
    assert len(images) == len(originals) >= 8
    for image, original in zip(images, originals, strict=True):
        assert torch.equal(image, v2.Resize((32, 48))(original))


def test_the_result_of_equal_shapes_stands_for_one_tensor(photographs):
    stage = nn.Sequential(v2.Resize((32, 48)), v2.ToDtype(torch.float32, scale=True), nn.Conv2d(3, 5, 3))
    with torch.no_grad(), Staged(photographs, stage) as pipeline:
        images, _ = next(iter(pipeline))
    assert isinstance(images, torch.Tensor)
    assert images.shape == (4, 5, 30, 46)


def test_random_transforms_draw_for_each_image_and_reproducibly(photographs):
    def crops(**options):
        stage = v2.Compose([v2.RandomResizedCrop(40), v2.RandomHorizontalFlip()])
        return torch.stack(images_of(Staged(photographs, stage, **options)))

    base = crops(num_workers=1)
    assert torch.equal(base, crops(num_workers=3, prefetch=4))
    assert torch.equal(base, crops(batch_size=3)), "draws depend on the sample, not on its batch"
    assert not torch.equal(base, crops(seed=6))

    class SameImage(Pipeline):
        def __init__(self):
            super().__init__(lambda info: torch.arange(48).view(3, 4, 4), batch_size=8, device="cpu")
            self.crop = v2.RandomCrop(2)

        def forward(self, images):
            return self.crop(images)

    with SameImage() as pipeline:
        assert len({tuple(image.flatten().tolist()) for image in pipeline.run()[0]}) > 1


def test_the_program_s_own_random_state_is_left_alone(photographs):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    images_of(Staged(photographs, v2.RandomResizedCrop(40)))
    assert torch.equal(torch.rand(3), expected)


def test_a_module_is_applied_sample_by_sample_where_shapes_differ(photographs):
    class Mean(nn.Module):
        def forward(self, images):
            assert images.dim() == 4
            assert images.shape[0] == 1
            return images.double().mean((2, 3))

    means = images_of(Staged(photographs, Mean()))
    originals = images_of(Staged(photographs, nn.Identity()))
    for mean, original in zip(means, originals, strict=True):
        assert torch.equal(mean, original.double().mean((1, 2)))


def test_operators_within_containers_get_the_batch(photographs):
    stage = nn.Sequential(ops.BrightnessContrast(contrast=ops.Uniform(1, 3)), v2.CenterCrop(20))
    first, second = (images_of(Staged(photographs, stage)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_adapting_changes_neither_names_nor_state(photographs):
    stage = nn.Sequential(v2.Resize((8, 8)), nn.Conv2d(3, 1, 1))
    before = str(stage)
    image = torch.rand(3, 9, 9)
    resized = v2.Resize((8, 8))(image)
    with Staged(photographs, stage) as pipeline:
        pipeline.build()
        assert list(pipeline.state_dict()) == ["stage.1.weight", "stage.1.bias"]
        assert str(stage) == before
        assert torch.equal(stage[0](image), resized), "called with a tensor it does what it always did"


def test_batches_of_different_sizes_in_one_call_are_refused():
    class Two(Pipeline):
        def __init__(self):
            super().__init__(lambda info: torch.zeros(info.idx_in_batch + 1), batch_size=2, device="cpu")
            self.distance = nn.PairwiseDistance()

        def forward(self, batch):
            return self.distance(batch, TensorList([batch[0]] * 3))

    with Two() as pipeline, pytest.raises(ValueError, match=r"batches of \[2, 3\] samples"):
        pipeline.run()


class Pictures(Pipeline):
    """Images of equal or unequal shapes and their numbers, and what a function makes of them with a module."""

    def __init__(self, stage, function, *, ragged=True, layout="CHW", count=8, **options):
        def source(info):
            number = info.idx_in_epoch
            if number >= count:
                raise StopIteration
            height, width = (5 + number % 4, 7 + number % 3) if ragged else (6, 8)
            image = torch.from_numpy(np.random.default_rng(number).integers(0, 256, (3, height, width), np.uint8))
            return (image.permute(1, 2, 0).contiguous() if layout == "HWC" else image), np.int64(number)

        source = ExternalSource(source, num_outputs=2, batch=False)
        super().__init__(source, **{"batch_size": 4, "device": "cpu", "seed": 3, **options})
        self.stage, self.function, self.layout = stage, function, layout

    def forward(self, images, labels):
        return self.function(self.stage, TensorList(list(images), self.layout), labels)


def first(stage, function, **options):
    with Pictures(stage, function, **options) as pipeline:
        return next(iter(pipeline))


def same(ours, theirs):
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


BOTH = pytest.mark.parametrize("ragged", [True, False], ids=["ragged", "equal shapes"])


class Brighter(nn.Module):
    def forward(self, images):
        return (images.float() / 2).to(torch.uint8)


@BOTH
@pytest.mark.parametrize("stage", [Brighter(), v2.RandomHorizontalFlip(0.0)], ids=["module", "transform"])
def test_images_reach_modules_with_their_channels_first_and_operators_know(stage, ragged):
    def function(stage, images, labels):
        return ops.Resize((4, 4))(stage(images)), stage(images), images

    resized, made, images = first(stage, function, ragged=ragged, layout="HWC")
    assert images.layout == "HWC"
    assert {tuple(image.shape) for image in resized} == {(3, 4, 4)}
    expected = [image.permute(2, 0, 1) for image in images]
    assert same(made, [stage(image) for image in expected])


@BOTH
def test_batches_in_containers_go_through_a_transform_image_by_image(ragged):
    flip = v2.RandomHorizontalFlip(1.0)

    def function(stage, images, labels):
        return (
            stage({"image": images, "label": labels}),
            stage([images, labels]),
            stage(images, {"label": labels}),
            images,
        )

    as_dict, as_list, (alone, beside), images = first(flip, function, ragged=ragged)
    flipped = [image.flip(-1) for image in images]
    for ours, labels in (as_dict.values(), as_list, (alone, beside["label"])):
        assert same(ours, flipped)
        assert labels.as_tensor().tolist() == [0, 1, 2, 3]


@BOTH
def test_a_tensor_beside_a_batch_goes_sample_by_sample_with_it(ragged):
    class Weigh(nn.Module):
        def forward(self, images, weights):
            return images.double().sum((1, 2, 3)) * weights

    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def function(stages, images, labels):
        weigh, flip = stages
        return weigh(images, weights), flip(images, weights), images

    sums, (_, beside), images = first(nn.ModuleList([Weigh(), v2.RandomHorizontalFlip(1.0)]), function, ragged=ragged)
    assert [float(value) for value in sums] == [float(image.sum()) * (n + 1) for n, image in enumerate(images)]
    assert torch.equal(beside.as_tensor(), weights)


@BOTH
def test_a_module_of_operators_draws_as_they_do(ragged):
    class Augment(nn.Module):
        def __init__(self):
            super().__init__()
            self.flip, self.resize = ops.Flip(ops.CoinFlip()), ops.Resize((4, 4))
            self.brighter = Brighter()

        def forward(self, images):
            return self.resize(self.brighter(self.flip(images)))

    augment = Augment()
    made, _ = first(augment, lambda stage, images, labels: (stage(images), images), ragged=ragged)
    again, _ = first(
        nn.Sequential(augment.flip, augment.brighter, augment.resize),
        lambda stage, images, labels: (stage(images), images),
        ragged=ragged,
    )
    assert same(made, again)


@BOTH
def test_two_calls_of_a_transform_in_a_batch_draw_apart_and_as_before_each_time(ragged):
    def function(stage, images, labels):
        return stage(images), stage(images)

    def views(**options):
        with Pictures(v2.RandomCrop(3), function, ragged=ragged, **options) as pipeline:
            pairs = list(pipeline)
        return [[view for pair in pairs for view in pair[number]] for number in range(2)]

    one, other = views()
    assert len(one) == 8
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for options in ({}, {"batch_size": 8}, {"placement": "workers", "gpu_workers": 2}):
        again = views(**options)
        assert same(again[0], one)
        assert same(again[1], other)
    with Pictures(v2.RandomCrop(3), lambda stage, images, labels: stage(images), ragged=ragged) as pipeline:
        assert same([view for batch in pipeline for view in batch], one)


def test_a_part_of_the_batch_and_more_than_it_go_through_a_transform():
    def function(stage, images, labels):
        return stage(images[1:]), stage(TensorList([*images, *images]))

    part, twice = first(v2.RandomCrop(3), function)
    assert (len(part), len(twice)) == (3, 8)
    assert not same(list(twice[:4]), list(twice[4:]))
    assert all(same(a, b) for a, b in zip(first(v2.RandomCrop(3), function), (part, twice), strict=True))


@BOTH
def test_compiled_modules_are_adapted_too(ragged):
    compiled = torch.compile(v2.RandomHorizontalFlip(1.0), backend="eager")
    flipped, images = first(compiled, lambda stage, images, labels: (stage(images), images), ragged=ragged)
    assert same(list(flipped), [image.flip(-1) for image in images])
    compiled = torch.compile(Brighter(), backend="eager")
    made, images = first(compiled, lambda stage, images, labels: (stage(images), images), ragged=ragged)
    assert same(list(made), [Brighter()(image) for image in images])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_module_takes_a_tensor():
    scripted = torch.jit.trace(nn.Conv2d(3, 2, 3), torch.zeros(1, 3, 6, 8))
    made = first(scripted, lambda stage, images, labels: stage(images.as_tensor().float()), ragged=False)
    assert made.shape == (4, 2, 4, 6)


@BOTH
def test_lists_and_dicts_that_a_module_returns_are_of_batches(ragged):
    class Several(nn.Module):
        def forward(self, images):
            means = images.double().mean((2, 3))
            return {"mean": means, "rest": [means * 2, (means * 3, "text")]}

    found = first(Several(), lambda stage, images, labels: stage(images), ragged=ragged)
    means = torch.stack(list(found["mean"]))
    assert means.shape == (4, 3)
    assert torch.equal(torch.stack(list(found["rest"][0])), means * 2)
    assert torch.equal(torch.stack(list(found["rest"][1][0])), means * 3)


def test_of_no_samples_comes_what_comes_of_some():
    class Two(nn.Module):
        def forward(self, images):
            return images.float(), images.flatten(1)

    class Refuses(nn.Module):
        def forward(self, images):
            return images.view(len(images), -1) / (1 // len(images))

    def none(stage, images, labels):
        return stage(images[:0])

    both = first(v2.RandomHorizontalFlip(), lambda stage, images, labels: stage(images[:0], labels[:0]))
    assert [len(batch) for batch in both] == [0, 0]
    pair = first(Two(), none, ragged=False)
    assert [tuple(tensor.shape) for tensor in pair] == [(0, 3, 6, 8), (0, 144)]
    assert len(first(Refuses(), none, ragged=False)) == 0


def test_transforms_of_whole_batches_get_them_and_say_what_they_need():
    mix = v2.MixUp(num_classes=10)
    images, labels = first(mix, lambda stage, images, labels: stage(images.as_tensor().float(), labels), ragged=False)
    assert (images.shape, labels.shape) == ((4, 3, 6, 8), (4, 10))
    assert ((labels > 0).sum(1) == 2).all()
    for stage in (mix, v2.RandomChoice([v2.CutMix(num_classes=10), mix])):
        with pytest.raises(ValueError, match="mixes the images of a batch"):
            first(stage, lambda stage, images, labels: stage(images, labels))


@BOTH
def test_transforms_of_the_first_generation_draw_for_each_image(ragged):
    flip = transforms.RandomHorizontalFlip()
    made, images = first(
        flip, lambda stage, images, labels: (stage(images), images), ragged=ragged, count=32, batch_size=32
    )
    flipped = [not torch.equal(one, image) for one, image in zip(made, images, strict=True)]
    assert 4 < sum(flipped) < 28
