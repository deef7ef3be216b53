"""What a report says of what was done, and in which forms."""

import copy
import gc
import itertools
import json
import os
import pickle
import time

import pytest
import torch

import torchdali
from tests.report.support import BATCH, BATCHES, SLOW, SlowDecode, SlowModule, Source, Stages, consume, report_of
from torchdali import ops


@pytest.fixture(scope="module")
def profiled():
    with Stages(Source(), twist=SlowModule(), num_workers=2) as pipeline, torchdali.profile() as p:
        consume(pipeline, 0.005)
    return p


def test_all_batches_and_images_are_counted_once(profiled):
    report = profiled.report()
    assert (report.epochs, report.batches, report.images) == (1, BATCHES, BATCH * BATCHES)
    assert sum(worker.calls for worker in report.workers) >= BATCH * BATCHES


def test_the_consumers_time_is_waits_and_steps_and_nothing_else():
    with Stages(Source(), twist=SlowModule()) as pipeline:
        iterator = iter(pipeline)
        next(iterator)
        begin = time.perf_counter()
        for _ in iterator:
            time.sleep(0.004)
            last = time.perf_counter()
        report = pipeline.report()
    assert report.wait_seconds + report.step_seconds == pytest.approx(last - begin, rel=0.05)
    assert report.step_seconds >= 0.004 * (BATCHES - 2)
    assert sum(stage.waited for stage in report.stages) == pytest.approx(report.wait_seconds, rel=0.01)
    assert report.wait_share == pytest.approx(report.wait_seconds / (report.wait_seconds + report.step_seconds))


def test_the_wait_for_the_first_batch_is_told_apart():
    class Late(Source):
        def __call__(self, info):
            if not info.idx_in_epoch:
                time.sleep(0.2)
            return super().__call__(info)

    with Stages(Late()) as pipeline:
        report = report_of(pipeline)
    assert report.start_seconds >= 0.2
    assert report.wait_seconds < 0.2


def test_the_time_between_two_epochs_is_nobodys():
    with Stages(Source()) as pipeline:
        consume(pipeline)
        time.sleep(0.3)
        consume(pipeline)
        report = pipeline.report()
    assert report.epochs == 2
    assert report.wait_seconds + report.step_seconds < 0.3


def test_a_table_has_a_line_for_each_stage_and_ends_with_the_sentence(profiled):
    report = profiled.report()
    table = str(report)
    for stage in report.stages:
        assert any(line.startswith(stage.name) and stage.where in line for line in table.splitlines())
    assert " ".join(table.split()).endswith(report.sentence)
    assert "operators: twist " in table
    assert max(map(len, table.splitlines())) <= 110
    assert str(profiled) == table


def test_a_report_as_a_dictionary_can_be_written_as_json(profiled):
    report = profiled.report()
    read = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert read["images"] == report.images
    assert read["stages"][0]["name"] == "source callback"
    assert read["queue"] == {"mean": report.queue.mean, "depth": 2}
    assert "spans" not in read
    assert profiled.to_dict()["reports"][0]["bound"] == "augment"


def test_a_report_can_be_drawn(profiled, tmp_path):
    pytest.importorskip("matplotlib")
    profiled.plot().savefig(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_without_matplotlib_the_error_names_the_extra(profiled, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"torchdali\[notebooks\]"):
        profiled.plot()


def test_a_trace_has_a_track_for_each_worker_the_stage_and_the_consumer(profiled, tmp_path):
    events = json.loads(profiled.save_trace(tmp_path / "trace.json").read_text())["traceEvents"]
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert sorted(name.partition(" (")[0] for name in tracks.values()) == ["consumer", "stage", "worker 0", "worker 1"]
    spans = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in spans)
    by_track = {name: [event for event in spans if tracks[event["tid"]] == name] for name in tracks.values()}
    assert {event["name"] for event in by_track["consumer"]} == {"wait", "step"}
    assert {"wait for workers", "take in", "stage", "twist"} <= {event["name"] for event in by_track["stage"]}
    assert sum(event["name"] == "twist" for event in spans) == BATCHES
    calls = sum(event["args"]["items"] for name, of in by_track.items() if name.startswith("worker") for event in of)
    assert calls >= BATCH * BATCHES
    for of in by_track.values():  # what one does is one after the other, or one within the other
        inner = sorted(of, key=lambda event: (event["ts"], -event["dur"]))
        assert all(
            later["ts"] >= earlier["ts"] + earlier["dur"] - 1
            or later["ts"] + later["dur"] <= earlier["ts"] + earlier["dur"] + 1
            for earlier, later in itertools.pairwise(inner)
        )


