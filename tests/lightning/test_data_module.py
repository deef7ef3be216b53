"""torchdali's data module, in one process."""

import pickle
import sys

import pytest
import torch

import torchdali
from torchdali import CudaInitializedError, DataLoader

pytest.importorskip("lightning", reason="needs the extra 'lightning'")
import lightning.pytorch as lightning

from tests.lightning.support import Factory, Items, Model, epochs, loader, pipeline, trainer, workers
from torchdali.lightning import Rank, StallReport, TorchdaliDataModule

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning, about what is small here on purpose


def test_each_epoch_is_the_pipelines_next_and_nothing_is_left_when_the_trainer_is_done():
    model, trained = Model(), trainer(max_epochs=2)
    trained.fit(model, datamodule=TorchdaliDataModule(Factory()))
    assert [[numbers for numbers, _ in epoch] for epoch in epochs(model)] == [
        [[i, i + 1.0] for i in range(0, 12, 2)]
    ] * 2
    assert [others for _, others in model.seen] == [[0, 0]] * 6 + [[1, 1]] * 6
    assert trained.num_training_batches == 6
    assert not workers()


def test_workers_are_started_before_the_trainer_touches_its_device_and_kept_from_epoch_to_epoch():
    module, pids = TorchdaliDataModule(Factory(), Factory(4)), []

    class Watch(lightning.Callback):
        def setup(self, trainer, pl_module, stage):
            pids.append([feed.source.worker_pids for feeds in module.feeds.values() for feed in feeds])

        def on_train_epoch_end(self, trainer, pl_module):
            pids.append([feed.source.worker_pids for feeds in module.feeds.values() for feed in feeds])

    strategy = trainer(callbacks=[Watch()], max_epochs=2)
    before = strategy.strategy.setup_environment
    strategy.strategy.setup_environment = lambda: (pids.append([len(workers())]), before())
    strategy.fit(Model(), datamodule=module)
    assert pids[0] == [2]
    assert pids[1] == pids[2] == pids[3]


def test_several_validation_loaders_the_sanity_check_test_and_prediction():
    model = Model()
    module = TorchdaliDataModule(Factory(), lambda rank: [pipeline(4, rank), pipeline(3, rank)], Factory(5), Factory(5))
    trained = trainer(num_sanity_val_steps=1)
    trained.fit(model, datamodule=module)
    whole = [(0, [0, 1]), (0, [2, 3]), (1, [0, 1]), (1, [2])]
    assert model.validated == [(0, [0, 1]), (1, [0, 1]), *whole]
    assert trained.num_val_batches == [2, 2]
    model.validated.clear()
    trained.validate(model, module)
    trained.test(model, module)
    assert model.validated == whole
    assert model.tested == [[0, 1], [2, 3], [4]]
    assert trained.predict(model, module) == [[0, 1], [2, 3], [4]]
    assert not workers()


