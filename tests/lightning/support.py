"""Data and a model for trainers, which note what they were given."""

import lightning.pytorch as lightning
import numpy as np
import psutil
import torch

import torchdali
from tests.lightning.conftest import OLDER
from torchdali import DataLoader, ExternalSource
from torchdali.lightning import Rank
from torchdali.pool._zygote import living_zygote


class Numbers:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __call__(self, info):
        if info.idx_in_epoch >= self.count:
            raise StopIteration
        return np.float32([info.idx_in_epoch]), np.int64(info.epoch_idx)


class Plain(torchdali.Pipeline):
    def forward(self, numbers, epochs):
        return numbers.as_tensor(), epochs.as_tensor()


def pipeline(count=12, rank=None, **options):
    device = (rank or Rank()).device
    source = ExternalSource(Numbers(count), num_outputs=2)
    return Plain(source, **{"batch_size": 2, "num_workers": 1, "device": device, "seed": 3, **options})


class Factory:
    """Can be sent to another process."""

    def __init__(self, count=12, **options):
        self.count, self.options = count, options

    def __call__(self, rank):
        return pipeline(self.count, rank, **self.options)


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.randint(0, 1 << 40, ())


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.validated, self.tested = [], [], []
        self.places = set()

    def training_step(self, batch, number):
        numbers, others = batch
        self.places |= {str(numbers.device), str(others.device)}
        self.seen.append((numbers.flatten().tolist(), others.tolist()))
        return self.layer(numbers).sum()

    def validation_step(self, batch, number, dataloader_idx=0):
        self.validated.append((dataloader_idx, batch[0].flatten().tolist()))

    def test_step(self, batch, number):
        self.tested.append(batch[0].flatten().tolist())

    def predict_step(self, batch, number):
        return batch[0].flatten().tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-6)


def trainer(**options):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return lightning.Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 1, **quiet, **options})


def loader(**options):
    return DataLoader(Items(), batch_size=2, num_workers=2, **options)


def workers():
    zygote = living_zygote()
    children = set(psutil.Process().children()) - OLDER
    return [child for child in children if zygote is None or child.pid != zygote.pid]


def epochs(model, steps=6):
    return [model.seen[first : first + steps] for first in range(0, len(model.seen), steps)]
