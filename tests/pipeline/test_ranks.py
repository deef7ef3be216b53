"""Pipelines in two processes that train together, by torchrun and gloo."""

import json

import pytest

from tests.ranks import run_program

PROGRAM = """
import json, os, sys
import torch
from torch import distributed
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel
import torchdali
from tests.pipeline.test_place import Numbers, make

rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
pipelines = {rest: make(Numbers(11), batch_size=5) for rest in ("pad", "drop", "uneven")}
for rest, pipeline in pipelines.items():
    pipeline.shard(rank, ranks, rest=rest)
torchdali.start(*pipelines.values())
distributed.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(1, 1))
read, drawn = {}, {}
for rest, pipeline in pipelines.items():
    read[rest] = []
    with pipeline, Join([model], enable=rest == "uneven"):
        for numbers, _, draws, *_ in pipeline:
            model(numbers[:, None].float()).sum().backward()
            read[rest].append(numbers.tolist())
            drawn |= dict(zip(numbers.tolist(), draws.tolist()))
with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
    json.dump([read, drawn], file)
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks has read, by policy, and what the source drew for each sample."""
    folder = tmp_path_factory.mktemp("ranks")
    run_program(folder, PROGRAM)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_with_padding_and_dropping_ranks_make_as_many_steps(ranks):
    (first, _), (second, _) = ranks
    assert first["pad"] == [[0, 2, 4, 6, 8], [10]]
    assert second["pad"] == [[1, 3, 5, 7, 9], [0]]
    assert (first["drop"], second["drop"]) == ([[0, 2, 4, 6, 8]], [[1, 3, 5, 7, 9]])


def test_ranks_that_join_may_make_different_numbers_of_steps(ranks):
    (first, _), (second, _) = ranks
    assert first["uneven"] == [[0, 2, 4, 6, 8], [10]]
    assert second["uneven"] == [[1, 3, 5, 7, 9]]


def test_a_sample_has_the_same_draws_on_each_rank_and_no_two_have_the_same(ranks):
    (_, first), (_, second) = ranks
    assert first["0"] == second["0"]
    assert len(set((first | second).values())) == 11
