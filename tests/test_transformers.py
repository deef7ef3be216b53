"""torchdali's loader in Hugging Face's Trainer."""

import tempfile

import pytest
import torch

from torchdali import DataLoader

pytest.importorskip("transformers", reason="needs the extra 'transformers'")
from transformers import TrainingArguments

from torchdali.transformers import TorchdaliTrainer


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, index):
        return {"x": torch.tensor([float(index)]), "labels": torch.tensor(float(index))}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def forward(self, x, labels=None):
        if self.training:
            self.seen.append(x.flatten().tolist())
        guess = self.layer(x)
        return {"loss": ((guess - labels[:, None]) ** 2).mean(), "logits": guess}


def made(folder, **options):
    arguments = TrainingArguments(
        str(folder), use_cpu=True, per_device_train_batch_size=2, num_train_epochs=2, save_steps=8, seed=5,
        report_to=[], disable_tqdm=True, logging_steps=1000, dataloader_num_workers=1, **options,
    )  # fmt: skip
    trainer = TorchdaliTrainer(Model(), arguments, train_dataset=Items(), eval_dataset=Items())
    trainer.loader_options = {"on_worker_death": "restart"}
    return trainer


@pytest.fixture
def make(tmp_path):
    return lambda **options: made(tmp_path, **options)


def check_on_ranks():
    """Called in each of two processes, by the test of accelerate, on which Trainer is built."""
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = made(folder, save_strategy="no")
        trainer.compute_metrics = lambda found: seen.append(found) or {}
        trainer.train()
        steps = trainer.model.seen
        assert trainer.state.global_step == len(steps) == 6
        for first in (0, 3):
            mine = torch.tensor([number for batch in steps[first : first + 3] for number in batch])
            whole = trainer.accelerator.gather(mine).tolist()
            assert len(mine) == 6, mine
            assert set(whole) == set(range(11)), whole
        trainer.evaluate()
        assert sorted(seen[-1].label_ids.tolist()) == list(range(11))


@pytest.fixture
def read(monkeypatch):
    """How many batches each loader of torchdali's had that was iterated over."""
    lengths, begin = [], DataLoader.__iter__

    def noting(self):
        lengths.append(len(self))
        assert self.on_worker_death == "restart"
        return begin(self)

    monkeypatch.setattr(DataLoader, "__iter__", noting)
    return lengths


def test_training_evaluation_and_prediction_read_by_torchdali_and_go_on_from_a_checkpoint(make, read, tmp_path):
    whole = make()
    whole.train()
    for first in (0, 6):
        assert sorted(number for batch in whole.model.seen[first : first + 6] for number in batch) == list(range(11))
    assert len(whole.predict(Items()).predictions) == 11
    assert whole.evaluate()["eval_loss"] > 0
    assert read == [6, 6, 2, 2]
    read.clear()
    resumed = make()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert resumed.model.seen == whole.model.seen[8:]
    assert read == [4]
