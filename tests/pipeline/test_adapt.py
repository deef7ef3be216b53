import pytest
import torch
from torch import nn
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
