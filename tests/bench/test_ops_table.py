import dataclasses
import json
import re

import pytest

from torchdali.bench import Machine, OperatorReport, OperatorSettings, operators_as_dict, operators_as_text
from torchdali.bench._ops_measure import Comparison, OperatorResult
from torchdali.bench._summary import Summary

MACHINE = Machine("A Processor", 3, {"torchdali": "1.2", "python": "3.4"})


@pytest.fixture
def report():
    chain = OperatorResult(
        name="training",
        title="training chain, fused",
        bytes_read=60_000_000,
        bytes_written=20_000_000,
        device_ms=Summary.of([0.04, 0.05, 0.032]),
        python_ms=Summary.of([0.3, 0.45, 0.9]),
        elapsed_ms=Summary.of([0.5]),
        copy_ms=Summary.of([0.02, 0.03, 0.032]),
        others={
            "in_turn": Comparison(Summary.of([1.0]), 2.0),
            "per_image": Comparison(Summary.of([40.0]), 80.0),
            "torchvision": Comparison(Summary.of([90.06]), 180.12),
        },
        share_bar=0.7,
        python_bar=None,
    )
    contrast = dataclasses.replace(chain, name="contrast", title="contrast", python_bar=0.5)
    flip = dataclasses.replace(chain, name="flip", title="flip", share_bar=None)
    flip = dataclasses.replace(flip, others={"per_image": Comparison(Summary.of([40.0]), 80.0)})
    settings = OperatorSettings(cases=("training", "contrast", "flip"), batch_size=4, rounds=3, device="cuda:0")
    return OperatorReport(settings, [chain, contrast, flip], 64_000_000, "A Device", kernels=True, missing=("kornia",))


def cells(text: str, name: str) -> list[str]:
    """The rest of the line that begins with a name, split where two blanks are."""
    line = next(line for line in text.splitlines() if line.strip().startswith(f"{name}  "))
    return re.split(r"\s{2,}", line.strip())[1:]


def test_a_line_has_times_rates_the_share_of_a_copy_and_what_it_is_compared_with(report):
    text = operators_as_text(report, MACHINE)
    figures = ["0.040", "0.450", "0.500", "80.0", "2000.0", "60%"]
    others = ["40.0 (80.0x)", "90.1 (180.1x)"]
    assert cells(text, "training chain, fused") == [*figures, "70% no", "1.0 (2.0x)", *others]
    assert cells(text, "contrast") == [*figures, "70%, 0.5 ms no", "1.0 (2.0x)", *others]
    assert cells(text, "flip") == [*figures, "-", "-", others[0], "-"]
    assert "on cuda:0: batches of 4 photographs, 64 MB; 3 rounds" in text


def test_a_share_and_a_time_as_they_are_to_be_are_a_yes(report):
    better = [dataclasses.replace(one, copy_ms=Summary.of([0.028, 0.036, 0.02])) for one in report.results]
    text = operators_as_text(dataclasses.replace(report, results=better), MACHINE)
    assert cells(text, "training chain, fused")[5:7] == ["70%", "70% yes"]
    assert cells(text, "contrast")[6] == "70%, 0.5 ms yes"


def test_on_the_cpu_no_time_of_python_is_shown_and_no_bar_judged(report):
    results = [dataclasses.replace(one, python_ms=None) for one in report.results]
    text = operators_as_text(dataclasses.replace(report, results=results, device_name="", kernels=False), MACHINE)
    row = cells(text, "contrast")
    assert (row[1], row[6]) == ("-", "-")
    assert cells(text, "device") == ["A Processor"]
    assert cells(text, "operators") == ["image by image, without kernels"]


def test_below_the_cases_stand_the_device_the_rate_of_copies_what_is_missing_and_versions(report):
    text = operators_as_text(report, MACHINE)
    assert cells(text, "device") == ["A Device"]
    assert cells(text, "processor") == ["A Processor"]
    assert cells(text, "copying, read and written") == ["2666.7 GB/s (2500.0-4000.0)"]
    assert cells(text, "operators") == ["kernels for the whole batch"]
    assert cells(text, "kornia") == ["not installed, so not compared"]
    assert cells(text, "versions") == ["torchdali 1.2, python 3.4"]
    assert "kornia" not in operators_as_text(dataclasses.replace(report, missing=()), MACHINE)


def test_json_has_all_figures(report):
    data = json.loads(json.dumps(operators_as_dict(report, MACHINE)))
    assert data["benchmark"] == "ops"
    assert data["settings"]["cases"] == ["training", "contrast", "flip"]
    assert data["missing"] == ["kornia"]
    assert data["machine"]["device_name"] == "A Device"
    assert data["machine"]["copy_gigabytes_per_second"]["median"] == pytest.approx(8000 / 3)
    chain, contrast, flip = data["cases"]
    assert chain["device_ms"]["rounds"] == [0.04, 0.05, 0.032]
    assert chain["share"]["rounds"] == pytest.approx([0.5, 0.6, 1.0])
    assert chain["gigabytes_per_second"]["median"] == pytest.approx(2000.0)
    assert chain["others"]["torchvision"] == {"elapsed_ms": dataclasses.asdict(Summary.of([90.06])), "ratio": 180.12}
    assert [one["reaches_bars"] for one in (chain, contrast, flip)] == [False, False, None]
