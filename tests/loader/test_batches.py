"""What is in a batch arrives as it does with torch's loader, and is the user's from then on."""

import collections
import functools
import pickle
import types

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader as StockLoader
from torch.utils.data import default_collate, get_worker_info
from torchvision import tv_tensors

from tests.loader.support import LOADERS, Made, Pair, as_is, identical
from torchdali import DataLoader

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jagged", "ignore:Sparse CSR", "ignore:.*nested_tensor", "ignore:.*quant"
)


def image(index, *shape):
    return torch.arange(24 * 300).view(2, 3, 4, 300)[index % 2] + index


SAMPLES = {
    **{
        str(dtype): functools.partial(lambda dtype, index: (torch.arange(1500) % 2 + index % 2).to(dtype), dtype)
        for dtype in [
            *[torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint64],
            *[torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128],
            *[torch.float8_e4m3fn],
        ]
    },
    "0-d": lambda index: torch.tensor(index, dtype=torch.bfloat16),
    "zero-sized": lambda index: torch.empty(0, 3, dtype=torch.int16),
    "an image": image,
    "transposed": lambda index: image(index).transpose(0, 2),
    "expanded": lambda index: torch.tensor([index]).expand(1500),
    "integers and floats": lambda index: (1, 2.5)[index % 2],
    "meta": lambda index: torch.empty(3, device="meta", dtype=torch.int8)[:0],
    "numbers": lambda index: (index, float(index), index > 1, -(2**62)),
    "text": lambda index: ("a\0\u20ac" * index, b"b" * index, ""),
    "numpy arrays": lambda index: (np.full((3, 400), index, "f4"), np.arange(index, index + 3), np.array(2.5)),
    "numpy scalars": lambda index: [np.float16(index), np.bool_(index), np.uint8(7), np.str_("x")],
    "a Fortran-ordered array": lambda index: np.asfortranarray(np.arange(1200.0).reshape(30, 40) + index),
    "a read-only array": lambda index: np.broadcast_to(np.float32(index), (900,)),
    "nested": lambda index: {"a": [index, (image(index), {"b": "c"})], 3: Pair(image(index), index)},
    "a named tuple": lambda index: Pair(image(index), {"deep": [np.arange(index, index + 2)]}),
    "an ordered dict": lambda index: collections.OrderedDict([("b", index), ("a", image(index))]),
    "a default dict": lambda index: collections.defaultdict(list, {"x": image(index)}),
    "a counter": lambda index: collections.Counter("aab"),
    "a user dict": lambda index: collections.UserDict({"x": image(index)}),
    "a deque": lambda index: collections.deque([index, 2]),
    "a range": lambda index: range(index, index + 3),
    "an empty tuple": lambda index: (),
    "a size": lambda index: torch.Size([index, 2]),
    "tv_tensors": lambda index: (
        tv_tensors.Image(torch.full((3, 20, 20), index)),
        tv_tensors.Mask(torch.ones(30, 30) * index),
        tv_tensors.BoundingBoxes([[1, 2, 3, index]], format="XYXY", canvas_size=(5, 5)),
    ),
}


def batches(cls, function, **options):
    return list(cls(Made(function), **{"batch_size": 2, **options}))


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", SAMPLES)
def test_default_collate_makes_of_it_what_it_makes_with_torch(kind, num_workers):
    ours = batches(DataLoader, SAMPLES[kind], num_workers=num_workers)
    assert identical(ours, batches(StockLoader, SAMPLES[kind]))


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("kind", [*SAMPLES])
def test_samples_without_automatic_batching_are_those_of_torch(kind):
    ours = batches(DataLoader, SAMPLES[kind], num_workers=1, batch_size=None)
    assert identical(ours, batches(StockLoader, SAMPLES[kind], batch_size=None))