def test_without_a_profile_there_is_nothing_to_trace(tmp_path):
    with Stages(Source()) as pipeline:
        consume(pipeline)
        with pytest.raises(ValueError, match=r"within `with torchdali.profile\(\) as p:`"):
            pipeline.report().save_trace(tmp_path / "trace.json")


def test_too_few_batches_say_nothing_and_the_report_says_so():
    with Stages(Source()) as pipeline:
        assert pipeline.report().bound == ""
        pipeline.run()
        report = pipeline.report()
    assert report.sentence == "Too little was measured to tell: 1 batches."
    assert report.workers_needed is None
    assert str(report)


def test_bad_images_and_deaths_are_counted(tmp_path):
    class Dying(Source):
        def __call__(self, info):
            if info.idx_in_epoch == 9 and not self.path.exists():
                self.path.touch()
                os._exit(3)
            return super().__call__(info)

    source = Dying()
    source.path = tmp_path / "dead"
    decode = ops.DecodeImage(on_error="skip")
    with (
        pytest.warns(RuntimeWarning, match="another one was started"),
        Stages(source, decode=decode, on_worker_death="restart") as pipeline,
    ):
        report = report_of(pipeline)
    assert (report.deaths, report.restarts) == (1, 1)
    assert report.skipped_images == BATCH * BATCHES
    assert "workers that died: 1, replaced: 1" in str(report)


def test_each_epoch_of_a_loader_counts_though_it_has_workers_of_its_own():
    loader = torchdali.DataLoader(torch.arange(40), batch_size=BATCH, num_workers=2)
    consume(loader)
    consume(loader)
    report = loader.report()
    assert (report.epochs, report.images) == (2, 80)
    assert sum(worker.calls for worker in report.workers) == 20


def test_two_loaders_with_one_stage_count_their_own_batches_and_the_stage_can_be_pickled():
    stage = torch.nn.Sequential(SlowModule())
    first, second = (torchdali.DataLoader(torch.arange(12), batch_size=BATCH, pipeline=stage) for _ in range(2))
    consume(first)
    consume(second)
    consume(second)
    once, twice = first.report().operators["0"], second.report().operators["0"]
    assert 3 * SLOW * 0.9 <= once < twice / 1.5
    assert pickle.loads(pickle.dumps(stage))(torch.ones(1)).item() == 1
    del first, second
    gc.collect()
    assert not stage[0]._forward_hooks
    assert not stage[0]._forward_pre_hooks


def test_a_loader_in_another_process_begins_at_nothing():
    loader = torchdali.DataLoader(torch.arange(40), batch_size=BATCH)
    consume(loader)
    assert copy.copy(loader).report().images == 0
    assert loader.report().images == 40


# --- torch.profiler ---------------------------------------------------------------------------------------------------


def test_torchs_profiler_shows_the_stages_by_name():
    with Stages(Source(batches=3), decode=SlowDecode(), twist=SlowModule(), stage_thread=False) as pipeline:
        consume(pipeline)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            consume(pipeline)
    seconds = {event.key: event.cpu_time_total / 1e6 for event in profiler.key_averages()}
    assert {
        "torchdali: wait",
        "torchdali: take in",
        "torchdali: stage",
        "torchdali: decode",
        "torchdali: twist",
    } <= set(seconds)
    assert SLOW * 3 * 0.9 <= seconds["torchdali: twist"] <= seconds["torchdali: stage"] <= seconds["torchdali: wait"]
