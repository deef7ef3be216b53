"""Which decoder is taken, what goes to it, and what becomes of what it refuses."""

import pickle
import sys
import types

import pytest
import torch

from tests.ops.decode.oddities import encoded, oddities, picture, tensor, with_bad_tables, with_orientation
from torchdali.ops import DecodeImage
from torchdali.ops.decode import _codecs, _nvimgcodec, _select, _torchcodec
from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._cuda import CudaDecoder
from torchdali.ops.decode._inspect import inspect
from torchdali.ops.decode._interface import CannotDecodeError
from torchdali.ops.decode._nvimgcodec import NvimgcodecDecoder
from torchdali.ops.decode._select import select_decoder
from torchdali.ops.decode._torchcodec import TorchcodecDecoder
from torchdali.ops.decode._torchvision import TorchvisionDecoder

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GOOD, REFUSED = encoded(picture()), with_bad_tables(encoded(picture()))


class Engine(CudaDecoder):
    """As an engine behaves: one bad file fails the whole batch, in which way ever."""

    name = "engine"

    def __init__(self, error=RuntimeError):
        super().__init__(CpuDecoder())
        self.batches = []
        self.error = error

    def decode_jpegs(self, files, infos, mode, device):
        self.batches.append((len(files), mode))
        images = CpuDecoder().decode(files, infos, mode, CPU)
        if any(isinstance(image, CannotDecodeError) for image in images):
            raise self.error("an image is bad")
        return [image + 100 for image in images]


def decode(decoder, files, mode="RGB"):
    files = list(files)
    return decoder.decode([tensor(data) for data in files], [inspect(data) for data in files], mode, CPU)


def test_a_file_that_the_engine_refuses_costs_the_others_nothing():
    engine = Engine()
    alone = decode(engine, [GOOD])[0]
    results = decode(engine, [GOOD] * 5 + [REFUSED] + [GOOD] * 4)
    assert isinstance(results[5], CannotDecodeError)
    assert all(torch.equal(result, alone) for n, result in enumerate(results) if n != 5)
    assert len(engine.batches) <= 2 + 2 * 4, "the batch is halved, not taken apart"


def test_what_is_not_the_images_fault_is_raised():
    with pytest.raises(torch.OutOfMemoryError):
        decode(Engine(torch.OutOfMemoryError), [GOOD, REFUSED])


def test_a_build_without_the_engine_says_so_at_once():
    engine = Engine(lambda message: RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support"))
    with pytest.raises(RuntimeError, match="not compiled with nvJPEG"):
        decode(engine, [GOOD, REFUSED])
    assert len(engine.batches) == 1


def test_only_ordinary_jpegs_go_to_the_engine():
    files = {name: data for name, data in oddities().items() if inspectable(data)}
    engine = Engine()
    results = dict(zip(files, decode(engine, files.values()), strict=True))
    cpu = dict(zip(files, decode(CpuDecoder(), files.values()), strict=True))
    by_engine = {
        name for name in files if isinstance(results[name], torch.Tensor) and not torch.equal(results[name], cpu[name])
    }
    assert by_engine == {
        name
        for name in files
        if name.startswith("JPEG") and not any(word in name for word in ("CMYK", "themselves", "12 bits", "impossible"))
    }


def inspectable(data):
    try:
        return inspect(data)
    except CannotDecodeError:
        return None


def test_engines_are_not_asked_for_unchanged_pixels_which_would_be_ycbcr():
    engine = Engine()
    gray = encoded(picture().convert("L"))
    results = decode(engine, [GOOD, gray, GOOD], "UNCHANGED")
    assert sorted(engine.batches) == [(1, "GRAY"), (2, "RGB")]
    assert [result.shape[0] for result in results] == [3, 1, 3]


# --- choosing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"nvjpeg", "torchvision", "torchcodec", "nvimgcodec"}, "nvjpeg"),
        ({"torchvision", "torchcodec", "nvimgcodec"}, "torchvision"),
        ({"torchcodec", "nvimgcodec"}, "torchcodec"),
        ({"nvimgcodec"}, "nvimgcodec"),
        (set(), "cpu"),
    ],
)
def test_auto_takes_the_first_decoder_that_is_there(monkeypatch, there, chosen):
    for candidate in _select._ON_CUDA:
        monkeypatch.setattr(candidate, "is_there", staticmethod(lambda name=candidate.name: name in there))
    assert select_decoder("auto", GPU).name == chosen
    assert select_decoder("auto", CPU).name == "cpu"
    for name in there:
        assert select_decoder(name, GPU).name == name
        assert select_decoder(name, CPU).name == "cpu"
    assert select_decoder("cpu", GPU).name == "cpu"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("torchcodec", r"pip install 'torchdali\[torchcodec\]'"),
        ("nvimgcodec", r"pip install 'torchdali\[nvimgcodec\]'"),
    ],
)
def test_a_decoder_that_is_not_installed_is_named_with_its_extra(monkeypatch, name, how):
    for module in (_torchcodec, _nvimgcodec):
        monkeypatch.setattr(module, "is_installed", lambda module: False)
    with pytest.raises(ImportError, match=how):
        DecodeImage(decoder=name)


def test_a_decoding_operator_can_be_sent_to_another_process():
    module = DecodeImage(on_error="skip")
    module([tensor(GOOD)])
    copy = pickle.loads(pickle.dumps(module))
    assert torch.equal(copy([tensor(GOOD)])[0], module([tensor(GOOD)])[0])


# --- the libraries' own ways ----------------------------------------------------------------------------------------------


