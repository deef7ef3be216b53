"""What measurements of engines come to, as figures, tables and a picture."""

import json

import numpy as np
import pytest
from PIL import Image

from torchdali.bench._jpeg_chart import write_chart
from torchdali.bench._jpeg_report import EngineReport
from torchdali.bench._jpeg_run import Failure, Results, Run
from torchdali.bench._jpeg_table import engines_as_text
from torchdali.cli import _bench_engines, main

MACHINE = {"processor": "A Processor", "cpus": 3, "driver": "1.2", "versions": {"torchdali": "0.1", "python": "3"},
           "date": "2001-02-03T04:05:06", "command": "python -m torchdali bench jpeg"}  # fmt: skip
SETTINGS = {"rounds": 3, "seconds": 2.0, "steps": 5, "model": "resnet18", "compile_mode": "default"}


def run(engine: str, number: int, images: int, variant: str = "", **more) -> Run:
    """One of 2 s."""
    fields = {
        "job": "training", "batch_size": 8, "workers": 1, "seconds": 2.0, "cpu_seconds": 1.0, "output": "x",
        "first_batch_seconds": 0.5, "versions": {}, "gpu_bytes": 10**9, "waited_seconds": None, "stalled_seconds": None,
    }  # fmt: skip
    return Run(engine, variant, round=number, images=images, **{**fields, **more})


def report(runs: list[Run], benchmark: str = "jpeg", **results) -> EngineReport:
    return EngineReport(
        benchmark, SETTINGS, MACHINE, Results(runs, gpu_name="A GPU", gpu_memory_method="looking", **results)
    )


@pytest.fixture
def compared():
    own = [run("torchdali", number, images) for number, images in enumerate((4000, 8000, 6000))]
    slow = [run("dali", number, 1000, "4 workers", versions={"DALI": "9.9"}) for number in range(3)]
    fast = [run("dali", number, 2000, "8 workers", cpu_seconds=2.0, gpu_bytes=5 * 10**8) for number in range(2)]
    return report([*own, *slow, *fast], missing={"torch": "get it"})


def test_lines_have_medians_and_the_ratio_to_torchdali_round_by_round(compared):
    (group,) = compared.groups()
    own, slow, fast = group.lines
    assert (group.job, group.batch_size) == ("training", 8)
    assert own.images_per_second.rounds == [2000, 4000, 3000]
    assert own.images_per_second.median == 3000
    assert own.ratios == {}
    assert slow.ratios["images_per_second"].rounds == [4, 8, 6]
    # The rounds that both have.
    assert fast.ratios["images_per_second"].rounds == [2, 4]
    assert fast.ratios["cpu_seconds_per_1000"].rounds == pytest.approx([0.25, 0.125])
    assert fast.ratios["gpu_bytes"].median == 2


def test_the_fastest_variant_stands_for_its_engine(compared):
    (group,) = compared.groups()
    assert [line.title for line in group.best_lines] == ["torchdali", "DALI, 8 workers"]
    text = engines_as_text(compared)
    assert "DALI, 8 workers *  " in text
    assert "DALI, 4 workers    " in text
    assert "torchdali *" not in text


def test_the_table_has_all_figures_and_the_machine(compared):
    text = engines_as_text(compared)
    (row,) = [line.split() for line in text.splitlines() if "DALI, 8 workers" in line]
    assert row[4:] == ["1000", "1000-1000", "3.00x", "1.000", "0.19x", "500", "2.00x", "0.50", "1.00x"]
    assert "on A GPU: 3 rounds of 2 s" in text
    for fact in ("A Processor", "torchdali 0.1, python 3, DALI 9.9", "looking", "missing: get it", "2001-02-03"):
        assert fact in text


def test_rounds_are_those_that_were_done_where_it_was_ended_before():
    assert "1 round of 2 s" in engines_as_text(report([run("torchdali", 0, 100)]))


def test_without_torchdali_there_are_no_ratios():
    (group,) = report([run("torch", 0, 100)]).groups()
    assert group.lines[0].ratios == {}
    assert "ratio " not in engines_as_text(report([run("torch", 0, 100)])).split("Medians")[0]


def test_a_failure_is_told_by_its_last_line():
    failures = [Failure("torch", "somehow", "training", 8, "Traceback\n  File\nValueError: no luck")]
    text = engines_as_text(report([run("torchdali", 0, 100)], failures=failures))
    assert "torch DataLoader, somehow  failed, training, batches of 8: ValueError: no luck" in text


def test_training_is_shown_as_a_share_of_that_without_loading():
    runs = [
        run("synthetic", 0, 4000),
        run("torchdali", 0, 3000, waited_seconds=0.5, stalled_seconds=0.25),
        run("torch", 0, 1000, waited_seconds=1.0),
    ]
    one = report(runs, "train")
    unit, own, stock = next(one.groups()).lines
    assert unit.of_synthetic is None
    assert unit.ratios == {}
    assert own.of_synthetic.median == 0.75
    assert (own.waited_share.median, own.stalled_share.median) == (0.25, 0.125)
    assert stock.ratios["images_per_second"].median == 3
    text = engines_as_text(one)
    assert "75.0%  25.0%   12.5%" in text
    assert "resnet18 fed with JPEGs, on A GPU: 1 round of 5 steps" in text


