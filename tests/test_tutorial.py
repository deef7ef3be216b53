"""DALI's tutorial "Parallel External Source - Fork": its program, with nothing but the imports changed."""

import contextlib
import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.helpers import enhance_serially

# As a user of DALI has it. The tests replace `nvidia.dali` by `torchdali`, and nothing else.
TUTORIAL = """
import numpy as np
from nvidia.dali import pipeline_def
import nvidia.dali.fn as fn
import nvidia.dali.types as types

batch_size = 4

class ExternalInputCallable:
    def __init__(self, batch_size):
        self.images_dir = "../../data/images/"
        self.batch_size = batch_size
        with open(self.images_dir + "file_list.txt", 'r') as f:
            file_label = [line.rstrip().split(' ') for line in f if line != '']
            self.files, self.labels = zip(*file_label)
        self.full_iterations = len(self.files) // batch_size

    def __call__(self, sample_info):
        sample_idx = sample_info.idx_in_epoch
        if sample_info.iteration >= self.full_iterations:
            # Indicate end of the epoch
            raise StopIteration()
        jpeg_filename = self.files[sample_idx]
        label = np.int32([self.labels[sample_idx]])
        with open(self.images_dir + jpeg_filename, 'rb') as f:
            encoded_img = np.frombuffer(f.read(), dtype=np.uint8)
        return encoded_img, label

@pipeline_def(batch_size=batch_size, num_threads=2, device_id=0, py_num_workers=4)
def training_pipeline():
    jpegs, labels = fn.external_source(source=ExternalInputCallable(batch_size),
                                       num_outputs=2, batch=False,
                                       parallel=True)
    decode = fn.decoders.image(jpegs, device="mixed")
    contrast = fn.random.uniform(range=(1, 3.0))
    enhance = fn.brightness_contrast(decode, contrast=contrast)
    return enhance, labels

@pipeline_def(batch_size=batch_size, num_threads=2, device_id=0, py_num_workers=4)
def validation_pipeline():
    jpegs, labels = fn.external_source(source=ExternalInputCallable(batch_size),
                                       num_outputs=2, batch=False,
                                       parallel=True)
    decode = fn.decoders.image(jpegs, device="mixed")
    enhance = fn.brightness_contrast(decode, contrast=1.5)
    return enhance, labels

train_pipe = training_pipeline()
val_pipe = validation_pipeline()

pipelines = [train_pipe, val_pipe]

for pipe in pipelines:
    pipe.start_py_workers()

for pipe in pipelines:
    pipe.build()

train_out = train_pipe.run()
val_out = val_pipe.run()
"""

# The training pipeline with its draws as a third output, to compare with.
RECORDING = """
def _recording():
    jpegs, labels = fn.external_source(source=ExternalInputCallable(batch_size), num_outputs=2, batch=False, parallel=True)
    contrast = fn.random.uniform(range=(1, 3.0))
    return fn.brightness_contrast(fn.decoders.image(jpegs, device="mixed"), contrast=contrast), labels, contrast

recording_pipeline = pipeline_def(batch_size=batch_size, num_threads=2, device_id=0, py_num_workers=4)(_recording)
"""


