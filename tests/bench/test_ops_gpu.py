"""The benchmark of operators on a CUDA device."""

import pytest
import torch

from torchdali.bench import OperatorSettings, count_operator_steps, measure_operators

pytestmark = pytest.mark.gpu


def test_operators_are_measured_on_the_gpu():
    steps = []
    settings = OperatorSettings(
        cases=("brightness_contrast", "random_resized_crop", "training"), batch_size=8, rounds=3, device="cuda:0"
    )
    report = measure_operators(settings, steps.append)
    assert len(steps) == count_operator_steps(settings)
    assert report.device_name == torch.cuda.get_device_name(0)
    for result in report.results:
        assert all(seconds > 0 for seconds in (result.device_ms.min, result.copy_ms.min))
        assert result.python_ms.median <= result.elapsed_ms.median
        assert {"per_image", "torchvision"} <= set(result.others)
        assert 0 < result.share.median < 1.5, "a copy is about as fast as anything can be"
        assert (result.reaches_bars is None) is (result.name == "random_resized_crop")
    assert report.results[0].bytes_read == report.image_bytes
