"""Results in double precision are computed in it, whatever the images are."""

import pytest
import torch

from torchdali.ops import GaussianBlur, Resize, Rotate, WarpAffine

OPERATORS = [
    Resize((4, 7), dtype=torch.float64),
    Rotate(31.0, dtype=torch.float64),
    WarpAffine([[0.9, 0.1, 0.3], [-0.2, 1.1, 0.1]], dtype=torch.float64),
    GaussianBlur(1.3, dtype=torch.float64),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: type(operator).__name__)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float32])
def test_results_are_those_of_the_same_values_in_double_precision(operator, dtype):
    images = torch.randint(0, 200, (2, 3, 9, 11), generator=torch.Generator().manual_seed(1)).to(dtype)
    if dtype == torch.int16:
        images = images * 160
    results = operator(images)
    assert results.dtype == torch.float64
    assert torch.equal(results, operator(images.double()))
