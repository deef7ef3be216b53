"""Pipelines on a CUDA device. Each pipeline starts in a process of its own, because workers are forked before CUDA."""

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torchdali
from tests.helpers import brightness_contrast_by_hand, decode_serially, read_bytes
from torchdali import DecodeError, JpegFolder, TensorList, ops

pytestmark = pytest.mark.gpu

ROOT = Path(torchdali.__file__).parent.parent

EPOCH = """
import pickle, sys, warnings
import torch, torchdali
from torchdali import fn, ops
folder, how, workers, where = sys.argv[1:]
warnings.simplefilter("error", UserWarning)

@torchdali.pipeline_def(batch_size=8, device_id=0, seed=5, last_batch="partial")
def traced():
    jpegs, labels = fn.external_source(torchdali.JpegFolder(folder), num_outputs=2, batch=False, parallel=True)
    contrast = fn.random.uniform(range=(1, 3.0))
    images = fn.decoders.image(jpegs, device="mixed")
    return fn.brightness_contrast(images, contrast=contrast), labels, contrast, images

class Module(torchdali.Pipeline):
    def __init__(self, **options):
        super().__init__(torchdali.ExternalSource(torchdali.JpegFolder(folder), num_outputs=2), batch_size=8, seed=5, **options)
        self.decode, self.draw, self.enhance = ops.DecodeImage(), ops.Uniform(1.0, 3.0), ops.BrightnessContrast()

    def forward(self, jpegs, labels):
        images, contrast = self.decode(jpegs), self.draw()
        return self.enhance(images, contrast=contrast), labels, contrast, images

pipe = traced(py_num_workers=int(workers)) if how == "fn" else Module(num_workers=int(workers))
pipe.start_py_workers()
assert not torch.cuda.is_initialized()
outputs = []
with pipe:
    pipe.build()
    assert pipe.device == torch.device("cuda:0"), pipe.device
    for images, labels, contrasts, decoded in pipe:
        assert images.device == torch.device("cuda:0")
        assert labels.device.type == ("cpu" if how == "fn" else "cuda"), labels.device
        for columns in zip(images.as_cpu(), labels.as_cpu(), contrasts, decoded.as_cpu()):
            outputs.append([column.cpu().numpy() for column in columns])
    assert set(pipe.statistics().stage_seconds) and all(value > 0 for value in pipe.statistics().stage_seconds.values())
pickle.dump(outputs, open(where, "wb"))
"""


def epoch(folder, how, workers, where):
    subprocess.run(
        [sys.executable, "-c", EPOCH, str(folder), how, str(workers), str(where)], check=True, cwd=ROOT, timeout=100
    )
    return pickle.loads(where.read_bytes())


@pytest.mark.parametrize(("how", "workers"), [("fn", 1), ("fn", 4), ("module", 2)])
def test_every_image_equals_the_formula_on_what_was_decoded_and_the_cpu_s_pixels(image_folder, tmp_path, how, workers):
    files = JpegFolder(image_folder)
    outputs = epoch(image_folder, how, workers, tmp_path / "out")
    assert len(outputs) == len(files)
    differences = []
    for (image, label, contrast, decoded), path, expected in zip(outputs, files.files, files.labels, strict=True):
        assert int(label) == expected
        assert 1 <= contrast < 3
        assert np.array_equal(image, brightness_contrast_by_hand(decoded, np.float64(contrast))), path
        reference = decode_serially(path)
        reference = reference.permute(1, 2, 0).numpy() if how == "fn" else reference.numpy()
        assert decoded.shape == reference.shape, path
        differences.append(np.abs(decoded.astype(int) - reference.astype(int)).mean())
    print(
        f"mean difference from the CPU's pixels: {np.mean(differences):.3f}, of the worst image {max(differences):.3f}"
    )
    assert max(differences) < 3.0


