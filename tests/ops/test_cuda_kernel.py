"""The CUDA C++ kernel against the definition: compiled for the CPU, where each thread is a fiber, and on a GPU."""

import ctypes
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from torchdali import TensorList
from torchdali.ops._colour import Colour
from torchdali.ops._execute import image_sizes
from torchdali.ops._kernels import _cubins, _cuda, _launch, run
from torchdali.ops._resample import Resample

CUDA_ON_A_CPU = r"""
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#define EMULATED
#define DEVICE inline
#define __global__
#define __launch_bounds__(...)
#define SHARED(name) unsigned char *name = memory_of_block
#define threadIdx (Index{(unsigned)current})
struct uint4 { unsigned x, y, z, w; };
struct int4 { int x, y, z, w; };
struct Index { unsigned x; };
struct Fiber { ucontext_t context; bool done; };
struct Meeting { int waiting; unsigned turn; };
struct Values { unsigned a[4], b[2]; int value; };
struct Phase { int16_t expected, pending; int32_t phase; };
static unsigned char *memory_of_block;
static uint64_t low_end, high_end;  // of the image's memory
static int64_t written;  // bytes of results, by a block
static const char *error;
static Index blockIdx, blockDim;
static std::vector<Fiber> fibers;
static ucontext_t outside;
static int current, alive;
static Meeting of_warp[32], of_block;
static Values values[1024];
static uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }
static void yield() {
    int from = current, to = from;
    do to = (to + 1) % (int)fibers.size(); while (fibers[to].done && to != from);
    if (to == from) return;
    current = to;
    swapcontext(&fibers[from].context, &fibers[to].context);
}
static void meet(Meeting &meeting, int count) {
    unsigned turn = meeting.turn;
    if (++meeting.waiting == count) meeting.waiting = 0, meeting.turn++;
    else while (meeting.turn == turn) yield();
}
static void __syncwarp() { meet(of_warp[current / 32], 32); }
static void __syncthreads() { meet(of_block, (int)blockDim.x); }
static int byte_of(unsigned word, int n, bool sign) { return sign ? (int8_t)(word >> 8 * n) : (uint8_t)(word >> 8 * n); }
// Fragments as PTX has them for m16n8k32 with bytes.
static void product(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, const int (&c)[4], bool sign) {
    int lane = current % 32, base = current - lane, sums[4];
    memcpy(values[current].a, a, sizeof a);
    values[current].b[0] = b0, values[current].b[1] = b1;
    __syncwarp();
    for (int n = 0; n < 4; n++) {
        int row = lane / 4 + n / 2 * 8, column = lane % 4 * 2 + n % 2;
        sums[n] = c[n];
        for (int k = 0; k < 32; k++)
            sums[n] += byte_of(values[base + row % 8 * 4 + k % 16 / 4].a[row / 8 + k / 16 * 2], k % 4, false) *
                       byte_of(values[base + column * 4 + k % 16 / 4].b[k / 16], k % 4, sign);
    }
    __syncwarp();
    memcpy(d, sums, sizeof sums);
}
static void multiply32(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, const int (&c)[4]) {
    product(d, a, b0, b1, c, false);
}
static void multiply32_signed(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, const int (&c)[4]) {
    product(d, a, b0, b1, c, true);
}
static int from_lane(int value, int lane) {
    values[current].value = value;
    __syncwarp();
    int result = values[(current & ~31) + lane].value;
    __syncwarp();
    return result;
}
static float product(float a, float b) { return a * b; }
template <typename T> struct Table {
    const T *values;
    explicit Table(const T *values) : values(values) {}
    unsigned operator[](unsigned n) const { return values[n]; }
};
struct Place {
    const unsigned char *begin;
    explicit Place(const void *place) : begin((const unsigned char *)place) {}
    unsigned word(int at) const { return *(const unsigned *)aligned(at, 4); }
    uint4 four(int at) const { return *(const uint4 *)aligned(at, 16); }
    const unsigned char *aligned(int at, int size) const {
        if ((uint64_t)(begin + at) % size) error = "a load is not aligned";
        return begin + at;
    }
};
static void barrier_init(unsigned long long *b, unsigned n) { *(Phase *)b = {(int16_t)n, (int16_t)n, 0}; }
static void barrier_arrive(unsigned long long *b) {
    Phase &phase = *(Phase *)b;
    if (--phase.pending == 0) phase.pending = phase.expected, phase.phase ^= 1;
}
static void barrier_arrive_copied(unsigned long long *b) { barrier_arrive(b); }
static void barrier_wait(unsigned long long *b, unsigned parity) { while (((Phase *)b)->phase == (int)parity) yield(); }
static void copies_wait() {}
static void copy16(void *to, unsigned long long from) {
    if (from % 16 || (uint64_t)to % 16) error = "a copy is not aligned";
    if (from + 16 <= low_end || from >= high_end) error = "something outside of the image was read";
    memcpy(to, (void *)from, 16);
}
template <typename T> static void write(void *to, T value) {
    if ((uint64_t)to % sizeof(T)) error = "a store is not aligned";
    memcpy(to, &value, sizeof value);
    written += sizeof value;
}
static unsigned permute(unsigned a, unsigned b, unsigned selector) {
    uint64_t both = (uint64_t)b << 32 | a;
    unsigned result = 0;
    for (int n = 0; n < 4; n++) result |= (unsigned)(uint8_t)(both >> 8 * (selector >> 4 * n & 7)) << 8 * n;
    return result;
}
static unsigned shift_right(unsigned low, unsigned high, unsigned n) { return (unsigned)(((uint64_t)high << 32 | low) >> n); }
static unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
static float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static unsigned half_of(float value) { _Float16 half = (_Float16)value; uint16_t bits; memcpy(&bits, &half, 2); return bits; }
static unsigned half_pair(float low, float high) { return half_of(low) | half_of(high) << 16; }
static float from_half(unsigned word) { uint16_t bits = word; _Float16 half; memcpy(&half, &bits, 2); return (float)half; }
static unsigned bfloat_of(float value) {
    unsigned bits = __float_as_uint(value);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static unsigned bfloat_pair(float low, float high) { return bfloat_of(low) | bfloat_of(high) << 16; }
static float __saturatef(float value) { return value < 0 ? 0 : value > 1 ? 1 : value; }
static float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static float __fdividef(float a, float b) { return a / b; }
#include "resample.cu"
static struct { const i64 *integers; const float *floats; const int4 *blocks; int bytes, whole; } call;
static void thread() {
    resize(call.integers, call.floats, call.blocks, call.bytes, call.whole);
    fibers[current].done = true;
    if (!--alive) setcontext(&outside);
    for (;;) yield();
}
extern "C" const char *emulate(const i64 *integers, const float *floats, const int4 *blocks, int count, int threads, int bytes,
                               int whole, const uint64_t *ends) {
    const int stack = 65536, guard = 1024;
    std::vector<char> stacks(threads * stack);
    call = {integers, floats, blocks, bytes, whole};
    error = nullptr;
    memory_of_block = (unsigned char *)aligned_alloc(128, (bytes + guard + 127) / 128 * 128);
    for (int block = 0; block < count; block++) {
        memset(memory_of_block, 0xee, bytes + guard);  // what has no weight may be anything
        low_end = ends[2 * blocks[block].x], high_end = ends[2 * blocks[block].x + 1];
        blockIdx.x = block, blockDim.x = threads, alive = threads, current = 0, written = 0;
        fibers.assign(threads, Fiber());
        for (int n = 0; n < threads; n++) {
            getcontext(&fibers[n].context);
            fibers[n].context.uc_stack.ss_sp = &stacks[n * stack];
            fibers[n].context.uc_stack.ss_size = stack;
            makecontext(&fibers[n].context, thread, 0);
        }
        swapcontext(&outside, &fibers[0].context);
        for (int n = 0; n < guard; n++)
            if (memory_of_block[bytes + n] != 0xee) error = "shared memory was written beyond its end";
        int4 part = blocks[block];
        if (written != (int64_t)((part.y >> 16) - (part.y & 0xffff)) * (part.w - part.z) * CHANNELS * (int)sizeof(Result))
            error = "something was written twice, or not at all, or beside the result";
    }
    free(memory_of_block);
    return error;
}
"""


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
    results = run(steps, images, image_sizes(images, "test"), interleaved)
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
