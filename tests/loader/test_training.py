"""An ordinary training script, before and after its one line was changed."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as Stock
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from torchdali import DataLoader


def train(loader_class, folder, *, workers, steps):
    """The losses of some steps, from given seeds on; the augmentation draws in the workers."""
    torch.manual_seed(0)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(64),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    dataset = ImageFolder(folder, transform)
    loader = loader_class(dataset, batch_size=8, shuffle=True, num_workers=workers, drop_last=True)
    model = resnet18(num_classes=len(dataset.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses: list[float] = []
    while len(losses) < steps:
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[:steps]


@pytest.fixture
def classes(image_folder, tmp_path):
    """Forty-eight images in four classes."""
    images = sorted(path for path in image_folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    for position in range(48):
        path = tmp_path / f"class{position % 4}" / f"{position}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(images[position % len(images)])
    return str(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resnet_has_the_same_losses_to_the_last_bit(classes, workers):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in an order that is always the same
    try:
        stock = train(Stock, classes, workers=workers, steps=8)
        ours = train(DataLoader, classes, workers=workers, steps=8)
    finally:
        torch.set_num_threads(threads)
    assert ours == stock
    assert len(set(ours)) == len(ours)
