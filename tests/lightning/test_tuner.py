"""Lightning's tuner, which changes learning rates and batch sizes."""

import pytest

pytest.importorskip("lightning", reason="needs the extra 'lightning'")
from lightning.pytorch.tuner import Tuner

from tests.lightning.support import Factory, Model, loader, pipeline, trainer, workers
from torchdali.lightning import TorchdaliDataModule

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning, about what is small here on purpose


def test_the_tuner_begins_again_each_time(tmp_path):
    module = TorchdaliDataModule(Factory(40))
    model = Model()
    trained = trainer(default_root_dir=tmp_path)
    options = {"num_training": 5, "early_stop_threshold": None, "update_attr": False, "attr_name": "lr"}
    Tuner(trained).lr_find(model, datamodule=module, **options)
    assert [numbers[0] for numbers, _ in model.seen] == [0, 2, 4, 6, 8]
    model.seen.clear()
    Tuner(trained).lr_find(model, datamodule=module, **options)
    assert [numbers[0] for numbers, _ in model.seen] == [0, 2, 4, 6, 8]
    assert not workers()


def test_the_finder_of_batch_sizes_has_functions_make_other_ones(tmp_path):
    model = Model()
    module = TorchdaliDataModule(*[lambda rank: pipeline(16, rank, batch_size=rank.batch_size)] * 2, batch_size=2)
    Tuner(trainer(default_root_dir=tmp_path)).scale_batch_size(
        model, datamodule=module, max_trials=3, steps_per_trial=1
    )
    assert [len(numbers) for numbers, _ in model.seen] == [2, 4, 8]
    assert module.batch_size == 8
    model.seen.clear()
    trainer().fit(model, datamodule=module)
    assert [len(numbers) for numbers, _ in model.seen] == [8, 8]
    assert not workers()


def test_a_batch_size_that_would_change_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="made already"):
        TorchdaliDataModule(loader(), batch_size=2)
    for module, what in (
        (TorchdaliDataModule(Factory()), r"batch_size=rank\.batch_size"),
        (TorchdaliDataModule(Factory(), Factory(), batch_size=2), "still makes batches of 2"),
    ):
        with pytest.raises(ValueError, match=what):
            Tuner(trainer(default_root_dir=tmp_path)).scale_batch_size(Model(), datamodule=module, init_val=4)
        assert not workers()