def test_draws_do_not_depend_on_workers_or_the_way_a_pipeline_is_written(photographs, tmp_path):
    runs = [epoch(photographs, *arguments, tmp_path / "out") for arguments in (("fn", 1), ("fn", 3))]
    for ours, theirs in zip(*runs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- the decoder ---------------------------------------------------------------------------------------------------------


def jpegs(folder):
    return [read_bytes(path) for path in JpegFolder(folder).files]


def busy_batch(files, *, guarded):
    """Decode while kernels that were queued before still write to memory that they have given back."""
    device = torch.device("cuda:0")
    sizes = [decoded.numel() for decoded in ops.DecodeImage(device=device)(files)]
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    blocks = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
    torch.cuda._sleep(200_000_000)  # about 0.1 s of clock cycles
    for block in blocks:
        block.fill_(77)
    del blocks, block
    if guarded:
        images = list(ops.DecodeImage(device=device)(files))
    else:
        images = torch.ops.image.decode_jpegs_cuda(files, 3, device)
    torch.cuda.synchronize()
    return [image.cpu() for image in images]


def test_pending_kernels_do_not_spoil_the_images_although_the_bare_decoder_lets_them(image_folder):
    files = jpegs(image_folder)[:16]
    expected = [image.cpu() for image in ops.DecodeImage(device="cuda", apply_exif_orientation=False)(files)]

    def spoilt(guarded):
        return sum(
            any(not torch.equal(a, b) for a, b in zip(busy_batch(files, guarded=guarded), expected, strict=True))
            for _ in range(10)
        )

    guarded, bare = spoilt(True), spoilt(False)
    print(f"batches spoilt of 10: {guarded} with the guard, {bare} without")
    assert guarded == 0
    assert bare > 0, "the decoder now waits by itself: the guard is not needed any more"


def test_an_indexed_and_a_plain_device_are_the_same(photographs):
    (one,), (other,) = (ops.DecodeImage(device=device)(jpegs(photographs)[:1]) for device in ("cuda", "cuda:0"))
    assert one.device == other.device
    assert torch.equal(one, other)


def test_a_cut_file_is_found_although_the_gpu_would_decode_it(photographs):
    files = jpegs(photographs)[:4]
    cut = files[2][: len(files[2]) // 2]
    assert len(torch.ops.image.decode_jpegs_cuda([cut], 3, torch.device("cuda:0"))) == 1, "the bare decoder takes it"
    with pytest.raises(DecodeError, match=r"sample 2 of the batch .*cut off"):
        ops.DecodeImage(device="cuda")([*files[:2], cut, files[3]])


def test_cmyk_and_other_odd_files_give_the_cpu_s_pixels(odd_folder):
    for path in sorted(odd_folder.glob("*.jpg")):
        file = read_bytes(path)
        try:
            (expected,) = ops.DecodeImage()([file])
        except DecodeError as error:
            with pytest.raises(DecodeError) as caught:
                ops.DecodeImage(device="cuda")([file])
            assert str(caught.value) == str(error)
            continue
        (image,) = ops.DecodeImage(device="cuda")([file])
        assert image.device.type == "cuda"
        difference = (image.cpu().int() - expected.int()).abs().float().mean().item()
        print(f"{path.name}: {tuple(image.shape)}, mean difference {difference:.3f}")
        assert image.shape == expected.shape
        assert difference < 3.0, path.name


def test_one_that_only_the_decoder_refuses_is_named(photographs):
    data = bytearray((photographs / "cat.jpg").read_bytes())
    start = data.index(b"\xff\xc4") + 5
    data[start : start + 16] = b"\xff" * 16
    files = [*jpegs(photographs)[:2], torch.frombuffer(data, dtype=torch.uint8)]
    with pytest.raises(DecodeError, match="sample 2 of the batch"):
        ops.DecodeImage(device="cuda")(files)


def test_grayscale_modes_agree_with_the_cpu(photographs):
    files = jpegs(photographs)
    for mode in ("RGB", "GRAY"):
        on_gpu = ops.DecodeImage(mode, device="cuda")(files)
        on_cpu = ops.DecodeImage(mode)(files)
        assert on_gpu.shape() == on_cpu.shape()
        for ours, theirs in zip(on_gpu.as_cpu(), on_cpu, strict=True):
            assert (ours.int() - theirs.int()).abs().float().mean() < 3.0


# --- the order of forking and CUDA ---------------------------------------------------------------------------------------


def test_after_cuda_workers_are_refused():
    torch.zeros(1, device="cuda")
    pipeline = torchdali.Pipeline(lambda info: 1, batch_size=1)
    with pytest.raises(torchdali.CudaInitializedError, match="already initialised"):
        pipeline.start_py_workers()
    assert not multiprocessing.active_children()


def test_a_cuda_tensor_from_a_source_is_refused():
    source = torchdali.ExternalSource(lambda info: torch.zeros(1, device="cuda"), parallel=False)
    with torchdali.Pipeline(source, batch_size=1) as pipeline, pytest.raises(TypeError, match="is a tensor on cuda:0"):
        pipeline.run()


def test_module_outputs_arrive_on_the_pipeline_s_device():
    class Plain(torchdali.Pipeline):
        def forward(self, numbers):
            return numbers, {"dense": numbers.as_tensor()}

    source = torchdali.ExternalSource(lambda info: np.float32([info.idx_in_epoch]), parallel=False)
    with Plain(source, batch_size=3, device="cuda:0") as pipeline:
        numbers, named = pipeline.run()
    assert isinstance(numbers, TensorList)
    assert numbers.device == named["dense"].device == torch.device("cuda:0")


def test_a_device_that_is_not_there_is_named():
    source = torchdali.ExternalSource(lambda info: 1, parallel=False)
    with (
        torchdali.Pipeline(source, batch_size=1, device=99) as pipeline,
        pytest.raises(RuntimeError, match="device is 99"),
    ):
        pipeline.build()