@pytest.fixture
def tutorial(tmp_path, monkeypatch, image_folder):
    """Runs the tutorial (or the part up to a line) where it finds its images; closes its pipelines at the end."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(image_folder.resolve())
    (tmp_path / "docs" / "examples").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "docs" / "examples")
    pipelines = []

    def run(until: str | None = None, extra: str = "") -> SimpleNamespace:
        program = TUTORIAL.replace("nvidia.dali", "torchdali")
        if until is not None:
            program = program[: program.index(until)]
        names: dict = {"__name__": "tutorial"}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="device_id=0")
            exec(program + extra, names)
        pipelines.extend(names.get("pipelines", []))
        result = SimpleNamespace(**names)
        result.keep = pipelines.append
        return result

    yield run
    for pipeline in pipelines:
        pipeline.close()


def files_and_labels(folder):
    return [line.split() for line in (folder / "file_list.txt").read_text().splitlines()]


def test_it_runs_with_only_its_imports_changed(tutorial, image_folder):
    t = tutorial()
    expected = files_and_labels(image_folder)
    for out in (t.train_out, t.val_out):
        images, labels = out
        assert len(images) == len(labels) == t.batch_size
        for i in range(t.batch_size):
            image = images.as_cpu().at(i)
            assert isinstance(image, np.ndarray)
            assert image.dtype == np.uint8
            assert image.shape == images.shape()[i]
            assert image.shape[2] == 3
            assert labels.at(i).dtype == np.int32
            assert labels.at(i).tolist() == [int(expected[i][1])]
        assert np.array_equal(labels.as_array()[:, 0], [int(label) for _, label in expected[: t.batch_size]])


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_image_equals_the_serial_reference(tutorial, image_folder, workers):
    if torch.cuda.is_available():
        pytest.skip("the reference decodes on the CPU; tests/pipeline/test_gpu.py has the one for the GPU")
    t = tutorial("train_pipe = ", RECORDING)
    train = t.recording_pipeline(py_num_workers=workers, seed=7)
    validation = t.validation_pipeline(py_num_workers=workers)
    expected = files_and_labels(image_folder)
    with warnings.catch_warnings(), train, validation:
        warnings.filterwarnings("ignore", message="device_id=0")
        seen = 0
        with contextlib.suppress(StopIteration):
            while True:
                images, labels, contrasts = train.run()
                plain, plain_labels = validation.run()
                for i in range(t.batch_size):
                    name, label = expected[seen]
                    assert labels.at(i)[0] == plain_labels.at(i)[0] == int(label)
                    contrast = float(contrasts.at(i))
                    assert 1 <= contrast < 3
                    assert np.array_equal(images.at(i), enhance_serially(image_folder / name, contrast)), name
                    assert np.array_equal(plain.at(i), enhance_serially(image_folder / name, 1.5)), name
                    seen += 1
        assert seen == len(expected) // t.batch_size * t.batch_size


def test_the_epoch_ends_until_reset_and_the_next_has_the_same_samples(tutorial, image_folder):
    t = tutorial()
    pipe = t.val_pipe
    first = [t.val_out, *outputs_of_an_epoch(pipe)]
    assert len(first) == len(files_and_labels(image_folder)) // t.batch_size
    for _ in range(3):
        with pytest.raises(StopIteration):
            pipe.run()
    pipe.reset()
    second = outputs_of_an_epoch(pipe)
    assert len(second) == len(first)
    for (images, labels), (images_again, labels_again) in zip(first, second, strict=True):
        assert np.array_equal(labels.as_array(), labels_again.as_array())
        assert all(torch.equal(a, b) for a, b in zip(images, images_again, strict=True))


def outputs_of_an_epoch(pipe):
    outputs = []
    with contextlib.suppress(StopIteration):
        while True:
            outputs.append(pipe.run())
    return outputs


def test_reset_in_the_middle_of_an_epoch_starts_over(tutorial):
    t = tutorial()
    pipe = t.val_pipe
    pipe.run()
    pipe.reset()
    assert np.array_equal(pipe.run()[1].as_array(), t.val_out[1].as_array())


def test_arguments_of_the_call_override_the_decorator(tutorial):
    t = tutorial("train_pipe = ")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="device_id=0")
        pipe = t.training_pipeline(batch_size=3, py_num_workers=2, seed=1)
        with pipe:
            assert len(pipe.worker_pids) == 2
            assert pipe.seed == 1
            assert len(pipe.run()[0]) == 3


def test_the_same_seed_draws_the_same_and_another_does_not(tutorial):
    t = tutorial("train_pipe = ", RECORDING)

    def draws(**options):
        with t.recording_pipeline(device_id=None, **options) as pipe:
            epochs = []
            for _ in range(2):
                pipe.reset()
                epochs.append(np.concatenate([out[2].as_array() for out in outputs_of_an_epoch(pipe)]).tolist())
            return epochs

    base = draws(seed=1, py_num_workers=1)
    assert base == draws(seed=1, py_num_workers=3, prefetch_queue_depth=4)
    assert base != draws(seed=2, py_num_workers=1)
    assert base[0] != base[1], "each epoch draws anew"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_cpu_is_used_with_one_warning(tutorial):
    t = tutorial("for pipe in pipelines:\n    pipe.build()")
    with pytest.warns(UserWarning, match="device_id=0.*CPU") as caught:
        for _ in range(3):
            t.train_pipe.build()
            t.train_pipe.run()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert t.train_pipe.device.type == "cpu"


def test_device_id_none_asks_for_the_cpu_without_a_word(tutorial):
    t = tutorial("train_pipe = ")
    pipe = t.training_pipeline(device_id=None)
    t.keep(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _ = pipe.run()
    assert images.device.type == "cpu"


def test_all_workers_are_processes_of_their_own(tutorial):
    t = tutorial()
    pids = [*t.train_pipe.worker_pids, *t.val_pipe.worker_pids]
    assert len(set(pids)) == 8
    assert os.getpid() not in pids