def as_module(monkeypatch, name, **attributes):
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def drained_streams(monkeypatch):
    """The current stream is number 7; the list has each that was waited for until it had nothing left to do."""
    drained = []
    stream = types.SimpleNamespace(cuda_stream=7, synchronize=lambda: drained.append(7))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return drained


def test_torchvision_is_not_called_while_the_current_stream_has_anything_to_do(monkeypatch):
    drained, calls = drained_streams(monkeypatch), []

    def decode_jpegs_cuda(files, mode, device):
        calls.append(list(drained))
        return [torch.ops.image.decode_jpeg(file, mode, False) for file in files]

    monkeypatch.setattr(torch.ops.image, "decode_jpegs_cuda", decode_jpegs_cuda, raising=False)
    (image,) = TorchvisionDecoder(CpuDecoder()).decode_jpegs([tensor(GOOD)], [inspect(GOOD)], "RGB", GPU)
    assert calls == [[7]]
    assert torch.equal(image, torch.ops.image.decode_jpeg(tensor(GOOD), 3, False))


def test_memory_for_images_is_not_filled_after_they_were_written(monkeypatch):
    """Where algorithms are to be deterministic torch fills new memory, on a stream for which decoders do not wait."""
    drained_streams(monkeypatch)
    filled = []

    def decode_jpegs_cuda(files, mode, device):
        filled.append(torch.utils.deterministic.fill_uninitialized_memory)
        raise RuntimeError("the engine refuses this")

    monkeypatch.setattr(torch.ops.image, "decode_jpegs_cuda", decode_jpegs_cuda, raising=False)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="refuses"):
            TorchvisionDecoder(CpuDecoder()).decode_jpegs([tensor(GOOD)], [inspect(GOOD)], "RGB", GPU)
        assert torch.utils.deterministic.fill_uninitialized_memory, "elsewhere it is as it was"
    finally:
        torch.use_deterministic_algorithms(False)
    assert filled == [False]


def test_torchcodec_never_sees_an_orientation_that_it_would_apply(monkeypatch):
    seen = []

    def decode_jpeg(files, *, mode, device):
        assert drained == [7]
        seen.extend(bytes(file.numpy()) for file in files)
        return [torch.ops.image.decode_jpeg(file, 3, True) for file in files]

    as_module(monkeypatch, "torchcodec")
    as_module(monkeypatch, "torchcodec.decoders", decode_jpeg=decode_jpeg)
    drained = drained_streams(monkeypatch)
    data = with_orientation(6)
    (image,) = decode(TorchcodecDecoder(CpuDecoder()), [data])
    assert b"Exif" not in seen[0]
    assert torch.equal(image, torch.ops.image.decode_jpeg(tensor(data), 3, False))


def test_torchcodec_takes_the_place_of_a_torchvision_without_decoders(monkeypatch):
    calls = []

    def decode_jpeg(file, *, mode):
        calls.append(mode)
        image = torch.ops.image.decode_jpeg(file, {"RGB": 3, "UNCHANGED": 0}[mode], True)
        return 255 - image if image.shape[0] == 4 else image  # as torchcodec 0.17 does

    as_module(monkeypatch, "torchcodec")
    as_module(monkeypatch, "torchcodec.decoders", decode_jpeg=decode_jpeg, decode_gif=None)
    monkeypatch.setattr(_codecs, "has_torchvision", lambda operator="decode_jpeg": False)
    monkeypatch.setattr(_codecs, "is_installed", lambda module: True)
    _codecs.codecs.cache_clear()
    try:
        for name in ("JPEG, Exif orientation 6", "JPEG, CMYK"):
            for mode, value in (("RGB", 3), ("UNCHANGED", 0)):
                (image,) = decode(CpuDecoder(), [oddities()[name]], mode)
                assert torch.equal(image, torch.ops.image.decode_jpeg(tensor(oddities()[name]), value, False))
        assert calls == ["RGB", "UNCHANGED"] * 2
        monkeypatch.setattr(_codecs, "is_installed", lambda module: False)
        _codecs.codecs.cache_clear()
        with pytest.raises(ImportError, match=r"torchdali\[torchcodec\]"):
            decode(CpuDecoder(), [GOOD])
    finally:
        _codecs.codecs.cache_clear()


def test_nvimgcodec_s_empty_slots_go_to_the_cpu_and_its_images_become_planar(monkeypatch):
    class Decoder:
        def __init__(self, device_id):
            assert device_id == 0

        def decode(self, files, *, params, cuda_stream):
            assert params == {"apply_exif_orientation": False, "color_spec": "srgb"}
            assert cuda_stream == 7
            assert drained == [7]
            decoded = [torch.ops.image.decode_jpeg(tensor(data), 3, False).permute(1, 2, 0) for data in files]
            return [None, *(image.contiguous() for image in decoded[1:])]

    as_module(
        monkeypatch,
        "nvidia.nvimgcodec",
        Decoder=Decoder,
        DecodeParams=dict,
        ColorSpec=types.SimpleNamespace(SRGB="srgb", GRAY="gray"),
    )
    drained = drained_streams(monkeypatch)
    decoder = NvimgcodecDecoder(CpuDecoder())
    files = [tensor(data) for data in (GOOD, with_orientation(6))]
    results = decoder.decode_jpegs(files, [inspect(bytes(file.numpy())) for file in files], "RGB", GPU)
    assert results[0] is None
    assert torch.equal(results[1], torch.ops.image.decode_jpeg(files[1], 3, False))
    assert results[1].is_contiguous()
    assert pickle.loads(pickle.dumps(decoder))._decoders == {}
