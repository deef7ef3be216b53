"""torchdali's data module in two processes, which talk by gloo."""

import json

import pytest
import torch

from tests.ranks import run_program

pytest.importorskip("lightning", reason="needs the extra 'lightning'")

PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
from tests.lightning.support import Factory, Items, Model, pipeline, trainer
from torchdali import DataLoader
from torchdali.lightning import TorchdaliDataModule

folder, *jobs = sys.argv[1:]


class Noting(Model):
    def __init__(self, job):
        super().__init__()
        self.job = job

    def on_train_batch_end(self, outputs, batch, number):
        if self.job.endswith("save") and self.trainer.global_step == 4:
            self.trainer.save_checkpoint(folder + "/checkpoint")

    def on_train_end(self):
        with open(f"{folder}/{self.job}{self.global_rank}.json", "w") as file:
            json.dump({"seen": self.seen, "validated": self.validated, "places": [*self.places]}, file)


def loader():
    return DataLoader(Items(), batch_size=2, shuffle=True, num_workers=1)


if __name__ == "__main__":
    for job in jobs:
        strategy, kind, step = job.split("-")
        makers = {"factory": Factory(11), "gpu": Factory(11, placement="workers"), "given": None, "loader": loader}
        train = makers[kind]
        module = TorchdaliDataModule(train or pipeline(11), train and Factory(5))
        accelerator = "gpu" if kind == "gpu" else "cpu"
        trained = trainer(
            strategy=strategy, accelerator=accelerator, devices=2, max_epochs=2, num_sanity_val_steps=0
        )
        path = folder + "/checkpoint" if step == "load" else None
        trained.fit(Noting(job), datamodule=module, ckpt_path=path, weights_only=False)
"""


def run(folder, *jobs, torchrun=False):
    """What each rank has noted, by job: a strategy, what the data module was made of, and a step."""
    run_program(folder, PROGRAM, *jobs, torchrun=torchrun)
    return [[json.loads((folder / f"{job}{rank}.json").read_text()) for rank in range(2)] for job in jobs]


def numbers(seen):
    return [number for batch, _ in seen for number in batch]


def are_parts(first, second):
    """Whether two ranks have read, in two epochs, what is theirs of eleven samples: as many steps, one sample twice."""
    assert numbers(first["seen"]) == [0, 2, 4, 6, 8, 10] * 2
    assert numbers(second["seen"]) == [1, 3, 5, 7, 9, 0] * 2
    assert [others[0] for _, others in second["seen"]] == [0, 0, 0, 1, 1, 1]
    return True


def test_each_rank_that_lightning_launches_reads_its_part_in_as_many_steps(tmp_path):
    [[first, second]] = run(tmp_path, "ddp-factory-whole")
    assert are_parts(first, second)
    assert second["validated"] == [[0, [1, 3]], [0, [0]]] * 2


@pytest.fixture(scope="module")
def by_torchrun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    return run(folder, "ddp-given-whole", "ddp-loader-save", "ddp-loader-load", torchrun=True)


def test_each_rank_of_torchrun_reads_its_part_of_a_pipeline_that_is_given(by_torchrun):
    assert are_parts(*by_torchrun[0])


def test_loaders_are_shuffled_anew_draw_differently_and_go_on_in_the_middle_of_an_epoch(by_torchrun):
    _, whole, resumed = by_torchrun
    first, second = (rank["seen"] for rank in whole)
    for at in (0, 3):
        assert sorted(numbers(first[at : at + 3]) + numbers(second[at : at + 3])) == list(range(12))
    assert numbers(first[:3]) != numbers(first[3:])
    draws = [draw for _, drawn in first + second for draw in drawn]
    assert len(set(draws)) == len(draws)
    assert [rank["seen"] for rank in resumed] == [first[4:], second[4:]]


def test_factories_work_where_lightning_starts_the_processes_itself(tmp_path):
    for first, second in run(tmp_path, "ddp_fork-factory-whole", "ddp_spawn-factory-whole"):
        assert are_parts(first, second)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn", "ddp_fork"])
def test_each_rank_has_its_batches_on_its_own_gpu(strategy, tmp_path):
    [[first, second]] = run(tmp_path, f"{strategy}-gpu-whole")
    assert are_parts(first, second)
    assert (first["places"], second["places"]) == (["cuda:0"], ["cuda:1"])