class Interrupt(lightning.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 9:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


@pytest.mark.parametrize("kind", ["pipeline", "loader"])
def test_training_goes_on_exactly_from_a_checkpoint_in_the_middle_of_an_epoch(kind, tmp_path):
    def make():
        if kind == "pipeline":
            return pipeline()
        return loader(shuffle=True, persistent_workers=True, generator=torch.Generator().manual_seed(1))

    whole, begun, resumed = Model(), Model(), Model()
    trainer(max_epochs=3).fit(whole, datamodule=TorchdaliDataModule(make))
    with pytest.raises(InterruptedError):
        trainer(max_epochs=3, callbacks=[Interrupt(tmp_path / "c")]).fit(begun, datamodule=TorchdaliDataModule(make))
    assert not workers()
    module = TorchdaliDataModule(make)
    trainer(max_epochs=3).fit(resumed, datamodule=module, ckpt_path=tmp_path / "c", weights_only=False)
    assert begun.seen == whole.seen[:9]
    assert resumed.seen == whole.seen[9:]


def test_loaders_that_are_given_and_not_made_can_be_used_again():
    given, model = loader(persistent_workers=True), Model()
    for _ in range(2):
        trainer().fit(model, datamodule=TorchdaliDataModule(given))
    assert [numbers for numbers, _ in model.seen] == [[i, i + 1.0] for i in range(0, 12, 2)] * 2


def test_a_loader_of_torchs_becomes_one_of_torchdalis():
    module = TorchdaliDataModule(torch.utils.data.DataLoader(Items(), batch_size=3, drop_last=True))
    (feed,) = [module.train_dataloader()]
    assert type(feed.source) is DataLoader
    assert (feed.source.batch_size, feed.source.drop_last, len(feed)) == (3, True, 4)


def test_limits_overfitting_and_combined_loaders():
    model = Model()
    trainer(max_epochs=2, limit_train_batches=2).fit(model, datamodule=TorchdaliDataModule(Factory()))
    assert [(numbers[0], others[0]) for numbers, others in model.seen] == [(0, 0), (2, 0), (0, 1), (2, 1)]
    model = Model()
    module = TorchdaliDataModule(lambda: loader(shuffle=True))
    trainer(max_epochs=2, overfit_batches=2).fit(model, datamodule=module)
    assert [numbers for numbers, _ in model.seen] == [[0, 1], [2, 3]] * 2
    model = Model()
    trainer(max_epochs=2, overfit_batches=2).fit(model, datamodule=TorchdaliDataModule(Factory()))
    assert model.seen == [([0, 1], [0, 0]), ([2, 3], [0, 0])] * 2

    class Two(Model):
        def training_step(self, batch, number):
            self.seen.append([part[0].flatten().tolist() for part in batch.values()])
            return self.layer(batch["a"][0]).sum()

    model = Two()
    trainer().fit(model, datamodule=TorchdaliDataModule(lambda: {"a": pipeline(6), "b": pipeline(4)}))
    assert model.seen == [[[0, 1], [0, 1]], [[2, 3], [2, 3]], [[4, 5], [0, 1]]]


def test_batches_arrive_as_the_pipeline_made_them():
    made, arrived = [], []

    class Noting(Model):
        def training_step(self, batch, number):
            arrived.append(batch[0].data_ptr())
            return super().training_step(batch, number)

    class Watch(lightning.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            (feed,) = trainer.datamodule.feeds["train"]
            go = feed.source._next

            def noted(**options):
                made.append(go(**options))
                return made[-1]

            feed.source._next = noted

    trainer(callbacks=[Watch()]).fit(Noting(), datamodule=TorchdaliDataModule(Factory()))
    assert arrived == [batch[0].data_ptr() for batch in made]


def test_what_a_source_raises_ends_the_training_and_the_workers():
    def fail(info):
        raise KeyError(info.idx_in_epoch)

    module = TorchdaliDataModule(lambda: torchdali.Pipeline(fail, batch_size=1, device="cpu"))
    with pytest.raises(KeyError):
        trainer().fit(Model(), datamodule=module)
    assert not workers()


class Totals(lightning.callbacks.TQDMProgressBar):
    """The lengths of the bars that were shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def on_train_batch_end(self, *arguments):
        super().on_train_batch_end(*arguments)
        self.shown.append(("train", self.train_progress_bar.n, self.train_progress_bar.total))

    def on_validation_batch_end(self, *arguments):
        super().on_validation_batch_end(*arguments)
        self.shown.append(("validation", self.val_progress_bar.n, self.val_progress_bar.total))


def test_progress_bars_have_the_lengths_of_what_is_read(capsys):
    bar = Totals()
    module = TorchdaliDataModule(Factory(7), Factory(3))
    trainer(callbacks=[bar], enable_progress_bar=True, num_sanity_val_steps=0).fit(Model(), datamodule=module)
    assert bar.shown == [("train", i, 4) for i in (1, 2, 3, 4)] + [("validation", i, 2) for i in (1, 2)]


def test_validation_within_an_epoch_early_stopping_and_the_end_in_mid_epoch_leave_nothing():
    class Worse(Model):
        def validation_step(self, batch, number):
            super().validation_step(batch, number)
            self.log("loss", float(len(self.validated)))

    model = Worse()
    stop = lightning.callbacks.EarlyStopping("loss", patience=1)
    module = TorchdaliDataModule(Factory(), Factory(4))
    options = {"max_epochs": 9, "num_sanity_val_steps": 0, "val_check_interval": 3}
    trainer(**options, callbacks=[stop]).fit(model, datamodule=module)
    assert [numbers[0] for numbers, _ in model.seen] == [0, 2, 4, 6, 8, 10]
    assert [numbers for _, numbers in model.validated] == [[0, 1], [2, 3]] * 2
    assert not workers()
    model.seen.clear()
    trainer(**options, max_steps=8).fit(model, datamodule=module)
    assert [(numbers[0], epochs[0]) for numbers, epochs in model.seen] == [(i, 0) for i in range(0, 12, 2)] + [
        (0, 1),
        (2, 1),
    ]
    assert not workers()


def test_an_interrupt_ends_the_training_and_the_workers():
    class Interrupted(Model):
        def training_step(self, batch, number):
            if number == 2:
                raise KeyboardInterrupt
            return super().training_step(batch, number)

    model = Interrupted()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(max_epochs=2).fit(model, datamodule=TorchdaliDataModule(Factory()))
    assert len(model.seen) == 2
    assert not workers()


def test_folders_in_one_line(photographs):
    module = TorchdaliDataModule.from_folders(
        photographs, photographs, batch_size=4, size=32, num_workers=1, device="cpu"
    )

    class Shapes(Model):
        def training_step(self, batch, number):
            self.seen.append((batch[0].shape[1:], batch[0].dtype, batch[1].dtype))
            return self.layer(batch[0].mean((1, 2, 3))[:, None]).sum()

    model = Shapes()
    trainer(limit_train_batches=2, limit_val_batches=1).fit(model, datamodule=module)
    assert model.seen == [((3, 32, 32), torch.float32, torch.int64)] * 2
    with pytest.raises(FileNotFoundError, match="no folder"):
        TorchdaliDataModule.from_folders(photographs / "none")


def test_the_stall_report_tells_how_long_the_trainer_waited():
    def slow(info):
        if info.idx_in_epoch >= 8:
            raise StopIteration
        import time

        time.sleep(0.05)
        return torch.zeros(1), torch.zeros(1)

    report = StallReport()
    source = torchdali.ExternalSource(slow, num_outputs=2)

    class Slow(torchdali.Pipeline):
        def forward(self, *parts):
            return tuple(part.as_tensor() for part in parts)

    trained = trainer(callbacks=[report])
    trained.fit(Model(), datamodule=TorchdaliDataModule(lambda: Slow(source, batch_size=2, device="cpu")))
    assert report.epochs[0]["data/batches"] == 4
    assert 0.2 < report.epochs[0]["data/stall_seconds"] < 5
    assert trained.logged_metrics["data/stall_share"] > 0.5


def test_cuda_that_is_up_already_is_told_of_with_what_to_do(monkeypatch, no_zygote):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(CudaInitializedError, match=r"before `trainer\.fit`"):
        trainer().fit(Model(), datamodule=TorchdaliDataModule(Factory()))


def test_nothing_that_cannot_be_read_is_taken():
    with pytest.raises(TypeError, match="for test the data module has a int"):
        TorchdaliDataModule(test=3)
    with pytest.raises(TypeError, match="for train the data module has a int"):
        TorchdaliDataModule(lambda: 3).train_dataloader()
    with pytest.raises(ValueError, match="rest"):
        TorchdaliDataModule(rest="some")


def test_an_ordinary_data_module_keeps_every_argument_when_lightning_makes_a_loader_again():
    stage = torch.nn.Identity()
    options = {"on_worker_death": "restart", "memory_limit": 1 << 30, "snapshot_every_n_steps": 3, "pipeline": stage}
    seen = []

    class Ordinary(lightning.LightningDataModule):
        def predict_dataloader(self):
            return loader(**options, device="cpu", prefetch=4)

    class Predicting(Model):
        def on_predict_start(self):
            seen.append(self.trainer.predict_dataloaders)

    assert trainer().predict(Predicting(), datamodule=Ordinary()) == [[i, i + 1.0] for i in range(0, 12, 2)]
    again = seen[0]
    assert type(again) is DataLoader
    assert type(again.batch_sampler).__name__ == "_IndexBatchSamplerWrapper"
    assert {name: getattr(again, name) for name in options} == options
    assert (again.device, again.prefetch, again.num_workers) == ("cpu", 4, 2)


def test_the_other_library_has_the_same():
    other = pytest.importorskip("pytorch_lightning")
    from torchdali import pytorch_lightning as ours

    module, report, model = ours.TorchdaliDataModule(Factory()), ours.StallReport(), other.LightningModule()
    assert isinstance(module, other.LightningDataModule)
    assert isinstance(report, other.Callback)
    model.training_step = lambda batch: None
    model.configure_optimizers = lambda: None
    options = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    other.Trainer(accelerator="cpu", max_epochs=1, callbacks=[report], **options).fit(model, datamodule=module)
    assert report.epochs[0]["data/batches"] == 6
    assert not workers()


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("lightning", "lightning", "lightning"),
        ("pytorch_lightning", "pytorch_lightning", "lightning"),
        ("accelerate", "accelerate", "accelerate"),
        ("transformers", "transformers", "transformers"),
    ],
)
def test_without_the_library_an_error_names_the_extra(module, library, extra, monkeypatch):
    for name in list(sys.modules):
        if name == f"torchdali.{module}" or name.startswith((f"{library}.", f"torchdali.{module}.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"torchdali\[{extra}\]"):
        __import__(f"torchdali.{module}")


def test_what_another_process_has_made_is_refused_and_factories_can_be_sent():
    module = TorchdaliDataModule(loader())
    with pytest.raises(TypeError, match="a function that makes it"):
        pickle.dumps(module)
    module._made_by += 1  # as in a process that was forked from the one that made it
    with pytest.raises(RuntimeError, match="a function that makes it"):
        trainer().fit(Model(), datamodule=module)
    sent = pickle.loads(pickle.dumps(TorchdaliDataModule(Factory())))
    assert len(sent.train_dataloader()) == 6


def test_a_factory_is_told_the_rank():
    told = []
    module = TorchdaliDataModule(lambda rank: told.append(rank) or pipeline())
    trainer().fit(Model(), datamodule=module)
    assert told == [Rank(0, 1, 0, torch.device("cpu"))]