COLLATED = {
    "None": lambda batch: None,
    "lists": as_is,
    "a packed sequence": lambda batch: pack_sequence(
        [torch.ones(3 - i % 2, 200) * i for i in batch], enforce_sorted=False
    ),
    "sparse": lambda batch: torch.eye(40).to_sparse() * batch[0],
    "compressed rows": lambda batch: torch.eye(40).to_sparse_csr(),
    "nested tensors": lambda batch: torch.nested.nested_tensor([torch.ones(500), torch.ones(3) * batch[0]]),
    "a parameter": lambda batch: torch.nn.Parameter(torch.ones(500) * batch[0]),
    "requires a gradient": lambda batch: torch.ones(500, requires_grad=True),
    "strange mappings": lambda batch: types.SimpleNamespace(a=torch.ones(500), b=collections.ChainMap({"a": 1})),
    "arrays of objects": lambda batch: np.array([None, "a", batch[0]], object),
    "structured arrays": lambda batch: np.zeros(200, [("a", "i4"), ("b", "S3")]),
    "backwards": lambda batch: np.arange(500)[::-1],
    "exceptions as values": lambda batch: [repr(ValueError(1)), ValueError],
}


@pytest.mark.parametrize("kind", COLLATED)
def test_what_a_collate_function_returns_arrives_as_it_does_with_torch(kind):
    made = [batches(cls, int, collate_fn=COLLATED[kind], num_workers=1) for cls in LOADERS.values()]
    assert identical(made[1], made[0])


STRIDED = {
    "channels last": lambda batch: torch.rand(2, 3, 20, 20).to(memory_format=torch.channels_last),
    "permuted": lambda batch: torch.rand(3, 20, 30).permute(1, 2, 0),
    "small": lambda batch: torch.rand(3, 4).t(),
}


@pytest.mark.parametrize("kind", STRIDED)
def test_strides_arrive_as_they_do_with_torch(kind):
    made = [batches(cls, int, collate_fn=STRIDED[kind], num_workers=1)[0].stride() for cls in LOADERS.values()]
    assert made[1] == made[0]


# --- whose memory it is -----------------------------------------------------------------------------------------------------


def filled(index):
    return torch.full((700,), index), np.full(700, index), index


@pytest.mark.parametrize(
    "options", [{}, {"collate_fn": as_is}, {"batch_size": None}], ids=["stacked", "lists", "samples"]
)
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_that_are_kept_can_be_written_to_and_never_change(options, persistent):
    dataset = Made(filled, 64)
    expected = [list(StockLoader(dataset, **{"batch_size": 4, **options})) for _ in range(3)]
    loader = DataLoader(dataset, **{"batch_size": 4, "num_workers": 2, "persistent_workers": persistent, **options})
    kept = [list(loader)]
    flat = [leaf for batch in kept[0] for leaf in leaves(batch)]
    written = flat[::3]
    for leaf in written:
        leaf[...] = -1
    kept += [list(loader), list(loader)]
    assert all((leaf == -1).all() for leaf in written)
    for leaf, wanted in zip(flat, [leaf for batch in expected[0] for leaf in leaves(batch)], strict=True):
        if not any(leaf is other for other in written):
            assert identical(leaf, wanted)
    assert identical(kept[1:], expected[1:])


def leaves(value):
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return [value]
    return [leaf for entry in value for leaf in leaves(entry)] if isinstance(value, (list, tuple)) else []


def test_a_tensor_of_a_batch_is_saved_and_copied_without_the_rest():
    for batch in batches(DataLoader, filled, num_workers=1) + batches(
        DataLoader, filled, num_workers=1, collate_fn=as_is
    ):
        for leaf in leaves(batch):
            if isinstance(leaf, torch.Tensor):
                assert leaf.untyped_storage().nbytes() == leaf.nbytes
            assert len(pickle.dumps(leaf)) < leaf.nbytes + 1000


def test_a_batch_goes_on_through_a_queue_of_torch():
    batch = batches(DataLoader, filled, num_workers=1)[0]
    queue = torch.multiprocessing.get_context("fork").SimpleQueue()
    queue.put(batch[0])
    assert torch.equal(queue.get(), torch.stack([filled(0)[0], filled(1)[0]]))