def test_json_has_every_round_and_is_read_back(compared, tmp_path, capsys):
    data = json.loads(json.dumps(compared.as_dict()))
    assert len(data["results"]["runs"]) == 8
    assert data["machine"]["gpu"] == "A GPU"
    assert data["machine"]["versions"]["DALI"] == "9.9"
    assert data["groups"][0]["lines"][1]["ratios"]["images_per_second"]["rounds"] == [4, 8, 6]
    assert EngineReport.from_dict(data).as_dict() == data
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(data))
    assert main(["bench", "jpeg", "--from-json", str(file)]) == 0
    assert capsys.readouterr().out == engines_as_text(compared) + "\n"
    assert main(["bench", "train", "--from-json", str(file)]) == 2
    assert "these are figures of bench jpeg" in capsys.readouterr().err
    file.write_text("{}")
    assert main(["bench", "jpeg", "--from-json", str(file)]) == 2
    assert "these are no figures" in capsys.readouterr().err


def damaged(data):
    """Figures with one thing wrong with each."""
    runs = data["results"]["runs"]
    yield data | {"settings": {}}
    yield data | {"machine": {}}
    for changes in (
        {"images": "many"},
        {"seconds": 0},
        {"engine": "ffcv"},
        {"job": "cooking"},
        {"round": None, "x": 1},
    ):
        yield data | {"results": data["results"] | {"runs": [runs[0] | changes, *runs[1:]]}}
    yield data | {"results": None}
    yield [1]


def test_figures_that_are_damaged_are_said_to_be(compared, tmp_path, capsys):
    file = tmp_path / "figures.json"
    for data in damaged(json.loads(json.dumps(compared.as_dict()))):
        file.write_text(json.dumps(data))
        assert main(["bench", "jpeg", "--from-json", str(file)]) == 2, data
        printed = capsys.readouterr()
        assert "is damaged, or not what --json wrote" in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""


def test_where_nothing_was_measured_it_says_why_and_is_no_success(tmp_path, capsys):
    failed = [
        Failure("torchdali", "", "training", 8, "Traceback\nDecodeError: sample 0 is empty\n\nSet VERBOSE=1 for more")
    ]
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(report([], missing={"dali": "get it"}, failures=failed).as_dict()))
    for options in ([], ["--chart", str(tmp_path / "x.png")]):
        assert main(["bench", "jpeg", "--from-json", str(file), *options]) == 2
        printed = capsys.readouterr()
        for words in (
            "nothing was measured",
            "missing: get it",
            "failed, training, batches of 8: DecodeError: sample 0 is empty",
        ):
            assert words in printed.err
    assert not (tmp_path / "x.png").exists()


def test_figures_that_took_long_are_printed_though_the_chart_cannot_be_drawn(compared, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(_bench_engines, "write_chart", refuse)
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(compared.as_dict()))
    assert main(["bench", "jpeg", "--from-json", str(file), "--chart", str(tmp_path / "x.png")]) == 2
    printed = capsys.readouterr()
    assert engines_as_text(compared) in printed.out
    assert "the disk is full" in printed.err


def test_slow_rates_have_decimals():
    text = engines_as_text(report([run("torchdali", 0, 1), run("torchdali", 1, 5), run("torchdali", 2, 30)]))
    assert "2.5" in text
    assert "0.50-15" in text


def shares(picture: np.ndarray, rows: slice) -> tuple[float, float]:
    """Of torchdali's colour and of the others', in a part of the picture."""
    part = picture[rows].astype(int)
    return tuple(float((abs(part - colour).max(2) <= 2).mean()) for colour in ((42, 111, 187), (169, 180, 192)))


def test_the_chart_has_a_panel_a_job_with_bars_as_long_as_the_rates(compared, tmp_path):
    more = [run("torchdali", 0, 100, job="tutorial"), run("dali", 0, 50, job="tutorial")]
    write_chart(report([*compared.results.runs, *more]), tmp_path / "two.png")
    write_chart(compared, tmp_path / "one.png")
    two, one = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("two.png", "one.png"))
    assert two.shape[0] > 1.6 * one.shape[0]
    half = two.shape[0] // 2
    for rows, times in ((slice(0, half), 3), (slice(half, None), 2)):
        own, other = shares(two, rows)
        assert own > 0.05
        # The line from the least to the most covers a little of a bar.
        assert own / other == pytest.approx(times, rel=0.1)


def test_of_several_batch_sizes_the_largest_is_drawn(tmp_path):
    small = [run("torchdali", 0, 10, batch_size=2), run("dali", 0, 1000, batch_size=2)]
    large = [run("torchdali", 0, 1000), run("dali", 0, 250)]
    write_chart(report([*small, *large]), tmp_path / "chart.png")
    own, other = shares(np.asarray(Image.open(tmp_path / "chart.png").convert("RGB")), slice(None))
    assert own / other == pytest.approx(4, rel=0.1)


def test_nothing_is_drawn_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="nothing was measured"):
        write_chart(report([]), tmp_path / "chart.png")
    assert "Medians over rounds" in engines_as_text(report([]))
