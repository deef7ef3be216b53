import numpy as np
import pytest
import torch

from torchdali.bench import WORKLOADS
from torchdali.bench._workloads import images


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_the_same_workload_has_the_same_samples_whoever_makes_it(name):
    one, another = (WORKLOADS[name](1 / 64) for _ in range(2))
    assert len(one.samples) == len(another.samples) > 4
    assert all(torch.equal(one.samples[index], another.samples[index]) for index in range(len(one.samples)))
    assert one.order(4, 1) == another.order(4, 1)


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_samples_have_the_bytes_they_are_said_to_have_and_differ(name):
    samples = WORKLOADS[name](1 / 64).samples
    for index in range(8):
        assert samples[index].nbytes == samples.nbytes(index)
    assert not torch.equal(samples[0], samples[1])


def test_blobs_are_bytes_of_different_length_and_never_zero():
    samples = WORKLOADS["blobs"](1 / 16).samples
    lengths = [len(samples[index]) for index in range(len(samples))]
    assert min(lengths) >= 60_000
    assert max(lengths) <= 160_000
    assert len(set(lengths)) > len(lengths) // 2
    assert samples[0].dtype == torch.uint8
    assert int(samples[0].min()) > 0


def test_a_blob_has_memory_of_its_own():
    blob = WORKLOADS["blobs"](1 / 64).samples[3]
    behind = blob.untyped_storage().nbytes()  # outside of the assertion, which would print the storage if it failed
    assert behind == blob.nbytes


@pytest.mark.parametrize(("name", "elements"), [("fixed", 150_000), ("small", 512)])
def test_vectors_are_floats_of_one_length(name, elements):
    samples = WORKLOADS[name](1 / 64).samples
    assert {tuple(samples[index].shape) for index in range(len(samples))} == {(elements,)}
    assert samples[0].dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-9, 0.25, 2.0])
def test_the_scale_changes_how_many_samples_there_are(scale):
    samples = len(WORKLOADS["small"](scale).samples)
    assert samples == max(1, round(32_768 * scale))


def test_an_epoch_has_each_sample_once_in_an_order_of_its_own():
    workload = WORKLOADS["small"](1 / 1024)
    first, second = workload.order(5, 1), workload.order(5, 2)
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(32))
    assert first != second
    assert [len(batch) for batch in first] == [5] * 6 + [2]


def test_images_are_decoded_to_floats_of_one_size():
    samples = images(1 / 32, None).samples
    assert len(samples) == 16
    for index in range(3):
        assert samples[index].shape == (3, 224, 224)
        assert samples[index].dtype == torch.float32
        assert samples[index].nbytes == samples.nbytes(index)
    assert not torch.equal(samples[0], samples[1])


def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "text.txt").touch()
    with pytest.raises(FileNotFoundError, match="there are no images in"):
        images(1.0, str(tmp_path))