class Caching:
    """Gives what it collated some calls ago, as double buffering and mixing with former batches do."""

    def __init__(self, give):
        self.give = give
        self.kept = []

    def __call__(self, batch):
        self.kept.append(default_collate(batch))
        if self.give == "first":
            return self.kept[0]
        if self.give == "former":
            return self.kept[max(0, len(self.kept) - 2)]
        if self.give == "all":
            return list(self.kept)
        return default_collate([sum(kept[0].double().sum() for kept in self.kept), self.kept[-1][0].double().sum()])


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("give", ["first", "former", "all", "a sum over all"])
def test_what_a_collate_function_keeps_between_calls_is_never_overwritten(give, persistent):
    made = []
    for cls in LOADERS.values():
        loader = cls(Made(filled, 40), 2, num_workers=2, persistent_workers=persistent, collate_fn=Caching(give))
        made.append([pickle.loads(pickle.dumps(list(loader))) for _ in range(2)])
    assert identical(made[1], made[0])


class SelfCollating(Made):
    """Collates in itself what it then keeps."""

    def __init__(self):
        super().__init__(None, 24)
        self.kept = []

    def __getitem__(self, index):
        self.kept.append(default_collate([filled(index)] * 2))
        return self.kept[0][0], self.kept[-1][0]


@pytest.mark.parametrize("batch_size", [None, 3])
def test_what_a_dataset_collates_and_keeps_is_never_overwritten(batch_size):
    made = [list(cls(SelfCollating(), batch_size, num_workers=1)) for cls in LOADERS.values()]
    assert identical(made[1], made[0])


class Buffer(Made):
    """Fills one array again and again."""

    def __init__(self):
        super().__init__(None, 24)
        self.buffer = np.zeros(900)

    def __getitem__(self, index):
        self.buffer[:] = index
        return self.buffer


@pytest.mark.parametrize("options", [{"batch_size": None}, {"batch_size": 1}, {"batch_size": 3}], ids=repr)
def test_an_array_that_a_dataset_fills_again_gives_what_it_gives_with_torch(options):
    serial = list(StockLoader(Buffer(), **options)) if options["batch_size"] else None
    ours = list(DataLoader(Buffer(), num_workers=1, **options))
    if serial is None:
        assert [float(sample[0]) for sample in ours] == list(range(24))
    else:
        assert identical(ours, serial)


@pytest.mark.parametrize(
    "kinds", [(torch.float32, torch.float64), (torch.float64, torch.float32), (torch.uint8, torch.int64)]
)
def test_tensors_of_different_number_types_are_stacked_as_in_a_worker_of_torch(kinds):
    mixed = [
        batches(cls, lambda index: torch.full((5,), index, dtype=kinds[index % 2]), num_workers=1)
        for cls in LOADERS.values()
    ]
    assert identical(mixed[1], mixed[0])


def test_what_is_registered_with_default_collate_is_used_in_workers(monkeypatch):
    from torch.utils.data._utils.collate import default_collate_fn_map

    monkeypatch.setitem(default_collate_fn_map, complex, lambda batch, collate_fn_map=None: ("complex", *batch))
    assert batches(DataLoader, complex, num_workers=1)[0] == ("complex", 0j, 1 + 0j)
    monkeypatch.setitem(default_collate_fn_map, torch.Tensor, lambda batch, collate_fn_map=None: len(batch))
    assert batches(DataLoader, image, num_workers=1) == [2, 2]


def test_a_default_number_type_set_before_iteration_counts_in_workers():
    torch.set_default_dtype(torch.float64)
    try:
        made = [batches(cls, float, num_workers=1, collate_fn=torch.tensor) for cls in LOADERS.values()]
    finally:
        torch.set_default_dtype(torch.float32)
    assert identical(made[1], made[0])


class Holder:
    def __init__(self, index):
        self.tensor = torch.full((400,), index)
        self.worker = get_worker_info().id

    def pin_memory(self):
        raise AssertionError("there is no accelerator")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines without an accelerator")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_pinning_without_an_accelerator_warns_as_torch_does_and_is_left_out(num_workers):
    told = []
    for cls in LOADERS.values():
        with pytest.warns(UserWarning, match="pin_memory") as caught:
            function = Holder if num_workers else float
            made = batches(cls, function, num_workers=num_workers, pin_memory=True, collate_fn=as_is)
        told.append(([str(w.message) for w in caught], [w.category for w in caught], len(made)))
    assert told[1] == told[0]
