"""The CUDA C++ kernel against the definition: compiled for the CPU, where each thread is a fiber, and on a GPU."""

import ctypes
import os
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from tests.ops.cuda_on_a_cpu import CUDA_ON_A_CPU
from torchdali import TensorList
from torchdali.ops._colour import Colour
from torchdali.ops._execute import image_sizes
from torchdali.ops._groups import parts_of
from torchdali.ops._kernels import _cubins, _cuda, _launch, run
from torchdali.ops._resample import Resample

TYPES = [torch.float32, torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    """Gives the kernel for a CPU, for definitions."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder, known = tmp_path_factory.mktemp("cuda"), {}

    def compiled(defined):
        if defined not in known:
            tuning = {"TILES": _cuda.TILES, "STAGES": _cuda.STAGES, "THREADS": 1, "BLOCKS": 1}
            source, library = folder / f"{len(known)}.cpp", folder / f"{len(known)}.so"
            lines = [f"#define {name} {value}" for name, value in (*defined, *tuning.items())]
            source.write_text("\n".join([*lines, CUDA_ON_A_CPU]))
            command = [
                "g++",
                "-O1",
                "-std=c++17",
                "-w",
                "-shared",
                "-fPIC",
                f"-I{_cuda.SOURCE.parent}",
                "-o",
                library,
                source,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if "_Float16" in done.stderr:
                pytest.skip("needs a g++ that knows float16")
            assert done.returncode == 0, done.stderr[:4000]
            known[defined] = ctypes.CDLL(str(library)).emulate
            known[defined].restype = ctypes.c_char_p
        return known[defined]

    return compiled


@pytest.fixture
def emulated(monkeypatch, compiler):
    """Lets the kernel be emulated wherever it would be launched; the launches."""
    jobs = []

    def by_cuda(self, integers, table, arguments):
        assert _cuda.takes(self.dtypes, arguments)
        dtype = self.dtypes[-1]
        channels, first = arguments["CHANNELS"], integers[:, 0]
        job = _cuda.plan(integers, dtype.itemsize, 4, channels, looked_up=arguments["FIRST"] == 1)
        extent = (channels - 1) * integers[:, 1] + (integers[:, 4:6] - 1).T[0] * integers[:, 2] + integers[:, 5]
        arrays = [integers, table.astype(np.float32), job.blocks, np.stack([first, first + extent], 1)]
        numbers = len(job.blocks), job.threads, job.shared, job.whole
        emulate = compiler(_cuda.definitions(arguments, _launch.TYPES[dtype], int(integers[0, 13])))
        kept = [np.ascontiguousarray(array) for array in arrays]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in kept]
        assert emulate(*pointers[:3], *numbers, pointers[3]) is None
        jobs.append(job)
        assert job.rows.all()
        return job.rows

    monkeypatch.setattr(_launch._Launch, "_by_cuda", by_cuda)
    return jobs


def photograph(shape, generator, offset=0, gap=0):
    """Smooth with some noise; rows and the whole begin anywhere in memory."""
    channels, height, width = shape
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 90 * np.sin(y / 7 + channel) * np.cos(x / 5) for channel in range(channels)])
    values = np.clip(waves + 35 * generator.random(shape), 0, 255).round().astype(np.uint8)
    memory = torch.zeros(offset + channels * height * (width + gap), dtype=torch.uint8)
    view = torch.as_strided(memory, shape, (height * (width + gap), width + gap, 1), offset)
    return view.copy_(torch.from_numpy(values))


CASES = [  # shape, window, result, flips
    ((3, 60, 71), (3, 5, 50, 60), (37, 45), (0, 0)),
    ((3, 33, 47), (0, 0, 33, 47), (60, 99), (1, 0)),
    ((3, 130, 90), (10, 1, 120, 89), (37, 46), (0, 1)),
    ((3, 200, 90), (10, 1, 190, 89), (40, 12), (1, 1)),
    ((3, 5, 3), (0, 0, 5, 3), (6, 2), (0, 0)),
    ((3, 1, 1), (0, 0, 1, 1), (3, 17), (0, 1)),
    ((3, 64, 250), (1, 1, 63, 249), (90, 40), (1, 0)),
    ((3, 40, 70), (7, 9, 30, 60), (15, 60), (0, 0)),
    ((3, 20, 701), (0, 2, 20, 690), (11, 224), (0, 1)),  # more than 512 bytes of a row
    ((3, 52, 64), (2, 3, 45, 57), (40, 41), (0, 1)),  # each row begins as far from a multiple of 4 bytes
    ((3, 1, 1), (0, 0, 1, 1), (1, 1), (0, 0)),
    ((3, 90, 68), (7, 9, 80, 58), (66, 40), (0, 0)),
    ((3, 40, 36), (0, 0, 40, 36), (50, 70), (0, 1)),
]


def batch(shapes=None):
    generator = np.random.default_rng(4)
    shapes = shapes or [case[0] for case in CASES]
    return TensorList([photograph(shape, generator, 3 * n, n % 3) for n, shape in enumerate(shapes)], "CHW")


def resized(to=None):
    return Resample(
        *(np.array([case[n] for case in CASES]) for n in (1, 2)), np.array([c[3] for c in CASES], bool), to=to
    )


def chain(to):
    factors = np.linspace(0.7, 1.9, len(CASES))
    scale, offset = (
        np.tile([1 / 58.4, 1 / 57.1, 1 / 57.4], (len(CASES), 1)),
        np.tile([-2.1, -2.0, -1.8], (len(CASES), 1)),
    )
    return [resized(), Colour(factors, 128 - 128 * factors), Colour(scale, offset, to)]


def differences(steps, images, interleaved=False):
    """The largest difference from the definition, and the share of values that differ."""
    results = run(parts_of(steps, image_sizes(images, "test"), images.dtype), images, interleaved)
    assert all((result.stride(0) == 1) == (interleaved or result[0].numel() == 1) for result in results)
    results = results.as_cpu()
    distances = []
    for position, (image, got) in enumerate(zip(images.as_cpu(), results, strict=True)):
        for step in steps:
            image = step.plain(image, position, torch.float64)
        assert (got.shape, got.dtype) == (image.shape, image.dtype)
        distances.append((got.double() - image.double()).abs().reshape(-1))
    everything = torch.cat(distances)
    return float(everything.max()), float((everything > 0).double().mean())


def check(device, interleaved):
    largest, differing = differences([resized()], batch().to(device), interleaved)
    assert largest <= 1
    assert differing < 0.02
    largest, differing = differences(chain(torch.float16), batch().to(device), interleaved)
    assert largest < 1.95 / 57 + 0.004  # one grey level, by the contrast
    assert differing < 0.03


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_kernel_emulated_on_a_cpu_is_the_definition(emulated, interleaved):
    check("cpu", interleaved)
    assert [len(job.rows) for job in emulated] == [len(CASES)] * 2


def test_a_device_with_little_shared_memory_has_more_and_narrower_blocks(emulated, monkeypatch):
    plan = _cuda.plan
    monkeypatch.setattr(_cuda, "plan", lambda *a, **k: plan(*a, **k, most_shared=36 * 1024))
    check("cpu", True)
    monkeypatch.setattr(_cuda, "plan", plan)
    check("cpu", True)
    small, _, large, _ = emulated
    assert small.shared <= 36 * 1024 < large.shared
    assert len(small.blocks) > len(large.blocks)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("to", TYPES)
def test_results_of_each_type_are_written_in_pieces_of_all_sizes(to, channels, emulated):
    unit, wholes = 1 / 64 if to.is_floating_point else 1, set()
    # Whole strips; parts of them; rows that begin at pairs, anywhere; several blocks.
    for width in (48, 40, 34, 35, 117):
        images = batch([(channels, 30, 50), (channels, 41, 33)])
        windows, flips = np.array([[0, 0, 30, 50], [2, 1, 39, 31]]), np.array([[0, 1], [1, 0]], bool)
        offset = np.array([[-20.0, 3.0, 7.5], [0.0, 1.0, 2.0]])[:, :channels]
        steps = [
            Resample(windows, np.tile([[21, width]], (2, 1)), flips),
            Colour(np.full((2, channels), 1.25), offset, torch.uint8),
            Colour(np.full((2, channels), unit), np.full((2, channels), -100 * unit), to),
        ]
        for interleaved in (False, True)[:channels]:
            largest, differing = differences(steps, images, interleaved)
            assert largest <= 2 * unit
            assert differing < 0.01
            wholes.add(emulated[-1].whole)
    assert wholes == {0, 1, 2} if channels == 3 else {0, 1}


def test_a_warp_makes_the_weights_of_many_tiles_where_results_are_narrow(emulated):
    images = batch([(3, 80, 30)] * 12)
    window, size = np.tile([0, 0, 80, 30], (12, 1)), np.tile([61, 13], (12, 1))
    assert differences([Resample(window, size, np.zeros((12, 2), bool))], images)[0] <= 1
    (job,) = emulated
    assert job.threads == 64  # one warp, and the one that copies
    assert (job.blocks[:, 3] - job.blocks[:, 2]).max() > 4 * 8


def test_images_that_keep_a_dimension_or_are_of_one_colour_are_exact(emulated):
    images = batch([(3, 80, 60)])
    halved = Resample(np.array([[0, 0, 80, 60]]), np.array([[40, 60]]), np.zeros((1, 2), bool))
    assert differences([halved], images) == (0.0, 0.0)
    plain = TensorList([torch.full((3, 80, 60), value, dtype=torch.uint8) for value in (0, 1, 201, 255)], "CHW")
    smaller = Resample(np.tile([[0, 0, 80, 60]], (4, 1)), np.tile([[33, 41]], (4, 1)), np.zeros((4, 2), bool))
    assert differences([smaller], plain) == (0.0, 0.0)
    assert [len(job.rows) for job in emulated] == [1, 4]


def table(before=(300, 400), after=(224, 224)):
    """A row that the kernel takes."""
    integers = np.zeros((1, 24), np.int64)
    integers[:, [3, 13]] = 1
    integers[:, 8:10], integers[:, 14:16] = before, after
    integers[:, 20:24:2] = 2 * np.maximum(before, after)
    return integers


@pytest.fixture
def sparse():
    """Gives memory of which only what is written to takes room, as a tensor."""
    fds = []

    def made(nbytes):
        fds.append(os.memfd_create("sparse"))
        os.ftruncate(fds[-1], nbytes)
        return torch.from_file(f"/proc/self/fd/{fds[-1]}", shared=True, size=nbytes, dtype=torch.uint8)

    yield made
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("interleaved", [False, True])
def test_channels_may_lie_further_from_each_other_than_32_bits_reach(emulated, sparse, interleaved):
    apart = 2**31 + 16
    near = photograph((3, 60, 71), np.random.default_rng(4))
    far = sparse(2 * apart + 10_000).as_strided((3, 60, 71), (apart, 71, 1)).copy_(near)
    resize = [Resample(np.array([[3, 5, 50, 60]]), np.array([[37, 45]]), np.zeros((1, 2), bool))]
    results = [
        run(parts_of(resize, image_sizes(images, "test"), images.dtype), images, interleaved)[0]
        for images in (TensorList([near], "CHW"), TensorList([far], "CHW"))
    ]
    assert len(emulated) == 2
    assert torch.equal(*results)


def test_rows_that_the_kernel_cannot_do_are_left_to_the_other_one():
    both = np.concatenate([table(), table((3000, 4000), (20, 20))])
    job = _cuda.plan(both, 2, 396)
    assert job is not None
    assert job.rows.tolist() == [True, False]
    assert set(job.blocks[:, 0]) == {0}
    interleaved = table()
    interleaved[:, 3] = 3
    sparse = table()
    sparse[:, 20] = 2 * 224  # no antialiasing
    apart = table()
    apart[:, 11], apart[:, 13] = 2, 3  # channels are not side by side
    for integers in (interleaved, sparse, apart):
        assert _cuda.plan(integers, 2, 396) is None
    apart[:, 11] = 1
    assert _cuda.plan(apart, 2, 396) is not None
    assert _cuda.plan(apart, 2, 396, 1) is None


def test_each_pixel_of_the_result_belongs_to_one_block():
    sizes = [((300, 400), (224, 224)), ((90, 3000), (61, 900)), ((1, 1), (5, 700)), ((900, 900), (224, 224))]
    job = _cuda.plan(np.concatenate([table(*size) for size in sizes]), 2, 396)
    assert job.rows.all()
    for number, (_, (height, width)) in enumerate(sizes):
        made = np.zeros((height, width), int)
        for _, columns, top, bottom in job.blocks[job.blocks[:, 0] == number]:
            made[top:bottom, columns & 0xFFFF : columns >> 16] += 1
        assert (made == 1).all()


@pytest.mark.parametrize(("count", "most"), [(8, 1), (32, 1), (96, 2), (256, 3)])
def test_the_more_there_is_to_do_the_more_blocks_follow_each_other(count, most):
    sizes = np.linspace(150, 400, count).astype(int).tolist()
    job = _cuda.plan(np.concatenate([table((size, size), (224, 224)) for size in sizes]), 2, 264)
    assert most - 0.9 < len(job.blocks) / 264 <= most


@pytest.mark.parametrize(("out", "spread"), [(0, 1), (5, 3)])
def test_the_source_is_translated_for_gpus_once(out, spread, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHDALI_CACHE_DIR", str(tmp_path))
    pytest.importorskip("cuda.bindings.nvrtc")
    arguments = {"CHANNELS": 3, "FIRST": 1, "KIND0": 1, "TO0": 1, "KIND1": 1, "TO1": out, "KIND2": 0, "TO2": 0}
    try:
        _cuda._bindings().nvrtc.nvrtcVersion()
    except RuntimeError:
        pytest.skip("needs NVRTC")
    wanted = "sm_80" if out else "sm_90", _cuda.definitions(arguments, out, spread)
    image = _cuda.translate(*wanted)
    assert len(image) > 1000
    monkeypatch.setattr(_cubins, "translated", lambda *_: pytest.fail("it was compiled once more"))
    assert _cuda.translate(*wanted) == image


@pytest.mark.gpu
@pytest.mark.parametrize("interleaved", [False, True])
def test_on_a_gpu_the_kernel_is_used_and_is_the_definition(interleaved, monkeypatch):
    rows = []
    launch = _cuda.launch
    monkeypatch.setattr(_cuda, "launch", lambda *given: rows.append(launch(*given)) or rows[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check("cuda", interleaved)
        assert [row.all() for row in rows] == [True, True]
        for to in (torch.float32, torch.bfloat16):
            assert differences(chain(to), batch().to("cuda"), interleaved)[0] < 2 / 57.1 + (
                0.02 if to == torch.bfloat16 else 1e-4
            )
